"""A student of a text generation task: the card beside its weights, and the student opened, to write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from fourshot.engine.core import EngineSettings, Sampling
from fourshot.engine.errors import AdapterError, InputError
from fourshot.engine.files import read_json
from fourshot.pipeline.student_card import STUDENT_FILE, find_student, is_text_student
from fourshot.pipeline.tasks.generation import GenerationTask, writing_prompt
from fourshot.pipeline.text_metrics import TextScores
from fourshot.training.students.text_models import TextStudentKind

FEW = 16  # texts: up to so many, transformers has written them before vLLM is open


class TextStudentCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a student but its weights."""

    schema: int = 1
    name: str  # content-hashed
    task: GenerationTask
    architecture: TextStudentKind
    base: str  # the model that it was made of
    base_revision: str
    teacher: str  # who wrote what it learnt; "" for one that learnt the real pairs alone
    training: dict[str, Any]  # settings
    seed: int = 0
    max_target_tokens: int
    real_pairs: int
    annotated_pairs: int = 0  # inputs of the user's that the teacher wrote targets for
    synthetic_pairs: int = 0  # inputs and targets that the teacher wrote
    parameters: int
    steps: int
    train_s: float
    scores: TextScores | None = None
    teacher_scores: TextScores | None = None
    lineage: dict[str, str] = {}  # what -> content hash


def load_text_student_card(folder: str | Path) -> TextStudentCard:
    """Read the card in a student's folder. Raises AdapterError where it is none of this version's."""
    try:
        return read_json(Path(folder) / STUDENT_FILE, TextStudentCard)
    except (OSError, msgspec.DecodeError) as error:
        raise AdapterError(
            f"{folder} has no card of a student that this version reads: {error}. Distil the student again."
        ) from error


class TextWritten(msgspec.Struct, frozen=True, kw_only=True):
    """What a student wrote for one input."""

    text: str
    is_whole: bool = True  # it ended by itself, before the most tokens that it may write


class TextStudent:
    """A student, opened. A context manager: leaving it gives the memory back."""

    def __init__(self, folder: str | Path, *, many: bool = False) -> None:
        """``folder``: of a student, or of the distillation that made it. ``many`` texts are to come: a causal student
        is then opened with vLLM, which opens more slowly and writes faster.

        Raises InputError where there is no student that writes, AdapterError for a damaged one.
        """
        found = find_student(folder)
        if not found or not is_text_student(found):
            raise InputError(f"{folder} is no student of a text generation task. Give one that fourshot distill made.")
        self.card = load_text_student_card(found)
        self._engine: Any = None
        if self.card.architecture == "causal":
            from fourshot.engine.opening import open_engine

            settings = EngineSettings(model=str(found), kind="vllm" if many else "transformers", compile=False)
            self._engine = open_engine(settings)
        else:
            from fourshot.training.students.seq2seq import Seq2SeqWriter

            self._seq2seq = Seq2SeqWriter(found)

    def write(self, inputs: Sequence[str]) -> list[TextWritten]:
        """A text for each input, in their order: the likeliest token at each step.

        Raises InputError for a blank input, and for one that is longer than the student reads.
        """
        if isinstance(inputs, str):
            raise InputError("write takes a list of inputs, got one string. Put it in a list.")
        if blank := [index for index, text in enumerate(inputs) if not text.strip()]:
            raise InputError(f"the inputs at {blank[:5]} are blank. Leave them out.")
        if self._engine is None:
            return [TextWritten(text=text, is_whole=ended) for text, ended in self._seq2seq.write(inputs)]
        prompts = [writing_prompt(self.card.task, text.strip()) for text in inputs]
        written = [TextWritten(text="")] * len(inputs)
        for one in self._engine.sample(prompts, greedy(self.card.max_target_tokens)):
            is_whole = one.finish_reason == "stop"
            written[one.prompt_index] = TextWritten(text=one.text.strip(), is_whole=is_whole)
        return written

    def close(self) -> None:
        """Give the memory back."""
        if self._engine is not None:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def greedy(max_tokens: int) -> Sampling:
    """The likeliest token at each step."""
    return Sampling(temperature=0.0, top_k=0, max_tokens=max_tokens)
