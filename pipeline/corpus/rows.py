"""The rows of a corpus, and the files they are in: JSON Lines or Parquet.

Importing this module loads no pyarrow; Parquet does.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fourshot.pipeline.corpus.settings import Format
from fourshot.pipeline.loop.units import Draw
from fourshot.pipeline.synthesis.types import Verdict

if TYPE_CHECKING:
    import pyarrow


class CorpusRow(msgspec.Struct, frozen=True, kw_only=True):
    """One text of a corpus with all that it comes from. The fields are the columns."""

    text: str
    label: str
    task: str
    id: str  # within the task: the class and the number of the draw
    unit: int  # that it was drawn in, within the task
    prompt_hash: str
    shots: tuple[int, ...]  # in the order of the prompt; indices into the task's shots.json
    seed: int  # of the request
    num_tokens: int
    cumulative_logprob: float  # nats
    finish_reason: str
    attributes: tuple[str, ...] = ()  # that the prompt asked for, "dimension: value"; empty where it asked for none
    probabilities: tuple[float, ...]  # the annotator's, in the order of the task's labels; empty where nobody read
    model: str
    revision: str


def row_of(task: str, draw: Draw, verdict: Verdict, model: str, revision: str) -> CorpusRow:
    """The row of a text that is kept."""
    candidate = draw.candidate
    return CorpusRow(
        text=candidate.text,
        label=candidate.label,
        task=task,
        id=candidate.id,
        unit=candidate.round,
        prompt_hash=candidate.prompt_hash,
        shots=candidate.shots,
        seed=draw.seed,
        num_tokens=candidate.num_tokens,
        cumulative_logprob=round(candidate.cumulative_logprob, 4),
        finish_reason=candidate.finish_reason,
        attributes=tuple(f"{dimension}: {value}" for dimension, value in candidate.attributes.items()),
        probabilities=tuple(verdict.probabilities.values()),
        model=model,
        revision=revision,
    )


def encode_rows(rows: Sequence[CorpusRow], kind: Format) -> bytes:
    """The content of a shard."""
    if kind == "jsonl":
        encode = msgspec.json.Encoder().encode
        return b"".join(encode(row) + b"\n" for row in rows)
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([msgspec.to_builtins(row) for row in rows], schema=_schema())
    held = io.BytesIO()
    parquet.write_table(table, held, compression="zstd")
    return held.getvalue()


def read_rows(file: Path) -> list[CorpusRow]:
    """All rows of a shard. Raises msgspec.DecodeError or pyarrow's ArrowInvalid for a file that is none."""
    if file.suffix == ".jsonl":
        decode = msgspec.json.Decoder(CorpusRow).decode
        return [decode(line) for line in file.read_bytes().split(b"\n")[:-1]]
    from pyarrow import parquet

    # partitioning=None: the name of its folder is no column.
    return msgspec.convert(parquet.read_table(file, partitioning=None).to_pylist(), list[CorpusRow])


def _schema() -> "pyarrow.Schema":
    import pyarrow

    kinds = {
        "shots": pyarrow.list_(pyarrow.int32()),
        "attributes": pyarrow.list_(pyarrow.string()),
        "probabilities": pyarrow.list_(pyarrow.float64()),
    }
    numbers = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    fields = msgspec.structs.fields(CorpusRow)
    return pyarrow.schema([(field.name, kinds.get(field.name) or numbers[field.type]) for field in fields])
