"""Generate, filter, repeat: what is promised of the files, of a stall, and of a run that was killed in between."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.core import Adapter, Engine, EngineSettings
from fourshot.engine.errors import InputError, ShortRunError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.events import Event
from fourshot.pipeline.loop.counts import DrawRecord
from fourshot.pipeline.loop.ledger import JudgedBatch
from fourshot.pipeline.loop.rounds import Round, RoundSink, finished_pairs
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.work_folder import WorkFolder
from tests.pipeline.loop.filling import fill_rounds

ALL = load_task("support_tickets")
TASK = msgspec.structs.replace(ALL, labels=ALL.labels[:2])  # two of its classes: what is promised is promised of each
SHOTS = [shot for shot in take_shots(ALL, k=4, seed=0) if shot.label in TASK.label_names]
NOTE = "Tickets come from people who make photo books with an app and have them printed and sent by post."
FILES = ("candidates.jsonl", "verdicts.jsonl")


def settings(annotator: str = "none", **generate: Any) -> RunSettings:
    """Small rounds of short texts, in which all classes are still open after the first."""
    numbers: dict[str, Any] = {
        "per_class": 3,
        "draws_per_round": 3,
        "max_candidates": 60,
        "max_tokens": 20,
        "min_acceptance": 0.0,
    }
    numbers |= generate
    return RunSettings(
        generate=GenerateSettings(**numbers),
        annotate=AnnotateSettings(
            annotator=annotator,  # type: ignore[arg-type]
            calibration="batch" if annotator == "icl" else "none",
            folds=2,
            pool_per_class=4,
        ),
    )


def fill(path: Path, engine: Engine, run_settings: RunSettings, task: Task = TASK, **more: Any) -> WorkFolder:
    folder = WorkFolder(path)
    path.mkdir(exist_ok=True)
    fill_rounds(folder, engine, task, SHOTS, run_settings, **more)
    return folder


def pairs(folder: WorkFolder) -> list[tuple[Candidate, Verdict]]:
    return list(zip(folder.lines(FILES[0], Candidate), folder.lines(FILES[1], Verdict), strict=True))


@pytest.fixture(scope="module")
def filled(narrow_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """A folder that was filled without a disturbance, every well-formed text believed."""
    return fill(tmp_path_factory.mktemp("rounds") / "run", narrow_engine, settings())


def test_every_candidate_has_one_verdict_with_a_reason(filled: WorkFolder) -> None:
    judged = pairs(filled)
    assert [candidate.id for candidate, _ in judged] == [verdict.candidate_id for _, verdict in judged]
    assert len({candidate.id for candidate, _ in judged}) == len(judged)
    kept = sum(verdict.kept for _, verdict in judged)
    rejected = sum(not verdict.kept and verdict.reason != "kept" for _, verdict in judged)
    assert kept + rejected == len(judged) > 0
    assert rejected > 0
    assert all(verdict.kept == (verdict.reason == "kept") for _, verdict in judged)


def test_every_class_has_what_was_asked_for_and_no_more(filled: WorkFolder) -> None:
    kept = Counter(candidate.label for candidate, verdict in pairs(filled) if verdict.kept)
    assert kept == dict.fromkeys(TASK.label_names, 3)


def test_the_round_lines_add_up_to_the_files(filled: WorkFolder) -> None:
    records, judged = filled.lines("rounds.jsonl", Round), pairs(filled)
    assert [record.number for record in records] == list(range(len(records)))
    assert len(records) >= 2
    assert sum(record.num_candidates for record in records) == len(judged)
    assert sum((Counter(record.drawn) for record in records), Counter()) == Counter(c.label for c, _ in judged)
    assert sum((Counter(record.kept) for record in records), Counter()) == Counter(c.label for c, v in judged if v.kept)


def test_a_class_that_has_enough_is_not_drawn_again(filled: WorkFolder) -> None:
    kept: Counter[str] = Counter()
    for record in filled.lines("rounds.jsonl", Round):
        assert set(record.drawn) == {name for name in TASK.label_names if kept[name] < 3}
        kept += Counter(record.kept)


def test_candidates_carry_their_lineage(filled: WorkFolder) -> None:
    for candidate, _ in pairs(filled):
        assert candidate.id.startswith(f"r{candidate.round:02d}-")
        assert Counter(SHOTS[index].label for index in candidate.shots) == {candidate.label: 4}
        assert candidate.num_tokens > 0 and candidate.cumulative_logprob < 0


def test_good_texts_beyond_the_number_wanted_are_surplus(vllm_engine: Engine, tmp_path: Path) -> None:
    folder = fill(tmp_path, vllm_engine, settings("icl", per_class=1, draws_per_round=12))
    judged = pairs(folder)
    assert Counter(v.reason for _, v in judged)["surplus"] > 0
    assert Counter(c.label for c, v in judged if v.kept) == dict.fromkeys(TASK.label_names, 1)
    for name in TASK.label_names:
        good = [v.reason for c, v in judged if c.label == name and v.reason in ("kept", "surplus")]
        assert good == ["kept"] + ["surplus"] * (len(good) - 1)  # the first ones drawn are kept


@pytest.fixture(scope="module")
def annotators(narrow_adapters: tuple[Adapter, Adapter]) -> tuple[Annotator, ...]:
    """A committee of two, each with a wording of its own."""
    return (Annotator(adapter=narrow_adapters[0]), Annotator(adapter=narrow_adapters[1], wording="answer"))


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class Mortal(WorkFolder):
    """A run folder whose process is killed at its ``dies_at``-th write, with ``share`` of that write on the disk."""

    def __init__(self, path: Path, dies_at: int, share: float) -> None:
        super().__init__(path)
        self.left, self.share = dies_at, share

    def append(self, name: str, values: Any) -> None:
        if self.left:
            self.left -= 1
            super().append(name, values)
            return
        encoded = b"".join(msgspec.json.encode(value) + b"\n" for value in values)
        with (self.path / name).open("ab") as file:
            file.write(encoded[: round(self.share * len(encoded))])
        raise Killed


def assert_resumes_alike(
    path: Path,
    engine: Engine,
    run_settings: RunSettings,
    undisturbed: WorkFolder,
    deaths: list[tuple[int, float]],
    task: Task = TASK,
    **more: Any,
) -> None:
    """Kill the same run in each of ``deaths``: at which write, counted from 0, and how much of it was on the disk."""
    expected = {name: (undisturbed.path / name).read_bytes() for name in FILES}
    folder = WorkFolder(path)
    path.mkdir(exist_ok=True)
    for number, share in deaths:
        for entry in path.iterdir():
            entry.unlink()
        with pytest.raises(Killed):
            fill_rounds(Mortal(path, number, share), engine, task, SHOTS, run_settings, **more)
        finished_pairs(folder)  # may be read before it goes on
        engine.reset_prefix_cache()  # what goes on is a new process
        fill_rounds(folder, engine, task, SHOTS, run_settings, **more)
        for name in FILES:
            assert (path / name).read_bytes() == expected[name], f"{name} after a kill at write {number}, {share}"


def test_a_run_killed_between_or_in_its_writes_ends_with_the_same_bytes(
    filled: WorkFolder, narrow_engine: Engine, tmp_path: Path
) -> None:
    """A round writes candidates, verdicts and its own line; these are the first round's 0 to 2, the second's 3 to 5.

    A real engine must draw a round again as it was; where the files are cut off is no matter of the engine.
    """
    assert_resumes_alike(tmp_path / "killed", narrow_engine, settings(), filled, [(4, 0.45)])
    fake, run_settings = FakeEngine(EngineSettings(model="fake")), settings(per_class=5)
    undisturbed = fill(tmp_path / "fake", fake, run_settings)
    assert len(undisturbed.lines("rounds.jsonl", Round)) > 1
    deaths = [(0, 0.45), (1, 0.45), (2, 0.0), (3, 0.45), (4, 0.0), (5, 0.45)]
    assert_resumes_alike(tmp_path / "fake-killed", fake, run_settings, undisturbed, deaths)


def test_so_does_one_that_is_read_by_adapters(
    narrow_engine: Engine, annotators: tuple[Annotator, ...], tmp_path: Path
) -> None:
    run_settings = msgspec.structs.replace(settings("adapters", draws_per_round=2, max_candidates=4), allow_short=True)
    undisturbed = fill(tmp_path / "whole", narrow_engine, run_settings, annotators=annotators)
    assert any(verdict.probabilities for _, verdict in pairs(undisturbed))
    assert_resumes_alike(
        tmp_path / "killed", narrow_engine, run_settings, undisturbed, [(4, 0.45)], annotators=annotators
    )


def test_so_does_one_whose_pool_is_read_by_folds(
    narrow_engine: Engine, annotators: tuple[Annotator, ...], tmp_path: Path
) -> None:
    """The pool's rounds are read without drawing. The instruction is long enough for the engine to keep its prefix."""
    task = msgspec.structs.replace(TASK, instruction=f"{TASK.instruction} {' '.join(NOTE for _ in range(3))}")
    run_settings = msgspec.structs.replace(settings("adapters", draws_per_round=2, max_candidates=4), allow_short=True)
    pool = WorkFolder(tmp_path / "pool")
    pool.path.mkdir()
    fill_rounds(pool, narrow_engine, task, SHOTS, run_settings, is_pool=True)
    assert len(pool.lines("rounds.jsonl", Round)) == 2
    folds = tuple(Annotator(adapter=annotator.adapter, fold=fold) for fold, annotator in enumerate(annotators))
    reading: dict[str, Any] = {"annotators": annotators + folds, "pool": pool, "task": task}
    undisturbed = fill(tmp_path / "whole", narrow_engine, run_settings, **reading)
    assert undisturbed.lines(FILES[0], Candidate) == pool.lines(FILES[0], Candidate)
    assert_resumes_alike(tmp_path / "killed", narrow_engine, run_settings, undisturbed, [(3, 0.0)], **reading)


def test_so_does_one_that_is_read_in_context_with_a_calibration_from_its_first_round(
    narrow_engine: Engine, tmp_path: Path
) -> None:
    run_settings = msgspec.structs.replace(settings("icl", draws_per_round=2, max_candidates=4), allow_short=True)
    undisturbed = fill(tmp_path / "whole", narrow_engine, run_settings)
    fitted = (undisturbed.path / "annotator.json").read_bytes()
    assert_resumes_alike(tmp_path / "killed", narrow_engine, run_settings, undisturbed, [(2, 0.0)])
    assert (tmp_path / "killed" / "annotator.json").read_bytes() == fitted


def test_another_seed_draws_other_texts(filled: WorkFolder, narrow_engine: Engine, tmp_path: Path) -> None:
    other = fill(tmp_path, narrow_engine, msgspec.structs.replace(settings(per_class=1), seed=1))
    texts, others = ({c.text for c, _ in pairs(folder) if c.num_tokens > 5} for folder in (filled, other))
    assert texts and others and not texts & others  # a random base ends some lines after a word or two


def test_a_class_that_stalls_is_reported_with_its_rate_and_forecast_and_everything_is_kept(
    narrow_engine: Engine, annotators: tuple[Annotator, ...], tmp_path: Path
) -> None:
    """Random adapters read: they say the intended class of few texts."""
    folder, events = WorkFolder(tmp_path), list[Event]()
    run_settings = settings("adapters", per_class=20, draws_per_round=2, max_candidates=4)
    with pytest.raises(ShortRunError) as stalled:
        fill_rounds(folder, narrow_engine, TASK, SHOTS, run_settings, annotators=annotators, on_event=events.append)
    judged = pairs(folder)
    assert len(judged) == 2 * 4
    message = str(stalled.value)
    for name in TASK.label_names:
        kept = sum(verdict.kept for candidate, verdict in judged if candidate.label == name)
        assert f"  - {name}: {kept} of 20 kept from 4 draws ({kept / 4:.1%} accepted); " in message
        assert ("none was kept" in message) or kept
    assert "--allow-short" in message and str(folder.path) in message
    assert {event.stage for event in events} == {"generate"}
    rounds = [event for event in events if event.unit == "texts"]
    assert len(rounds) == 2 and "is slowest" in rounds[-1].message
    sampled = [event for event in events if event.unit == "draws"]
    assert [event.done for event in sampled] == list(range(1, 5)) * 2 and {event.total for event in sampled} == {4}
    before = [(tmp_path / name).read_bytes() for name in FILES]

    with pytest.raises(ShortRunError):
        fill_rounds(folder, narrow_engine, TASK, SHOTS, run_settings, annotators=annotators)
    allowed = msgspec.structs.replace(run_settings, allow_short=True)
    kept_pairs = fill_rounds(folder, narrow_engine, TASK, SHOTS, allowed, annotators=annotators)
    assert [(tmp_path / name).read_bytes() for name in FILES] == before
    assert kept_pairs == [pair for pair in judged if pair[1].kept]


def test_a_class_that_stalls_is_told_of_at_once_while_others_go_on(tmp_path: Path) -> None:
    hopeless, fine = TASK.label_names[:2]
    for allow_short, what_comes in ((False, "ends, unless --allow-short is given"), (True, "continues with these")):
        events: list[Event] = []
        run_settings = settings(per_class=20, draws_per_round=2, min_acceptance=0.02)
        run_settings = msgspec.structs.replace(run_settings, allow_short=allow_short)
        folder = tmp_path / str(allow_short)
        folder.mkdir()
        sink = RoundSink(WorkFolder(folder), TASK, SHOTS, run_settings, on_event=events.append)
        ledger = sink.open()
        for number in range(2):
            ledger.counts.add(
                DrawRecord(number=number, label=label, draws=4, passed=passed, kept=passed, rejected={})
                for label, passed in ((hopeless, 0), (fine, 3))
            )
            sink.add(ledger, [JudgedBatch(number, (), (), (), ())])
        stalls = [event.message for event in events if "stalled" in event.message]
        assert stalls == [
            f"{TASK.name}, stalled: {hopeless} with 0 of 20 texts. The others continue, then the run {what_comes}."
        ]


def test_a_hopeless_class_is_given_up_after_two_rounds(narrow_engine: Engine, tmp_path: Path) -> None:
    """Nothing reaches a confidence of 1: with most draws allowed, two rounds are enough to know."""
    run_settings = settings("icl", draws_per_round=2, max_candidates=1000, min_acceptance=0.02)
    run_settings = msgspec.structs.replace(run_settings, annotate=AnnotateSettings(annotator="icl", confidence=1.0))
    with pytest.raises(ShortRunError, match=r"0 of 3 kept from 4 draws \(0\.0% accepted\); none was kept"):
        fill_rounds(WorkFolder(tmp_path), narrow_engine, TASK, SHOTS, run_settings)
    reasons = Counter(verdict.reason for _, verdict in pairs(WorkFolder(tmp_path)))
    assert reasons["label_disagrees"] + reasons["low_confidence"] > 0


def test_no_texts_wanted_is_refused() -> None:
    with pytest.raises(InputError, match=r"per_class must be at least 1; got 0"):
        settings(per_class=0)
