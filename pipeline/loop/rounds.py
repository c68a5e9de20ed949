"""The texts of a run, in rounds: files of a run folder, written by the driver and read by later stages.

candidates.jsonl and verdicts.jsonl have a line for each text, in the order drawn; rounds.jsonl has one for each
finished round. Lines after the last finished round belong to an interrupted one, and are removed.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from fourshot.engine.calibration import Calibration
from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import Engine
from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine.files import check_lines
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.loop.counts import ClassCounts, records_of, short_notice, short_run_error, stalled
from fourshot.pipeline.loop.ledger import JudgedBatch, Ledger
from fourshot.pipeline.loop.plan import Biases, DrawPlan, RoundPlan, round_slices
from fourshot.pipeline.loop.progress import ProgressReporter
from fourshot.pipeline.loop.units import Draw, DrawUnit, TaskBrief, UnitProgress, UnitResult
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.trust import report_evidence
from fourshot.pipeline.work_folder import WorkFolder

CALIBRATION_FILE = "annotator.json"
COMMITTEE_FILE = "committee.json"  # the weight of each kind of annotator, and the reason
ATTRIBUTES_FILE = "attributes.json"
DONE_FILES = ("generated.json", "drawn.json", "annotated.json")  # written last: for a run, a pool, the user's texts
REASONS_AFTER_ANNOTATION = ("kept", "label_disagrees", "low_confidence", "surplus")


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One finished round, written after its texts and verdicts."""

    number: int
    num_candidates: int
    kept: dict[str, int]  # by class, in this round
    drawn: dict[str, int]
    sample_s: float
    filter_s: float
    output_tokens: int


class RoundSink:
    """Writes the texts of a run, or of its pool, which is generated before its annotators are trained."""

    _draws = True  # texts are generated; False: existing ones are annotated

    def __init__(
        self,
        folder: WorkFolder,
        task: Task,
        shots: Sequence[Example],
        settings: RunSettings,
        *,
        chat: ChatTurns | None = None,
        annotators: Sequence[Annotator] = (),
        pool: WorkFolder | None = None,
        is_pool: bool = False,
        test_texts: Callable[[], Sequence[str]] = tuple,
        on_event: OnEvent = ignore,
        spread: bool = False,
        done_file: str = "",
    ) -> None:
        """``pool``: its rounds are annotated in place of the first rounds.

        ``is_pool``: every well-formed text is kept, and a stalled class keeps what it has: whether that is enough shows
        when the texts are annotated. ``test_texts`` is called when the folder is opened. ``spread``: over many engines.
        ``done_file`` is written when everything is done.
        """
        self.folder, self._task, self._shots, self._pool, self._is_pool = folder, task, tuple(shots), pool, is_pool
        self._settings = pool_settings(settings, len(task.labels)) if is_pool else settings
        self._chat, self._annotators, self._test_texts, self._on_event = chat, tuple(annotators), test_texts, on_event
        self._spread, self._done_file = spread, done_file
        self._began_s, self._sampled_s, self._output_tokens = 0.0, 0.0, 0
        self._stalled: set[str] = set()  # classes that were reported

    @property
    def key(self) -> str:
        return str(self.folder.path)

    def open(self) -> Ledger:
        """Return the ledger, with the finished rounds restored."""
        finished, candidates, verdicts = resume(self.folder)
        beside = self._pool or self.folder
        attributes = beside.find(ATTRIBUTES_FILE, dict[str, Attributes]) or {}
        brief = TaskBrief(
            key=self.key,
            task=self._task,
            shots=self._shots,
            settings=self._settings,
            chat=self._chat,
            annotators=self._annotators,
            attributes=attributes,
        )
        ledger = Ledger(
            brief,
            self._plan(brief),
            test_texts=self._test_texts(),
            calibration=self.folder.find(CALIBRATION_FILE, Calibration),
            folds=pool_folds(self._pool, self._settings.annotate.folds) if self._pool else None,
        )
        first = 0
        for one_round in finished:
            part = slice(first, first := first + one_round.num_candidates)
            restore_round(ledger, one_round.number, candidates[part], verdicts[part])
        self._progress = self._reporter(ledger, finished)
        self._began_s = self._sampled_s = time.perf_counter()
        return ledger

    def _plan(self, brief: TaskBrief) -> DrawPlan:
        drawn: dict[int, list[Candidate]] = {}
        for candidate, _ in finished_pairs(self._pool) if self._pool else ():
            drawn.setdefault(candidate.round, []).append(candidate)
        return RoundPlan(brief, drawn=drawn, spread=self._spread)

    def _reporter(self, ledger: Ledger, finished: Sequence[Round]) -> ProgressReporter:
        kept = sum(sum(record.kept.values()) for record in finished)
        total = ledger.counts.per_class * len(self._task.labels)
        return ProgressReporter(self._on_event, "generate", "texts", kept, total)

    def report(self, ledger: Ledger, message: UnitResult | UnitProgress) -> None:
        """Report how many texts of the round are generated; store listed attributes and the committee's weights."""
        if isinstance(message, UnitProgress):
            more = message.done
        elif isinstance(message.unit, DrawUnit):
            self._sampled_s = time.perf_counter()
            self._output_tokens += message.output_tokens
            if message.attributes:
                (self._pool or self.folder).write(ATTRIBUTES_FILE, message.attributes)
            if message.unit.reports:
                return
            more = message.unit.size
        else:
            if message.evidence and not self.folder.has(COMMITTEE_FILE):
                self.folder.write(COMMITTEE_FILE, message.evidence)
                report_evidence(self._task, message.evidence, self._on_event)
            return
        number, done, total = ledger.drawing()
        text = f"{self._task.name}, sampling round {number + 1}"
        self._on_event(Event(stage="generate", message=text, done=done + more, total=total, unit="draws"))

    def add(self, ledger: Ledger, judged: Sequence[JudgedBatch]) -> None:
        """Write each complete round; its line in rounds.jsonl comes last."""
        for batch in judged:
            self._write(ledger, batch)

    def write(self, *, only_due: bool = False) -> None:
        """Do nothing: every round is written as soon as it is judged."""

    def finish(self, ledger: Ledger) -> None:
        counts = ledger.counts
        if counts.missing and not self._settings.allow_short:
            lacking_classes = [(label, counts.by_label[label]) for label in counts.missing]
            raise short_run_error(lacking_classes, counts.per_class, self.key)
        if counts.missing and self._draws and not self._is_pool:
            self._on_event(Event(stage="generate", message=short_notice(self._task.name, counts), notice=True))
        if self._done_file:
            kept = sum(sum(record.kept.values()) for record in self.folder.lines("rounds.jsonl", Round))
            self.folder.write(self._done_file, {"kept": kept})

    def _write(self, ledger: Ledger, batch: JudgedBatch) -> None:
        kept = Counter(draw.candidate.label or verdict.predicted for draw, verdict in batch.kept)
        record = Round(
            number=batch.number,
            num_candidates=len(batch.draws),
            kept={name: kept[name] for name in self._task.label_names if kept[name]},
            drawn={count.label: count.draws for count in batch.records},
            sample_s=self._sampled_s - self._began_s,
            filter_s=time.perf_counter() - self._sampled_s,
            output_tokens=self._output_tokens,
        )
        if self._settings.annotate.annotator == "icl" and not self.folder.has(CALIBRATION_FILE):
            self.folder.write(CALIBRATION_FILE, ledger.calibration)
        self.folder.append("candidates.jsonl", [draw.candidate for draw in batch.draws])
        self.folder.append("verdicts.jsonl", batch.verdicts)
        self.folder.append("rounds.jsonl", [record])
        self._progress.add(len(batch.kept))
        self._report_round(ledger.counts, record)
        self._report_stalled(ledger.counts)
        self._began_s = self._sampled_s = time.perf_counter()
        self._output_tokens = 0

    def _report_round(self, counts: ClassCounts, record: Round) -> None:
        """Report the round's kept texts, with acceptance rate and forecast for the slowest class."""
        verb = "well-formed" if self._is_pool else "kept"
        kept = f"{sum(record.kept.values())} of {record.num_candidates} {verb}"
        forecast = "" if self._is_pool else counts.forecast()
        message = f"{self._task.name}, round {record.number + 1}: {kept}" + (f"; {forecast}" if forecast else "")
        figures = {"filter_s": record.filter_s}
        if record.output_tokens:  # a round from the pool was sampled before
            figures |= {"sample_s": record.sample_s, "tokens_per_s": round(record.output_tokens / record.sample_s, 1)}
        self._progress.report(message, figures=figures)

    def _report_stalled(self, counts: ClassCounts) -> None:
        """Report newly stalled classes if others continue: these may take long before the run fails for the former."""
        all_stalled = [label for label in counts.missing if counts.has_stalled(label)]
        new = [label for label in all_stalled if label not in self._stalled]
        self._stalled.update(new)
        if new and len(all_stalled) < len(counts.missing) and not self._is_pool:
            what_comes = "continues with these" if self._settings.allow_short else "ends, unless --allow-short is given"
            message = f"{self._task.name}, {stalled(counts, new)}. The others continue, then the run {what_comes}."
            self._on_event(Event(stage="generate", message=message))


def pool_settings(settings: RunSettings, num_labels: int) -> RunSettings:
    """Return the settings of rounds in which every well-formed text is kept."""
    return msgspec.structs.replace(
        settings,
        generate=msgspec.structs.replace(settings.generate, per_class=settings.pool_per_class(num_labels)),
        annotate=msgspec.structs.replace(settings.annotate, annotator="none"),
        allow_short=True,
    )


def restore_round(ledger: Ledger, number: int, candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> None:
    """Restore a finished round in a ledger."""
    pairs = list(zip(candidates, verdicts, strict=True))
    kept: dict[str, list[str]] = {}
    for candidate, verdict in pairs:
        if verdict.kept:
            kept.setdefault(candidate.label, []).append(candidate.text)
    draws = [Draw(candidate=candidate) for candidate in candidates]
    records = records_of(number, ledger.brief.task.label_names, draws, verdicts)
    compared = [candidate.text for candidate, verdict in pairs if verdict.reason in REASONS_AFTER_ANNOTATION]
    ledger.restore(records, compared, kept)


def resume(folder: WorkFolder) -> tuple[list[Round], list[Candidate], list[Verdict]]:
    """Return rounds, candidates and verdicts of the finished rounds; remove the lines of an unfinished one."""
    finished = folder.lines("rounds.jsonl", Round)
    folder.keep_lines("rounds.jsonl", len(finished))
    count = sum(record.num_candidates for record in finished)
    folder.keep_lines("candidates.jsonl", count)
    folder.keep_lines("verdicts.jsonl", count)
    if not finished:
        # Fitted while the first round was annotated, which is repeated: the engine's cache must be in the same state.
        (folder.path / CALIBRATION_FILE).unlink(missing_ok=True)
    return finished, folder.lines("candidates.jsonl", Candidate), folder.lines("verdicts.jsonl", Verdict)


def finished_pairs(folder: WorkFolder) -> list[tuple[Candidate, Verdict]]:
    """Return candidates and verdicts of the finished rounds. Raises RunFolderError if some are missing."""
    records = folder.lines("rounds.jsonl", Round)
    num_recorded = sum(sum(record.kept.values()) for record in records)
    for done in filter(folder.has, DONE_FILES):
        if num_recorded < (kept := folder.read(done, dict[str, int]).get("kept", 0)):
            raise RunFolderError(
                f"{folder.path / 'rounds.jsonl'} records {num_recorded} kept texts, but {done} records {kept}: it was "
                "changed after the run wrote it. Restore it, or start again in another folder (--out)."
            )
    count = sum(record.num_candidates for record in records)
    candidates, verdicts = folder.lines("candidates.jsonl", Candidate), folder.lines("verdicts.jsonl", Verdict)
    check_lines(folder.path / "candidates.jsonl", len(candidates), count)
    check_lines(folder.path / "verdicts.jsonl", len(verdicts), count)
    return list(zip(candidates[:count], verdicts[:count], strict=True))


def pool_folds(pool: WorkFolder, num_folds: int) -> dict[str, int]:
    """Return candidate id -> fold for the pool's kept texts; each class is distributed evenly, in the order drawn."""
    counts: Counter[str] = Counter()
    folds = {}
    for candidate, verdict in finished_pairs(pool):
        if verdict.kept:
            folds[candidate.id] = counts[candidate.label] % num_folds
            counts[candidate.label] += 1
    return folds


def draw_round(
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    number: int,
    labels: Sequence[str],
    attributes: dict[str, Attributes] | None = None,
    biases: Biases = lambda label: (),
) -> list[Candidate]:
    """Return the texts of one round without annotation, for measurements. Empty the prefix cache before the call."""
    from fourshot.pipeline.loop.unit_runner import UnitRunner

    brief = TaskBrief(key="round", task=task, shots=tuple(shots), settings=settings, attributes=attributes or {})
    draws = {name: settings.generate.draws_per_round for name in task.label_names if name in labels}
    unit = DrawUnit(brief="round", number=0, batch=number, slices=round_slices(settings, number, draws, biases))
    runner = UnitRunner(engine)
    runner.introduce(brief)
    result = runner.begin(unit) or runner.finish()
    if result.failure:
        raise result.failure.error()
    return [draw.candidate for draw in result.draws]
