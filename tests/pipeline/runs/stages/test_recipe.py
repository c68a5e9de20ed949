"""A run asks its shots what is learnt of a text, once, and goes on as they say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from fourshot.engine.core import EngineSettings
from fourshot.pipeline.cells.cell import MethodCell, SeedExamples, method_cells
from fourshot.pipeline.cells.review import review_rows
from fourshot.pipeline.cells.run_folder import RECIPE_FILE, RunFolder
from fourshot.pipeline.cells.trainings import annotator_jobs, judges_of, trial_of
from fourshot.pipeline.distillation.readers import open_run, teacher_of_run
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.runs.run import RunRequest, do_run
from fourshot.pipeline.runs.stages import recipe as stage
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.synthesis.recipe import Recipe
from fourshot.pipeline.synthesis.settings import GenerateSettings, RunSettings
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline.runs.whole_runs import WholeRuns
from tests.pipeline.test_settings import Listener

SETTINGS = RunSettings(
    k=2,
    generate=GenerateSettings(per_class=4, draws_per_round=40, max_candidates=80),
    allow_short=True,
)
TASK = load_task("support_tickets")
SHOTS = tuple(Example(text=f"{name} number {number}", label=name) for number in range(4) for name in TASK.label_names)
Asked = list[Mapping[str, KindEvidence]]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRuns:
    return WholeRuns(tmp_path / "task", monkeypatch)


@pytest.fixture
def evidence_seen(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return says(monkeypatch, "agreement")


def says(monkeypatch: pytest.MonkeyPatch, targets: Literal["agreement", "soft"]) -> Asked:
    """Whatever the evidence, ``targets``. Returns the evidence of each time it was asked for."""
    evidence_seen: Asked = []

    def chosen(evidence: Mapping[str, KindEvidence], num_labels: int) -> Recipe:
        assert num_labels == 2
        evidence_seen.append(evidence)
        return Recipe(targets=targets, reason="so it is", evidence=dict(evidence))

    monkeypatch.setattr(stage, "chosen_recipe", chosen)
    return evidence_seen


def trainings(runs: WholeRuns) -> list[Any]:
    """Of the last run: what was trained on, with which seed, in how many steps."""
    return [msgspec.json.encode(heard) for heard in runs.heard if len(heard) == 6]


@pytest.mark.parametrize("targets", ["agreement", "soft"])
def test_a_run_goes_on_as_its_shots_say_and_asks_them_once(
    runs: WholeRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets: Literal["agreement", "soft"],
) -> None:
    evidence_seen, folder, is_soft = says(monkeypatch, targets), RunFolder(tmp_path / "run"), targets == "soft"
    do_run(RunRequest(runs.task, "fake", SETTINGS, folder.path, "annotators"))  # as if it had been killed after that
    recipe = folder.recipe()
    assert recipe and recipe.targets == targets and recipe.evidence.keys() == {"adapters", "in context"}
    assert recipe.evidence["adapters"].num_texts == len(folder.shots()) == 4, "every shot is held out from someone"
    first = trainings(runs)
    runs.run(folder.path, SETTINGS)
    done = [*first, *trainings(runs)]
    # 4 that were asked, which annotate and calibrate, the method of the shots, and itself.
    assert len(done) == len(set(done)) == 6
    learnt = max(runs.trained, key=len)
    assert any(example.soft is not msgspec.UNSET for example in learnt) == is_soft
    kept = [(candidate, verdict) for candidate, verdict in finished_pairs(folder) if verdict.kept]
    assert len(kept) >= 2 * 8 if is_soft else len(kept) == 2 * 4
    assert any(candidate.label != verdict.predicted for candidate, verdict in kept) == is_soft

    assert folder.manifest().settings == SETTINGS and folder.settings() == SETTINGS.with_targets(targets)
    predicted = {candidate.id: verdict.predicted for candidate, verdict in kept}
    rows = {row.id: row.label for row in review_rows(folder)[0] if row.keep and row.why != "shot"}
    assert rows == predicted, "as it was read"
    again = open_run(folder.path)
    assert teacher_of_run(again).settings.learns_soft == is_soft
    assert report_data(again, "A run").recipe == str(recipe)
    runs.run(folder.path, SETTINGS)
    assert not runs.heard and len(evidence_seen) == 1, "nothing was left to do"


def test_where_not_all_shots_fit_into_a_prompt_labels_must_agree(
    runs: WholeRuns, evidence_seen: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Listener(runs.heard)
    engine.settings = EngineSettings(model="fake", max_model_len=60)
    monkeypatch.setattr("fourshot.engine.opening.open_engine", lambda _: engine)
    do_run(RunRequest(runs.task, "fake", SETTINGS, tmp_path / "run", "annotators"), runs.events.append)
    recipe = RunFolder(tmp_path / "run").recipe()
    assert recipe and recipe.targets == "agreement" and "not all shots fit into one prompt" in recipe.reason
    assert str(recipe) in runs.messages and not evidence_seen


@pytest.mark.parametrize(
    "settings_given", [{"targets": "agreement"}, {"folds": 2}, {"num_adapters": 2}, {"confidence": 0.1}]
)
def test_who_said_what_is_learnt_or_who_reads_is_not_told_otherwise(
    runs: WholeRuns, evidence_seen: Asked, tmp_path: Path, settings_given: dict[str, Any]
) -> None:
    settings = msgspec.structs.replace(SETTINGS, annotate=msgspec.structs.replace(SETTINGS.annotate, **settings_given))
    do_run(RunRequest(runs.task, "fake", settings, tmp_path / "run", "annotators"))
    assert runs.heard and not evidence_seen and not RunFolder(tmp_path / "run").has(RECIPE_FILE)


def test_one_shot_of_each_class_says_nothing(runs: WholeRuns, evidence_seen: Asked, tmp_path: Path) -> None:
    settings, folder = msgspec.structs.replace(SETTINGS, k=1), RunFolder(tmp_path / "run")
    do_run(RunRequest(runs.task, "fake", settings, folder.path, "annotators"))
    assert not evidence_seen and not folder.has(RECIPE_FILE)
    assert not folder.settings().learns_soft


def cell(settings: RunSettings) -> MethodCell:
    (only,) = method_cells(settings, ["fourshot"], [SeedExamples(seed=0, shots=SHOTS)], Path("nowhere"), flat=True)
    return only


def test_those_who_are_asked_are_those_who_calibrate_or_annotate_later() -> None:
    trial, judges = trial_of(cell(RunSettings())), judges_of(cell(RunSettings().with_targets("agreement")), SHOTS)
    assert trial and judges
    committee = cell(RunSettings().with_targets("soft"))
    tried, calibrate, annotate = (
        [job.key for job in annotator_jobs(TASK, "abc", annotated)] for annotated in (trial, judges, committee)
    )
    assert len(set(tried)) == 4 and tried == calibrate == annotate
    assert trial_of(committee) is None
