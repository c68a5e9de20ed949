"""The types of the engine package: inputs and outputs of a base model, settings, and the `Engine` protocol.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_origin, get_type_hints

import msgspec

from fourshot.engine.errors import InputError

if TYPE_CHECKING:
    import numpy as np


# Which tokens stand for a label (`engine.labels`). word: the label's whole word. prefix: the word's first tokens, up to
# the one that distinguishes it. token: one token per label. auto: word, or prefix if whole words take many requests.
Verbalizer = Literal["word", "prefix", "token", "auto"]


class Typed(msgspec.Struct, frozen=True):
    """Base class of structs that users construct: checks the types of fields, as msgspec does only when it decodes."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own: Callable[[Typed], None] | None = getattr(cls, "__post_init__", None)

        def check(self: Typed) -> None:
            try:
                if own:
                    own(self)
            except InputError:
                raise
            except Exception:  # comparing values of wrong types can raise anything
                check_types(self)
                raise
            check_types(self)

        cls.__post_init__ = check  # type: ignore[attr-defined]


def check_types(settings: msgspec.Struct) -> None:
    """Raise InputError for the first field whose value does not match its annotated type."""
    for name, hint in _hints(type(settings)).items():
        value = getattr(settings, name)
        if value is msgspec.UNSET:
            continue
        try:
            if isinstance(hint, type) and issubclass(hint, msgspec.Struct) and not isinstance(value, hint):
                raise msgspec.ValidationError(f"Expected `{hint.__name__}`, got `{type(value).__name__}`")
            msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            shown = " ".join(f"{value!r:.60}".split())
            allowed = f" Allowed: {', '.join(map(str, get_args(hint)))}." if get_origin(hint) is Literal else ""
            raise InputError(f"{type(settings).__name__}: {name} is {shown}. {error}.{allowed}") from None


@lru_cache
def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(kind).items() if name in kind.__struct_fields__}


class SamplingSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The distribution that tokens are sampled from, as far as users choose it. Names follow vLLM's ``SamplingParams``.

    The defaults are the paper's (Patwa et al. 2024, section 4: temperature 1.0, top-k 50).
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    # Nats added to the logit of a word. Words of several tokens are ignored: their first token begins other words too.
    bias: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and 0 < self.top_p <= 1 and self.top_k >= 0):
            raise InputError(
                "temperature must be at least 0, top_p above 0 and at most 1, top_k at least 0 (0: all tokens); got "
                f"{self.temperature}, {self.top_p} and {self.top_k}."
            )


class Sampling(SamplingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to sample. Names follow vLLM's ``SamplingParams``."""

    max_tokens: int = 64
    n: int = 1  # completions per prompt
    stop: tuple[str, ...] = ()
    seed: int | None = None  # completion j of prompt i has its own random generator, seeded from (seed, i, j)
    seed_offset: int = 0  # added to i in that seed, so that a list of prompts can be passed in parts

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1 or self.n < 1:
            raise InputError(f"max_tokens and n must be at least 1; got {self.max_tokens} and {self.n}.")


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One sampled continuation of one prompt."""

    prompt_index: int  # position in the list of prompts given to `sample`
    sample_index: int  # 0 .. n-1
    text: str  # without the stop string
    num_tokens: int
    cumulative_logprob: float  # nats, under the unscaled model distribution
    finish_reason: Literal["stop", "length"]


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter on disk. ``name`` is the key of the prefix cache, so it contains a hash of the content."""

    name: str
    path: str


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the engine started, or since an earlier reading (`since`)."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens found in the prefix cache
    requests: int = 0
    busy_s: float = 0.0  # wall time inside `sample` and `score`
    start_s: float = 0.0  # wall time from opening to ready

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that were not in the prefix cache."""
        return self.prompt_tokens - self.cached_tokens

    def since(self, before: "EngineStats") -> "EngineStats":
        """Return the counts since ``before``, an earlier reading of the same engine. ``start_s`` is unchanged."""
        counts = {name: getattr(self, name) - getattr(before, name) for name in self.__struct_fields__}
        return EngineStats(**{**counts, "start_s": self.start_s})


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The argument of `engine.opening.open_engine`. The defaults are defined only here."""

    model: str  # folder of a Hugging Face checkpoint (see `engine.checkpoints.models.resolve_model`), or "fake"
    kind: Literal["vllm", "transformers", "fake"] = "vllm"
    max_model_len: int = 2048  # tokens, prompt and completion
    max_loras: int = 0  # distinct adapters in one batch; 0 disables LoRA
    max_lora_rank: int = 8
    memory_loras: int = 32  # adapters kept in memory, at least max_loras; any other one is read from disk when needed
    kv_cache_bytes: int = 1 << 30  # on the CPU
    gpu_kv_cache_bytes: int = 0  # on a GPU; 0: the free memory, up to vLLM's share of the GPU
    max_num_seqs: int = 128  # sequences in one batch on the CPU
    gpu_max_num_seqs: int = 0  # sequences in one batch on a GPU; 0: vLLM's default for the GPU, up to 1,024
    seed: int = 0
    prefix_caching: bool = True  # off only to measure its benefit
    lora_plugin: bool = True  # replace vLLM's faulty CPU LoRA kernels (`engine.vllm_seams.lora_kernels`)
    compile: bool = True  # torch.compile: starts a minute later, samples faster; on the CPU only without LoRA
    gpus: int = 1  # GPUs that share the weights by tensor parallelism; the machine must have that many
    load_format: str = "auto"  # "dummy": real shapes, random weights, for latency without a download


PerPromptAdapter = Adapter | None | Sequence[Adapter | None]


class Engine(Protocol):
    """One loaded base model. `VllmEngine` is the production engine, `TransformersEngine` the reference and baseline."""

    settings: EngineSettings

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        """Yield ``len(prompts) * sampling.n`` completions as they finish, in any order. Closing it drops the others."""
        ...

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> "np.ndarray":
        """Return the log-probability of each label as the continuation of each prompt.

        ``labels`` are the words without the leading space. Returns float32 [num_prompts, num_labels], in nats, over
        the model's whole vocabulary. Rows do not sum to one (`engine.calibration.normalise` does that), so the
        probability mass of the labels is known too. ``adapter`` is one for all prompts or one per prompt.
        ``verbalizer`` selects the tokens that stand for a label; for an adapter, pass that of its training.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text as a prompt."""
        ...

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, so that later results do not depend on earlier calls."""
        ...

    def stats(self) -> EngineStats: ...

    def close(self) -> None:
        """Release the memory. Idempotent."""
        ...
