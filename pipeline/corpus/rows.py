"""The rows of a corpus, and their files: JSON Lines or Parquet.

Importing this module does not load pyarrow; writing or reading Parquet does.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from fourshot.pipeline.corpus.settings import Format
from fourshot.pipeline.loop.units import Draw
from fourshot.pipeline.rows.fields import split_fields
from fourshot.pipeline.synthesis.types import Verdict
from fourshot.pipeline.task import Task

if TYPE_CHECKING:
    import pyarrow


# What reading an invalid shard raises: `pyarrow.ArrowInvalid` and the error for text that is not UTF-8 are ValueErrors.
UNREADABLE = (msgspec.DecodeError, ValueError, OSError)


class CorpusRow(msgspec.Struct, frozen=True, kw_only=True):
    """One text of a corpus with its lineage. The fields are the columns."""

    text: str
    fields: dict[str, str] | UnsetType = UNSET  # of an input with fields: the values in the lines of the text
    label: str
    task: str
    id: str  # within the task: the class and the number of the draw
    unit: int  # number of the unit that drew it, within the task
    prompt_hash: str
    shots: tuple[int, ...]  # in the order of the prompt; indices into the task's shots.json
    seed: int  # of the request
    num_tokens: int
    cumulative_logprob: float  # nats
    finish_reason: str
    attributes: tuple[str, ...] = ()  # requested in the prompt, as "dimension: value"; empty if none were
    probabilities: tuple[float, ...]  # the annotator's, in the order of the task's labels; empty without an annotator
    model: str
    revision: str


def row_of(task: Task, draw: Draw, verdict: Verdict, model: str, revision: str) -> CorpusRow:
    """Return the row of a kept text."""
    candidate = draw.candidate
    return CorpusRow(
        text=candidate.text,
        fields=split_fields(task.input_fields, candidate.text) or UNSET if task.input_fields else UNSET,
        label=candidate.label,
        task=task.name,
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
    """Return the content of a shard's file."""
    if kind == "jsonl":
        encode = msgspec.json.Encoder().encode
        return b"".join(encode(row) + b"\n" for row in rows)
    import pyarrow
    from pyarrow import parquet

    fields = tuple(rows[0].fields or ()) if rows else ()  # the same in all rows of a task
    table = pyarrow.Table.from_pylist([msgspec.to_builtins(row) for row in rows], schema=_schema(fields))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_rows(file: Path) -> list[CorpusRow]:
    """Read all rows of a shard. Raises one of `UNREADABLE` if the file is not a valid shard."""
    if file.suffix == ".jsonl":
        decode = msgspec.json.Decoder(CorpusRow).decode
        content = file.read_bytes()
        return [decode(line) for line in content.removesuffix(b"\n").split(b"\n")] if content else []
    from pyarrow import parquet

    # partitioning=None: a folder name such as a=b must not become a column.
    return msgspec.convert(parquet.read_table(file, partitioning=None).to_pylist(), list[CorpusRow])


# Types of the columns, as named by `datasets`; of lists, the type of their elements.
_LISTS = {"shots": "int32", "attributes": "string", "probabilities": "float64"}
_PLAIN = {int: "int64", float: "float64", str: "string"}


def features(fields: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the columns with their types for a data card. ``fields``: those of the task.

    Without types in the card, `datasets` infers them from the first rows, which fails for empty lists.

    Source: huggingface/datasets, `Features._from_yaml_list`; "sequence" is also known to versions before 4.
    """
    columns: list[dict[str, Any]] = []
    for column in msgspec.structs.fields(CorpusRow):
        if column.name in _LISTS:
            columns.append({"name": column.name, "sequence": _LISTS[column.name]})
        elif column.type in _PLAIN:
            columns.append({"name": column.name, "dtype": _PLAIN[column.type]})
        elif fields:
            columns.append({"name": column.name, "struct": [{"name": name, "dtype": "string"} for name in fields]})
    return columns


def _schema(fields: Sequence[str]) -> "pyarrow.Schema":
    import pyarrow

    kind = pyarrow.type_for_alias

    def type_of(column: Mapping[str, Any]) -> "pyarrow.DataType":
        if "struct" in column:
            return pyarrow.struct([(field["name"], type_of(field)) for field in column["struct"]])
        return kind(column["dtype"]) if "dtype" in column else pyarrow.list_(kind(column["sequence"]))

    return pyarrow.schema([(column["name"], type_of(column)) for column in features(fields)])
