"""Text files with one text per line, with or without fastText's labels; or a table with tabs that is called .txt."""

import re
from collections.abc import Iterator

from fourshot.pipeline.faults import shorten
from fourshot.pipeline.tables.delimited import is_table, read_csv
from fourshot.pipeline.tables.file_bytes import TableSource
from fourshot.pipeline.tables.text import check_text
from fourshot.pipeline.tables.types import LABEL_NAMES, TEXT_NAMES, Item, TableError, TableScan

_LABEL = "__label__"  # Source: fasttext.cc, "Text classification": each line begins with its labels
_NAMES = re.compile(r'"?\w+"?([,;|]"?\w+"?)+')  # a line that names the columns of a table, if one of them is usual
_FEWEST_LINES = 5  # that are alike, before a separator is more likely than chance


def read_lines(reading: TableScan, source: TableSource) -> Iterator[Item]:
    """Yield a text per line. Raises `TableError` where the lines look like a table that is called .txt."""
    text = check_text(source, reading.settings)
    if is_table(text, "\t"):
        yield from read_csv(reading, source)
        return
    lines, first, bare, counts = 0, "", list[int](), {mark: set[int]() for mark in ";|"}
    with text.open() as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            first, lines = first or line.strip(), lines + 1
            if not line.startswith(_LABEL):
                bare.append(number)
            for mark, line_counts in counts.items():
                line_counts.add(line.count(mark))
    if 0 < len(bare) < lines / 2:
        problem = f"the other lines begin with {_LABEL}, as fastText has it; line {shorten(bare)} does not."
        raise TableError(problem, "Write a label before each text, or before none.", bare[0])
    labelled = not bare
    if _NAMES.fullmatch(first) and (TEXT_NAMES | LABEL_NAMES) & {*re.split(r"\W+", first.casefold())}:
        problem = f"a table, or a file with one text per line? Its first line, {first!r}, looks like names of columns."
        raise TableError(problem, "If it is a table, call it .csv. If not, save the texts as JSON Lines.")
    for mark, line_counts in counts.items():
        if lines >= _FEWEST_LINES and line_counts == {1}:
            problem = f"a table, or a file with one text per line? Each line has one {mark!r}."
            raise TableError(problem, "If it is a table, call it .csv. If not, save the texts as JSON Lines.")
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
