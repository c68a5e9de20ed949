"""Texts read by an engine in a process of its own: in order, and one that is refused takes no other with it."""

from pathlib import Path

import numpy as np
import pytest

from fourshot.engine.calibration import Calibration, apply
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Adapter
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import write_json
from fourshot.pipeline.card import CARD_FILE, AdapterCard
from fourshot.pipeline.distillation import readers
from fourshot.pipeline.distillation.readers import Teacher, open_run, parts_of, read_with, teacher_of_adapter
from fourshot.pipeline.synthesis.committee import Reader
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.lora.settings import LoraSettings
from tests.pipeline.task_folders import write_task

ADAPTERS = tuple(Reader(adapter=Adapter(name=name, path="nowhere")) for name in ("one", "two"))


@pytest.mark.parametrize("readers_", [(), ADAPTERS])
def test_answers_come_in_the_order_of_the_texts(
    tmp_path: Path, readers_: tuple[Reader, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.pipeline.loop.workers.rank_of", lambda adapter: 8)
    annotate = AnnotateSettings(annotator="adapters" if readers_ else "icl", num_adapters=2, folds=0)
    teacher = Teacher(
        name="fake",
        task=load_task(write_task(tmp_path)),
        model_path="fake:unreadable=zzz",
        settings=RunSettings(annotate=annotate),
        shots=() if readers_ else (Example(text="Hot.", label="warm"), Example(text="Snow.", label="cold")),
        readers=readers_,
    )
    texts = [f"note {number}{' zzz' if number == 5 else ''} {'warm' if number % 3 else 'cold'}" for number in range(40)]
    answers = [answer for part in read_with(teacher, tmp_path / "log")(parts_of(texts, 16)) for answer in part]
    assert len(answers) == len(texts)
    assert [bool(answer.fault) for answer in answers] == ["zzz" in text for text in texts]
    predicted = [answer.probabilities[0] > 0.5 for answer in answers if answer.probabilities]
    meant = [text.endswith("warm") for text in texts if "zzz" not in text]
    assert sum(a == b for a, b in zip(predicted, meant, strict=True)) > 30, (
        "the fake engine is now and then of another mind"
    )
    assert {answer.agreement for answer in answers if answer.probabilities} == ({1.0} if readers_ else {None})


def test_an_adapter_annotates_as_sure_as_its_card_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine's scores are -0.5 and -4.0: what it predicts with a temperature, it annotates with, too."""
    monkeypatch.setattr("fourshot.pipeline.loop.workers.rank_of", lambda adapter: 8)
    task = load_task(write_task(tmp_path))
    card = AdapterCard(
        name="adapter-1",
        task=task,
        model_name="fake",
        model_revision="",
        calibration=Calibration(temperature=2.0),
        training=LoraSettings(),
        real_examples=8,
        synthetic_examples=20,
        steps=1,
        train_tokens=1,
        train_s=1.0,
        max_text_words=2,
    )
    write_json(tmp_path / "adapter" / CARD_FILE, card)
    monkeypatch.setattr(readers, "base_of", lambda *_: ResolvedModel(path="fake", name="fake", revision=""))
    read = read_with(teacher_of_adapter(tmp_path / "adapter"), tmp_path / "log")
    ((answer,),) = read(parts_of(["note 1 warm"], 16))
    expected = np.exp(apply(card.calibration, np.array([[-0.5, -4.0]])))
    assert answer.probabilities == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert answer.cut_words == 1


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        open_run(tmp_path)
