"""The card stored beside a student: how to query it, and its origin."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import AdapterError, InputError
from fourshot.engine.machine.files import read_json
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.rows.text_words import count_words
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.selective import CoverageCurve, Scope
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.tasks.generation import KIND
from fourshot.training.students.onnx_export import Parity
from fourshot.training.students.settings import StudentSettings

STUDENT_FILE = "student.json"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
VOCABULARIES = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
STUDENT_LINK = "student"  # in the folder of a distillation: a link to its student


class StudentCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a student except its weights."""

    schema: int = 1
    name: str  # content-hashed
    task: Task
    labels: tuple[str, ...]  # names, in the order of the checkpoint's outputs
    encoder: str
    encoder_revision: str
    teacher: str  # who labelled the texts; "" for a student trained on the shots alone
    strategy: str  # geometric, plain or head
    training: StudentSettings
    seed: int = 0
    shots: tuple[Example, ...] = ()
    real_examples: int
    annotated_examples: int = 0  # the user's own texts, annotated by the teacher
    synthetic_examples: int = 0
    parameters: int
    steps: int
    train_s: float
    held_out: int = 0  # texts that were annotated and not trained on
    held_out_agreement: float | None = None  # share of these for which student and teacher predict the same label
    scores: Scores | None = None
    calibrated_on: str = ""  # what the temperature was fitted on, for people; "": it was not
    coverage: CoverageCurve | None = None  # its accuracy where it labels only a share of the texts
    scope: Scope | None = None  # its out-of-scope rule; students do not have one yet
    teacher_scores: Scores | None = None
    remote_teacher: RemoteTeacher | None = None
    lineage: dict[str, str] = {}  # what -> content hash
    files: dict[str, str] = {}  # beside the card -> SHA-256; none on cards of earlier versions
    onnx: tuple[Parity, ...] = ()  # each ONNX file compared with the checkpoint on the same texts


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a student's folder except its card, by path relative to the folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / STUDENT_FILE]
    return {str(file.relative_to(folder)): sha256(file) for file in files}


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_unchanged(folder: Path, files: Mapping[str, str]) -> None:
    """Raise AdapterError where a student's checkpoint differs from ``files``, the hashes on its card.

    Files that only other tools read may be missing.
    """
    torch_files = {name: digest for name, digest in files.items() if "/" not in name}  # torch reads no ONNX
    gone = [name for name in (CONFIG, *torch_files) if not (folder / name).is_file()]
    # Without its files, a tokenizer would be built from nothing.
    required = (CONFIG, TOKENIZER) if TOKENIZER in torch_files else (CONFIG, *VOCABULARIES)
    wrong = [name for name in dict.fromkeys(gone) if name in required or name.endswith(".safetensors")]
    wrong += [name for name, digest in torch_files.items() if name not in gone and sha256(folder / name) != digest]
    if wrong:
        raise AdapterError(
            f"The student {folder} is damaged: {', '.join(wrong)} changed since training, or was not copied "
            "completely. Copy it again."
        )


def check_student_unchanged(folder: Path) -> None:
    """Raise AdapterError where a student that was finished in an earlier call has changed since.

    To be called before its card is rewritten: the new one would have the hashes of the damaged files.
    """
    try:
        files = read_json(folder / STUDENT_FILE, _Peek).files
    except (FileNotFoundError, msgspec.DecodeError):
        return
    try:
        check_unchanged(folder, files)
    except AdapterError as error:
        raise AdapterError(f"{error} Or remove {folder.parent}, and it is trained again.") from None


def load_student_card(folder: str | Path) -> StudentCard:
    """Read the card in a student's folder.

    Raises AdapterError where it is missing or cannot be read, InputError for a student that writes texts.
    """
    file = Path(folder) / STUDENT_FILE
    if is_text_student(folder):
        raise InputError(
            f"{folder} is a student of a text generation task: it writes texts and gives no labels. What works with "
            "it: fourshot predict, annotate and serve, and fourshot.Generator in Python."
        )
    try:
        return read_json(file, StudentCard)
    except FileNotFoundError:
        raise AdapterError(
            f"{folder} has no {STUDENT_FILE}, so fourshot did not make it. Give a student's folder."
        ) from None
    except msgspec.DecodeError as error:
        raise AdapterError(
            f"{file} is not a card that this version can read: {error}. Distil the student again."
        ) from error


def student_left_out(task: Task, text: str, max_tokens: int, read_chars: Callable[[str], int]) -> int:
    """Return how many words of an input a student does not read; ``read_chars`` returns how many characters it does."""
    shown = encoder_text(task, text, max_tokens)
    return count_words(shown[read_chars(shown) :]) + count_words(text) - count_words(shown)


def is_text_student(folder: str | Path) -> bool:
    """Whether a folder's card is that of a student that writes (`pipeline.text_student`)."""
    try:
        return read_json(Path(folder) / STUDENT_FILE, _Peek).task.get("kind") == KIND
    except (OSError, msgspec.DecodeError):
        return False


class _Peek(msgspec.Struct):
    task: dict[str, Any]
    files: dict[str, str] = {}


def find_student(folder: str | Path) -> Path | None:
    """Return the student's folder: ``folder`` itself, or the one that a finished distillation links to; else None."""
    folder = Path(folder)
    places = (folder, folder / STUDENT_LINK)
    return next((place.resolve() for place in places if (place / STUDENT_FILE).is_file()), None)
