# ruff: noqa: RUF001 - texts in other scripts
"""Nothing in the text filter assumes English: German, Japanese and more, each text judged for the right reason."""

from pathlib import Path

import pytest

from fourshot.pipeline.synthesis.attributes import lengths_of, listed_values
from fourshot.pipeline.synthesis.drawing import draw_sampling
from fourshot.pipeline.synthesis.filters import TextFilter, clean_text, is_malformed, length_bounds
from fourshot.pipeline.synthesis.neardup import NearDuplicates
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Reason
from fourshot.pipeline.synthesis.words import comparable, words
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.new_task import new_task
from fourshot.pipeline.tasks.task_file import check_task, load_task
from tests.pipeline.synthesis.test_filters import candidate
from tests.pipeline.task_folders import write_jsonl

GERMAN = {
    "Lieferung": [
        "Mein Päckchen hätte schon am Dienstag ankommen sollen, wo bleibt es?",
        "Der Bote hat die Sendung einfach vor die falsche Haustür gelegt.",
        "Können Sie mir die Nummer zur Sendungsverfolgung noch einmal schicken?",
        "Seit acht Tagen steht dort nur, dass die Ware unterwegs ist.",
    ],
    "Rechnung": [
        "Auf der Rechnung fehlt der Gutschein, den ich eingelöst habe.",
        "Warum wurden mir im März gleich zwei Monate abgebucht?",
        "Ich möchte künftig per Überweisung statt mit der Karte bezahlen.",
        "Bitte schreiben Sie unsere neue Anschrift auf den Beleg.",
    ],
}
JAPANESE = {
    "配送": [
        "火曜日に届くはずの荷物がまだ来ていません。",
        "配達員が隣の家の玄関に荷物を置いていきました。",
        "追跡番号をもう一度送っていただけますか。",
        "一週間以上、発送済みの表示のまま変わりません。",
    ],
    "請求": [
        "使ったはずのクーポンが請求書に反映されていません。",
        "三月分が二回引き落とされているのはなぜですか。",
        "今後はカードではなく銀行振込で払いたいです。",
        "領収書の宛名を会社名に変更してください。",
    ],
}


def texts_of(tables: dict[str, list[str]]) -> list[Example]:
    return [Example(text=text, label=label) for label, texts in tables.items() for text in texts]


def judged(tables: dict[str, list[str]], text: str, finish_reason: str = "stop") -> Reason | None:
    task = load_task("support_tickets")
    return TextFilter(texts_of(tables), task=task).check(candidate(text, finish_reason))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Gestern kam nur die Hälfte meiner Bestellung an, der Rest fehlt.", None),
        ("„Zustellung nicht möglich“ steht da, obwohl ich zu Hause war 😠", None),
        ("Die Straße stimmt, aber die Hausnummer müßte 12a heißen.", None),
        ("Zu spät!", "too_short"),
        ("12 / 34 – 56 € ... 78 ß 90", "malformed"),
        ("Warum warum warum warum warum warum warum warum warum warum warum warum nicht?", "malformed"),
        ("Auf der RECHNUNG fehlt der Gutschein, den ich eingelöst habe!!", "copies_shot"),
        ("Hallo, auf der Rechnung fehlt der Gutschein, den ich eingelöst habe, danke.", "copies_shot"),
        ("Text: Wo ist mein Paket denn nun geblieben?", "leaks_label"),
    ],
)
def test_german(text: str, reason: Reason | None) -> None:
    assert judged(GERMAN, text) == reason


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("荷物の箱が濡れた状態で届きました。", "stop", None),
        ("届け先を職場に変えられますか？", "stop", None),
        ("領収書がまだ来ません", "stop", None),  # ten characters
        ("ありがとう😊箱もきれいでした👍🏽", "stop", None),
        ("昨日頼んだ本はいつ届く予定で", "length", "unfinished"),
        ("昨日頼んだ本はいつ届く予定ですか？」", "length", None),
        ("遅い", "stop", "too_short"),
        ("届かない" * 40, "stop", "malformed"),
        ("１２３４－５６７８／９０円", "stop", "malformed"),
        ("火曜日に届くはずの荷物が、まだ来ていません！", "stop", "copies_shot"),
        ("すみません、追跡番号をもう一度送っていただけますか。急いでいます。", "stop", "copies_shot"),
        ("Text：荷物はどこですか。", "stop", "leaks_label"),
        ("商品の色が写真と違っていて、返品したいのですが送料はどちらが負担するのでしょうか。" * 2, "stop", "too_long"),
    ],
)
def test_japanese(text: str, finish_reason: str, reason: Reason | None) -> None:
    assert judged(JAPANESE, text, finish_reason) == reason


@pytest.mark.parametrize("tables", [GERMAN, JAPANESE])
def test_ordinary_texts_of_a_language_are_no_copies_of_each_other(tables: dict[str, list[str]]) -> None:
    examples = texts_of(tables)
    for number, example in enumerate(examples):
        rest = examples[:number] + examples[number + 1 :]
        assert TextFilter(rest, task=load_task("support_tickets")).check(candidate(example.text)) is None


@pytest.mark.parametrize(
    ("first", "again", "other"),
    [
        (
            "荷物の箱が濡れた状態で届きました。",
            "荷物の箱が濡れた状態で届きましたよ！",
            "荷物の中身が壊れた状態で届きました。",
        ),
        (
            "ＡＢＣ１２の請求書を送ってください",
            "ABC12の請求書を送ってください。",
            "ABC12の領収書を再発行してください。",
        ),
        ("快递员把包裹放错了门口。", "快递员，把包裹放错了门口！", "快递员还没有联系我。"),
        ("พัสดุของฉันยังมาไม่ถึงเลย", "พัสดุของฉันยังมาไม่ถึงเลย!", "ใบแจ้งหนี้ของฉันไม่ถูกต้อง"),
        ("मेरा पार्सल अभी तक नहीं आया है।", "मेरा पार्सल, अभी तक नहीं आया है", "मेरी रसीद में नाम गलत छपा है"),
        ("הַחֲבִילָה שֶׁלִּי עֲדַיִן לֹא הִגִּיעָה", "הַחֲבִילָה שֶׁלִּי עֲדַיִן לֹא הִגִּיעָה!", "החשבון שקיבלתי שגוי לגמרי"),
    ],
)
def test_duplicates_are_told_from_other_texts_in_every_script(first: str, again: str, other: str) -> None:
    near = NearDuplicates(0.9)
    near.add(first)
    assert near.find(again) and near.find(other) is None


def test_marks_and_spellings_of_a_letter_do_not_decide_what_is_the_same() -> None:
    assert comparable("Cafe\u0301 zu\u0308rich") == comparable("café zürich") == "café zürich"
    assert comparable("की") != comparable("कि") != comparable("का")
    assert comparable("I ❤️ it, 1️⃣ time") == "i it 1 time"
    assert words("今日は雨") == ["今日", "日は", "は雨"] and words("it's RED") == ["it's", "red"]


@pytest.mark.parametrize("text", ["मुझे यह केतली पसंद है", "กาต้มน้ำนี้ดีมากๆ", "הַקּוּמְקוּם טוֹב", "الغَلَّايَةُ مُمْتَازَةٌ"])
def test_letters_with_marks_are_letters(text: str) -> None:
    assert not is_malformed(text, RunSettings().filter)
    assert is_malformed(f"{text} 3948/2093-{'/' * len(text)}", RunSettings().filter)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("「荷物が届きません。」", "荷物が届きません。"),
        ("「はい」と「いいえ」", "「はい」と「いいえ」"),
        ("・荷物が届きません。", "荷物が届きません。"),
        ("１、荷物が届きません。", "荷物が届きません。"),
        ("»Das Paket fehlt.«", "Das Paket fehlt."),
        ("» Das Paket fehlt.", "» Das Paket fehlt."),
        ("٢. لم يصل الطرد", "لم يصل الطرد"),
    ],
)
def test_what_models_put_around_a_text_is_dropped(raw: str, text: str) -> None:
    assert clean_text(raw) == text


def test_lengths_follow_the_script() -> None:
    settings = RunSettings().filter
    assert length_bounds(texts_of(JAPANESE), settings)[0] == 10  # half of the shortest shot
    short = [Example(text="届きません。", label="配送"), Example(text="高すぎます。", label="請求")]
    assert length_bounds(short, settings)[0] == 4 < length_bounds([Example(text="too dear", label="a")], settings)[0]
    assert lengths_of(["遅い", "荷物がまだ届きません", "荷物がまだ届きませんので確認してください"]) == [
        "short",
        "medium",
        "long",
    ]
    assert listed_values(["配送、価格、 色", "価格、配送"]) == ("価格", "配送")


def test_a_text_may_be_as_long_as_a_shot_is_shown() -> None:
    class Counting:
        def count_tokens(self, texts: list[str]) -> list[int]:
            return [len(text) for text in texts]

    long = [Example(text="荷物がまだ届きません。" * 100, label="配送")]
    settings = RunSettings(max_text_words=50)
    assert draw_sampling(Counting(), load_task("sst2"), long, settings, seed=0).max_tokens == 150  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "tables"), [("tickets_de", GERMAN), ("tickets_ja", JAPANESE)])
def test_a_table_in_a_language_becomes_a_task_without_faults(
    tmp_path: Path, name: str, tables: dict[str, list[str]]
) -> None:
    shown = {
        "本文" if tables is JAPANESE else "Nachricht": "text",
        "分類" if tables is JAPANESE else "Anliegen": "label",
    }
    text, label = shown
    rows: list[dict[str, object]] = [
        {label: example.label, text: f"{example.text}{end}"}
        for example in texts_of(tables)
        for end in ("", " ②", " (3)", " 🙂")
    ]
    write_jsonl(tmp_path / f"{name}.jsonl", rows)
    task = new_task(tmp_path / f"{name}.jsonl", tmp_path / "task")
    faults = check_task(task.task_file)
    assert [fault for fault in faults if fault.severity != "note"] == []
    assert set(load_task(task.task_file).label_names) == set(tables)
