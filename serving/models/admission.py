"""Checks that an adapter or a student must pass before it is served, and the copy that is served.

The engine loads adapters while it computes. A file that is missing or half-written at that moment would make every
request fail. So it never reads the watched folder: an adapter is copied, the copy is checked, and the copy is served.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fourshot.engine.adapters import slot_rank
from fourshot.engine.checkpoints.models import ResolvedModel, Shapes, tensor_shapes
from fourshot.engine.errors import AdapterError
from fourshot.engine.machine.content_hash import content_hash_of
from fourshot.engine.machine.files import settle, staged_folder
from fourshot.engine.machine.processes import import_path
from fourshot.engine.vllm_seams.adapter_check import check_adapter
from fourshot.pipeline.card import CARD_FILE, AdapterCard, load_card
from fourshot.pipeline.student_card import STUDENT_FILE, StudentCard, is_text_student, load_student_card, sha256
from fourshot.pipeline.text_student import TextStudentCard, load_text_student_card
from fourshot.training.lora.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NAME_DIGITS, content_hash
from fourshot.training.students.onnx_export import ONNX_FOLDER
from fourshot.training.students.serving_model import CONFIG as STUDENT_CONFIG
from fourshot.training.students.serving_model import TOKENIZER, file_to_use

FILES = (CARD_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS)
WRITERS_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja")  # of a checkpoint: none that could run code
MOST_CARD_BYTES = 16 << 20
PROBE_S = 120.0  # for loading a tokenizer: most take tenths of a second, but a machine may be busy
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # usable in a URL's path without escaping
LORA_WEIGHT = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")

_usable_tokenizers = set[str]()  # SHA-256 of their files


def read_card(folder: Path, root: Path, base: Callable[[], ResolvedModel]) -> AdapterCard:
    """Return the card of an adapter that can be served on ``base``. Raises AdapterError, with the reason, otherwise."""
    check_inside(folder, root)
    for name in FILES:
        check_inside(folder / name, root)
    served = base()
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = [path.name for path in folder.glob("*.bin")] + [path.name for path in folder.glob("*.pt")]
        problem = f"only {pickled[0]}, which is pickled: reading it would run its code" if pickled else "no weights"
        raise AdapterError(f"it has {problem}. Save it as {ADAPTER_WEIGHTS}.")
    _check_size(folder / CARD_FILE)
    card = load_card(folder)
    if card.prompt_version != (renders := card.prompt_format.version):
        raise AdapterError(
            f"it was trained on prompts of version {card.prompt_version}; this fourshot renders version "
            f"{renders}. Train it again."
        )
    if card.model_revision != served.revision:
        raise AdapterError(
            f"it was trained on {card.model_name} revision {card.model_revision}; the base here is {served.name} "
            f"revision {served.revision}"
        )
    check_task_name(card.task.name)
    check_file_name(card.name)
    check_hash(folder, card)
    return card


def read_student(folder: Path, root: Path) -> StudentCard | TextStudentCard:
    """Return the card of a student that can be served. Raises AdapterError, with the reason, otherwise."""
    for file in (folder, *folder.rglob("*")):
        check_inside(file, root)
    _check_size(folder / STUDENT_FILE)
    card = load_text_student_card(folder) if is_text_student(folder) else load_student_card(folder)
    if isinstance(card, StudentCard) and card.labels != card.task.label_names:
        raise AdapterError("the labels of its card are not those of its task")
    check_task_name(card.task.name)
    check_file_name(card.name)
    check_files(folder, card, student_files(folder, card)[0])
    return card


def student_files(folder: Path, card: StudentCard | TextStudentCard) -> tuple[list[str], str]:
    """Return the names of the files that a student needs, and the ONNX file among them; "" if torch is used."""
    files = [file.name for file in sorted(folder.iterdir()) if file.is_file()]
    files = [name for name in files if name in card.files or not card.files]  # not notes, nor a Mac's ._config.json
    if isinstance(card, TextStudentCard):
        return [name for name in files if name.endswith(WRITERS_FILES) and name != STUDENT_FILE] + [STUDENT_FILE], ""
    exports = [export for export in card.onnx if (folder / ONNX_FOLDER / export.file).is_file()]
    onnx_file = file_to_use(exports)
    weights = [onnx_file] if onnx_file else [name for name in files if ".safetensors" in name]
    return [STUDENT_CONFIG, TOKENIZER, *weights], onnx_file


def check_files(folder: Path, card: StudentCard | TextStudentCard, names: Sequence[str]) -> None:
    """Raise AdapterError if files of a student are not those that its card was written for, or it has no weights.

    A card of an earlier version has no hashes of files. Its name has a hash of the weights, unless they are a base with
    the adapter of that name merged into it.
    """
    has_hash = isinstance(card, StudentCard) or card.architecture == "seq2seq"
    hashed = [name for name in names if card.files and name != STUDENT_FILE]
    try:
        changed = [name for name in hashed if sha256(folder / name) != card.files.get(name)]
        if has_hash and not card.files and not card.name.endswith(f"-{content_hash_of(folder.glob('*.safetensors'))}"):
            changed = ["weights"]
    except OSError as error:
        raise AdapterError(f"it cannot be read: {error}") from error
    if changed:
        raise AdapterError(
            f"its {', '.join(changed)} are not those that its card names: changed since training, or not completely "
            "copied. Copy it again."
        )
    if not any(name.endswith((".safetensors", ".onnx")) for name in names):
        raise AdapterError("it has no weights as safetensors")


def stage_student(folder: Path, card: StudentCard | TextStudentCard, staging: Path) -> tuple[Path, str]:
    """Copy the files that a student needs to ``staging``/<its key>. Return the copy, and its ONNX file, "" for torch.

    Raises AdapterError if a copied file is not what its card says.
    """
    names, onnx_file = student_files(folder, card)

    def copy_to(copy: Path) -> None:
        for name in names:
            (copy / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        check_files(copy, card, names)

    return _staged(card, staging, copy_to), onnx_file


def check_tokenizer(folder: Path) -> None:
    """Raise AdapterError if the tokenizer of a student cannot be used, or crashes the process that loads it.

    Its library does so with some files, and would end the service. So another process tries it first, once for all
    students with the same tokenizer.
    """
    file = folder / TOKENIZER
    if not file.is_file() or (digest := sha256(file)) in _usable_tokenizers:
        return
    command = [sys.executable, "-P", "-m", "fourshot.serving.models.tokenizer_probe", str(file)]
    environment = {**os.environ, "PYTHONPATH": import_path(), "RUST_BACKTRACE": "0"}
    try:
        tried = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise AdapterError(f"its {TOKENIZER} was not loaded within {PROBE_S:g} s") from None
    if code := tried.returncode:
        lines = [line for line in tried.stderr.decode(errors="replace").splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if not line.startswith("note:")), "no reason given")
        ending = f"ends the process that loads it ({signal.Signals(-code).name})" if code < 0 else "cannot be used"
        raise AdapterError(f"its {TOKENIZER} {ending}: {reason}")
    _usable_tokenizers.add(digest)


def _check_size(card_file: Path) -> None:
    if card_file.stat().st_size > MOST_CARD_BYTES:
        raise AdapterError(f"its {card_file.name} is larger than {MOST_CARD_BYTES >> 20} MiB")


def check_hash(folder: Path, card: AdapterCard) -> None:
    """Raise AdapterError if the weights do not have the hash in the card's name."""
    try:
        is_same = card.name.endswith(f"-{content_hash(folder)}")
    except (OSError, ValueError) as error:
        raise AdapterError(f"it cannot be read: {error}") from error
    if not is_same:
        raise AdapterError(
            "its weights are not those that its card names: changed since training, or not completely copied. Copy "
            "it again."
        )


def check_task_name(name: str) -> None:
    """Raise AdapterError for a task's name that would need escaping in a URL."""
    if not TASK_NAME.fullmatch(name):
        raise AdapterError(f"its task is called {name!r}, which is not allowed in an address")


def check_file_name(name: str) -> None:
    """Raise AdapterError for a version's name that cannot be the name of a folder."""
    if not name or Path(name).name != name or name.startswith("."):
        raise AdapterError(f"its card calls it {name!r}, which is not a file name")


def check_inside(path: Path, root: Path) -> None:
    """Raise AdapterError if ``path``, links followed, is outside ``root``, leads to itself, or is no file or folder."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except RuntimeError as error:  # Python 3.12 and before: circular links
        raise AdapterError(f"{path.name} is a link that leads to itself") from error
    if not inside:
        raise AdapterError(f"{path.name} is a link that leads out of the adapters' folder")
    if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe would never end
        raise AdapterError(f"{path.name} is neither a file nor a folder")


def stage(folder: Path, card: AdapterCard, staging: Path, base_shapes: Shapes, largest_rank: int) -> Path:
    """Copy an adapter to ``staging``/<its key>, and return the copy. Raises AdapterError as `check_weights`."""

    def copy_to(copy: Path) -> None:
        for name in FILES:
            shutil.copyfile(folder / name, copy / name)
        check_weights(copy, card, base_shapes, largest_rank)

    return _staged(card, staging, copy_to)


def version_key(card: AdapterCard | StudentCard | TextStudentCard) -> str:
    """Return a key that identifies a version: its name, which has a hash of the weights, and a hash of what else it is.

    Two tasks may have the same weights, and the labels on a card may be edited. A student's tokenizer may be replaced,
    or an ONNX file added.
    """
    decides = card.task if isinstance(card, AdapterCard) else (card.task, sorted(card.files.items()))
    return f"{card.name}-{hashlib.sha256(msgspec.json.encode(decides)).hexdigest()[:NAME_DIGITS]}"


def _staged(card: AdapterCard | StudentCard | TextStudentCard, staging: Path, copy_to: Callable[[Path], None]) -> Path:
    """Return ``staging``/<the card's key>. Unless it exists, it is created atomically and filled by ``copy_to``."""
    check_file_name(card.name)
    final = staging / version_key(card)
    if final.is_dir():
        return final
    try:
        with staged_folder(staging) as copy:
            copy_to(copy)
            settle(copy, final)
    except OSError as error:
        raise AdapterError(f"it cannot be read: {error}") from error
    return final


def check_weights(folder: Path, card: AdapterCard, base_shapes: Shapes, largest_rank: int) -> None:
    """Raise AdapterError if the weights are not those of the card, do not fit the base model, or are not finite."""
    check_hash(folder, card)
    check_adapter(folder)
    rank = card.training.r
    if slot_rank(rank) > largest_rank:
        raise AdapterError(f"its rank is {rank}; the server was started for at most {largest_rank} (--max-lora-rank)")
    try:
        shapes = tensor_shapes(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError) as error:
        raise AdapterError(str(error)) from error
    for name, shape in shapes.items():
        parts = LORA_WEIGHT.fullmatch(name)
        if not parts:
            raise AdapterError(f"it holds {name}, which is not a LoRA weight")
        base_shape = base_shapes.get(f"{parts[1]}.weight")
        if base_shape is None:
            raise AdapterError(f"it adapts {parts[1]}, which the base model does not have")
        needed = [shape[0], base_shape[1]] if parts[2] == "A" else [base_shape[0], shape[1]]
        if shape != needed or shape[0 if parts[2] == "A" else 1] > slot_rank(rank):
            raise AdapterError(f"its {name} has shape {shape}; the base model needs {needed}")
    _check_finite(folder / ADAPTER_WEIGHTS)


def _check_finite(file: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for name, weights in load_file(str(file)).items():
        if not bool(torch.isfinite(weights).all()):
            raise AdapterError(f"its {name} holds values that are not finite")
