"""A line of a corpus's journal: one shard, and the units that it covers."""

import re
from pathlib import Path

import msgspec

from fourshot.pipeline.loop.counts import DrawRecord

READ = re.compile(r".*\.(?:jsonl|parquet)")  # shards, also while they are written, and what else `datasets` reads


class ShardRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the journal."""

    task: str
    file: str = ""  # relative to the folder; "" if the units gave no rows
    rows: int = 0
    sha256: str = ""  # of the file; "": written before there were hashes
    faults: int = 0  # lines added to errors.jsonl
    units: tuple[DrawRecord, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for a file outside ``data/``, because shards are overwritten and moved."""
        parts = Path(self.file).parts
        if self.file and (len(parts) < 3 or parts[0] != "data" or ".." in parts or not READ.fullmatch(parts[-1])):
            raise ValueError(f"it names {self.file!r}, which is not a shard in data/")
