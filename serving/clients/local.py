"""A trained classifier in this process: the card beside its weights holds everything else that is needed.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, Unpack, get_args

import msgspec

from fourshot.engine.adapters import slot_rank
from fourshot.engine.calibration import apply
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.opening import open_engine
from fourshot.pipeline.arguments import checked, checked_but
from fourshot.pipeline.card import AdapterCard, base_of, load_card, load_examples
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.rows.fields import Given, as_texts, bare_text, encoder_text
from fourshot.pipeline.rows.text_lists import checked_texts
from fourshot.pipeline.rows.text_words import check_unicode, words_left_out
from fourshot.pipeline.selective import Abstained, AbstentionRule, Refusal, Refusing, rule_of
from fourshot.pipeline.student_card import (
    StudentCard,
    check_unchanged,
    find_student,
    load_student_card,
    student_left_out,
)
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording
from fourshot.pipeline.synthesis.windows import classification_prompts, label_scores
from fourshot.serving.adapter_lookup import find_adapter
from fourshot.serving.clients.explain import STAGE, ExampleIndex, Explanation, WordingScores

if TYPE_CHECKING:
    import numpy as np

FEW_BYTES = 30_000  # of prompts: up to this, the reference engine finishes before vLLM (docs/cli.md has the times)
INSTRUCTION_BYTES, READ_BYTES = 100, 2_000  # of a typical instruction; of a text that is typically not cut
EngineKind = Literal["vllm", "transformers"]


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The prediction for one text."""

    label: str | None  # the name, as in the data; None if the classifier abstained, as requested
    probability: float  # of the most likely label
    probabilities: dict[str, float]  # of every label, in the task's order; sums to one
    abstained: Abstained = ""  # why there is no label
    cut_words: int = 0  # words cut from a text that is longer than the classifier takes


class LocalClassifier:
    """A trained adapter on its base model, or a student. A context manager: leaving it frees the memory."""

    card: AdapterCard | StudentCard

    @checked
    def __new__(
        cls, adapter_folder: str | Path, model: str | None = None, kind: EngineKind | None = None
    ) -> "LocalClassifier":
        """Return a `LocalStudent` if the folder is that of a student or a distillation."""
        return super().__new__(LocalStudent if find_student(adapter_folder) else LocalClassifier)

    @checked
    def __init__(self, adapter_folder: str | Path, model: str | None = None, kind: EngineKind = "vllm") -> None:
        """Open the adapter in ``adapter_folder``, an adapter's or a run's, on its base model.

        ``model`` names the base if it is not where it was in training; it must be the same one. ``kind`` is the engine:
        "vllm" for many texts; "transformers" opens faster and suits a few (`engine_for`). A student takes neither.
        Raises `InputError` if there is no adapter, `ModelNotFoundError`, and `AdapterError` for another base model.
        """
        folder = find_adapter(adapter_folder)
        self.card = self._adapter_card = load_card(folder)
        base = base_of(self.card, folder, model)
        self._examples: ExampleIndex | None = None  # opened with the first explanation
        self._adapter = Adapter(name=self.card.name, path=str(folder.resolve()))
        self._engine = open_engine(
            EngineSettings(model=base.path, kind=kind, max_loras=1, max_lora_rank=slot_rank(self.card.training.r))
        )

    @checked_but("texts")
    def predict(self, texts: Iterable[Given], **refusing: Unpack[Refusing]) -> list[Prediction]:
        """Return one prediction per text, in their order. For a task with fields, a text is an object of them.

        A text gets no label if its most likely one is less probable than ``abstain_below``. ``coverage``: label only
        this share of texts, the most confident ones, by the curve on the card. With ``none_of_these``, texts unlike
        those of the task get no label. Raises InputError for a blank text, and if the card has no such data.
        """
        inputs = self._texts(texts)
        rule = self.rule(Refusal(**refusing))
        if not inputs:
            return []

        names = self.card.task.label_names
        return [
            Prediction(
                label=None if (reason := rule.abstains(float(row.max()))) else names[int(row.argmax())],
                probability=float(row.max()),
                probabilities={name: float(value) for name, value in zip(names, row, strict=True)},
                abstained=reason,
                cut_words=self._left_out(text),
            )
            for text, row in zip(inputs, self._answers(inputs), strict=True)
        ]

    def _texts(self, inputs: Iterable[Given]) -> list[str]:
        texts = as_texts(self.card.task, checked_texts(inputs, "predict"))
        check_unicode(texts)
        return texts

    def _left_out(self, text: str) -> int:
        """Return the number of words cut from ``text``."""
        return words_left_out(
            bare_text(self.card.task, text), self._adapter_card.max_text_words, self._adapter_card.long_texts
        )

    def _answers(self, texts: Sequence[str]) -> "np.ndarray":
        """Return the label probabilities, float64 [num_texts, num_labels]."""
        import numpy as np

        card = self._adapter_card
        return np.exp(apply(card.calibration, self._scores(texts, card.prompt_format)))

    def explain(self, texts: Iterable[Given], on_event: OnEvent = ignore) -> list[Explanation]:
        """Return an explanation of each prediction: the nearest training texts, and the predictions of all wordings.

        Raises InputError for a blank text, and unless the engine is "transformers": no other gives hidden states.
        """
        inputs = self._texts(texts)
        from fourshot.engine.transformers_engine import TransformersEngine

        engine = self._engine
        if not isinstance(engine, TransformersEngine):
            raise InputError("an explanation needs the model's hidden states. Open it with kind='transformers'.")
        if not inputs:
            return []
        if self._examples is None:
            learnt = load_examples(self._adapter.path, self._adapter_card)
            self._examples = ExampleIndex(
                self._adapter_card,
                learnt,
                lambda prompts, on_read: engine.states(prompts, self._adapter, on_read),
                on_event,
            )
        card = self._adapter_card
        nearest = self._examples.nearest(
            [classification_prompts(card.task, text, card.prompt_format) for text in inputs]
        )
        variants = [wording for wording in get_args(Wording) if wording != self._adapter_card.wording]
        readings = dict[Wording, list[WordingScores]]()
        for wording in (self._adapter_card.wording, *variants):
            readings[wording] = self._readings(inputs, wording)
            step, total = "wordings of the prompt", 1 + len(variants)
            on_event(Event(stage=STAGE, message=step, done=len(readings), total=total, unit="wordings"))
        return [
            Explanation(nearest=neighbours, wordings={wording: answers[i] for wording, answers in readings.items()})
            for i, neighbours in enumerate(nearest)
        ]

    def _readings(self, texts: Sequence[str], wording: Wording) -> list[WordingScores]:
        import numpy as np

        card = self._adapter_card
        form = msgspec.structs.replace(card.prompt_format, wording=wording)
        if card.align and wording != card.wording:
            form = aligned(form, card.task, self._engine.settings)
        return [
            WordingScores(label=card.task.label_names[int(row.argmax())], probability=float(row.max()))
            for row in np.exp(apply(card.calibration, self._scores(texts, form)))
        ]

    def rule(self, refusal: Refusal) -> AbstentionRule:
        """Return the rule by which texts get no label. Raises InputError if the card has no data for it."""
        try:
            return rule_of(refusal, self.card.coverage, self.card.scope)
        except InputError as error:
            raise InputError(f"The classifier {self.card.name}: {error}") from None

    def _scores(self, texts: Sequence[str], form: PromptFormat) -> "np.ndarray":
        """Return the raw log-probabilities of the labels, float32 [num_texts, num_labels]."""
        return label_scores(self._engine, self._adapter_card.task, texts, form, adapter=self._adapter)

    def close(self) -> None:
        """Free the memory. Idempotent."""
        self._engine.close()

    def __reduce__(self) -> str:
        """Raises TypeError: see `engine.loaded.LoadedModel`."""
        raise TypeError(
            "A classifier holds a model, which cannot be copied or pickled. Open one in each process: "
            "fourshot.Classifier(FOLDER)."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalStudent(LocalClassifier):
    """A student: it needs no language model."""

    @checked
    def __init__(self, adapter_folder: str | Path, model: str | None = None, kind: EngineKind | None = None) -> None:
        """Raises `InputError` if a model or an engine is named, `AdapterError` for a damaged student."""
        if model is not None or kind is not None:
            raise InputError(f"{adapter_folder} is a student: it needs no base model and no engine. Leave them out.")
        folder = find_student(adapter_folder)
        assert folder
        self.card = load_student_card(folder)
        check_unchanged(folder, self.card.files)
        from fourshot.training.students.classifier import StudentClassifier

        self._max_tokens = self.card.training.max_tokens
        self._student = StudentClassifier(folder, self._max_tokens)

    def _answers(self, texts: Sequence[str]) -> "np.ndarray":
        return self._student.probabilities([encoder_text(self.card.task, text, self._max_tokens) for text in texts])

    def _left_out(self, text: str) -> int:
        return student_left_out(self.card.task, text, self._max_tokens, self._student.read_chars)

    def explain(self, texts: Iterable[Given], on_event: OnEvent = ignore) -> list[Explanation]:
        raise InputError("a student has no prompt that could explain its answer. Use the adapter that taught it.")

    def close(self) -> None:
        """Do nothing: only memory of this process is held."""


def engine_for(texts: Sequence[str]) -> EngineKind:
    """Return the engine that is expected to finish ``texts`` first, opening included; their total size decides.

    Both engines give the same labels, except where two are about equally likely: they round differently.
    """
    sizes = (min(len(text.encode(errors="replace")), READ_BYTES) for text in texts)  # some scripts have no blanks
    return "transformers" if sum(sizes) + INSTRUCTION_BYTES * len(texts) <= FEW_BYTES else "vllm"
