"""Evaluation of one method on a test split."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Literal

import msgspec
import numpy as np

from fourshot.engine import calibration as calibrations
from fourshot.engine.core import Adapter, Engine
from fourshot.engine.errors import InputError
from fourshot.pipeline.metrics import score_predictions
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.selective import CoverageCurve, coverage_curve, rounded_down
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.committee import Annotator, Committee
from fourshot.pipeline.synthesis.fitting import check_room, longest_of, shots_that_fit
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.windows import label_scores, parts_of
from fourshot.pipeline.task import Example, Task


class Annotators(msgspec.Struct, frozen=True, kw_only=True):
    """Annotators that predict together, and the shots and settings that determine their weights."""

    members: tuple[Annotator, ...]
    shots: tuple[Example, ...]
    settings: RunSettings

    @property
    def basis(self) -> tuple[object, ...]:
        """Everything that their predictions depend on, except paths, the base model and the shown part of a text."""
        members = [
            (
                [files.name for files in (member.adapter, member.encoder) if files],
                msgspec.structs.replace(member, adapter=None, encoder=None),
            )
            for member in self.members
        ]
        annotate = self.settings.annotate
        return members, self.shots, self.settings.filter, annotate.weights, annotate.fold_weight


class EvaluationCell(msgspec.Struct, frozen=True, kw_only=True):
    """A method on a seed, to be evaluated into the file ``out``."""

    out: str
    title: str
    shots: tuple[Example, ...] = ()  # in the prompt
    adapter: Adapter | None = None
    form: PromptFormat = PromptFormat()  # of the prompts that the adapter was trained on
    align: bool = False  # put filler before prompts that show shots
    calibration: Literal["none", "batch"] = "none"
    has_temperature: bool = False  # stored beside the adapter
    annotators: Annotators | None = None  # that predict in place of the adapter

    @property
    def left_out(self) -> str:
        """Path of the file that says why there is no ``out``."""
        return str(Path(self.out).with_suffix(".left_out.json"))

    @property
    def is_done(self) -> bool:
        return Path(self.out).exists() or Path(self.left_out).exists()

    @property
    def answers_key(self) -> bytes:
        """Key that is equal for cells with the same predictions before calibration."""
        return msgspec.json.encode((self.shots, self.adapter, self.form, self.align, self.annotators))

    @property
    def answering(self) -> list[tuple[Adapter | None, PromptFormat]]:
        """Adapters that predict, None for the base model, each with the format of its prompts; without encoders."""
        if not self.annotators:
            return [(self.adapter, self.form)]
        return [(member.adapter, member.form(self.form)) for member in self.annotators.members if not member.encoder]


class LeftOutCell(msgspec.Struct, frozen=True, kw_only=True):
    """Why a cell was not evaluated."""

    why: str


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Scores, and all predictions behind them."""

    scores: Scores
    predicted: tuple[int, ...]  # index of the predicted label, per test text
    gold: tuple[int, ...]  # index of the true label
    confidence: tuple[float, ...]  # probability of the predicted label, rounded down
    shown: int | None = None  # shots in the prompt, if not all of them fitted
    alone_s: float | None = None  # median seconds of a text in a request of its own, if that was measured

    def answers(self, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Return (true label, predicted label) of each test text; ``names``: of the labels."""
        return tuple((names[gold], names[predicted]) for gold, predicted in zip(self.gold, self.predicted, strict=True))

    @property
    def curve(self) -> CoverageCurve:
        """Accuracy of the most confident predictions, by coverage of the test split."""
        correct = [predicted == right for predicted, right in zip(self.predicted, self.gold, strict=True)]
        return coverage_curve(self.confidence, correct, "test split")


class SplitLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Label log-probabilities of every test text, before calibration, and their cost."""

    logprobs: np.ndarray  # float32 or float64 [num_texts, num_labels]
    seconds: float
    prompt_tokens: int
    cached_tokens: int
    shown: int | None = None  # shots in the prompt, if not all of them fitted


def answer(
    engine: Engine,
    task: Task,
    test: Sequence[Example],
    *,
    form: PromptFormat,
    shots: Sequence[Example] = (),
    adapter: Adapter | None = None,
    align: bool = False,
) -> SplitLogprobs:
    """Score every text of ``test``, with as many of ``shots`` in the prompt as fit; give none for adapters.

    ``form``: of the prompts that the adapter was trained on. ``align``: put filler before prompts that show shots.

    The prefix cache is emptied first, so that the seconds do not depend on previous evaluations. Raises InputError for
    an empty test split, NoRoomError if not one of the ``shots`` of each class fits.
    """
    if not test:
        raise InputError("The test split is empty, so nothing can be evaluated. Give at least one test text.")

    parts = [part for example in test for part in parts_of(task, example.text, form)]
    longest = longest_of(engine, task, form, parts) if shots else ""
    shown = shots_that_fit(engine, task, shots, form, [longest])
    check_room(engine, shots, shown)
    if shown:
        plain = msgspec.structs.replace(form, filler=None)
        form = aligned(plain, task, engine.settings, shown, longest) if align else plain
    engine.reset_prefix_cache()
    before = engine.stats()
    logprobs = label_scores(engine, task, [example.text for example in test], form, shown, adapter)
    ran = engine.stats().since(before)
    return SplitLogprobs(
        logprobs=logprobs,
        seconds=ran.busy_s,
        prompt_tokens=ran.prompt_tokens,
        cached_tokens=ran.cached_tokens,
        shown=len(shown) if len(shown) < len(shots) else None,
    )


def answer_together(engine: Engine, task: Task, test: Sequence[Example], annotators: Annotators) -> SplitLogprobs:
    """Return the predictions of all annotators for every text of ``test``, averaged and weighted as for candidates.

    Every annotator scores every text, even if an average of adapters annotates candidates first: which of those are
    open depends on their intended class, and test texts have none. Seconds and tokens are those of all annotators,
    without scoring the shots to find the weights.
    """
    members = annotators.members
    committee = Committee(engine, task, members, annotators.settings, annotators.shots)
    engine.reset_prefix_cache()
    committee.score_held_out_shots()
    engine.reset_prefix_cache()
    before, began = engine.stats(), perf_counter()
    probabilities = committee.probabilities([example.text for example in test])
    elapsed_s, ran = perf_counter() - began, engine.stats().since(before)
    has_encoders = any(member.encoder for member in members)  # which do not run in the engine
    return SplitLogprobs(
        logprobs=np.log(probabilities + calibrations.SMALLEST),
        seconds=elapsed_s if has_encoders else ran.busy_s,
        prompt_tokens=ran.prompt_tokens,
        cached_tokens=ran.cached_tokens,
    )


def measure(
    answers: SplitLogprobs,
    task: Task,
    test: Sequence[Example],
    calibration: Literal["none", "batch"] = "none",
    temperature: float | None = None,
) -> Evaluation:
    """Compare predictions with the labels. "batch" calibration uses the test texts, never their labels.

    ``temperature``: of the adapter's calibration; None: it was not calibrated.
    """
    fitted = calibrations.batch(answers.logprobs) if calibration == "batch" else calibrations.NONE
    gold = [task.label_names.index(example.label) for example in test]
    ece_before = None
    if temperature is not None:
        ece_before = score_predictions(np.exp(calibrations.apply(fitted, answers.logprobs)), gold).ece
        fitted = msgspec.structs.replace(fitted, temperature=temperature)
    measured = evaluation_of(
        np.exp(calibrations.apply(fitted, answers.logprobs)),
        task,
        test,
        seconds=answers.seconds,
        prompt_tokens=answers.prompt_tokens,
        cached_tokens=answers.cached_tokens,
    )
    scores = msgspec.structs.replace(measured.scores, ece_before=ece_before)
    return msgspec.structs.replace(measured, scores=scores, shown=answers.shown)


def evaluation_of(
    probabilities: np.ndarray,
    task: Task,
    test: Sequence[Example],
    *,
    seconds: float,
    prompt_tokens: int = 0,
    cached_tokens: int = 0,
) -> Evaluation:
    """Compare label probabilities, [num_texts, num_labels], with the labels; ``seconds``: time to compute them."""
    gold = [task.label_names.index(example.label) for example in test]
    scores = score_predictions(
        probabilities, gold, seconds=seconds, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens
    )
    measured = Evaluation(
        scores=scores,
        predicted=tuple(int(index) for index in probabilities.argmax(axis=1)),
        gold=tuple(gold),
        confidence=tuple(rounded_down(float(value)) for value in probabilities.max(axis=1)),
    )
    surest = msgspec.structs.replace(scores, surest_80=measured.curve.accuracy(0.8))
    return msgspec.structs.replace(measured, scores=surest)
