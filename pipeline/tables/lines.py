"""Read .txt files: one text per line, with or without fastText labels, or a tab-separated table."""

import re
from collections.abc import Iterator

from fourshot.pipeline.tables.delimited import is_table, read_csv
from fourshot.pipeline.tables.file_bytes import TableSource
from fourshot.pipeline.tables.text import check_text
from fourshot.pipeline.tables.types import LABEL_NAMES, TEXT_NAMES, Item, TableError, TableScan

_LABEL = "__label__"  # Source: fasttext.cc, "Text classification": each line begins with its labels
_NAMES = re.compile(r'"?\w+"?([,;|]"?\w+"?)+')  # a header line, if one of its names is common
_FEWEST_LINES = 5  # with exactly one separator each, from which this is unlikely to be chance


def read_lines(reading: TableScan, source: TableSource) -> Iterator[Item]:
    """Yield the text of each line, and its fastText label or labels if all lines begin with one; or rows of a table.

    Raises `TableError` if the lines look like a table with another separator than tabs. Also raises it if most lines
    contain fastText labels, but not all begin with one.
    """
    text = check_text(reading, source)
    if is_table(text, "\t"):
        yield from read_csv(reading, source)
        return
    lines, first, num_labels, unlabelled, counts = 0, "", 0, 0, {mark: set[int]() for mark in ";|"}
    with text.open() as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            first = first or line.strip()
            lines, num_labels = lines + 1, num_labels + (_LABEL in line)
            unlabelled = unlabelled or (0 if line.lstrip().startswith(_LABEL) else number)
            for mark, line_counts in counts.items():
                line_counts.add(line.count(mark))
    labelled = not unlabelled
    if unlabelled and num_labels > lines / 2:
        problem = (
            f"{num_labels} of {lines} lines have {_LABEL}, as in files of fastText, but this one does not "
            "begin with it."
        )
        raise TableError(problem, f"Write each line as {_LABEL}NAME and the text, or remove it.", unlabelled)
    if _NAMES.fullmatch(first) and (TEXT_NAMES | LABEL_NAMES) & {*re.split(r"\W+", first.casefold())}:
        problem = f"a table, or a file with one text per line? Its first line, {first!r}, looks like column names."
        raise TableError(problem, "If it is a table, rename it to .csv. If not, save the texts as JSON Lines.")
    for mark, line_counts in counts.items():
        if lines >= _FEWEST_LINES and line_counts == {1}:
            problem = f"a table, or a file with one text per line? Each line has one {mark!r}."
            raise TableError(problem, "If it is a table, rename it to .csv. If not, save the texts as JSON Lines.")
    reading.columns |= dict.fromkeys(("label", "text") if labelled and lines else ("text",))
    with text.open() as stream:
        for number, line in enumerate(stream, start=1):
            if not labelled:
                yield number, {"text": line.rstrip("\n")}
            elif words := line.split():
                count = next((place for place, word in enumerate(words) if not word.startswith(_LABEL)), len(words))
                labels = [word.removeprefix(_LABEL) for word in words[:count]]
                rest = line.rstrip("\n").split(maxsplit=count)[count:]
                yield number, {"label": labels if count > 1 else labels[0], "text": rest[0] if rest else ""}
