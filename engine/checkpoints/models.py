"""Resolving the name of a model, as given by the user, to a checkpoint folder on this machine."""

import errno
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from fourshot.engine.checkpoints.config import read_config
from fourshot.engine.checkpoints.embedded import GGUF_SHA256, NAME, embedded_folder, embedded_model
from fourshot.engine.checkpoints.gguf_model import gguf_checkpoint, gguf_revision, is_gguf
from fourshot.engine.checkpoints.hub import (
    COMMIT,
    SMALL_FILES,
    WEIGHTS,
    at_revision,
    download_model,
    is_path,
    split_revision,
)
from fourshot.engine.errors import InputError, ModelNotFoundError
from fourshot.engine.fake_engine import FAKE, fake_settings, is_fake
from fourshot.engine.machine.content_hash import content_hash_of

CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
TOKENIZER_FILES = (*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # map weights to shards
LOADED = ("model.safetensors", "pytorch_model.bin", *INDICES)  # transformers needs one of these to load weights

Shapes: TypeAlias = dict[str, list[int]]  # of a checkpoint's weights, by their names

HOW_TO_GO_ON = (
    "Leave the model out to use the embedded one, name a Hugging Face id, or give a checkpoint folder or a GGUF file."
)


class ResolvedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A base model that is available on this machine."""

    path: str  # of the checkpoint folder
    name: str  # by which the user can refer to it, without a revision
    revision: str  # distinguishes states of the same name: a commit, or a hash of the content


def resolve_model(name: str | None, *, weights: bool = True) -> ResolvedModel:
    """Find a base model by name.

    None is the bundled model. A folder is checked. A GGUF file is converted at first use. "fake" is not a model at all
    (`engine.fake_engine`). Anything else is a Hugging Face id, which may have a branch, a tag or a commit:
    "owner/model@revision".
    ``weights=False`` neither requires nor fetches weights, for engines opened with ``load_format="dummy"``.
    Raises ModelNotFoundError, an InputError.
    """
    if name is None or name == NAME:
        return ResolvedModel(path=str(embedded_model()), name=NAME, revision=GGUF_SHA256[:12])
    if not name.strip():  # it would be the current folder
        raise ModelNotFoundError(f"The name of the base model is blank. {HOW_TO_GO_ON}")
    if is_fake(name):
        fake_settings(name)
        return ResolvedModel(path=name, name=FAKE, revision="0")
    folder = Path(name).expanduser()
    if folder.is_dir() and folder.resolve() == embedded_folder().resolve():
        return resolve_model(None)  # its revision is the hash of the file that it was unpacked from
    if folder.is_dir():
        check_folder(folder, weights=weights)
        return ResolvedModel(path=str(folder.resolve()), name=name, revision=content_hash(folder))
    model, revision = split_revision(name)
    if name.endswith("@"):
        raise ModelNotFoundError(
            f"{name!r} ends in an @ without a revision, as if a variable were not set. Give a branch, a tag or a "
            "commit after it, or leave the @ out."
        )
    if is_gguf(folder):
        return ResolvedModel(path=str(gguf_checkpoint(folder)), name=name, revision=gguf_revision(folder))
    if folder.exists() or is_path(name):
        if folder.is_file():
            raise ModelNotFoundError(f"{name!r} is a file, but not a GGUF file. Name its folder. {HOW_TO_GO_ON}")
        raise ModelNotFoundError(f"There is no model folder {name!r}, and no such GGUF file. {HOW_TO_GO_ON}")
    snapshot = download_model(model, revision, HOW_TO_GO_ON, weights=weights)
    check_folder(snapshot, weights=weights)
    return ResolvedModel(path=str(snapshot), name=model, revision=snapshot.name)


def resolve_again(name: str, revision: str) -> ResolvedModel:
    """Find a model by a name and revision that were recorded earlier. The result may have another revision.

    A recorded folder or file is never looked up on the hub. Raises ModelNotFoundError.
    """
    if is_content_hash(revision) and name != NAME and not is_fake(name) and not Path(name).expanduser().exists():
        raise ModelNotFoundError(
            f"The base model was the folder or file {name!r}, which does not exist, seen from {Path.cwd()}. Give its "
            "new place (--model), or put it back."
        )
    return resolve_model(at_revision(name, revision))


def is_content_hash(revision: str) -> bool:
    """Whether a revision is a hash of the content, independent of its location; else it is a commit of the hub."""
    return not COMMIT.fullmatch(revision)


def refuse_fake(name: str | None, user: str) -> None:
    """Raise InputError if ``name`` is a fake model, for a ``user`` that needs to train. Called before any work."""
    if name is not None and is_fake(name):
        raise InputError(
            f"{user} cannot use the base model {name!r}: it generates and annotates texts without weights, so nothing "
            f"can be trained on it. Only fourshot corpus accepts it, with --annotator icl or none. {HOW_TO_GO_ON}"
        )


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise ModelNotFoundError, listing all faults, if ``folder`` is not a checkpoint of a causal language model."""
    is_loaded = any((folder / name).exists() for name in LOADED)
    if not is_loaded and (base := _base_of_adapter(folder)):
        raise ModelNotFoundError(
            f"{folder} is an adapter, not a base model. Its own base is {base!r}. Give that one, and use the adapter "
            f"with fourshot predict. {HOW_TO_GO_ON}"
        )
    faults = _faults_of_config(folder)
    if weights and not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        faults.append(f"it has no weights ({' or '.join(WEIGHTS)})")
    elif weights:
        faults += broken_shards(folder) or ([] if is_loaded else [_other_names(folder)])
    if not any((folder / name).exists() for name in TOKENIZERS):
        faults.append(f"it has no tokenizer ({' or '.join(TOKENIZERS)})")
    faults += [fault for name in TOKENIZER_FILES if (fault := _broken_file(folder / name))]
    faults += [] if faults else _tokens_without_a_row(folder)
    if faults:
        raise ModelNotFoundError(f"{folder} cannot be used as a base model: {'; '.join(faults)}. {HOW_TO_GO_ON}")


def _faults_of_config(folder: Path) -> list[str]:
    try:
        config = read_config(folder)
        architectures = config.get("architectures") or []
        is_list = isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
        quantization = (config.get("quantization_config") or {}).get("quant_method")
    except OSError:
        return ["it has no config.json"]
    except (ValueError, AttributeError) as error:
        return [f"its config.json cannot be read: {error}"]
    faults = []
    if not is_list:
        faults.append(f"architectures in config.json must be a list of names, got {architectures!r}")
    elif config.get("is_encoder_decoder") or not any(name.endswith(CAUSAL_ENDINGS) for name in architectures):
        faults.append(f"it is not a causal language model: config.json has the architectures {architectures}")
    if quantization == "bitsandbytes":
        faults.append("its weights are in the format of bitsandbytes, for which vLLM has no layers (docs/models.md)")
    return faults


def _tokens_without_a_row(folder: Path) -> list[str]:
    """Return the fault of a tokenizer of another model: ids without a row in the embeddings.

    Added tokens are not counted, because their ids may be unused. The list is empty if there is no such fault.
    """
    try:
        vocabulary = json.loads((folder / TOKENIZERS[0]).read_text(encoding="utf-8"))["model"]["vocab"]
        ids = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
        config = read_config(folder)
        num_rows = config.get("vocab_size") or config["text_config"]["vocab_size"]
        largest = max(ids)
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return []  # another kind of tokenizer
    if largest < num_rows:
        return []
    return [f"its tokenizer has ids up to {largest:,}, but the model has rows for only {num_rows:,} tokens"]


def _base_of_adapter(folder: Path) -> str:
    """Return the base model of the LoRA adapter in ``folder``; "" if there is no adapter, or it does not name one."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(config.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _other_names(folder: Path) -> str:
    """Return the fault of a folder whose weight files have names that transformers does not load."""
    names = sorted(path.name for pattern in WEIGHTS for path in folder.glob(pattern))
    return f"it has neither {' nor '.join(LOADED)}, one of which is needed beside {', '.join(names[:5])}"


def _broken_file(file: Path) -> str:
    """Return what is wrong with a tokenizer file; "" if it does not exist, or no fault is visible."""
    try:
        content = file.read_bytes()
        document: Any = json.loads(content) if file.suffix == ".json" else {}
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"its {file.name} cannot be read ({error}): copy or fetch it again"
    if not content or not isinstance(document, dict):
        return f"its {file.name} does not contain a tokenizer ({len(content):,} bytes): copy or fetch it again"
    return ""


def damage_message(subject: str, faults: Sequence[str]) -> str:
    """Return an error message for faults as returned by `broken_shards`, with a remedy unless the last one has it."""
    message = f"{subject} is damaged: {'; '.join(faults)}."
    return message if faults[-1].endswith("it again") else f"{message} Copy it again completely."


def tensor_shapes(file: Path) -> Shapes:
    """Return the shapes of a safetensors file's tensors, from its header only.

    Raises ValueError if the file is incomplete or cannot be opened; PermissionError if the user may not read it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(
            f"{file.name} is not a safetensors file, or is incomplete ({file.stat().st_size:,} bytes; {error}): copy "
            "or fetch it again"
        ) from error
    except OSError as error:
        if file.exists() and not os.access(file, os.R_OK):  # safetensors reports that there is no such file
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file)) from error
        raise ValueError(_open_error(file, error)) from error


def _open_error(file: Path, error: OSError) -> str:
    if file.is_symlink() and not file.exists():
        return f"{file.name} is a link to {file.readlink()}, which does not exist: copy or fetch the file itself"
    return f"{file.name} cannot be opened: {error.strerror or error}"


def checkpoint_shapes(folder: Path) -> Shapes:
    """Return the shapes of all weights of a safetensors checkpoint, from the files' headers only."""
    return {name: shape for file in sorted(folder.glob("*.safetensors")) for name, shape in tensor_shapes(file).items()}


def broken_shards(folder: Path) -> list[str]:
    """Return the faults of a checkpoint's weight files, judged by headers, sizes and indices only."""
    faults = []
    for path in sorted(folder.glob(WEIGHTS[0])):
        try:
            tensor_shapes(path)
        except ValueError as error:
            faults.append(str(error))
    for path in sorted(folder.glob("pytorch_model*.bin")):
        try:
            with path.open("rb") as file:
                begin = file.read(2)
            # Since torch 1.6 it is a zip file, whose directory is at the end. In others, only two faults are visible:
            # they are empty, or begin like Git LFS's placeholder for a large file ("version https://git-lfs...").
            if begin in (b"", b"ve") or (begin == b"PK" and not zipfile.is_zipfile(path)):
                faults.append(f"{path.name} is not a pickle of torch, or is incomplete: copy or fetch it again")
        except OSError as error:
            faults.append(_open_error(path, error))
    for index in (folder / name for name in INDICES):
        if not index.exists():
            continue
        try:
            indexed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            faults.append(f"its {index.name} cannot be read: {error}")
            continue
        missing = sorted(name for name in indexed if not (folder / name).exists())
        faults += [f"{name}, which its index names, is missing" for name in missing]
    return faults


def content_hash(folder: Path) -> str:
    """Return twelve hex digits that change with the checkpoint. See `engine.machine.content_hash`."""
    return content_hash_of(content_files(folder))


def content_files(folder: Path) -> list[Path]:
    """Return the files from which a checkpoint is loaded, sorted."""
    patterns = (*SMALL_FILES, *WEIGHTS)
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
