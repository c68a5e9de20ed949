"""A student of a text generation task: the card beside its weights, and `Generator`, which loads it and writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import msgspec

from fourshot.engine.checkpoints.models import broken_shards, damage_message
from fourshot.engine.core import EngineSettings, Sampling
from fourshot.engine.errors import AdapterError, InputError
from fourshot.engine.machine.files import read_json
from fourshot.pipeline.arguments import checked
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.rows.text_lists import checked_strings
from fourshot.pipeline.rows.text_words import check_unicode
from fourshot.pipeline.student_card import (
    STUDENT_FILE,
    check_unchanged,
    find_student,
    is_text_student,
)
from fourshot.pipeline.tasks.generation import GenerationTask, writing_prompt
from fourshot.pipeline.text_metrics import TextScores
from fourshot.training.students.text_models import TextStudentKind

FEW = 16  # texts: up to this many are written in less time than vLLM takes to open


class TextStudentCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a student except its weights."""

    schema: int = 1
    name: str  # content-hashed
    task: GenerationTask
    architecture: TextStudentKind
    base: str  # the model that was fine-tuned
    base_revision: str
    teacher: str  # who wrote its targets; "" for a student trained on the real pairs alone
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
    remote_teacher: RemoteTeacher | None = None
    lineage: dict[str, str] = {}  # what -> content hash
    files: dict[str, str] = {}  # beside the card -> SHA-256; none on cards of earlier versions


def load_text_student_card(folder: str | Path) -> TextStudentCard:
    """Read the card in a student's folder. Raises AdapterError where it is missing or this version cannot read it."""
    try:
        return read_json(Path(folder) / STUDENT_FILE, TextStudentCard)
    except (OSError, msgspec.DecodeError) as error:
        raise AdapterError(
            f"{folder} has no card of a student that this version can read: {error}. Distil the student again."
        ) from error


class TextWritten(msgspec.Struct, frozen=True, kw_only=True):
    """What a student wrote for one input."""

    text: str
    is_whole: bool = True  # it ended by itself, within the limit of tokens
    is_cut: bool = False  # the input is longer than the student reads: its end was ignored
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Writer(Protocol):
    """An open checkpoint."""

    most_tokens: int  # of an input; for a causal checkpoint, of input and output together

    def encode(self, prompts: Sequence[str]) -> list[list[int]]: ...

    def write(self, prompts: Sequence[str], max_tokens: int) -> list[tuple[str, bool, int]]:
        """Return for each prompt: the text, whether it ended by itself, and its number of tokens."""
        ...

    def close(self) -> None: ...


class Generator:
    """An opened student of a text generation task. A context manager: leaving it frees the memory."""

    @checked
    def __init__(self, folder: str | Path, *, many: bool = False) -> None:
        """``folder``: of a student, or of the distillation that made it. ``many``: for many texts, open a causal
        student with vLLM, which opens more slowly and writes faster.

        Raises InputError where there is no student that writes, AdapterError for a damaged one.
        """
        student = find_student(folder)
        if not student or not is_text_student(student):
            raise InputError(
                f"{folder} is not a student of a text generation task. Give one that fourshot distill made."
            )
        self.card = load_text_student_card(student)
        check_unchanged(student, self.card.files)
        self._writer: _Writer | None = _open(student, self.card, many=many)

    def count_tokens(self, inputs: Sequence[str]) -> list[int]:
        """Return the number of tokens of each input, in the form in which the student gets it.

        Raises InputError for a blank input, for one that leaves a causal student no room to write, and after `close`.
        """
        texts = checked_strings(inputs, "generate")
        check_unicode(texts)
        writer = self._opened()
        rows = writer.encode(self._prompts(texts))
        lengths, most = [len(ids) for ids in rows], writer.most_tokens - self.card.max_target_tokens
        if self.card.architecture == "causal" and max(lengths, default=0) > most:
            longest = max(lengths)
            raise InputError(
                f"{sum(length > most for length in lengths)} of {len(lengths)} inputs are too long; the longest is the "
                f"one at {lengths.index(longest)}, with {longest} tokens in the student's prompt, which has room for "
                f"{most} besides the output. Shorten it."
            )
        return lengths

    def generate(self, inputs: Sequence[str]) -> list[TextWritten]:
        """Write a text for each input, in their order: the likeliest token at each step. Raises as `count_tokens`."""
        inputs = checked_strings(inputs, "generate")
        lengths = self.count_tokens(inputs)
        if not lengths:
            return []
        writer = self._opened()
        most = writer.most_tokens
        return [
            TextWritten(
                text=text,
                is_whole=is_whole,
                is_cut=length > most,
                prompt_tokens=min(length, most),
                completion_tokens=tokens,
            )
            for length, (text, is_whole, tokens) in zip(
                lengths, writer.write(self._prompts(inputs), self.card.max_target_tokens), strict=True
            )
        ]

    write = generate

    def _prompts(self, inputs: Sequence[str]) -> list[str]:
        if self.card.architecture == "seq2seq":
            return list(inputs)
        return [writing_prompt(self.card.task, text.strip()) for text in inputs]

    def _opened(self) -> _Writer:
        """Return the open checkpoint. Raises InputError after `close`."""
        if self._writer is None:
            raise InputError("This generator is closed. Open another one.")
        return self._writer

    def close(self) -> None:
        """Free the memory. Idempotent."""
        writer, self._writer = self._writer, None
        if writer:
            writer.close()

    def __reduce__(self) -> str:
        """Raises TypeError: see `engine.loaded.LoadedModel`."""
        raise TypeError(
            "A generator holds a model, which is neither copied nor pickled. Open one in each process: "
            "fourshot.Generator(FOLDER)."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


TextStudent = Generator  # its name in earlier versions


class _EngineWriter:
    """A causal checkpoint of any architecture, in an engine."""

    def __init__(self, folder: Path, kind: Literal["vllm", "transformers"]) -> None:
        from fourshot.engine.opening import open_engine

        self._engine: Any = open_engine(EngineSettings(model=str(folder), kind=kind, compile=False))
        self.most_tokens: int = self._engine.settings.max_model_len

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._engine.encode(prompts)
        return ids

    def write(self, prompts: Sequence[str], max_tokens: int) -> list[tuple[str, bool, int]]:
        written = [("", True, 0)] * len(prompts)
        for completion in self._engine.sample(prompts, greedy(max_tokens)):
            written[completion.prompt_index] = (
                completion.text.strip(),
                completion.finish_reason == "stop",
                completion.num_tokens,
            )
        return written

    def close(self) -> None:
        self._engine.close()


def _open(folder: Path, card: TextStudentCard, *, many: bool) -> _Writer:
    """Open a student's checkpoint, a causal one with vLLM only for ``many`` texts. Raises AdapterError if damaged."""
    if faults := broken_shards(folder) or ([] if any(folder.glob("*.safetensors")) else ["it has no weights"]):
        raise AdapterError(damage_message(f"The student {folder}", faults))
    if card.architecture == "seq2seq":
        from fourshot.training.students.seq2seq import Seq2SeqWriter

        return Seq2SeqWriter(folder)
    if many:
        return _EngineWriter(folder, "vllm")
    from fourshot.training.students.llama_writer import LlamaWriter, writer_supports

    return LlamaWriter(folder) if writer_supports(folder) else _EngineWriter(folder, "transformers")


def greedy(max_tokens: int) -> Sampling:
    """Return sampling settings that take the likeliest token at each step."""
    return Sampling(temperature=0.0, top_k=0, max_tokens=max_tokens)
