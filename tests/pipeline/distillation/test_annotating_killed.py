"""A table that is annotated, and a kill between its last write and the end."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation import annotating
from fourshot.pipeline.distillation.annotating import AnnotationSummary
from fourshot.pipeline.rows.unfinished import ANSWERS_FILE, unfinished_folder
from tests.pipeline.distillation.test_annotating import StoppedError, annotate, annotator, table


@pytest.fixture
def killed_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], AnnotationSummary]:
    """Annotates into a file of that name, is stopped once the table is there, and says what it would have come to."""

    def stopped(_: Path) -> None:
        raise StoppedError

    def killed(name: str) -> AnnotationSummary:
        undisturbed = annotate(table(tmp_path), tmp_path / f"undisturbed-{name}")
        with monkeypatch.context() as patched:
            patched.setattr(annotating, "remove_folder", stopped)
            with pytest.raises(StoppedError):
                annotate(table(tmp_path), tmp_path / name)
        return msgspec.structs.replace(undisturbed, out=str(tmp_path / name))

    return killed


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "answers.jsonl", "out.parquet"])
def test_a_kill_between_the_table_and_the_end_leaves_only_the_end_to_do(
    killed_at_the_end: Callable[[str], AnnotationSummary], tmp_path: Path, name: str
) -> None:
    summary, out = killed_at_the_end(name), tmp_path / name
    written = out.read_bytes()
    assert unfinished_folder(out).exists() and annotate(table(tmp_path), out, annotator(stop_after=0)) == summary
    assert out.read_bytes() == written and not unfinished_folder(out).exists()


def test_a_table_that_is_not_what_the_answers_make_is_left_as_it_is(
    killed_at_the_end: Callable[[str], AnnotationSummary], tmp_path: Path
) -> None:
    killed_at_the_end("out.csv")
    out = tmp_path / "out.csv"
    with pytest.raises(InputError, match="already exists"):
        annotate(table(tmp_path), out, abstain_below=0.7)
    out.write_text(out.read_text().replace("cold", "warm"))  # a person's correction
    corrected = out.read_bytes()
    with pytest.raises(InputError, match="already exists"):
        annotate(table(tmp_path), out)
    assert out.read_bytes() == corrected
    (unfinished_folder(out) / ANSWERS_FILE).unlink()
    with pytest.raises(InputError, match="already exists"):
        annotate(table(tmp_path), out, annotator(stop_after=0))
