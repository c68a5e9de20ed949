"""An annotated table is read again as it was written, whatever its columns and separator are."""

from pathlib import Path

import pytest

from fourshot.pipeline.distillation.annotated_tables import annotated_file
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.distillation.taught import annotated_texts
from fourshot.pipeline.distillation.text_pairs import annotated_pairs, write_annotated
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.tasks.generation import PairSource
from fourshot.pipeline.tasks.pairs import load_inputs
from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline.distillation.test_annotating import annotator
from tests.pipeline.task_folders import write_task

QUESTION = "Please describe your problem in detail."


@pytest.mark.parametrize(
    ("content", "column", "texts"),
    [
        (f"id,{QUESTION}\n1,ice\n2,soup\n", QUESTION, ["ice", "soup"]),
        ("id,text\n1,ice\n2,text\n", "text", ["ice", "text"]),
        ("sep=^\nid^text\n1^ice, cold\n2^soup; hot\n", None, ["ice, cold", "soup; hot"]),
    ],
    ids=["a question", "its own name as a text", "a separator that is named"],
)
def test_a_table_that_was_annotated_is_learnt_from(
    tmp_path: Path, content: str, column: str | None, texts: list[str]
) -> None:
    """The first two were taken for tables without a line of names, after all texts had been annotated."""
    (tmp_path / "notes.csv").write_text(content)
    notes, task = open_texts(tmp_path / "notes.csv", column), load_task(write_task(tmp_path))
    request = LabelDistillation(task=task, folder=tmp_path / "d", unlabelled=notes)
    request.folder.mkdir()
    annotated, _ = annotated_texts(request, "me", annotator())
    assert [example.text for example in annotated] == texts and not any(example.is_real for example in annotated)
    assert list(open_texts(annotated_file(notes.path, request.folder), column).texts()) == texts


def test_inputs_in_bytes_are_written_as_texts_beside_their_targets(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"input": text.encode(), "picture": b"\x89"} for text in ("Caf\u00e9 | b", "c | d")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "facts.parquet")
    inputs, out = load_inputs(tmp_path / "facts.parquet", PairSource()), tmp_path / "annotated.jsonl"
    written = [WrittenAnswer(text="A b."), WrittenAnswer(text="C d.")]
    write_annotated(inputs, out, written, "me")
    assert '"picture":"iQ=="' in out.read_text(encoding="utf-8")
    pairs, notes = annotated_pairs(inputs, out, written)
    assert [pair.input for pair in pairs] == ["Caf\u00e9 | b", "c | d"] and notes == []
    assert not any(pair.is_corrected for pair in pairs)
