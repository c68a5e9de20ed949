"""Generate, filter, repeat, until every class has N texts or has stalled."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from engine.calibration import NONE, Calibration
from engine.core import Adapter, Engine
from engine.errors import ShortRunError
from pipeline.annotate import AdapterAnnotator, Annotator, InContextAnnotator, Trusting, fit_calibration, judge, surplus
from pipeline.events import Event, OnEvent, ignore
from pipeline.filters import TextFilter
from pipeline.generate import draw_round
from pipeline.nouns import Candidate, Example, Task, Verdict
from pipeline.runfolder import RunFolder
from pipeline.settings import RunSettings

ROUNDS_BEFORE_STALL = 2
READ_BY_ANNOTATOR = ("kept", "label_disagrees", "low_confidence", "surplus")


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One finished round, written last: candidates and verdicts beyond it belong to a round that was cut short."""

    number: int
    num_candidates: int
    kept: dict[str, int]  # by class, in this round
    drawn: dict[str, int]
    sample_s: float
    filter_s: float
    output_tokens: int


class Progress(msgspec.Struct, kw_only=True):
    """How far each class is."""

    kept: Counter[str]
    passed: Counter[str]  # would have been kept, whether or not the class still needed it
    drawn: Counter[str]
    rounds: int = 0

    def acceptance(self, label: str) -> float:
        return self.passed[label] / self.drawn[label] if self.drawn[label] else 1.0


def run_rounds(
    folder: RunFolder,
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    *,
    annotators: Sequence[Adapter] = (),
    test_texts: Sequence[str] = (),
    on_event: OnEvent = ignore,
) -> list[tuple[Candidate, Verdict]]:
    """Fill ``candidates.jsonl`` and ``verdicts.jsonl``; returns the kept pairs in the order they were drawn.

    Continues after the last finished round. Raises ShortRunError, with everything on disk, where a class stalls below
    N and ``allow_short`` is not set.
    """
    wanted = settings.generate.per_class
    finished, candidates, verdicts = resume(folder)
    text_filter = TextFilter(shots, settings.filter, test_texts, task=task)
    for candidate, verdict in zip(candidates, verdicts, strict=True):
        if verdict.reason in READ_BY_ANNOTATOR:
            text_filter.remember(candidate.text)
    progress = _progress(candidates, verdicts, len(finished))
    annotator_for = _annotators(folder, engine, task, shots, settings, annotators)
    while open_labels := [name for name in task.label_names if _is_open(name, progress, settings)]:
        number = progress.rounds
        started, tokens = time.perf_counter(), engine.stats().output_tokens
        new = draw_round(engine, task, shots, settings, number, open_labels)
        sampled = time.perf_counter()
        judged = _filter(task, new, text_filter, annotator_for(new), settings, progress.kept)
        record = Round(
            number=number,
            num_candidates=len(new),
            kept=dict(Counter(c.label for c, v in zip(new, judged, strict=True) if v.kept)),
            drawn=dict(Counter(c.label for c in new)),
            sample_s=sampled - started,
            filter_s=time.perf_counter() - sampled,
            output_tokens=engine.stats().output_tokens - tokens,
        )
        folder.append("candidates.jsonl", new)
        folder.append("verdicts.jsonl", judged)
        folder.append("rounds.jsonl", [record])
        candidates += new
        verdicts += judged
        progress = _progress(candidates, verdicts, number + 1)
        on_event(_event(task, progress, record, wanted))
    _check_short(folder, task, progress, settings)
    return [(c, v) for c, v in zip(candidates, verdicts, strict=True) if v.kept]


def resume(folder: RunFolder) -> tuple[list[Round], list[Candidate], list[Verdict]]:
    """What finished rounds left, with the lines of an unfinished one cut away."""
    finished = folder.lines("rounds.jsonl", Round)
    folder.keep_lines("rounds.jsonl", len(finished))
    count = sum(record.num_candidates for record in finished)
    folder.keep_lines("candidates.jsonl", count)
    folder.keep_lines("verdicts.jsonl", count)
    return finished, folder.lines("candidates.jsonl", Candidate), folder.lines("verdicts.jsonl", Verdict)


def _filter(
    task: Task,
    candidates: Sequence[Candidate],
    text_filter: TextFilter,
    annotator: Annotator,
    settings: RunSettings,
    kept: Counter[str],
) -> list[Verdict]:
    """One verdict per candidate, in order. The first N good texts of a class are kept."""
    reasons = [text_filter.check(candidate) for candidate in candidates]
    read = [candidate for candidate, reason in zip(candidates, reasons, strict=True) if reason is None]
    by_id = {verdict.candidate_id: verdict for verdict in judge(task, annotator, read, settings.annotate)}
    room = {name: settings.generate.per_class - kept[name] for name in task.label_names}
    verdicts = []
    for candidate, reason in zip(candidates, reasons, strict=True):
        if reason is not None:
            verdicts.append(Verdict(candidate_id=candidate.id, kept=False, reason=reason))
            continue
        verdict = by_id[candidate.id]
        if verdict.kept and room[candidate.label] <= 0:
            verdict = surplus(verdict)
        room[candidate.label] -= verdict.kept
        verdicts.append(verdict)
    return verdicts


def _annotators(
    folder: RunFolder,
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    adapters: Sequence[Adapter],
) -> Callable[[Sequence[Candidate]], Annotator]:
    """Gives the annotator for a round. A calibration is fitted once, on the first round, and kept in the folder."""
    if settings.annotate.annotator == "none":
        return lambda _: Trusting(task)
    if settings.annotate.annotator == "adapters":
        return lambda _: AdapterAnnotator(engine, task, adapters, settings)

    def in_context(candidates: Sequence[Candidate]) -> Annotator:
        if not folder.has("annotator.json"):
            plain = InContextAnnotator(engine, task, shots, settings, NONE)
            folder.write("annotator.json", fit_calibration(plain, task, settings.annotate, candidates))
        return InContextAnnotator(engine, task, shots, settings, folder.read("annotator.json", Calibration))

    return in_context


def _progress(candidates: Sequence[Candidate], verdicts: Sequence[Verdict], rounds: int) -> Progress:
    pairs = list(zip(candidates, verdicts, strict=True))
    return Progress(
        kept=Counter(c.label for c, v in pairs if v.kept),
        passed=Counter(c.label for c, v in pairs if v.reason in ("kept", "surplus")),
        drawn=Counter(c.label for c in candidates),
        rounds=rounds,
    )


def _is_open(label: str, progress: Progress, settings: RunSettings) -> bool:
    return progress.kept[label] < settings.generate.per_class and not _stalled(label, progress, settings)


def _stalled(label: str, progress: Progress, settings: RunSettings) -> bool:
    if progress.drawn[label] >= settings.generate.max_candidates:
        return True
    enough = progress.drawn[label] >= ROUNDS_BEFORE_STALL * settings.generate.draws_per_round
    return enough and progress.acceptance(label) < settings.generate.min_acceptance


def _event(task: Task, progress: Progress, record: Round, wanted: int) -> Event:
    """Kept so far; and for the class that needs longest its acceptance rate and how many more draws that forecasts."""
    kept = sum(min(progress.kept[name], wanted) for name in task.label_names)
    missing = {name: wanted - progress.kept[name] for name in task.label_names if progress.kept[name] < wanted}
    message = f"round {record.number + 1}: {sum(record.kept.values())} of {record.num_candidates} kept"
    if missing:
        slowest = max(missing, key=lambda name: missing[name] / max(progress.acceptance(name), 1e-9))
        rate = progress.acceptance(slowest)
        forecast = f"about {round(missing[slowest] / rate)} more draws" if rate else "none kept so far"
        message += f"; {slowest} is slowest: {rate:.0%} accepted, {missing[slowest]} to go, {forecast}"
    tokens_per_s = record.output_tokens / record.sample_s if record.sample_s else 0.0
    return Event(
        stage="generate",
        message=message,
        done=kept,
        total=wanted * len(task.labels),
        unit="texts",
        figures={"tokens_per_s": round(tokens_per_s, 1), "sample_s": record.sample_s, "filter_s": record.filter_s},
    )


def _check_short(folder: RunFolder, task: Task, progress: Progress, settings: RunSettings) -> None:
    wanted = settings.generate.per_class
    short = [name for name in task.label_names if progress.kept[name] < wanted]
    if not short or settings.allow_short:
        return
    lines = []
    for name in short:
        rate = progress.acceptance(name)
        forecast = f"reaching {wanted} would take about {round(wanted / rate)} draws" if rate else "none was kept"
        lines.append(
            f"  - {name}: {progress.kept[name]} of {wanted} kept from {progress.drawn[name]} draws ({rate:.1%}); "
            f"{forecast}"
        )
    raise ShortRunError(
        "Some classes stalled before they had enough texts:\n"
        + "\n".join(lines)
        + f"\nEverything drawn is in {folder.path}. Go on with what there is (--allow-short), ask for fewer "
        "(--per-class), draw more (generate.max_candidates), or describe these labels better in the task file."
    )
