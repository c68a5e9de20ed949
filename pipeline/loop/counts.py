"""Progress of each class of a task: the stall rule, forecasts, and messages about classes with too few texts."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from fourshot.engine.errors import ShortRunError
from fourshot.pipeline.loop.units import Draw, DrawFault
from fourshot.pipeline.synthesis.settings import GenerateSettings
from fourshot.pipeline.synthesis.types import Verdict

ROUNDS_BEFORE_STALL = 2  # of draws_per_round draws; with fewer, an acceptance rate is too uncertain
MOST_LISTED = 20  # stalled classes listed in a message
MOST_REASONS = 3  # for which its texts were rejected
RECENT_BATCHES = 10  # a class's acceptance rate is that of its last batches: it falls as texts begin to repeat


class DrawRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of the draws for one class in one batch; the plan decides on further draws from all records."""

    number: int  # of the batch
    label: str
    draws: int
    passed: int  # good texts, whether or not the class still needed them
    kept: int
    rejected: dict[str, int]  # reason -> texts
    faults: int = 0
    output_tokens: int = 0  # of all its texts


def check_records(rows: int, records: Sequence[DrawRecord], after: int) -> int:
    """Return the number of the last record, ``after`` if there is none.

    Raises ValueError if the kept texts of ``records`` are not ``rows``, or a number is not above the one before.
    """
    if rows != (kept := sum(record.kept for record in records)):
        raise ValueError(f"{rows} rows of units that kept {kept}")
    for record in records:
        if record.number <= after:
            raise ValueError(f"the unit {record.number} stands behind the unit {after}")
        after = record.number
    return after


class ClassCount(msgspec.Struct, kw_only=True):
    """Progress of one class."""

    kept: int = 0
    passed: int = 0
    drawn: int = 0
    issued: int = 0  # draws of all units so far, finished or not
    rejected: dict[str, int] = {}
    faults: int = 0
    recent: deque[tuple[int, int]] = msgspec.field(default_factory=lambda: deque(maxlen=RECENT_BATCHES))

    @property
    def acceptance(self) -> float:
        """Share of the recent draws that passed; one more is counted as accepted, so that forecasts are finite."""
        return (sum(passed for passed, _ in self.recent) + 1) / (sum(draws for _, draws in self.recent) + 1)

    def add(self, record: DrawRecord) -> None:
        self.kept += record.kept
        self.passed += record.passed
        self.drawn += record.draws
        self.faults += record.faults
        self.recent.append((record.passed, record.draws))
        for reason, count in record.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count


class ClassCounts:
    """Progress of all classes of one task towards the wanted number of texts."""

    def __init__(self, labels: Sequence[str], settings: GenerateSettings) -> None:
        self.settings = settings
        self.by_label = {label: ClassCount() for label in labels}

    @property
    def per_class(self) -> int:
        """Texts to keep per class."""
        return self.settings.per_class

    @property
    def missing(self) -> dict[str, int]:
        """Number of missing texts by class, without classes that have enough."""
        return {
            label: self.per_class - count.kept for label, count in self.by_label.items() if count.kept < self.per_class
        }

    def add(self, records: Iterable[DrawRecord]) -> None:
        for record in records:
            self.by_label[record.label].add(record)

    def has_stalled(self, label: str) -> bool:
        """Return whether a class with too few texts is given up: too many draws, or too low an acceptance rate."""
        count, settings = self.by_label[label], self.settings
        if count.kept >= settings.per_class:
            return False
        if count.drawn >= settings.most_candidates:
            return True
        if count.drawn < ROUNDS_BEFORE_STALL * settings.draws_per_round:
            return False
        passed, draws = (sum(numbers) for numbers in zip(*count.recent, strict=True))
        return passed < settings.min_acceptance * draws

    def forecast(self) -> str:
        """Return acceptance rate and needed draws of the slowest class, for people; "" if no text is missing."""
        draws = {label: num_missing / self.by_label[label].acceptance for label, num_missing in self.missing.items()}
        if not draws:
            return ""
        slowest = max(draws, key=draws.__getitem__)
        count, num_missing = self.by_label[slowest], self.missing[slowest]
        if not count.drawn:
            return ""
        return f"{slowest} is slowest: {accepted(count)}, {num_missing} to go, {more_draws(count, self.per_class)}"


def records_of(
    number: int,
    labels: Sequence[str],
    draws: Sequence[Draw],
    verdicts: Sequence[Verdict],
    faults: Sequence[DrawFault] = (),
) -> tuple[DrawRecord, ...]:
    """Return the counts of a batch, for each class that it has draws for."""
    records = []
    for label in labels:
        pairs = [
            (draw, verdict) for draw, verdict in zip(draws, verdicts, strict=True) if draw.candidate.label == label
        ]
        lost = sum(fault.label == label for fault in faults)
        if not pairs and not lost:
            continue
        reasons = Counter[str](verdict.reason for _, verdict in pairs)
        records.append(
            DrawRecord(
                number=number,
                label=label,
                draws=len(pairs) + lost,
                passed=reasons["kept"] + reasons["surplus"],
                kept=reasons["kept"],
                rejected={reason: count for reason, count in sorted(reasons.items()) if reason != "kept"},
                faults=lost,
                output_tokens=sum(draw.candidate.num_tokens for draw, _ in pairs),
            )
        )
    return tuple(records)


def accepted(count: ClassCount) -> str:
    """Return the share of all draws that was accepted, for people."""
    return f"{count.passed / count.drawn:.1%} accepted" if count.drawn else "none drawn"


def more_draws(count: ClassCount, per_class: int) -> str:
    """Return how many more draws a class needs at its recent acceptance rate, for people."""
    if not count.passed:
        return "none was kept so far"
    return f"about {round((per_class - count.kept) / count.acceptance)} more draws"


def short_classes(counts: ClassCounts, labels: Sequence[str]) -> str:
    """Return kept and wanted texts of each class, in one line; those after `MOST_LISTED` are only counted."""
    parts = [
        f"{label} with {counts.by_label[label].kept} of {counts.per_class} texts" for label in labels[:MOST_LISTED]
    ]
    more = f" and {len(labels) - len(parts)} more" if len(labels) > len(parts) else ""
    return f"{', '.join(parts)}{more}"


def short_notice(task: str, counts: ClassCounts) -> str:
    """Return which classes have too few texts, for people, at the end of a run that continues nevertheless."""
    short = short_classes(counts, list(counts.missing))
    return f"{task}, short of texts: {short}. The run continues with these (--allow-short)."


def stalled(counts: ClassCounts, labels: Sequence[str]) -> str:
    """Return which classes have stalled, with their texts, as in `short_classes`."""
    return f"stalled: {short_classes(counts, labels)}"


def short_run_error(
    classes: Sequence[tuple[str, ClassCount]],
    per_class: int,
    folder: str,
    failed: Mapping[str, Exception] = MappingProxyType({}),
) -> ShortRunError:
    """Return the error for stalled ``classes``, each with its title; all texts are in ``folder``.

    ``failed``: errors of tasks that dropped out as well.
    """
    lines = [
        f"  - {title}: {count.kept} of {per_class} kept from {count.drawn} draws ({accepted(count)}); "
        f"{more_draws(count, per_class)}{_mostly_rejected(count)}"
        for title, count in classes[:MOST_LISTED]
    ]
    if (rest := len(classes) - len(lines)) > 0:
        lines.append(f"  - and {rest} more")
    lines += [f"Task {name} failed: {' '.join(str(error).split())}" for name, error in failed.items()]
    listing = "\n".join(lines)
    return ShortRunError(
        f"Some classes stalled before they had enough texts:\n{listing}\nAll others are finished, and everything is in "
        f"{folder}. Continue there with the texts it has (--allow-short), or start again in another folder (--out): "
        "request fewer texts (--per-class; --generate of distill), allow more candidates (--set "
        "generate.max_candidates=...) or a lower rate (--set generate.min_acceptance=...), allow what the text filter "
        "rejects (--set filter.min_letters=... and other filter settings), or describe these labels better in the task "
        "file."
    )


def _mostly_rejected(count: ClassCount) -> str:
    """Return the most frequent reasons for rejection, for people, after a semicolon; "" if there are none."""
    most = Counter(count.rejected).most_common(MOST_REASONS)
    reasons = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in most)
    return f"; rejected: {reasons}" if reasons else ""
