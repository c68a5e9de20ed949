"""Texts read by an engine in a process of its own: in order, and one that is refused takes no other with it."""

from pathlib import Path

import pytest

from fourshot.engine.core import Adapter
from fourshot.engine.errors import InputError
from fourshot.pipeline.runs.readers import Teacher, open_run, parts_of, read_with
from fourshot.pipeline.synthesis.annotate import Reader
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import Example
from tests.pipeline.task_folders import write_task

ADAPTERS = tuple(Reader(adapter=Adapter(name=name, path="nowhere")) for name in ("one", "two"))


@pytest.mark.parametrize("readers", [(), ADAPTERS])
def test_answers_come_in_the_order_of_the_texts(
    tmp_path: Path, readers: tuple[Reader, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.pipeline.loop.workers.rank_of", lambda adapter: 8)
    annotate = AnnotateSettings(annotator="adapters" if readers else "icl", num_adapters=2, folds=0)
    teacher = Teacher(
        name="fake",
        task=load_task(write_task(tmp_path)),
        model_path="fake:unreadable=zzz",
        settings=RunSettings(annotate=annotate),
        shots=() if readers else (Example(text="Hot.", label="warm"), Example(text="Snow.", label="cold")),
        readers=readers,
    )
    texts = [f"note {number}{' zzz' if number == 5 else ''} {'warm' if number % 3 else 'cold'}" for number in range(40)]
    answers = [one for part in read_with(teacher, tmp_path / "log")(parts_of(texts, 16)) for one in part]
    assert len(answers) == len(texts)
    assert [bool(one.fault) for one in answers] == ["zzz" in text for text in texts]
    said = [one.probabilities[0] > 0.5 for one in answers if one.probabilities]
    meant = [text.endswith("warm") for text in texts if "zzz" not in text]
    assert sum(a == b for a, b in zip(said, meant, strict=True)) > 30, "the fake engine is now and then of another mind"
    assert {one.agreement for one in answers if one.probabilities} == ({1.0} if readers else {None})


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        open_run(tmp_path)
