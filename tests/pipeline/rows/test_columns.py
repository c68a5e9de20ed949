"""Columns are found where names and contents leave no doubt; else they are asked for, with what may be meant."""

from typing import Any

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.columns import Columns, find_columns, is_accepted, verdict_columns
from fourshot.pipeline.tables.files import Table

TEAMS = ("sales", "support", "sales", "support", "sales", "support")
CELLS: dict[str, list[Any]] = {
    "sentence": [f"question number {i} about a price" for i in range(6)],
    "bytes": [f"question number {i} about a price".encode() for i in range(6)],
    "short": ["lost card", "late fee", "no bike", "bad lock", "two fees", "old app"],
    "word": ["Abbuchung", "Lieferzeit", "Absturz", "Rechnung", "Anmeldung", "Paket"],
    "repeated": ["Say that you want an alarm."] * 3 + ["Ask for the music you like."] * 3,
    "japanese": ["料金が高い", "鍵が開かない", "自転車が壊れた", "返金してください", "充電できない", "領収書が欲しい"],
    "dhivehi": [
        f"\u078b\u07a8\u0788\u07ac\u0780\u07a8 \u0784\u07a6\u0790\u07b0 {i}" for i in range(6)
    ],  # a mark on each letter
    "team": list(TEAMS),
    "number": [0, 1, 0, 1, 0, 1],
    "date": [f"2025-02-0{i} 09:41:00" for i in range(6)],
    "person": ["Ann Lee", "Bo Chan", "Cy Dean", "Di Evers", "Ed Frank", "Flo Gray"],
    "list": [["sales"], ["support"]] * 3,
    "verdict": ["accept", "reject"] * 3,
    "phrase": ["A loan that was sold to another bank, or a lease"] * 3 + ["A card that is lost"] * 3,
    "half": ["a", None, "b", None, "", float("nan")],
}


def find(header: str, **choices: Any) -> Columns:
    """The columns of a table with ``name=kind of cells`` for each."""
    kinds = dict(item.split("=") for item in header.split())
    rows = {i + 2: {name: CELLS[kind][i] for name, kind in kinds.items()} for i in range(6)}
    return find_columns(Table(path="t.csv", columns=tuple(kinds), rows=rows), **choices)


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("id=number message=sentence team=team", "message", "team"),
        ("a=short b=team", "a", "b"),
        ("text=bytes label=number", "text", "label"),
        ("words=japanese kind=team", "words", "kind"),
        ("words=dhivehi kind=team", "words", "kind"),
        ("text=short class=number", "text", "class"),
        ("created_at=date what=sentence customerName=person team=team", "what", "team"),
        ("text=sentence title=short label=team", "text", "label"),
        ("Text=sentence LABEL=number label_name=team", "Text", "LABEL"),
        ("data=sentence annotator=number choice=team", "data", "choice"),
        ("data=sentence notes=half accept=list", "data", "accept"),
        ("customer_name=person label=team", "customer_name", "label"),
        ("what=sentence agent=team kind=number", "what", "kind"),
        ("what=sentence created_by=team dateOfOrder=number kind=number", "what", "kind"),
        ("text=sentence label=verdict venue=team", "text", "label"),
    ],
)
def test_columns_that_are_plain_are_found(header: str, text: str, label: str) -> None:
    columns = find(header)
    assert (columns.texts, columns.labels) == ((text,), (label,))


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [(("a", "a"), ("b",), "'a' was named twice"), (("b",), ("b",), "'b' was named as text and as label")],
)
def test_a_column_that_is_named_twice_is_refused(texts: tuple[str, ...], labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find("a=sentence b=team", text_columns=texts, label_columns=labels)


@pytest.mark.parametrize(
    "columns",
    [
        ("subject", "body"),
        ("question", "answer"),
        ("premise", "hypothesis"),
        ("title", "description"),
        ("text", "text2"),
    ],
)
def test_several_columns_of_texts_are_asked_for_and_can_be_joined(columns: tuple[str, str]) -> None:
    header = f"{columns[0]}=short {columns[1]}=sentence label=team"
    with pytest.raises(InputError) as caught:
        find(header)
    assert f"several may be the text: {columns[0]!r} (lost card), {columns[1]!r} (question number 0" in str(
        caught.value
    )
    assert "--text-column NAME" in str(caught.value)
    assert "--label-column" not in str(caught.value)
    assert find(header, text_columns=columns).texts == columns
    assert find(header, text_columns=columns[:1]).other_texts == columns[1:]


def test_a_usual_name_does_not_beat_other_columns_of_texts() -> None:
    with pytest.raises(InputError, match=r"'answer' \(question number 0 .*'question' \(Say that you want"):
        find("intent=team answer=sentence question=repeated")
    with pytest.raises(InputError, match=r"'Subject' \(Say that you want .*'Message' \(question number 0"):
        find("Subject=repeated Message=sentence Team=team")
    with pytest.raises(InputError, match=r"'context' \(Say that you want .*'q' \(question number 0"):
        find("intent=team context=repeated q=sentence")


def test_the_other_columns_that_may_be_meant_are_named() -> None:
    columns = find("text=sentence title=short label=number label_text=team id=number")
    assert (columns.other_texts, columns.other_labels) == (("title",), ("label_text",))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_message=sentence response=short intent=team", r"be the text: 'user_message' .*, 'response' "),
        ("email=sentence summary=short label=team", r"be the text: 'email' .*, 'summary' "),
        ("email_body=short summary=short label=team", r"be the text: 'email_body' .*, 'summary' "),
        ("text=sentence user_intent=team channel=number", r"be the label: 'user_intent' .*, 'channel' "),
        ("text=sentence lead_status=team region=number", r"be the label: 'lead_status' .*, 'region' "),
    ],
)
def test_a_person_in_the_name_sets_no_column_aside_that_is_called_or_filled_otherwise(
    header: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find(header)


@pytest.mark.parametrize("subject", ["word", "short", "sentence"])
def test_a_subject_beside_a_message_is_asked_about_however_short_it_is(subject: str) -> None:
    with pytest.raises(InputError, match="Of these, several may be the text: 'subject' "):
        find(f"id=number subject={subject} message=sentence category=team")
    assert find(f"subject={subject} text=sentence category=team").other_texts == ("subject",)
    assert find("subject=team message=sentence label=number").texts == ("message",)


def test_what_is_set_aside_for_its_name_is_told() -> None:
    columns = find("what=sentence customer_name=person agent=team created_at=date kind=number")
    assert columns.skipped_for_name == ("customer_name", "agent")
    assert find("text=sentence customer_name=person agent=team label=number").skipped_for_name == ()
    assert find("what=sentence category_id=number category_name=team user_name=person").labels == ("category_name",)


def test_labels_that_are_long_or_many_are_asked_for_and_named() -> None:
    with pytest.raises(InputError, match=r"be the label: 'priority' \(0\), 'issue' \(A loan that was"):
        find("text=sentence issue=phrase priority=number")
    assert find("text=sentence issue=phrase label=number").other_labels == ("issue",)
    texts = [f"question number {i} about a price" for i in range(900)]
    rows = {i: {"q": text, "Absicht": f"intent {i % 300}", "Kanal": i % 2} for i, text in enumerate(texts)}
    with pytest.raises(InputError, match=r"be the label: 'Kanal' \(0\), 'Absicht' \(intent 0\)"):
        find_columns(Table(path="t.csv", columns=("q", "Absicht", "Kanal"), rows=rows))
    with pytest.raises(InputError, match=r"one may be the label: 'Absicht' \(intent 0\)"):
        find_columns(Table(path="t.csv", columns=("q", "Absicht"), rows=rows))


def test_only_a_column_that_is_called_answer_holds_verdicts_unasked() -> None:
    assert find("text=sentence label=team answer=verdict").verdict == "answer"
    with pytest.raises(InputError, match=r"'decision' \(accept\) may say which labels a person rejected"):
        find("text=sentence label=team decision=verdict")
    with pytest.raises(InputError, match=r"'decision' \(accept\) looks like.*If it is the label: --label-column dec"):
        find("text=sentence decision=verdict")
    assert find("text=sentence decision=verdict", verdict_column="none").labels == ("decision",)


@pytest.mark.parametrize(
    ("column", "verdicts"),
    [
        ("status", ["Validated", "Default", "Discarded"]),
        ("responses.status", [["submitted", "discarded"], ["submitted", "submitted"], ["discarded", "discarded"]]),
        ("is_approved", ["TRUE", "FALSE", "TRUE"]),
        ("verified", ["yes", "no", ""]),
    ],
)
def test_verdicts_as_annotation_tools_write_them_are_asked_about(column: str, verdicts: list[Any]) -> None:
    rows = {i: {"text": CELLS["sentence"][i], "label": TEAMS[i], column: verdicts[i % 3]} for i in range(6)}
    table = Table(path="t.csv", columns=("text", "label", column), rows=rows)
    with pytest.raises(InputError, match=r"may say which labels a person rejected\. If so, give --verdict-column"):
        find_columns(table)
    assert verdict_columns(table) == [column]
    assert list(map(is_accepted, verdicts)).count(True) == (2 if column == "is_approved" else 1)


def test_true_and_false_are_verdicts_where_the_name_says_so_alone() -> None:
    rows = {i: {"text": CELLS["sentence"][i], "urgent": i % 2 == 0, "team": TEAMS[i]} for i in range(6)}
    assert verdict_columns(Table(path="t.csv", columns=("text", "urgent", "team"), rows=rows)) == []


def test_two_columns_of_labels_are_asked_for() -> None:
    with pytest.raises(
        InputError, match=r"several may be the label: 'intent' \(sales\), 'topic' \(0\).*--label-column"
    ):
        find("text=sentence intent=team topic=number")
    with pytest.raises(InputError, match=r"several may be the label: 'label_1' \(sales\), 'label_2' \(a\)"):
        find("text=sentence label_1=team label_2=half")
    with pytest.raises(InputError, match="If each is a class, with 0 and 1 in it"):
        find("text=sentence billing=number login=number")


def test_a_table_whose_separator_is_not_known_is_told_how_to_name_it() -> None:
    with pytest.raises(InputError, match=r"first line of its own, such as sep=.*one of labels: add what is missing\.$"):
        find_columns(Table(path="t.csv", columns=("text::label",), rows={2: {"text::label": "a text::lock"}}))


def test_label_studios_whole_export_is_known_and_the_way_out_told() -> None:
    rows = {1: {"id": 1, "annotations": [{"result": []}], "data": {"text": "Where is it?"}}}
    with pytest.raises(InputError, match="take its CSV or JSON-MIN export"):
        find_columns(Table(path="t.json", columns=("id", "annotations", "data"), rows=rows))


def test_objects_are_not_searched_for_texts_and_the_form_of_a_row_is_told() -> None:
    rows = {1: {"messages": [{"role": "user", "content": "Where is it?"}]}}
    with pytest.raises(InputError, match=r"'messages' holds lists or objects.*\{\"text\": \"\.\.\.\", \"label\""):
        find_columns(Table(path="t.jsonl", columns=("messages",), rows=rows))


def test_a_column_for_each_class_is_no_text_to_be_joined() -> None:
    with pytest.raises(InputError, match="If each column is a class with its texts") as caught:
        find("billing=sentence login=japanese damage=short")
    assert "--field" not in str(caught.value)
