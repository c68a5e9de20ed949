"""Each kind of table that people bring, as the command meets it: docs/inputs.md says what it gets.

A table here is small and of the same kind as one that somebody had. Every row is in the task or counted as left out.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourshot.cli import main as cli

BILLS = [f"You took the day fee from my card on day {i}." for i in range(8)]
LOCKS = [f"The ring lock of bike {i} does not open." for i in range(8)]
ROWS = [(text, "billing") for text in BILLS] + [(text, "lock") for text in LOCKS]
LINES = [f"{text},{label}" for text, label in ROWS]
OBJECTS = [{"text": text, "label": label} for text, label in ROWS]


class Outcome(NamedTuple):
    code: int
    said: str  # standard output, or the errors
    classes: list[str]  # names in the task file
    texts: list[str]  # in train.jsonl and test.jsonl


New = Callable[..., Outcome]


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> New:
    """``fourshot tasks new`` on a file of that name and content."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, content: bytes | str, *options: str) -> Outcome:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        code = cli.main(["tasks", "new", name, "--out", "made", *options])
        shown = capfd.readouterr()
        assert "fault in fourshot" not in shown.err and "Traceback" not in shown.err
        if code:
            assert not Path("made").exists(), "a refused table leaves nothing behind"
            return Outcome(code, shown.err, [], [])
        rows = [json.loads(line) for part in Path("made").glob("*.jsonl") for line in part.read_text().splitlines()]
        made_from = json.loads(Path("made/made_from.json").read_text())
        assert len(rows) + sum(some["count"] for some in made_from["left_out"]) == made_from["rows"]
        return Outcome(code, shown.out, sorted({row["label"] for row in rows}), [row["text"] for row in rows])

    return call


def csv(*lines: str, header: str = "text,label") -> str:
    return "\n".join([header, *lines]) + "\n"


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_semicolon_separated_windows_1252_export_is_asked_about_and_read_when_named(new: New) -> None:
    table = "Message du client;Catégorie\r\n" + "".join(
        f"La selle nº {i} descend dès que je m\N{RIGHT SINGLE QUOTATION MARK}assieds.;{kind}\r\n"
        for i in range(12)
        for kind in [("Matériel", "Vélo")[i % 2]]
    )
    refused = new("reclamations.csv", table.encode("cp1252"))
    assert refused.code == 2
    assert "reclamations.csv:1" in refused.said and "cp1252" in refused.said and "--encoding NAME" in refused.said
    done = new("reclamations.csv", table.encode("cp1252"), "--encoding", "cp1252")
    assert (done.classes, len(done.texts)) == (["Matériel", "Vélo"], 12)
    assert "La selle nº 0 descend dès que je m\N{RIGHT SINGLE QUOTATION MARK}assieds." in done.texts


@pytest.mark.parametrize("name", ["tickets.csv", "tickets.jsonl"])
def test_carriage_returns_alone_end_lines(new: New, name: str) -> None:
    content = csv(*LINES) if name.endswith("csv") else jsonl(list(OBJECTS))
    assert sorted(new(name, content.replace("\n", "\r")).texts) == sorted(BILLS + LOCKS)


def test_empty_columns_without_a_name_at_the_end_are_dropped_and_filled_ones_said(new: New) -> None:
    lines = [f"{label},{text},,," for text, label in ROWS]
    assert "warning" not in new("a.csv", csv(*lines, header="v1,v2,,,")).said


def test_the_rest_of_a_text_in_a_column_without_a_name_is_said(new: New) -> None:
    lines = [f"{label},{text},,," for text, label in ROWS]
    lines[3] = lines[3][:-3] + ",and the rest,,"
    done = new("b.csv", csv(*lines, header="v1,v2,,,"))
    assert len(done.texts) == 16
    assert "1 row with a value in a column without a name (line 5)" in done.said


@pytest.mark.parametrize(
    "text", ['"The fern is a beauty , he asked', 'no mess" and soil in the hall', '"Fine" , she said']
)
def test_tabs_without_a_convention_for_quotes_give_a_row_for_each_line(new: New, text: str) -> None:
    done = new("train.tsv", "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *ROWS, (text, "lock")]))
    assert len(done.texts) == 17 and text in done.texts
    opens_a_cell = text.startswith('"')  # else there is no doubt that anyone would have to be told of
    assert ("read with quotes as characters like any other" in done.said) == opens_a_cell


def test_a_table_without_a_header_line_is_asked_about_and_loses_no_row(new: New) -> None:
    table = "\n".join(LINES) + "\n"
    refused = new("plain.csv", table)
    assert refused.code == 2 and "--no-header" in refused.said and "looks like an example" in refused.said
    assert len(new("plain.csv", table, "--no-header").texts) == 16


@pytest.mark.parametrize("name", ["TICKETS.CSV", "tickets.csv.gz", "lines.json", "tickets.ndjson", "T.CSV.GZ"])
def test_endings_in_capitals_packed_files_and_other_names_of_json_lines_are_read(new: New, name: str) -> None:
    content = (csv(*LINES) if ".csv" in name.lower() else jsonl(list(OBJECTS))).encode()
    done = new(name, gzip.compress(content) if name.lower().endswith("gz") else content)
    assert sorted(done.texts) == sorted(BILLS + LOCKS)


@pytest.mark.parametrize("name", ["tickets.json", "tickets.jsonl"])
@pytest.mark.parametrize("form", ["one line", "pretty", "side by side"])
def test_a_json_array_and_objects_side_by_side_are_read_under_either_ending(new: New, name: str, form: str) -> None:
    content = {
        "one line": json.dumps(OBJECTS),
        "pretty": json.dumps(OBJECTS, indent=2),
        "side by side": "".join(map(json.dumps, OBJECTS)),
    }[form]
    assert sorted(new(name, content).texts) == sorted(BILLS + LOCKS)


def test_booleans_are_two_classes_and_a_question_is_asked_for(new: New) -> None:
    rows: list[dict[str, Any]] = [{"text": text, "label": label == "lock"} for text, label in ROWS]
    done = new("complaints.jsonl", jsonl(rows))
    assert done.classes == ["False", "True"] and "Write it as the instruction" in done.said


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_label_that_is_nan_is_no_class(new: New, tmp_path: Path, ending: str) -> None:
    labels = [float(i % 3) if i % 5 else float("nan") for i in range(30)]
    texts = [f"The ride of day {i} was like any other." for i in range(30)]
    if ending == "parquet":
        pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "source.parquet")
        content: bytes | str = (tmp_path / "source.parquet").read_bytes()
    else:
        content = jsonl([{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)])
    refused = new(f"ratings.{ending}", content)
    assert refused.code == 2 and "no label in" in refused.said and "6 rows" in refused.said
    done = new(f"ratings.{ending}", content, "--skip-broken")
    assert done.classes == ["0", "1", "2"] and "6 left out" in done.said


def test_a_text_that_is_nan_is_left_out_and_counted(new: New) -> None:
    done = new("texts.jsonl", jsonl([*OBJECTS, {"text": float("nan"), "label": "lock"}]))
    assert len(done.texts) == 16 and "1 row without a text: line 17" in done.said


@pytest.mark.parametrize("cells", [("-1", "0", "1"), ("-1.0", "0.0", "1.0"), ("\N{MINUS SIGN}1", "0", "1")])
def test_minus_one_zero_and_one_are_three_classes_and_words_are_proposed(new: New, cells: tuple[str, ...]) -> None:
    lines = [f"The ride of day {i} was like any other.,{cells[i % 3]}" for i in range(30)]
    done = new("reviews.csv", csv(*lines, header="clean_text,category"))
    assert {name.replace("\N{MINUS SIGN}", "-") for name in done.classes} == {"-1", "0", "1"}
    assert "'negative' for" in done.said and "'neutral' for '0'" in done.said and "'positive' for '1'" in done.said


def test_lists_of_one_label_are_that_label_and_lists_of_two_or_none_are_refused(new: New) -> None:
    rows: list[dict[str, Any]] = [{"text": text, "label": [label]} for text, label in ROWS]
    other: list[dict[str, Any]] = [{"text": "Both.", "label": ["lock", "billing"]}, {"text": "None.", "label": []}]
    refused = new("lists.jsonl", jsonl(rows + other))
    assert refused.code == 2
    assert "no label in line 18" in refused.said and "several labels in line 17" in refused.said
    done = new("lists.jsonl", jsonl(rows))
    assert done.classes == ["billing", "lock"] and "16 labels written as a list of one" in done.said


@pytest.mark.parametrize("form", ["array(['{}'], dtype=object)", "np.str_('{}')", "b'{}'", "{{'{}'}}"])
def test_labels_as_a_program_shows_its_values_are_taken_out(new: New, form: str) -> None:
    done = new("shown.csv", csv(*(f"{text}\t{form.format(label)}" for text, label in ROWS), header="text\tlabel"))
    assert done.classes == ["billing", "lock"] and "16 labels" in done.said


@pytest.mark.parametrize("joined", ["lock#billing", "billing;lock", "lock|billing"])
def test_joined_labels_are_refused_with_their_lines(new: New, joined: str) -> None:
    refused = new("joined.csv", csv(*LINES, f"The lock took my money.,{joined}"))
    assert refused.code == 2 and "several labels in line 18" in refused.said and "--skip-broken" in refused.said


def test_what_was_rejected_or_ignored_in_an_annotation_tool_is_left_out_and_counted(new: New) -> None:
    answers = ["accept"] * 6 + ["reject", "ignore"]
    rows: list[dict[str, Any]] = [row | {"answer": answers[i % 8]} for i, row in enumerate(OBJECTS)]
    done = new("binary.jsonl", jsonl(rows))
    assert len(done.texts) == 12 and "4 left out" in done.said
    assert "2 rows with 'reject' in the column 'answer'" in done.said
    assert "2 rows with 'ignore' in the column 'answer'" in done.said


def test_two_annotators_give_one_row_where_they_agree_and_none_where_they_do_not(new: New) -> None:
    lines = [f"{i},{text},{label},{who}" for i, (text, label) in enumerate(ROWS) for who in (1, 2)]
    lines[1] = lines[1].replace("billing", "lock")
    done = new("project.csv", csv(*lines, header="id,text,sentiment,annotator"))
    assert len(done.texts) == 15 and "17 left out" in done.said
    assert "15 rows repeating an earlier text with the same label" in done.said
    assert "2 rows with a text that has two different labels: line 2, 3" in done.said


def test_the_whole_export_of_label_studio_is_refused_with_the_way_out(new: New) -> None:
    rows = [{"id": i, "annotations": [{"result": []}], "data": {"text": text}} for i, text in enumerate(BILLS)]
    refused = new("full.json", json.dumps(rows))
    assert refused.code == 2 and "CSV or JSON-MIN export" in refused.said


@pytest.mark.parametrize(
    "other", ["lock ", "lock\N{NO-BREAK SPACE}", "\N{ZERO WIDTH SPACE}lock", "l\N{SOFT HYPHEN}ock"]
)
def test_blanks_and_invisible_characters_make_no_class_and_are_said(new: New, other: str) -> None:
    done = new("seen.csv", csv(*LINES, f"The bolt is stuck again.,{other}"))
    assert done.classes == ["billing", "lock"] and "1 label with" in done.said


def test_two_spellings_of_an_accent_are_one_class(new: New) -> None:
    done = new(
        "accents.csv", csv(*(line.replace("lock", ("café", "cafe\u0301")[i % 2]) for i, line in enumerate(LINES)))
    )
    assert done.classes == ["billing", "café"]


def test_capitals_are_asked_about_and_merged_on_demand(new: New) -> None:
    table = csv(*LINES, "The bolt is stuck again.,Lock")
    refused = new("case.csv", table)
    assert refused.code == 2 and "'Lock' and 'lock'" in refused.said and "--merge-labels" in refused.said
    assert new("case.csv", table, "--merge-labels").classes == ["billing", "lock"]


def test_a_class_of_one_row_stays_in_train_and_is_pointed_out(new: New, capfd: pytest.CaptureFixture[str]) -> None:
    done = new("tickets.csv", csv(*LINES, "Where is the next station?,route"))
    assert done.classes == ["billing", "lock", "route"] and "'route' became a class of line 18 alone" in done.said
    assert "Where is the next station?" in Path("made/train.jsonl").read_text()
    assert cli.main(["tasks", "check", "made", "--no-model"]) == 0
    assert "label 'route' has 1 example, fewer than 4 shots" in capfd.readouterr().out


def test_a_column_called_question_is_not_taken_before_others_with_texts(new: New) -> None:
    lines = [f"{i},Write what you would say to a shop {i % 3}.,{text},{label}" for i, (text, label) in enumerate(ROWS)]
    table = csv(*lines, header="userid,question,answer,intent")
    refused = new("home.csv", table)
    assert refused.code == 2 and "--text-column NAME" in refused.said
    assert "'answer'" in refused.said and "'question'" in refused.said
    assert sorted(new("home.csv", table, "--text-column", "answer").texts) == sorted(BILLS + LOCKS)


def test_a_shard_of_several_is_warned_about(new: New, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(OBJECTS), tmp_path / "source.parquet")
    done = new("train-00000-of-00002.parquet", (tmp_path / "source.parquet").read_bytes())
    assert "one of 2 shards; the others are not read" in done.said


def test_chats_for_fine_tuning_are_refused_with_the_form_of_a_row(new: New) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}]}
        for text, label in ROWS
    ]
    refused = new("chat.jsonl", jsonl(rows))
    assert refused.code == 2 and '{"text": ..., "label": ...}' in refused.said


def test_prompts_and_completions_are_read_and_the_mark_at_their_end_is_said(new: New) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"{text}\n\n###", "completion": f" {label}"} for text, label in ROWS]
    done = new("pairs.jsonl", jsonl(rows))
    assert done.classes == ["billing", "lock"] and "each text ends with" in done.said
