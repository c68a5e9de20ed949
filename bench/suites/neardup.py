"""How long telling near duplicates takes, and how much memory, as the number of texts grows.

    python -m fourshot.bench.suites.neardup --out bench/results/neardup-<hardware>.json

Each size is measured in a process of its own, on one core. The texts are made up: words as frequent as in a language
(Zipf), a fifth of them of one pattern, and one in twenty an earlier text with a word changed, which is to be found.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from bisect import bisect
from collections import deque
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from fourshot.bench.core.old import at_least, at_most, check_out, header, write_json
from fourshot.pipeline.synthesis.neardup import NearDuplicates

SCHEMA = 1
SIZES = (10_000, 100_000, 1_000_000)
VOCABULARY = 30_000
SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wa", "xe", "zu")
WORDS = tuple("".join((a, b, c, d)) for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES for d in SYLLABLES)
PATTERN = "what is the {} of the {} in {}"
PATTERNED, CHANGED = 0.2, 0.05  # shares
THRESHOLD = 0.9  # that of `pipeline.synthesis.filters.FilterSettings`
SLOWER_GOAL = 2.0  # times as long for a text among a million as for one among ten thousand
BYTES_GOAL = 1024  # per text


def texts(count: int, seed: int = 0) -> Iterator[tuple[str, bool]]:
    """``count`` texts, and whether each is an earlier one with a word changed."""
    draw = random.Random(seed)
    up_to = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    vocabulary = draw.sample(WORDS, VOCABULARY)

    def word() -> str:
        return vocabulary[bisect(up_to, draw.random() * up_to[-1])]

    recent: deque[str] = deque(maxlen=5_000)
    for _ in range(count):
        kind = draw.random()
        if kind < CHANGED and recent:
            changed = draw.choice(recent).split()
            changed[draw.randrange(len(changed))] = draw.choice(vocabulary)
            yield " ".join(changed), True
            continue
        if kind < CHANGED + PATTERNED:
            yield PATTERN.format(*draw.choices(vocabulary, k=3)), False
            continue
        text = " ".join([word() for _ in range(draw.randint(10, 24))])
        recent.append(text)
        yield text, False


def measure(count: int) -> dict[str, Any]:
    """Look up and remember ``count`` texts."""
    made = list(texts(count))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = NearDuplicates(THRESHOLD)
    found = planted = also = 0
    tenths = []
    part = count // 10
    started = time.process_time()
    for number, (text, is_changed) in enumerate(made, start=1):
        near = index.find_or_add(text) is not None
        found += near and is_changed
        planted += is_changed
        also += near and not is_changed
        if number % part == 0:
            tenths.append(time.process_time())
    seconds = tenths[-1] - started
    return {
        "texts": count,
        "seconds": round(seconds, 3),
        "us_per_text": round(1e6 * seconds / count, 1),
        "us_per_text_last_tenth": round(1e6 * (tenths[-1] - tenths[-2]) / part, 1),
        "memory_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
        "changed": planted,
        "changed_found": found,
        "others_found": also,
    }


def main() -> None:
    """Measure every size, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m fourshot.bench.suites.neardup", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # one size, in this process
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only)))
        return
    if options.out:
        check_out(options.out)
    rows = []
    for size in options.sizes:
        command = [sys.executable, "-m", "fourshot.bench.suites.neardup", "--only", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]))
    if options.out:
        write_json(options.out, report(rows))


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The document that is kept."""
    slower = rows[-1]["us_per_text_last_tenth"] / rows[0]["us_per_text_last_tenth"]
    per_text = rows[-1]["memory_bytes"] / rows[-1]["texts"]
    share = rows[-1]["changed_found"] / rows[-1]["changed"]
    settings = {"threshold": THRESHOLD, "patterned": PATTERNED, "changed": CHANGED, "vocabulary": VOCABULARY}
    return {
        **header("neardup", SCHEMA, settings),
        "rows": rows,
        "targets": [
            at_most("time per text, largest over smallest", "times", slower, SLOWER_GOAL),
            at_most("memory per text, largest", "bytes", per_text, BYTES_GOAL),
            at_least("changed texts found, largest", "share", share, 0.9),
        ],
    }


if __name__ == "__main__":
    main()
