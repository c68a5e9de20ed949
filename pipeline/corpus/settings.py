"""Settings of a corpus other than those of its texts (`pipeline.synthesis.settings.RunSettings`).

Importing this module loads neither torch nor vllm.
"""

import math
from typing import Literal, get_args

from fourshot.engine.core import Typed
from fourshot.engine.errors import InputError

Format = Literal["jsonl", "parquet"]
UNKNOWN = "unknown"  # licence; a continued corpus keeps the one in its data card


class CorpusSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a corpus is written, and where its engines run. The comments are the help of `fourshot corpus`."""

    format: Format = "jsonl"  # of the shards
    licence: str = UNKNOWN  # for the data card; check what the base model's licence says about its output
    adapters: str = ""  # folder of trained adapters, for --annotator adapters
    rows_per_shard: int = 10_000
    shard_s: float = 30.0  # seconds after which a smaller shard is written, so that a kill loses less
    ray: str = ""  # an engine on each device of a Ray cluster: 'local', 'auto' or an address; "": one, on this machine

    gpus_per_engine: int = 1  # GPUs that share each engine's weights

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise InputError(
                f"format {self.format!r} is not a corpus format; allowed are {', '.join(get_args(Format))}."
            )
        if not self.licence.isprintable() or not self.licence.strip():
            raise InputError(f"licence must be one line, such as apache-2.0; got {self.licence!r}.")
        if self.gpus_per_engine < 1:
            raise InputError(f"gpus_per_engine must be at least 1, got {self.gpus_per_engine}.")
        if self.rows_per_shard < 1 or not 0 <= self.shard_s < math.inf:
            raise InputError(
                "rows_per_shard must be at least 1 and shard_s a number of seconds, at least 0; got "
                f"{self.rows_per_shard} and {self.shard_s}."
            )
