"""Time and memory of detecting near duplicates, by number of texts.

    fourshot bench neardup --out FILE.json

Each size is measured in a separate process, on one core. The texts are artificial. Their words follow Zipf's law, and a
fifth of them have one pattern. One in twenty is an earlier text with one word changed, which should be found.
"""

import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, product
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.options import JsonOut
from fourshot.bench.core.parts import Target, at_least, at_most, rows_table
from fourshot.bench.core.processes import call_in_child, peak_bytes
from fourshot.bench.core.results import FinishedPieces
from fourshot.bench.core.suite import Suite
from fourshot.pipeline.synthesis.neardup import NearDuplicates

VOCABULARY = 30_000
SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wa", "xe", "zu")
WORDS = tuple(map("".join, product(SYLLABLES, repeat=4)))
PATTERN = "what is the {} of the {} in {}"
PATTERNED, CHANGED = 0.2, 0.05  # shares of the texts
THRESHOLD = 0.9  # the default of `pipeline.synthesis.filters.FilterSettings`
SLOWER_GOAL = 2.0  # time per text at the largest size (a million), relative to the smallest (ten thousand)
BYTES_GOAL = 1024  # per text
SETTINGS = {"threshold": THRESHOLD, "patterned": PATTERNED, "changed": CHANGED, "vocabulary": VOCABULARY}


Size = Annotated[int, msgspec.Meta(ge=1000)]  # fewer texts may have no changed one, and no time per tenth


class Options(msgspec.Struct, frozen=True, kw_only=True):
    sizes: Annotated[tuple[Size, ...], "numbers of texts, each at least 1,000"] = (10_000, 100_000, 1_000_000)
    out: JsonOut = None


def texts(number: int, seed: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield ``number`` texts, each with whether it is an earlier text with one word changed."""
    draw = random.Random(seed)
    up_to = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    vocabulary = draw.sample(WORDS, VOCABULARY)
    recent: deque[str] = deque(maxlen=5_000)
    for _ in range(number):
        kind = draw.random()
        if kind < CHANGED and recent:
            changed = draw.choice(recent).split()
            changed[draw.randrange(len(changed))] = draw.choice(vocabulary)
            yield " ".join(changed), True
        elif kind < CHANGED + PATTERNED:
            yield PATTERN.format(*draw.choices(vocabulary, k=3)), False
        else:
            recent.append(" ".join(draw.choices(vocabulary, cum_weights=up_to, k=draw.randint(10, 24))))
            yield recent[-1], False


def measure_size(number: int) -> dict[str, Any]:
    """Look up and add ``number`` texts. Return the row: times, memory, and how many were found."""
    generated = list(texts(number))
    bytes_before = peak_bytes()
    index = NearDuplicates(THRESHOLD)
    changed = changed_found = others_found = 0
    part = number // 10
    times = [time.process_time()]  # at the start, and after each tenth
    for position, (text, is_changed) in enumerate(generated, start=1):
        is_found = index.find_or_add(text) is not None
        changed += is_changed
        changed_found += is_found and is_changed
        others_found += is_found and not is_changed
        if position % part == 0:
            times.append(time.process_time())
    seconds = times[-1] - times[0]
    return {
        "texts": number,
        "seconds": round(seconds, 3),
        "us_per_text": round(1e6 * seconds / number, 1),
        "us_per_text_last_tenth": round(1e6 * (times[-1] - times[-2]) / part, 1),
        "memory_bytes": peak_bytes() - bytes_before,
        "changed": changed,
        "changed_found": changed_found,
        "others_found": others_found,
    }


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure every size."""
    progress = "{us_per_text} us per text, {changed_found} of {changed} found"
    sizes = sorted({*options.sizes})
    rows = [done.add_once(str(size), partial(call_in_child, measure_size, size), progress) for size in sizes]
    return {"rows": rows, "targets": targets(rows)}


def targets(rows: Sequence[dict[str, Any]]) -> list[Target]:
    """Return the targets. ``rows`` are in ascending order of size."""
    slower = rows[-1]["us_per_text_last_tenth"] / rows[0]["us_per_text_last_tenth"]
    share = rows[-1]["changed_found"] / rows[-1]["changed"]
    return [
        at_most("time per text, largest over smallest", "times", slower, SLOWER_GOAL),
        at_most("memory per text, largest", "bytes", rows[-1]["memory_bytes"] / rows[-1]["texts"], BYTES_GOAL),
        at_least("changed texts found, largest", "share", share, 0.9),
    ]


SUITE = Suite(options=Options, measure=measure, settings=lambda options: SETTINGS, report=rows_table)
