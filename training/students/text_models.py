"""Models that students of text generation tasks are made from: finding one, and determining its kind."""

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from fourshot.engine.checkpoints.config import read_config
from fourshot.engine.checkpoints.gguf_model import is_gguf
from fourshot.engine.checkpoints.hub import WEIGHTS, download_model, is_path, split_revision
from fourshot.engine.checkpoints.models import TOKENIZERS, ResolvedModel, broken_shards, content_hash, resolve_model
from fourshot.engine.errors import ModelNotFoundError

TextStudentKind = Literal["causal", "seq2seq"]
HOW_TO_GO_ON = (
    "Leave --student out to use the embedded base, name a causal or sequence-to-sequence model by its Hugging Face id, "
    "or give a checkpoint folder."
)


class TextModel(NamedTuple):
    """A model that can be trained to generate texts."""

    kind: TextStudentKind
    model: ResolvedModel


def resolve_text_model(name: str | None) -> TextModel:
    """Find a model: None is the bundled one, a folder is checked, anything else is a Hugging Face id.

    Raises ModelNotFoundError, an InputError, if it is neither causal nor sequence to sequence.
    """
    folder = Path(name).expanduser() if name else Path()
    if not name or (not folder.is_dir() and (is_gguf(folder) or "/" not in name)):
        return TextModel("causal", resolve_model(name))
    if folder.is_dir():
        resolved = ResolvedModel(path=str(folder.resolve()), name=name, revision="")
    else:
        model, revision = split_revision(name)
        if is_path(name):
            raise ModelNotFoundError(f"There is no model folder {name!r}. {HOW_TO_GO_ON}")
        folder = download_model(model, revision, HOW_TO_GO_ON)
        resolved = ResolvedModel(path=str(folder), name=model, revision=folder.name)
    if not _is_seq2seq(folder):
        return TextModel("causal", resolve_model(name))
    faults = broken_shards(folder)
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        faults.append(f"it has no weights ({' or '.join(WEIGHTS)})")
    if not any((folder / file).exists() for file in (*TOKENIZERS, "spiece.model")):
        faults.append("it has no tokenizer")
    if faults:
        raise ModelNotFoundError(f"{folder} cannot be used as a student: {'; '.join(faults)}. {HOW_TO_GO_ON}")
    return TextModel("seq2seq", msgspec.structs.replace(resolved, revision=resolved.revision or content_hash(folder)))


def _is_seq2seq(folder: Path) -> bool:
    """Whether the model is an encoder-decoder. Raises ModelNotFoundError if it cannot generate, such as an encoder."""
    try:
        config = read_config(folder)
        architectures = [str(name) for name in config.get("architectures") or ()]
        is_seq2seq = bool(config.get("is_encoder_decoder"))
    except (OSError, ValueError, AttributeError):
        return False  # `resolve_model` then reports what is wrong
    if architectures and not any("LM" in name or "Generation" in name for name in architectures):
        raise ModelNotFoundError(
            f"{folder} does not generate texts: config.json has the architectures {architectures}. A text generation "
            f"task's student is a causal or a sequence-to-sequence model. {HOW_TO_GO_ON}"
        )
    return is_seq2seq


def max_positions(model: TextModel) -> int | None:
    """Return the most tokens of an input or target; None for relative positions, as in T5, and for causal models."""
    if model.kind == "causal":
        return None
    config = read_config(model.model.path)
    names = [f"max_{part}position_embeddings" for part in ("", "encoder_", "decoder_")]
    return min((config[name] for name in names if isinstance(config.get(name), int)), default=None)
