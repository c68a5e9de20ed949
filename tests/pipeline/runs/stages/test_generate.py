"""Texts of run folders: the same on one engine and over many, and one that fails does not stop the others."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import FourshotError, ShortRunError
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, SHOTS_FILE, RunFolder, RunManifest
from fourshot.pipeline.loop.ray_workers import RayWorkers
from fourshot.pipeline.loop.rounds import Round
from fourshot.pipeline.loop.units import UnitProgress, UnitResult
from fourshot.pipeline.runs.stages.generate import GenerateStage, TextsItem
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings, VarietySettings
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.jobs.jobs import HERE, Placement

TASK = load_task("support_tickets")
SHOTS = take_shots(TASK, k=4, seed=0)
BATCH = AnnotateSettings(annotator="icl", calibration="batch")
CONTEXTUAL = AnnotateSettings(annotator="icl", calibration="contextual")
FILES = ("candidates.jsonl", "verdicts.jsonl", "annotator.json", GENERATED_FILE)


def settings(annotate: AnnotateSettings = BATCH, suppress: float = 0.0, **generate: int) -> RunSettings:
    numbers = {"per_class": 30, "draws_per_round": 24, "max_candidates": 72, **generate}
    return RunSettings(
        generate=GenerateSettings(**numbers),  # type: ignore[arg-type]
        annotate=annotate,
        variety=VarietySettings(suppress=suppress),
    )


def stage(
    root: Path,
    settings_of: dict[str, RunSettings],
    placement: Placement = HERE,
    *,
    keep_going: bool = False,
    model: str = "fake",
) -> GenerateStage:
    """The stage that fills one claimed folder for each of ``settings_of``."""
    for name, of_run in settings_of.items():
        folder = RunFolder(root / name)
        folder.claim(RunManifest(task=TASK, settings=of_run, model_name="fake", model_revision="1", model_path="fake"))
        folder.write(SHOTS_FILE, SHOTS)
    items = tuple(TextsItem(folder=str(root / name), test=[]) for name in settings_of)
    log = str(root / "log.txt")
    return GenerateStage(model_path=model, items=items, placement=placement, keep_going=keep_going, log=log)


def test_a_run_that_is_spread_over_ray_has_the_texts_of_one_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing and reading, of two folders at once, with what the first round decides for the next ones."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # so many cores Ray has: two engines
    settings_of = {"batch": settings(per_class=40), "contextual": settings(CONTEXTUAL, suppress=1.0)}
    work: set[tuple[str, str]] = set()  # engine, kind of unit
    wait = RayWorkers.wait

    def listen(workers: RayWorkers, timeout_s: float) -> list[UnitResult | UnitProgress]:
        results = wait(workers, timeout_s)
        work.update((result.engine, result.unit.key[1]) for result in results if isinstance(result, UnitResult))
        return results

    monkeypatch.setattr(RayWorkers, "wait", listen)
    stage(tmp_path / "alone", settings_of).run(lambda event: None)
    assert not work
    slow = "fake:delay_s=0.005"  # so that there is something for both
    stage(tmp_path / "spread", settings_of, Placement(ray="local"), model=slow).run(lambda event: None)
    engines = {engine for engine, _ in work}
    assert len(engines) == 2 and work == {(engine, kind) for engine in engines for kind in ("draw", "read")}
    for name in settings_of:
        for file in FILES:
            alone, spread = (tmp_path / part / name / file for part in ("alone", "spread"))
            assert spread.read_bytes() == alone.read_bytes(), f"{name}: {file}"
        rounds = (tmp_path / "spread" / name / "rounds.jsonl").read_text().splitlines()
        assert len(rounds) > 1


def test_a_folder_that_cannot_be_filled_does_not_stop_the_others_where_that_is_asked(tmp_path: Path) -> None:
    strict = msgspec.structs.replace(BATCH, confidence=1.0)
    settings_of = {"hopeless": settings(strict), "fine": settings(per_class=4, draws_per_round=8)}
    (failed,) = stage(tmp_path / "going", settings_of, keep_going=True).run(lambda event: None)
    assert (failed.key, failed.kind) == (str(tmp_path / "going" / "hopeless"), "ShortRunError")
    assert RunFolder(tmp_path / "going" / "fine").has(GENERATED_FILE)
    with pytest.raises(ShortRunError, match="none was kept so far"):
        stage(tmp_path / "stopping", settings_of).run(lambda event: None)
    assert not RunFolder(tmp_path / "stopping" / "fine").has(GENERATED_FILE)


def test_a_folder_that_is_filled_starts_no_engine(tmp_path: Path) -> None:
    generating = stage(tmp_path, {"one": settings(per_class=4, draws_per_round=8)})
    generating.run(lambda event: None)
    log = (tmp_path / "log.txt").read_bytes()
    assert generating.is_done and generating.run(lambda event: None) == []
    assert (tmp_path / "log.txt").read_bytes() == log


def test_a_round_that_the_engine_dies_of_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(FourshotError, match=r"the engine died 3 times in a row.*log\.txt"):
        stage(tmp_path, {"one": settings()}, model="fake:dies_of=bug").run(lambda event: None)
    assert not RunFolder(tmp_path / "one").lines("rounds.jsonl", Round)
