"""A table that is changed while its texts are annotated, or read otherwise when it is continued."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fourshot.engine.errors import InputError, RunFolderError
from fourshot.engine.machine.files import write_json
from fourshot.pipeline.distillation.annotating import AnnotationManifest, annotate_table
from fourshot.pipeline.distillation.annotators import Annotate, Annotation, Parts
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.rows.unfinished import ANSWERS_FILE, unfinished_folder
from fourshot.pipeline.tables.types import ReadSettings
from fourshot.pipeline.work_folder import MANIFEST_FILE
from tests.pipeline.distillation.test_annotating import LABELS, StoppedError, annotator

ROWS = "id,text\n1,ice\n2,soup\n3,snow and ice\n"


def meanwhile(change: Callable[[], object]) -> Annotate:
    """Annotates, and has a person change the table after the first part."""

    def annotate(parts: Parts) -> Iterator[list[Annotation]]:
        for answers in annotator()(parts):
            yield answers
            change()

    return annotate


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,text\n3,snow and ice\n2,soup\n1,ice\n", "was changed while its texts were annotated"),
        (f"{ROWS}4,tea\n".encode(), "was changed while its texts were annotated"),
        (b"id,text\n1,ice\n", "was changed while its texts were annotated"),
        (b"id,text\n1,\xff\n", "cannot be read any more: byte 0xff is not valid UTF-8"),
        (None, "cannot be read any more: no such file"),
    ],
    ids=["sorted", "longer", "shorter", "damaged", "removed"],
)
def test_no_label_gets_to_another_row_of_a_table_that_was_changed_meanwhile(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path, out, read_texts = tmp_path / "notes.csv", tmp_path / "out.csv", list[str]()
    path.write_text(ROWS)
    change: Callable[[], object] = path.unlink if content is None else partial(path.write_bytes, content)
    with pytest.raises(InputError, match=f"{message}.*Restore it, and repeat the command"):
        annotate_table(open_texts(path), out, LABELS, "me", meanwhile(change))
    assert not out.exists()
    path.write_text(ROWS)
    annotate_table(open_texts(path), out, LABELS, "me", annotator(read_texts=read_texts))
    assert not read_texts, "the labels were kept"
    lines = out.read_text().splitlines()[1:]
    assert [line.split(",")[2] for line in lines] == ["cold", "warm", "cold"]


def test_texts_that_were_decoded_otherwise_keep_no_labels(tmp_path: Path) -> None:
    path, out = tmp_path / "notes.csv", tmp_path / "out.csv"
    path.write_bytes("text\nлёд\nлёд 2\n".encode("cp1251"))

    def annotate(encoding: str, by: Annotate) -> None:
        annotate_table(open_texts(path, "text", settings=ReadSettings(encoding=encoding)), out, LABELS, "me", by)

    def stopped(parts: Parts) -> Iterator[list[Annotation]]:
        yield from annotator()(parts)
        raise StoppedError

    with pytest.raises(StoppedError):
        annotate("latin-1", stopped)
    with pytest.raises(RunFolderError, match="encoding: the folder has 'latin-1', this call has 'cp1251'"):
        annotate("cp1251", annotator())
    manifest = AnnotationManifest(
        table=open_texts(path, "text", settings=ReadSettings(encoding="cp1251")).content_hash, labels=LABELS, by="me"
    )
    write_json(unfinished_folder(out) / MANIFEST_FILE, manifest)
    assert (unfinished_folder(out) / ANSWERS_FILE).exists()
    annotate("cp1251", annotator(stop_after=0))
    assert "лёд,warm" in out.read_text(encoding="utf-8-sig"), "what an earlier version began goes on"
