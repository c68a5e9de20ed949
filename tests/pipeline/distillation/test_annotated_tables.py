"""An annotated table as a person gives it back."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.annotated_tables import row_target
from fourshot.pipeline.distillation.annotating import annotate_table
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.distillation.taught import annotated_texts, learnable
from fourshot.pipeline.distillation.text_pairs import annotated_pairs, learnable_pairs, write_annotated
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.rows.written_table import write_table
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.students.jobs import student_jobs
from fourshot.pipeline.tables.files import read_table
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.generation import Pair, PairSource
from fourshot.pipeline.tasks.pairs import load_inputs
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.examples import StudentJob, TaughtExample
from fourshot.training.students.settings import StudentSettings
from fourshot.training.students.train import hold_out, targets_of
from tests.pipeline.distillation.test_annotating import LABELS, annotator, table
from tests.pipeline.tables.test_file_bytes import spreadsheet
from tests.pipeline.task_folders import write_jsonl, write_task


def target(row: dict[str, object], labels: Sequence[str] = LABELS) -> tuple[float, ...]:
    """Checks that the label is the teacher's."""
    read = row_target(row, labels)
    assert read and not read[1]
    return read[0]


def test_a_person_may_correct_what_was_annotated(tmp_path: Path) -> None:
    row: dict[str, object] = {"annotated_label": "cold", "p_warm": "0.2", "p_cold": "0.6"}
    own = (1.0, 0.0), True
    assert target(row) == pytest.approx((0.25, 0.75))
    assert row_target({**row, "annotated_label": "warm"}, LABELS) == own
    assert row_target({"annotated_label": "warm", "p_warm": "", "p_cold": ""}, LABELS) == own
    for wrong in (0, -1, math.nan):
        assert row_target({"annotated_label": "warm", "p_warm": wrong, "p_cold": 0}, LABELS) == own
    assert row_target({**row, "annotated_label": ""}, LABELS) is None
    with pytest.raises(InputError, match="annotated_label is '5'; allowed are"):
        row_target({**row, "annotated_label": 5}, LABELS)
    with pytest.raises(InputError, match="'wram'"):
        row_target({**row, "annotated_label": "wram"}, LABELS)


def test_of_two_labels_that_are_equally_likely_the_teacher_s_is_not_a_person_s() -> None:
    for label in LABELS:
        assert target({"annotated_label": label, "p_warm": "0.5", "p_cold": "0.5"}) == (0.5, 0.5)
    corrected = row_target({"annotated_label": "cold", "p_warm": "0.5", "p_cold": "0.4"}, LABELS)
    assert corrected == ((0.0, 1.0), True)


def test_what_a_spreadsheet_does_to_an_annotated_table_by_itself_is_no_correction() -> None:
    row: dict[str, object] = {"annotated_label": "Cold ", "p_warm": "0,25", "p_cold": "0,75"}
    assert target(row) == pytest.approx((0.25, 0.75))
    assert target({**row, "p_warm": "25%", "p_cold": "75 %"}) == pytest.approx((0.25, 0.75))
    truth = {"annotated_label": "WAHR", "p_true": "0.75", "p_false": 0.25}
    assert target(truth, ("true", "false")) == pytest.approx((0.75, 0.25))
    with pytest.raises(InputError, match="p_warm is 'much'; allowed are numbers"):
        row_target({**row, "p_warm": "much"}, LABELS)


def test_what_a_person_corrected_is_learnt_as_a_shot_is_and_never_held_out(tmp_path: Path) -> None:
    task, settings = load_task(write_task(tmp_path)), StudentSettings(held_out=0.5)
    texts = [f"{word} of {number}" for number in range(10) for word in ("ice", "tea")]
    write_jsonl(tmp_path / "notes.jsonl", [{"text": text} for text in texts])
    notes, encoder = open_texts(tmp_path / "notes.jsonl"), ResolvedEncoder(path="e", name="e", revision="1")
    request = LabelDistillation(task=task, folder=tmp_path / "d", unlabelled=notes)
    (tmp_path / "d").mkdir()

    def student() -> StudentJob:
        annotated, _ = annotated_texts(request, "me", annotator())
        shots = [Example(text="a shot", label="cold")]
        annotated, _ = learnable(annotated, shots, [])
        return student_jobs(task, encoder, shots, annotated, [], settings, 0)[0]

    assert [example.text for example in student().examples if example.is_real] == ["a shot"]
    table = tmp_path / "d" / "annotated.jsonl"
    lines = table.read_text().splitlines()
    lines[:6] = [line.replace('label":"cold"', 'label":"warm"') for line in lines[:6]]
    table.write_text("\n".join(lines))
    learnt, held_out = hold_out(student().examples, settings.held_out, 0)
    assert [example.text for example in learnt if example.is_real] == ["a shot", "ice of 0", "ice of 1", "ice of 2"]
    assert len(held_out) == (len(texts) - 3) // 2
    weights = targets_of(learnt, settings)[1].tolist()
    assert {weight for example, weight in zip(learnt, weights, strict=True) if example.is_real} == {max(weights)}


def test_faults_of_an_annotated_table_come_with_their_lines(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    request = LabelDistillation(task=task, folder=tmp_path / "d", unlabelled=open_texts(table(tmp_path)))

    def texts() -> list[str]:
        annotated, _ = annotated_texts(request, "me", annotator())
        return [example.text for example in annotated]

    (tmp_path / "d").mkdir()
    assert texts() == ["ice cubes", "hot soup", "thick ice on all the lakes"]
    out = tmp_path / "d" / "annotated.csv"
    content = out.read_text()
    out.write_text(content.replace(",cold,", ",cald,"))
    with pytest.raises(InputError, match=r"(?s)annotated.csv:2: annotated_label is 'cald'.*'cold'\?.*annotated.csv:5"):
        texts()
    out.write_text(content.replace("annotated_label", "mine", 1))
    with pytest.raises(InputError, match=r"annotated.csv no longer has the column 'annotated_label'"):
        texts()


def test_a_cell_with_tabs_before_a_line_break_stays_one_in_an_annotated_table(tmp_path: Path) -> None:
    texts = ["Order 12\tshipped\tParis\nplease check", "Thanks\ta\tlot\n", "fine"]
    rows = [{"text": text, "annotated_label": "warm", "p_warm": 1} for text in texts]
    write_table(tmp_path / "t.tsv", list(rows[0]), rows)
    read = read_table(tmp_path / "t.tsv")
    assert [row["text"] for row in read.rows.values()] == texts
    assert [notice.severity for notice in read.notices] == ["note"]


def test_what_is_left_out_of_an_annotated_table_is_told(tmp_path: Path) -> None:
    def repeat_names(out: Path) -> None:
        content = out.read_text(encoding="utf-8")
        out.write_text(content + content.splitlines()[0] + "\n", encoding="utf-8")

    task, notes = load_task(write_task(tmp_path)), open_texts(table(tmp_path))
    request = LabelDistillation(task=task, folder=tmp_path / "d", unlabelled=notes)
    (tmp_path / "d").mkdir()
    annotated_texts(request, "me", annotator())
    repeat_names(tmp_path / "d" / "annotated.csv")
    _, told = annotated_texts(request, "me", annotator())
    assert any("1 row that repeat the names of the columns left out" in note for note in told)
    write_jsonl(tmp_path / "facts.jsonl", [{"input": "a | b"}])
    inputs, written = load_inputs(tmp_path / "facts.jsonl", PairSource()), [WrittenAnswer(text="A b.")]
    write_annotated(inputs, tmp_path / "out.csv", written, "me")
    repeat_names(tmp_path / "out.csv")
    _, told = annotated_pairs(inputs, tmp_path / "out.csv", written)
    assert any("1 row that repeat the names of the columns left out" in note for note in told)


def test_a_table_of_targets_without_its_columns_is_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "facts.jsonl", tmp_path / "out.csv"
    write_jsonl(path, [{"input": "a | b"}])
    inputs, written = load_inputs(path, PairSource()), [WrittenAnswer(text="A b.")]
    write_annotated(inputs, out, written, "me")
    assert [(pair.input, pair.target) for pair in annotated_pairs(inputs, out, written)[0]] == [("a | b", "A b.")]
    out.write_text(out.read_text().replace("annotated_target", "target"))
    with pytest.raises(InputError, match=r"out.csv no longer has the column 'annotated_target'"):
        annotated_pairs(inputs, out, written)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_no_target_is_a_formula_and_each_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    targets = ['=HYPERLINK("http://host")', "+1", "- a point", "@name", "'=quoted", "'tis", "plain"]
    path, out = tmp_path / "facts.jsonl", tmp_path / f"out.{suffix}"
    write_jsonl(path, [{"input": f"a | {number}"} for number in range(len(targets))])
    inputs, written = load_inputs(path, PairSource()), [WrittenAnswer(text=text) for text in targets]
    write_annotated(inputs, out, written, "me")
    cells = [str(row["annotated_target"]) for row in read_table(out).rows.values()]
    if suffix == "jsonl":
        assert cells == targets, "no spreadsheet opens it"
    else:
        assert not [cell for cell in cells if cell[0] in "=+-@"]
    pairs, _ = annotated_pairs(inputs, out, written)
    assert [pair.target for pair in pairs] == targets and not any(pair.is_corrected for pair in pairs)


def test_a_target_that_a_person_wrote_is_told_from_what_a_spreadsheet_did_to_one(tmp_path: Path) -> None:
    path, out = tmp_path / "facts.jsonl", tmp_path / "out.csv"
    write_jsonl(path, [{"input": text} for text in ("a | b", " ", "c | d", "e | f", "g | h", "i | j")])
    targets = ("A b.\nIn two lines.", "C d.", "e f.", "", "=1 Caf\u00e9")
    inputs, written = load_inputs(path, PairSource()), [WrittenAnswer(text=text) for text in targets]
    write_annotated(inputs, out, written, "me")

    def corrected() -> list[str]:
        return [pair.target for pair in annotated_pairs(inputs, out, written)[0] if pair.is_corrected]

    assert corrected() == []
    table = out.read_text().replace("\n", "\r\n").replace("\u00e9", "e\u0301")
    out.write_text(table.replace("C d.", "A b. In two lines.").replace("e f.", "E f.").replace("g | h,", "g | h,G."))
    assert corrected() == ["A b. In two lines.", "E f.", "G."]
    assert "3 targets in out.csv not from the teacher: learnt as your own" in (annotated_pairs(inputs, out, written)[1])


def test_numbers_of_a_spreadsheet_stay_as_they_are_shown(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["text", "ticket", "score"],
        ["ice cubes", 1001, 2.5],
        ["hot soup", 1002, ""],
        ["snow", 20240012345, 3],
    ]
    (tmp_path / "notes.xlsx").write_bytes(spreadsheet(rows))
    notes = open_texts(tmp_path / "notes.xlsx")
    for ending in ("csv", "jsonl", "parquet"):
        annotate_table(notes, tmp_path / f"out.{ending}", LABELS, "me", annotator())
        written = read_table(tmp_path / f"out.{ending}").rows.values()
        assert [str(row["ticket"]) for row in written] == ["1001", "1002", "20240012345"]
        assert [row["score"] or None for row in written] == (["2.5", None, "3"] if ending == "csv" else [2.5, None, 3])


def test_a_spreadsheet_s_texts_are_written_so_that_spreadsheets_open_them(tmp_path: Path) -> None:
    """Without the mark they take UTF-8 for another encoding."""
    (tmp_path / "notes.xlsx").write_bytes(spreadsheet([["text"], ["Gr\u00fc\u00dfe"], ["hot soup"]]))
    for ending, mark in (("csv", b"\xef\xbb\xbftext,"), ("tsv", b'"text"\t'), ("jsonl", b'{"text":')):
        out = tmp_path / f"out.{ending}"
        annotate_table(open_texts(tmp_path / "notes.xlsx"), out, LABELS, "me", annotator())
        assert out.read_bytes().startswith(mark)
        assert list(open_texts(out).texts()) == ["Gr\u00fc\u00dfe", "hot soup"]


def test_of_rows_with_the_same_text_a_persons_label_is_learnt_wherever_it_stands(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    write_jsonl(
        tmp_path / "notes.jsonl", [{"text": text} for text in ("an ice", "tea", "An ice", "snow", "TEA", "AN ice")]
    )
    notes, table = open_texts(tmp_path / "notes.jsonl"), tmp_path / "d" / "annotated.jsonl"
    request = LabelDistillation(task=task, folder=table.parent, unlabelled=notes)
    table.parent.mkdir()

    def learnt(labels: dict[str, str]) -> tuple[dict[str, tuple[float, ...]], list[str]]:
        """With these labels in the rows of those texts."""
        annotated_texts(request, "me", annotator())
        rows = read_table(table).rows.values()
        write_jsonl(
            table, [{**row, "annotated_label": labels.get(row["text"], row["annotated_label"])} for row in rows]
        )
        annotated, _ = annotated_texts(request, "me", annotator())
        table.unlink()
        usable, told = learnable(annotated, [], [])
        return {example.text: example.probabilities for example in usable}, told

    repeated = "not learnt, because duplicated: 3 texts"
    texts, told = learnt({})
    assert [*texts] == ["an ice", "tea", "snow"] and told == [repeated]
    texts, told = learnt({"An ice": "warm"})
    assert [*texts] == ["tea", "An ice", "snow"] and texts["An ice"] == (1.0, 0.0) and told == [repeated]
    texts, told = learnt({"An ice": "warm", "AN ice": "warm", "TEA": "cold"})
    assert [*texts] == ["An ice", "snow", "TEA"] and texts["TEA"] == (0.0, 1.0) and told == [repeated]


def test_labels_of_a_person_that_contradict_each_other_are_told_and_not_learnt() -> None:
    def of_a_person(text: str, label: int) -> TaughtExample:
        return TaughtExample(text=text, probabilities=(1.0 - label, float(label)), is_real=True)

    of_the_teacher = TaughtExample(text="ICE", probabilities=(0.2, 0.8))
    annotated = [of_the_teacher, of_a_person("Ice\n cubes", 1), of_a_person("ice", 0), of_a_person("ice cubes", 0)]
    usable, told = learnable(annotated, [], [])
    assert [(example.text, example.is_real) for example in usable] == [("ice", True)]
    assert told == [
        "1 text with different answers from a person, such as 'Ice cubes': none is learnt",
        "not learnt, because duplicated: 1 text",
    ]


def test_of_rows_with_the_same_input_a_persons_target_is_learnt_and_several_are_told() -> None:
    def pair(text: str, target: str, is_corrected: bool = True) -> Pair:
        return Pair(input=text, target=target, is_corrected=is_corrected)

    pairs = [
        pair("a | b", "A b.", False),
        pair("c", "C."),
        pair("A | b", "Ab."),
        pair("a | B", "Abb."),
        pair("C", "C."),
    ]
    learnt, told = learnable_pairs(pairs, [], [], "input")
    assert [pair.target for pair in learnt] == ["C.", "Ab."]
    assert told == [
        "1 input with different answers from a person, such as 'A | b': the first is learnt",
        "3 inputs left out: duplicates of others or of real ones",
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_bytes_are_base64_where_a_format_has_none_and_texts_in_bytes_are_texts(tmp_path: Path, ending: str) -> None:
    import pyarrow
    import pyarrow.parquet

    picture, text, out = b"\x89PNG\x00", "Caf\u00e9 of ice", tmp_path / f"out.{ending}"
    rows = [{"text": text.encode(), "picture": picture}, {"text": b"tea", "picture": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "notes.parquet")
    annotate_table(open_texts(tmp_path / "notes.parquet"), out, LABELS, "me", annotator())
    first, second = read_table(out).rows.values()
    is_parquet = ending == "parquet"
    assert first["picture"] == (picture if is_parquet else "iVBORwA=") and not second["picture"]
    assert first["text"] == (text.encode() if is_parquet else text)
