"""Find the files of a split in a folder: a file of its name, or shards as the hub and `datasets` write them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import shorten
from fourshot.pipeline.tables.file_bytes import KINDS, PACKINGS, table_ending, table_stem
from fourshot.pipeline.task import DataSource

SPLIT_ALIASES = {"dev": ("dev", "validation", "valid", "val")}
_PLAIN = (".jsonl", ".csv", ".tsv", ".parquet")
# Source: huggingface/datasets, `filename_for_dataset_split`. Older uploads add a fingerprint; converted copies have
# numbers only (`_COUNTED`).
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]{16})?")
_ABOUT_A_DATA_SET = ("dataset_info.json", "state.json")  # which `Dataset.save_to_disk` writes beside the shards
# Source: Apache Spark, `FileNamingProtocol`: part-00000-<uuid>-c000.snappy.parquet
_COUNTED = re.compile(r"(data-|part-)?\d{4,5}(-of-\d{5})?|part-\d{5}-[\w.-]+")


def find_split_file(folder: Path, stem: str) -> Path | None:
    """Return the file of a split in a folder or its subfolder ``data``, or the path to pass to `shards_of`; or None.

    Among several files, a single JSON Lines, CSV, TSV or Parquet file takes precedence. Otherwise, raises `InputError`.
    """
    matches = split_files(folder, stem)
    plain = [path for path in matches if path.suffix in _PLAIN and path.is_file()]
    if len(matches) > 1 and len(plain) != 1:
        names = " and ".join(path.name for path in matches)
        raise InputError(f"{folder} has {names} for the same split. Keep one of them.")
    return next(iter(plain or matches), None)


def own_splits(folder: Path, test_split: str) -> tuple[str, str]:
    """Return the names of the train and the test split in a folder that replaces a hub data set.

    By default, these are "train" and "test". Without a test file, "dev" is the test split if the hub's task is tested
    on that. Without a train file, the train split is the only part of it, such as "train_1000". Without any part, it is
    "dev" if there is a test file.
    """
    has_file = {stem: find_split_file(folder, stem) is not None for stem in ("train", "test", "dev")}
    tests_on_dev = test_split in SPLIT_ALIASES["dev"] and not has_file["test"] and has_file["dev"]
    parts = sorted({table_stem(file) for file in _tables(folder) if table_stem(file).startswith("train_")})
    train = parts[0] if not has_file["train"] and len(parts) == 1 else "train"
    if not has_file["train"] and not parts and has_file["dev"] and has_file["test"]:
        train = "dev"
    return train, "dev" if tests_on_dev else "test"


def split_files(folder: Path, stem: str) -> list[Path]:
    """Return the files and the paths of shards that may hold a split: in the folder, else in its subfolder ``data``.

    Raises `InputError` if only a path that is no file has a split's name: the split would be taken for missing.
    """
    stems = SPLIT_ALIASES.get(stem, (stem,))
    for place in (folder, folder / "data"):
        matches: list[Path] = []
        for file in _tables(place):
            shard = _SHARD.fullmatch(table_stem(file))
            if table_stem(file).lower() in (alias.lower() for alias in stems):
                matches.append(file)
            elif shard and shard["stem"] in stems:
                matches.append(place / shard["stem"])
        others = _no_files(place, stems)
        folders = [*(place / alias for alias in stems), *(path for path in others if path.is_dir())]
        if matches := list(dict.fromkeys(matches)) or [path for path in folders if shards_of(path)]:
            return matches
        if others:
            raise InputError(f"{others[0]} is {_what_is(others[0])}, not a file. Put the file there, or remove it.")
    return []


def _no_files(folder: Path, stems: Sequence[str]) -> list[Path]:
    """Return the paths named like a split's file that are no files. Spark gives such names to folders of parts."""
    names = [alias.lower() for alias in stems]
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in inside if table_stem(path).lower() in names and table_ending(path) and not path.is_file()]


def _what_is(path: Path) -> str:
    """Return what a path is that is no file, for messages."""
    if not path.exists():
        return "a broken link"
    return "a folder without the parts of a table" if path.is_dir() else "a pipe or a device"


def shards_of(path: Path) -> list[Path]:
    """Return the shards of "data/train": "data/train-00000-of-00002.parquet" and so on, or numbered files in it.

    Empty if there are none. Raises `InputError` if one is missing, or if there are shards of several totals.
    """
    shards: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for file in _tables(path.parent):
        match = _SHARD.fullmatch(table_stem(file))
        if match and match["stem"] == path.name:
            shards[match["total"]].append((int(match["number"]), file))
    for total, files in shards.items():
        if [number for number, _ in sorted(files)] != list(range(int(total))) or len(shards) > 1:
            names = shorten(sorted(file.name for group in shards.values() for _, file in group))
            raise InputError(f"{path}: of {int(total)} shards, only {names} found. Fetch the missing ones.")
        return [file for _, file in sorted(files)]
    inside = [file for file in _tables(path) if file.name not in _ABOUT_A_DATA_SET]
    return inside if all(_COUNTED.fullmatch(table_stem(file)) for file in inside) else []


def lone_shard(path: Path) -> tuple[Path, int] | None:
    """Return, for one of several shards, the path that stands for all of them and their total number; else None."""
    match = _SHARD.fullmatch(table_stem(path))
    return (path.with_name(match["stem"]), int(match["total"])) if match and int(match["total"]) > 1 else None


def missing_split(source: DataSource, stem: str) -> str:
    """Return the error message for a folder without a file for a split."""
    folder = Path(source.folder)
    if not source.folder:
        return (
            "the task names neither a hub data set nor a folder. Set $.data.hub or $.data.folder, or give --data "
            "FOLDER."
        )
    if not folder.is_dir():
        return f"no such data folder: {folder}. Give an existing one, with --data or as the task's $.data.folder."
    if (folder / stem).is_file() and (ending := table_ending(Path(stem))):
        return (
            f"the split {stem!r} is the name of a file. A split is named without the ending: {stem[: -len(ending)]!r}."
        )
    listing = shorten(sorted(path.name for path in folder.iterdir()), 8) or "nothing"
    kinds = ", ".join(f"{stem}{suffix}" for suffix in (*list(KINDS)[:4], ".parquet"))
    key = "test_split" if stem == source.test_split else "train_split"
    dev_name = (
        next((name for name in reversed(SPLIT_ALIASES["dev"]) if _has(folder, name)), "") if stem == "test" else ""
    )
    hint = f' To test on {dev_name!r}: {key} = "{dev_name}" under [data].' if dev_name else ""
    return (
        f"no file for the split {stem!r} in {folder}: allowed are {kinds} and other tables, also packed or in shards "
        f"({stem}-00000-of-00002.parquet); there is {listing}.{hint}"
    )


def _has(folder: Path, stem: str) -> bool:
    try:
        return find_split_file(folder, stem) is not None
    except InputError:
        return True


def _tables(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if table_ending(path) and path.is_file()]
    return sorted(files, key=lambda path: (_rank(table_ending(path)), path.name))


def _rank(ending: str) -> int:
    """Return the position of a suffix in the list of kinds, by which files are sorted."""
    return [*KINDS, *PACKINGS].index("." + ending.split(".")[1])
