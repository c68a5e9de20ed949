"""The roofline: a model's operations and bytes by its shape, the machine's peak rates, and the least time of a request.

Saturated: the operations of the computed tokens at the highest rate of matrix products, plus the cost of a request
without a text in a full batch. Alone: the longer of the operations and one reading of the weights, plus the cost of a
request without a text beyond that reading. Computed tokens exclude those served from the prefix cache.

Importing this module loads neither torch nor vllm.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from fourshot.bench.core.processes import call_in_child
from fourshot.engine.checkpoints.config import read_config
from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.errors import InputError
from fourshot.engine.machine.gpus import torch_device
from fourshot.engine.machine.threads import available_cores

SECONDS = 1.5  # of measuring each rate
BYTES = 1 << 29
GPU_CALLS = 20  # calls per synchronisation: a product may take less time than its launch and the wait
BF16_BYTES = 2
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a Llama-like decoder, named as in Hugging Face's configs."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = True
    model_type: str = "llama"  # a key of ARCHITECTURES, for `write_shape`

    @property
    def decoder_parameters(self) -> int:
        """Parameters of the layers' projections, without embeddings, output layer and norms."""
        wide, narrow = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * wide + 2 * narrow)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def weight_bytes(self) -> int:
        """Bytes that every step reads: the layers' projections and the output layer, in bf16."""
        return BF16_BYTES * (self.decoder_parameters + self.vocab_size * self.hidden_size)

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * BF16_BYTES * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def prompt_flops(self, tokens: float, cached: float = 0.0) -> float:
        """Return the operations to score one prompt of ``tokens``, of which the first ``cached`` are in the cache.

        Counted are 2 per parameter and computed token, and attention of each computed token to itself and all before it
        (two products of ``num_attention_heads * head_dim`` per pair). The output layer counts for the last token only.
        """
        computed = tokens - cached
        pairs = computed * cached + computed * (computed + 1) / 2
        attention = 4 * self.num_hidden_layers * self.num_attention_heads * self.head_dim * pairs
        return 2 * self.decoder_parameters * computed + attention + 2 * self.vocab_size * self.hidden_size


def _shape(
    layers: int, hidden: int, inner: int, heads: int, kv_heads: int, tied: bool = False, model_type: str = "llama"
) -> ModelShape:
    """Return a shape with the embedded model's vocabulary. Shapes use its tokenizer, so texts keep their lengths."""
    return ModelShape(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        vocab_size=49152,
        tied=tied,
        model_type=model_type,
    )


SHAPES = {
    # Source: config.json of lmsys/vicuna-7b-v1.5 and lmsys/vicuna-13b-v1.5 (Llama 2), of meta-llama/Llama-3.2-1B.
    "vicuna-7b": _shape(32, 4096, 11008, 32, 32),
    "vicuna-13b": _shape(40, 5120, 13824, 40, 40),
    "llama-1b": _shape(16, 2048, 8192, 32, 8),
    # The sizes of SmolLM2-135M in the architecture of Qwen 2, which has biases on queries, keys and values.
    "qwen2-135m": _shape(30, 576, 1536, 9, 3, tied=True, model_type="qwen2"),
    "tiny": _shape(4, 256, 768, 4, 4, tied=True),
}


def shape_of(model: str | Path) -> ModelShape:
    """Return the shape of a checkpoint folder. Raises InputError if its config lacks a Llama-like decoder's sizes."""
    config = read_config(model)
    heads = config.get("num_attention_heads") or 1
    derived = {"num_key_value_heads": heads, "head_dim": config.get("hidden_size", 0) // heads}
    fields = {**derived, **{name: value for name, value in config.items() if value is not None}}
    try:
        return msgspec.convert({**fields, "tied": bool(config.get("tie_word_embeddings"))}, ModelShape)
    except msgspec.ValidationError as error:
        raise InputError(
            f"{Path(model) / 'config.json'}: {error}. The suites count operations of Llama-like models. Give one whose "
            "config has the usual sizes, or --shape."
        ) from error


def write_shape(shape: ModelShape, folder: Path, tokenizer_from: str | Path) -> Path:
    """Write a checkpoint folder without weights, for engines opened with ``load_format="dummy"``. Returns ``folder``.

    Raises InputError if ``tokenizer_from`` has no tokenizer, or one with token ids beyond the shape's vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": [ARCHITECTURES[shape.model_type]],
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attention_bias": False,
        "tie_word_embeddings": shape.tied,
        **{name: value for name, value in msgspec.structs.asdict(shape).items() if name != "tied"},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        try:
            shutil.copyfile(Path(tokenizer_from) / name, folder / name)
        except OSError as error:
            raise InputError(f"{Path(tokenizer_from) / name} cannot be read: {error.strerror}.") from error
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    added_ids = [added["id"] for added in tokenizer.get("added_tokens", ())]
    if (highest := max([*ids, *added_ids], default=0)) >= shape.vocab_size:
        raise InputError(
            f"tokenizer.json has token ids up to {highest}; the shape has {shape.vocab_size}. Give a smaller tokenizer."
        )
    return folder


def write_random_weights(folder: str) -> None:
    """Add random weights to a folder of `write_shape`, drawn from the model family's own initialisation.

    They are for trainings, servers and transformers, which do not start with ``load_format="dummy"``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(torch_device()):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder, trust_remote_code=False), dtype=torch.bfloat16
        )
    model.save_pretrained(folder)


@contextmanager
def opened_base(model: str | None, shape: str | None) -> Iterator[ResolvedModel]:
    """Yield the base of a suite's ``--model`` or ``--shape``. A shape is written with random weights, and then removed.

    Raises InputError if both are given, or the shape is unknown.
    """
    check_shape(model, shape)
    base = resolve_model(model)
    if shape is None:
        yield base
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_shape(SHAPES[shape], Path(scratch) / shape, base.path)
        call_in_child(write_random_weights, str(folder))  # in a separate process, to free its memory
        yield resolve_model(str(folder))


def check_shape(model: str | None, shape: str | None) -> None:
    """Raise InputError if ``--shape`` is unknown or given together with ``--model``."""
    if shape and model:
        raise InputError("--shape and --model are two bases. Give one of them.")
    if shape and shape not in SHAPES:
        raise InputError(f"unknown shape {shape!r}. Allowed are {', '.join(SHAPES)}.")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's peak rates."""

    flops: float  # bf16 operations per second of large matrix products, the highest of several shapes
    bytes_per_s: float  # memory read by all cores together, or by the GPU from its own memory


def measure_machine(model: str) -> Machine:
    """Measure the peak rates with as many threads as an engine uses, for products of the model's sizes.

    Suites measure before and after their cells, because a machine's speed may change meanwhile.
    """
    import torch

    torch.set_num_threads(available_cores())
    shape = shape_of(model)
    products = (
        (2048, shape.hidden_size, 2 * shape.intermediate_size),
        (1024, shape.intermediate_size, shape.hidden_size),
        (2048, 2048, 2048),
    )
    numbers = torch.zeros(BYTES // 4, dtype=torch.float32, device=torch_device())
    flops = max(product_rate(*product) for product in products)
    return Machine(flops=flops, bytes_per_s=fastest(BYTES, numbers.sum))


def product_rate(rows: int, width: int, out: int) -> float:
    """Return the operations per second of bf16 products [rows, width] x [width, out]."""
    import torch

    x, weights = (torch.randn(n, width, dtype=torch.bfloat16, device=torch_device()) for n in (rows, out))
    return fastest(2 * rows * width * out, partial(torch.nn.functional.linear, x, weights))


def fastest(work: float, run: Callable[[], object]) -> float:
    """Return the highest rate in `SECONDS` of calls: ``work``, the amount that one call of ``run`` does, per second."""
    import torch

    on_gpu = torch_device() == "cuda"
    calls = GPU_CALLS if on_gpu else 1
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        started = time.perf_counter()
        for _ in range(calls):
            run()
        if on_gpu:
            torch.cuda.synchronize()
        best = max(best, calls * work / (time.perf_counter() - started))
    return best


class Roof(msgspec.Struct, frozen=True, kw_only=True):
    """The limits for one model on one machine, with the measured cost of a request without a text."""

    machine: Machine
    shape: ModelShape
    floor_alone_s: float
    floor_saturated_s: float

    def saturated_s(self, tokens: float, cached: float) -> float:
        """Return the least seconds per request if the engine is saturated."""
        return self.shape.prompt_flops(tokens, cached) / self.machine.flops + self.floor_saturated_s

    def alone_s(self, tokens: float, cached: float) -> float:
        """Return the least seconds of a request served alone."""
        reading = self.shape.weight_bytes / self.machine.bytes_per_s
        computing = self.shape.prompt_flops(tokens, cached) / self.machine.flops
        return max(reading, computing) + max(0.0, self.floor_alone_s - reading)
