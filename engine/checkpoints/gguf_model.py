"""A GGUF file as base model: converted once to a bf16 checkpoint in the home folder, and checked before use.

transformers reads the weights. If it ignored or misread a part of a file, the model would generate nonsense without an
error. So what transformers ignores is added here or rejected, and the checkpoint must predict plain English.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.engine.checkpoints.create_once import create_once
from fourshot.engine.errors import FourshotError, ModelNotFoundError
from fourshot.engine.machine.content_hash import content_hash_of
from fourshot.engine.machine.files import disk_errors, read_json, settle, staged_folder, write_json
from fourshot.engine.machine.home import HOME_VARIABLE, home

if TYPE_CHECKING:
    from gguf import GGUFReader

SUFFIX = ".gguf"
MAGIC = b"GGUF"
CONVERSION = "1"  # part of the content hash; to be changed if the conversion gives other weights or tokens
RECORD = "fourshot.json"
# Number of layers of the one model size whose queries are scaled by another width than the head dimension.
# Source: llama.cpp, src/llama-model.cpp, LLM_ARCH_GEMMA2 and LLM_ARCH_GEMMA3.
WIDE_GEMMA = {"gemma2": 46, "gemma3": 62}
ALTERNATIVE = "Use the model's own checkpoint (safetensors) instead: a folder or a Hugging Face id."

logger = logging.getLogger("fourshot.engine")


class ConversionRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record stored beside the checkpoint: its origin, the result of the check, and the sizes of its files."""

    gguf: str
    architecture: str
    nats_per_token: float  # of plain English, by `gguf_check`
    files: dict[str, int]  # file name -> bytes


def is_gguf(path: Path) -> bool:
    """Whether ``path`` is a file with the suffix or the magic number of a GGUF file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == SUFFIX or file.read(len(MAGIC)) == MAGIC


def gguf_revision(gguf: Path) -> str:
    """Return twelve hex digits that change with the file's content, and with the version of the conversion."""
    return content_hash_of([gguf], name=f"gguf {CONVERSION}")


def gguf_checkpoint(gguf: Path) -> Path:
    """Return the folder of the checkpoint converted from a GGUF file, which is created at first use.

    Raises ModelNotFoundError if the file is not GGUF, or cannot be converted to an equivalent checkpoint;
    FourshotError if the folder cannot be written.
    """
    with gguf.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelNotFoundError(f"{gguf} is not a GGUF file: it does not begin with GGUF. Copy or fetch it again.")
    if re.search(r"-\d{5}-of-\d{5}$", gguf.stem):
        raise ModelNotFoundError(f"{gguf} is one part of several. Join them (gguf-split --merge). {ALTERNATIVE}")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", gguf.stem)
    return create_once(
        home() / "models" / f"{name}-{gguf_revision(gguf)}", is_whole, lambda folder: _make(gguf, folder)
    )


def is_whole(folder: Path) -> bool:
    """Whether ``folder`` contains a checkpoint, with every file at its full size."""
    try:
        record = read_json(folder / RECORD, ConversionRecord)
        return record.files == {name: (folder / name).stat().st_size for name in record.files}
    except (OSError, msgspec.DecodeError):
        return False


def _make(gguf: Path, folder: Path) -> None:
    from fourshot.engine.checkpoints.gguf_check import check_checkpoint

    logger.warning("fourshot: %s is converted to a checkpoint in %s, once; this takes a while", gguf, folder)
    try:
        with disk_errors(folder.parent), staged_folder(folder.parent, folder.name) as staged:
            architecture = convert(gguf, staged)
            nats = check_checkpoint(staged, gguf)
            files = {path.name: path.stat().st_size for path in sorted(staged.iterdir())}
            record = ConversionRecord(
                gguf=str(gguf), architecture=architecture, nats_per_token=round(nats, 3), files=files
            )
            write_json(staged / RECORD, record)
            settle(staged, folder, sync=True)
    except OSError as error:
        free_mib = shutil.disk_usage(folder.parent).free >> 20
        raise FourshotError(
            f"{gguf} could not be converted into {folder}: {error}. {free_mib} MiB are free there. Make room, or set "
            f"{HOME_VARIABLE} to another folder. No partial files were left."
        ) from error


def convert(gguf: Path, folder: Path) -> str:
    """Write a GGUF file as a bf16 safetensors checkpoint with its tokenizer. Returns the file's architecture.

    Raises ModelNotFoundError if the file cannot be read, or only in part.
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging as transformers_logging

    from fourshot.engine.checkpoints.gguf_tokenizer import gguf_tokenizer

    transformers_logging.disable_progress_bar()
    try:
        reader = GGUFReader(gguf)
        architecture = str(_field(reader, "general.architecture"))
        place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        config = AutoConfig.from_pretrained(**place, trust_remote_code=False)
        _complete(config, reader, architecture)
        model, info = AutoModelForCausalLM.from_pretrained(
            **place,
            config=config,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
            trust_remote_code=False,
        )
        tokenizer = gguf_tokenizer(gguf, reader)
    except FourshotError:
        raise
    except Exception as error:  # damaged files or unknown architectures can make transformers raise anything
        if "cannot reshape array" in str(error):  # the file is shorter than its header says
            size = f"{gguf.stat().st_size:,} bytes"
            raise ModelNotFoundError(f"{gguf} ends too early ({size}). Copy or fetch it again, whole.") from error
        raise ModelNotFoundError(
            f"{gguf} cannot be read as a GGUF model: {type(error).__name__}: {error}. {ALTERNATIVE}"
        ) from error
    _check_all_was_read(gguf, reader, model, info)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return architecture


def _field(reader: "GGUFReader", key: str) -> Any:
    """Return a value of the file's metadata; None if it does not exist."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _complete(config: Any, reader: "GGUFReader", architecture: str) -> None:
    """Add to ``config`` the metadata that transformers ignores. Raises ModelNotFoundError if it cannot be expressed."""
    width = _field(reader, f"{architecture}.attention.key_length")
    if width and hasattr(config, "head_dim"):
        config.head_dim = int(width)
    if architecture in WIDE_GEMMA:
        wide = config.num_hidden_layers == WIDE_GEMMA[architecture]
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if wide else config.head_dim
    window = _field(reader, f"{architecture}.attention.sliding_window")
    if window and not getattr(config, "sliding_window", None):
        # GGUF files call a Mistral a Llama. Up to the length of Mistral's sliding window, they are the same.
        config.max_position_embeddings = min(int(window), config.max_position_embeddings)
    scaling = _field(reader, f"{architecture}.rope.scaling.type")
    factors = {tensor.name: tensor for tensor in reader.tensors if tensor.name.startswith("rope_")}
    if scaling not in (None, "none"):
        raise ModelNotFoundError(
            f"The GGUF file's positions are scaled ({architecture}.rope.scaling.type is {scaling}), which transformers "
            f"does not read from GGUF. {ALTERNATIVE}"
        )
    if factors.keys() - {"rope_freqs.weight"}:
        raise ModelNotFoundError(
            f"The GGUF file's positions are scaled by {', '.join(factors)}, which transformers does not read. "
            f"{ALTERNATIVE}"
        )
    if factors:
        config.rope_parameters = _llama3_rope(config, factors["rope_freqs.weight"].data)


def _llama3_rope(config: Any, factors: Any) -> dict[str, Any]:
    """Return the RoPE scaling parameters of Llama 3.1 and later that give the ``factors`` in the file.

    The file contains the factor per frequency instead of the parameters. Raises ModelNotFoundError for other scalings.
    Source: llama.cpp, convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors.
    """
    import copy

    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theta = float(config.rope_parameters["rope_theta"])
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    target = torch.tensor(factors, dtype=torch.float64).flatten()
    for factor in (8.0, 32.0):  # of Llama 3.1 and 3.3, of 3.2
        candidate = copy.deepcopy(config)
        candidate.rope_parameters = {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](candidate, torch.device("cpu"))
        if len(target) == len(plain) and torch.allclose(plain / scaled.double(), target, rtol=1e-3):
            return dict(candidate.rope_parameters)
    raise ModelNotFoundError(
        f"The GGUF file scales its positions (rope_freqs.weight) in another way than Llama 3.1 to 3.3. {ALTERNATIVE}"
    )


def _check_all_was_read(gguf: Path, reader: "GGUFReader", model: Any, info: dict[str, Any]) -> None:
    """Raise ModelNotFoundError if weights of the model are not in the file, or their numbers differ."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelNotFoundError(
            f"{gguf} lacks {len(missing)} of the model's weights, {missing[0]} for example: it is damaged, or "
            f"transformers does not recognise their names. {ALTERNATIVE}"
        )
    in_file = sum(int(tensor.n_elements) for tensor in reader.tensors if not tensor.name.startswith("rope_"))
    in_model = sum(weights.numel() for weights in {id(weights): weights for weights in model.parameters()}.values())
    if in_file != in_model:
        raise ModelNotFoundError(
            f"{gguf} holds {in_file:,} weights; transformers reads {in_model:,} of them as {type(model).__name__}. A "
            f"model that lacks some of its weights generates nonsense. {ALTERNATIVE}"
        )
