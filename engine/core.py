"""The types of the engine package: what goes into a base model and what comes out.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_origin, get_type_hints

import msgspec

from fourshot.engine.errors import InputError

if TYPE_CHECKING:
    import numpy as np


# What a model says for a label (`engine.labels`). word: the label's word, whole. prefix: the word's first tokens, up to
# the one that tells it apart. token: a token of the label's own. auto: word, or prefix where whole words take many
# requests.
Verbalizer = Literal["word", "prefix", "token", "auto"]


class Typed(msgspec.Struct, frozen=True):
    """A base for what users make in Python: msgspec checks the types of what it reads, and here of what they make."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own: Callable[[Typed], None] | None = getattr(cls, "__post_init__", None)

        def check(self: Typed) -> None:
            try:
                if own:
                    own(self)
            except InputError:
                raise
            except Exception:  # whatever comes of comparing values of other types
                check_types(self)
                raise
            check_types(self)

        cls.__post_init__ = check  # type: ignore[attr-defined]


def check_types(settings: msgspec.Struct) -> None:
    """Raise InputError for the first field that is not of its type."""
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
    """The distribution that tokens are drawn from: what a user may choose. Names are vLLM's ``SamplingParams``.

    The defaults are the paper's (Patwa et al. 2024, section 4: temperature 1.0, top-k 50).
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    # Nats added to the logit of a word. Words of several tokens stay as they are: their first begins others too.
    bias: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and 0 < self.top_p <= 1 and self.top_k >= 0):
            raise InputError(
                "temperature must be at least 0, top_p above 0 and at most 1, top_k at least 0 (0: all tokens); got "
                f"{self.temperature}, {self.top_p} and {self.top_k}."
            )


class Sampling(SamplingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to sample. Names are vLLM's ``SamplingParams``."""

    max_tokens: int = 64
    n: int = 1  # completions per prompt
    stop: tuple[str, ...] = ()
    seed: int | None = None  # prompt i, completion j is drawn from a generator of its own made from (seed, i, j)
    seed_offset: int = 0  # what is added to i there: a list of prompts may be given in parts

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
    """A LoRA adapter on disk. ``name`` is content-hashed: the prefix cache keys on it, so no two weights share one."""

    name: str
    path: str


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the engine started, or since an earlier moment."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens that the prefix cache answered
    requests: int = 0
    busy_s: float = 0.0  # wall time inside `sample` and `score`
    start_s: float = 0.0  # wall time from opening to ready

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that the prefix cache did not answer."""
        return self.prompt_tokens - self.cached_tokens

    def since(self, before: "EngineStats") -> "EngineStats":
        """What ran after ``before``, of the same engine."""
        counts = {name: getattr(self, name) - getattr(before, name) for name in self.__struct_fields__}
        return EngineStats(**{**counts, "start_s": self.start_s})


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `engine.open_engine` needs. One home, one default."""

    model: str  # folder of a Hugging Face checkpoint (see `engine.models.resolve_model`), or "fake"
    kind: Literal["vllm", "transformers", "fake"] = "vllm"
    max_model_len: int = 2048  # tokens, prompt and completion
    max_loras: int = 0  # distinct adapters in one batch; 0 turns LoRA off
    max_lora_rank: int = 8
    memory_loras: int = 32  # adapters kept in memory beside those in use; beyond it every miss is a disk read
    kv_cache_bytes: int = 1 << 30  # on the CPU
    gpu_kv_cache_bytes: int = 0  # on a GPU; 0: what is free, up to vLLM's share of the card
    max_num_seqs: int = 128  # in one batch on the CPU
    gpu_max_num_seqs: int = 0  # in one batch on a GPU; 0: vLLM's own number for the card, up to 1,024
    seed: int = 0
    prefix_caching: bool = True  # off only to measure what it gains
    lora_plugin: bool = True  # mend vLLM's CPU LoRA kernels (`engine.vllm_seams.lora_kernels`)
    compile: bool = True  # torch.compile: starts a minute later, samples faster; on the CPU only without LoRA
    gpus: int = 1  # that share the weights, by tensor parallelism; more than 1 on a machine with as many
    load_format: str = "auto"  # "dummy": real shapes, random weights, for latency without a download


PerPromptAdapter = Adapter | None | Sequence[Adapter | None]


class Engine(Protocol):
    """One base model, loaded. `VllmEngine` works; `TransformersEngine` is the reference and the baseline."""

    settings: EngineSettings

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        """Yield ``len(prompts) * sampling.n`` completions as they finish, in any order. Closing it drops the rest."""
        ...

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> "np.ndarray":
        """Log-probability of each label as the continuation of each prompt.

        ``labels`` are the words without the leading space. Returns float32 [num_prompts, num_labels], nats,
        under the model's whole vocabulary: rows do not sum to one (`engine.calibration.normalise` does that), so
        the probability mass on the labels is known too. ``adapter`` is one for all prompts or one per prompt.
        ``verbalizer``: what is said for a label; of an adapter, the one that it was trained with.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text as a prompt."""
        ...

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes, so that what comes next does not depend on what ran before."""
        ...

    def stats(self) -> EngineStats: ...

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        ...
