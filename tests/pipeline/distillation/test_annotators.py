"""Texts read by an engine in a process of its own: in order, and one that is refused takes no other with it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourshot.engine.calibration import Calibration, apply
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Adapter
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import write_json
from fourshot.pipeline.card import CARD_FILE, AdapterCard
from fourshot.pipeline.cells.cell import SeedExamples
from fourshot.pipeline.distillation import annotators as annotators_module
from fourshot.pipeline.distillation.annotators import (
    annotate_with,
    open_run,
    parts_of,
    teacher_of_adapter,
    teacher_of_run,
)
from fourshot.pipeline.distillation.teacher import Teacher
from fourshot.pipeline.loop.rounds import CALIBRATION_FILE
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.filters import FilterSettings
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.task import Example
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.lora.settings import LoraSettings
from tests.pipeline.loop.filling import InProcessWorker
from tests.pipeline.strict_engine import StrictEngine
from tests.pipeline.task_folders import write_task

ADAPTERS = tuple(Annotator(adapter=Adapter(name=name, path="nowhere")) for name in ("one", "two"))


@pytest.mark.parametrize("annotators", [(), ADAPTERS])
def test_answers_come_in_the_order_of_the_texts(
    tmp_path: Path, annotators: tuple[Annotator, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.pipeline.loop.workers.rank_of", lambda adapter: 8)
    annotate = AnnotateSettings(annotator="adapters" if annotators else "icl", num_adapters=2, folds=0)
    teacher = Teacher(
        name="fake",
        task=load_task(write_task(tmp_path)),
        model_path="fake:unreadable=zzz",
        settings=RunSettings(annotate=annotate),
        shots=() if annotators else (Example(text="Hot.", label="warm"), Example(text="Snow.", label="cold")),
        annotators=annotators,
    )
    texts = [f"note {number}{' zzz' if number == 5 else ''} {'warm' if number % 3 else 'cold'}" for number in range(40)]
    answers = [answer for part in annotate_with(teacher, tmp_path / "log")(parts_of(texts, 16)) for answer in part]
    assert len(answers) == len(texts)
    assert [bool(answer.fault) for answer in answers] == ["zzz" in text for text in texts]
    predicted = [answer.probabilities[0] > 0.5 for answer in answers if answer.probabilities]
    meant = [text.endswith("warm") for text in texts if "zzz" not in text]
    assert sum(a == b for a, b in zip(predicted, meant, strict=True)) > 30, (
        "the fake engine is now and then of another mind"
    )
    assert {answer.agreement for answer in answers if answer.probabilities} == ({1.0} if annotators else {None})


@pytest.mark.parametrize("adapter", [None, Adapter(name="one", path="nowhere")])
def test_a_text_longer_than_any_candidate_is_annotated_behind_fewer_shots(
    tmp_path: Path, adapter: Adapter | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = StrictEngine(350)
    monkeypatch.setattr(annotators_module, "open_workers", lambda *_: InProcessWorker(engine))
    monkeypatch.setattr(annotators_module, "engine_settings", lambda *_, **__: engine.settings)
    shots = tuple(Example(text=f"a note that is number {n}", label="warm" if n % 2 else "cold") for n in range(24))
    teacher = Teacher(
        name="fake",
        task=load_task(write_task(tmp_path)),
        model_path="fake",
        settings=RunSettings(annotate=AnnotateSettings(num_adapters=1, weights="equal")),
        shots=shots,
        annotators=(Annotator(adapter=adapter, shown=tuple(range(24))),),
    )
    texts = ["a note warm", f"{'a longer note ' * 40}warm", "a note cold"]
    answers = [answer for part in annotate_with(teacher, tmp_path / "log")(parts_of(texts, 16)) for answer in part]
    assert [answer.fault for answer in answers] == [""] * 3
    shown = {text: {p.count("Label:") - 1 for p in engine.prompts if f"Text: {text}\n" in p} for text in texts}
    assert shown[texts[0]] == shown[texts[2]] == {24}
    assert 0 < max(shown[texts[1]], default=24) < 24


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
    monkeypatch.setattr(annotators_module, "base_of", lambda *_: ResolvedModel(path="fake", name="fake", revision=""))
    annotate = annotate_with(teacher_of_adapter(tmp_path / "adapter"), tmp_path / "log")
    ((answer,),) = annotate(parts_of(["note 1 warm"], 16))
    expected = np.exp(apply(card.calibration, np.array([[-0.5, -4.0]])))
    assert answer.probabilities == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert answer.cut_words == 1


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        open_run(tmp_path)


@pytest.fixture
def name_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The name of those who read for a run with these settings, on a base of that revision."""
    task = load_task(write_task(tmp_path))
    data = TaskData(task)

    def name(
        annotators: tuple[Annotator, ...] = (),
        revision: str = "1",
        num_shots: int = 8,
        log_prior: object = None,
        **settings: Any,
    ) -> str:
        annotate = {"annotator": "adapters", "num_adapters": len(annotators)} if annotators else {"annotator": "icl"}
        annotate |= settings.pop("annotate", {})
        chosen = RunSettings(annotate=AnnotateSettings(**annotate), **settings)
        seeds = [SeedExamples(seed=0, shots=tuple(data.train[:num_shots]))]
        model = ResolvedModel(path="nowhere", name="base", revision=revision)
        folder = tmp_path / value_hash([chosen, log_prior])
        if log_prior:
            write_json(folder / CALIBRATION_FILE, Calibration(method="batch", log_prior=log_prior))  # type: ignore[arg-type]
        monkeypatch.setattr(Experiment, "annotators", lambda self, writer: annotators)
        return teacher_of_run(Experiment(data, model, chosen, ["fourshot"], seeds, folder, flat=True)).name

    return name


def test_teachers_in_context_are_named_by_all_that_they_answer_with(name_of: Callable[..., str]) -> None:
    """Shots, say: a folder that one run's teacher began took the other's, and reported the first one's answers."""
    names = [
        name_of(),
        name_of(num_shots=5),
        name_of(revision="2"),
        name_of(align=False),
        name_of(base_verbalizer="prefix"),
        name_of(max_text_words=9),
        name_of(long_texts="windows"),
        name_of(filter=FilterSettings(longest_chars=5000)),
        name_of(log_prior=(0.5, -0.5)),
    ]
    assert len(set(names)) == len(names) and names[0] == name_of()
    assert all(re.fullmatch("base in context, [0-9a-f]{12}", name) for name in names)
    assert name_of(seed=7, calibrate=False) == names[0], "what no annotator sees"


def test_committees_are_named_by_what_is_read_of_texts_too(name_of: Callable[..., str]) -> None:
    in_context = (*ADAPTERS, Annotator(adapter=None, shown=(1, 0)))
    names = [
        name_of(ADAPTERS),
        name_of(ADAPTERS, max_text_words=9),
        name_of(ADAPTERS, long_texts="middle"),
        name_of(ADAPTERS, annotate={"weights": "held_out"}),
        name_of(in_context),
        name_of(in_context, num_shots=5),
        name_of(in_context, revision="2"),
    ]
    assert len(set(names)) == len(names)
    assert names[3] == "committee of 2, 02388621721f", "as earlier versions named it"
