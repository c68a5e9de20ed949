"""Generate, filter, repeat, until every class has N texts or has stalled."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from fourshot.engine.calibration import NONE, Calibration
from fourshot.engine.core import Engine
from fourshot.engine.errors import ShortRunError
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.synthesis.annotate import (
    Annotator,
    Committee,
    InContextAnnotator,
    Reader,
    fit_calibration,
    judge,
    surplus,
)
from fourshot.pipeline.synthesis.attributes import Attributes, list_attributes
from fourshot.pipeline.synthesis.filters import TextFilter
from fourshot.pipeline.synthesis.generate import draw_round
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.pipeline.work_folder import WorkFolder

ROUNDS_BEFORE_STALL = 2
CALIBRATION_FILE = "annotator.json"
ATTRIBUTES_FILE = "attributes.json"
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
    folder: WorkFolder,
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    *,
    readers: Sequence[Reader] = (),
    pool: WorkFolder | None = None,
    test_texts: Sequence[str] = (),
    on_event: OnEvent = ignore,
    is_pool: bool = False,
) -> list[tuple[Candidate, Verdict]]:
    """Fill ``candidates.jsonl`` and ``verdicts.jsonl``; returns the kept pairs in the order they were drawn.

    The rounds of ``pool``, which were drawn before there was anyone to read them, are the first to be read.
    ``is_pool``: what is kept is not for the classifier but for those who will read. Continues after the last finished
    round. Raises ShortRunError, with everything on disk, where a class stalls below
    N and ``allow_short`` is not set.
    """
    wanted = settings.generate.per_class
    finished, candidates, verdicts = resume(folder)
    text_filter = TextFilter(shots, settings.filter, test_texts, task=task)
    for candidate, verdict in zip(candidates, verdicts, strict=True):
        if verdict.reason in READ_BY_ANNOTATOR:
            text_filter.remember(candidate.text)
    progress = _progress(candidates, verdicts, len(finished))
    annotator_for = _annotators(folder, engine, task, shots, settings, readers, pool)
    pooled = _pool_rounds(pool)
    while open_labels := [name for name in task.label_names if _is_open(name, progress, settings)]:
        number = progress.rounds
        started, tokens = time.perf_counter(), engine.stats().output_tokens
        engine.reset_prefix_cache()  # a round gives the same bytes, whatever ran before
        new = pooled.get(number) or draw_round(
            engine,
            task,
            shots,
            settings,
            number,
            open_labels,
            on_event,
            attributes=_attributes(pool or folder, engine, task, shots, settings),
            kept=_kept_texts(candidates, verdicts),
        )
        sampled, sampled_tokens = time.perf_counter(), engine.stats().output_tokens - tokens
        judged = _filter(task, new, text_filter, annotator_for(new), settings, progress.kept)
        record = Round(
            number=number,
            num_candidates=len(new),
            kept=dict(Counter(c.label for c, v in zip(new, judged, strict=True) if v.kept)),
            drawn=dict(Counter(c.label for c in new)),
            sample_s=sampled - started,
            filter_s=time.perf_counter() - sampled,
            output_tokens=sampled_tokens,
        )
        folder.append("candidates.jsonl", new)
        folder.append("verdicts.jsonl", judged)
        folder.append("rounds.jsonl", [record])
        candidates += new
        verdicts += judged
        progress = _progress(candidates, verdicts, number + 1)
        on_event(_event(task, progress, record, wanted, "well-formed" if is_pool else "kept"))
    _check_short(folder, task, progress, settings)
    return [(c, v) for c, v in zip(candidates, verdicts, strict=True) if v.kept]


def resume(folder: WorkFolder) -> tuple[list[Round], list[Candidate], list[Verdict]]:
    """What finished rounds left, with the lines of an unfinished one cut away."""
    finished = folder.lines("rounds.jsonl", Round)
    folder.keep_lines("rounds.jsonl", len(finished))
    count = sum(record.num_candidates for record in finished)
    folder.keep_lines("candidates.jsonl", count)
    folder.keep_lines("verdicts.jsonl", count)
    if not finished:
        # Fitted while the first round was read, which is read anew: what the engine has cached must be the same again.
        (folder.path / CALIBRATION_FILE).unlink(missing_ok=True)
    return finished, folder.lines("candidates.jsonl", Candidate), folder.lines("verdicts.jsonl", Verdict)


def finished_pairs(folder: WorkFolder) -> list[tuple[Candidate, Verdict]]:
    """Candidates and verdicts of the finished rounds; changes nothing in the folder."""
    count = sum(record.num_candidates for record in folder.lines("rounds.jsonl", Round))
    candidates = folder.lines("candidates.jsonl", Candidate)[:count]
    return list(zip(candidates, folder.lines("verdicts.jsonl", Verdict)[:count], strict=True))


def draw_pool(
    pool: WorkFolder,
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    *,
    test_texts: Sequence[str] = (),
    on_event: OnEvent = ignore,
) -> None:
    """Draw the candidates that fold adapters are trained on: rounds in which every well-formed text is believed.

    A class that stalls goes on with what it has: whether that is enough shows when the candidates are read.
    """
    believed = msgspec.structs.replace(
        settings,
        generate=msgspec.structs.replace(settings.generate, per_class=settings.annotate.pool_per_class),
        annotate=msgspec.structs.replace(settings.annotate, annotator="none"),
        allow_short=True,
    )
    run_rounds(pool, engine, task, shots, believed, test_texts=test_texts, on_event=on_event, is_pool=True)


def pool_folds(pool: WorkFolder, num_folds: int) -> dict[str, int]:
    """Candidate id -> fold, for the candidates of the pool; each class is dealt out evenly, in the order drawn."""
    seen: Counter[str] = Counter()
    folds = {}
    for candidate, verdict in finished_pairs(pool):
        if verdict.kept:
            folds[candidate.id] = seen[candidate.label] % num_folds
            seen[candidate.label] += 1
    return folds


def _attributes(
    folder: WorkFolder, engine: Engine, task: Task, shots: Sequence[Example], settings: RunSettings
) -> dict[str, Attributes]:
    """By class, as the model listed them when they were first needed; none where nobody asks for them."""
    if not settings.variety.attributes:
        return {}
    if not folder.has(ATTRIBUTES_FILE):
        folder.write(ATTRIBUTES_FILE, list_attributes(engine, task, shots, settings))
        engine.reset_prefix_cache()
    return folder.read(ATTRIBUTES_FILE, dict[str, Attributes])


def _kept_texts(candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for candidate, verdict in zip(candidates, verdicts, strict=True):
        if verdict.kept:
            texts.setdefault(candidate.label, []).append(candidate.text)
    return texts


def _pool_rounds(pool: WorkFolder | None) -> dict[int, list[Candidate]]:
    rounds: dict[int, list[Candidate]] = {}
    for candidate, _ in finished_pairs(pool) if pool else ():
        rounds.setdefault(candidate.round, []).append(candidate)
    return rounds


def _filter(
    task: Task,
    candidates: Sequence[Candidate],
    text_filter: TextFilter,
    annotator: Annotator | None,
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
    folder: WorkFolder,
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    readers: Sequence[Reader],
    pool: WorkFolder | None,
) -> Callable[[Sequence[Candidate]], Annotator | None]:
    """Gives the annotator for a round. A calibration is fitted once, on the first round, and kept in the folder."""
    if settings.annotate.annotator == "none":
        return lambda _: None
    if settings.annotate.annotator == "adapters":
        fold_of = pool_folds(pool, settings.annotate.folds) if pool else None
        committee = Committee(engine, task, readers, settings, fold_of)
        return lambda _: committee

    def in_context(candidates: Sequence[Candidate]) -> Annotator:
        if not folder.has(CALIBRATION_FILE):
            plain = InContextAnnotator(engine, task, shots, settings, NONE)
            folder.write(CALIBRATION_FILE, fit_calibration(plain, task, settings.annotate, candidates))
        return InContextAnnotator(engine, task, shots, settings, folder.read(CALIBRATION_FILE, Calibration))

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
    if progress.drawn[label] >= settings.generate.most_candidates:
        return True
    enough = progress.drawn[label] >= ROUNDS_BEFORE_STALL * settings.generate.draws_per_round
    return enough and progress.acceptance(label) < settings.generate.min_acceptance


def _event(task: Task, progress: Progress, record: Round, wanted: int, verb: str) -> Event:
    """Kept so far; and for the class that needs longest its acceptance rate and how many draws that forecasts."""
    kept = sum(min(progress.kept[name], wanted) for name in task.label_names)
    missing = {name: wanted - progress.kept[name] for name in task.label_names if progress.kept[name] < wanted}
    message = f"{task.name}, round {record.number + 1}: {sum(record.kept.values())} of {record.num_candidates} {verb}"
    if missing and verb == "kept":
        slowest = max(missing, key=lambda name: missing[name] / max(progress.acceptance(name), 1e-9))
        rate = progress.acceptance(slowest)
        forecast = f"about {round(missing[slowest] / rate)} more draws" if rate else "none kept so far"
        message += f"; {slowest} is slowest: {rate:.0%} accepted, {missing[slowest]} to go, {forecast}"
    figures = {"filter_s": record.filter_s}
    if record.output_tokens:  # a round from the pool was sampled before
        figures["sample_s"] = record.sample_s
        figures["tokens_per_s"] = round(record.output_tokens / record.sample_s, 1)
    return Event(
        stage="generate",
        message=message,
        done=kept,
        total=wanted * len(task.labels),
        unit="texts",
        figures=figures,
    )


def _check_short(folder: WorkFolder, task: Task, progress: Progress, settings: RunSettings) -> None:
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
        + f"\nEverything drawn is in {folder.path}. Go on there with what there is (--allow-short); or start anew in "
        "another folder (--out): ask for fewer (--per-class), draw more (--set generate.max_candidates=...), or "
        "describe these labels better in the task file."
    )
