"""Read splits of hub data sets through `datasets`, with errors that say what to do if one cannot be loaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fourshot.engine.errors import InputError
from fourshot.pipeline.tables.types import Table


def read_hub(name: str, config: str, split: str) -> Table:
    """Read one split of a hub data set through `datasets`, without audio and image columns.

    Raises `InputError` with a remedy, and with the way to work without the hub.
    """
    import datasets

    try:
        with _without_retry_lines():
            loaded = _load(name, config or None, split)
    except Exception as failure:  # the hub client raises dozens of types; all mean that the data is not available
        first_line = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise InputError(
            f"cannot load split {split!r} of data set {name!r} from the hub: {first_line}\n{_remedy(failure, name)}"
            "To work without the hub, give a folder with train and test files: --data FOLDER."
        ) from failure
    media = (datasets.Audio, datasets.Image)  # these would be decoded row by row
    loaded = loaded.remove_columns([column for column, kind in loaded.features.items() if isinstance(kind, media)])
    return Table(
        path=f"{name}[{split}]",
        columns=tuple(loaded.column_names),
        unit="row",
        rows={
            number: {column: _named(loaded.features[column], value) for column, value in row.items()}
            for number, row in enumerate(loaded, start=1)
        },
        class_names={
            column: tuple(feature.names)
            for column, feature in loaded.features.items()
            if isinstance(feature, datasets.ClassLabel)
        },
    )


def _load(name: str, config: str | None, split: str) -> Any:
    """Load the split as a `datasets.Dataset`."""
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split)
    except RuntimeError as failure:
        if "scripts are no longer supported" not in str(failure):
            raise
    # The hub keeps a converted copy of data sets that still carry a loading script, under this revision.
    return datasets.load_dataset(name, config, split=split, revision="refs/convert/parquet")


@contextmanager
def _without_retry_lines() -> Iterator[None]:
    """Suppress the two lines that the hub client prints per attempt, unless HF_HUB_VERBOSITY is set.

    The error of the last attempt has all the information.
    """
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    if "HF_HUB_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _named(feature: Any, value: Any, *, is_inner: bool = False) -> Any:
    """Return ``value`` with names for class numbers in lists and objects; a column of classes keeps its numbers."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(value) if is_inner and isinstance(value, int) and value >= 0 else value
    if isinstance(feature, dict) and isinstance(value, dict):
        return {key: _named(feature.get(key), item, is_inner=True) for key, item in value.items()}
    if isinstance(value, list) and (inner := getattr(feature, "feature", None)) is not None:
        return [_named(inner, item, is_inner=True) for item in value]
    return value


def _remedy(failure: Exception, name: str) -> str:
    """Return what to do about a failed load, as a line with its end; "" if the library's own message says it."""
    from datasets.exceptions import DatasetNotFoundError

    if isinstance(failure, DatasetNotFoundError) and "gated" in str(failure):
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"Accept its terms on {endpoint}/datasets/{name}, and set HF_TOKEN or log in with hf auth login.\n"
    if isinstance(failure, DatasetNotFoundError):
        return "Check the spelling of $.data.hub (owner/name); for a private one, set HF_TOKEN or log in.\n"
    if "OfflineModeIsEnabled" in str(failure):
        return "HF_HUB_OFFLINE is set, and no copy is on this machine. Unset it to fetch one.\n"
    return ""
