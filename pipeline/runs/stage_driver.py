"""Run one or many experiments through the stages. Each stage is completed for all of them before the next begins.

So one engine generates the texts of all, and all trainings form one queue, on this machine or a Ray cluster.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.cards import write_cards
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages import STAGE_NAMES, StageName, StagePlan, phases_until
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.training.jobs.cluster import cluster, nodes
from fourshot.training.jobs.jobs import HERE, FailedJob, Placement
from fourshot.training.jobs.machines import check_machines, machine_setup

LOG_FILE = "log.txt"


class StageDriver:
    """``experiments`` are those that have not failed; ``failed`` has the reasons of the others. Both are by name."""

    def __init__(self, log: Path, on_event: OnEvent, placement: Placement = HERE, *, keep_going: bool = False) -> None:
        """``log``: file for the output of libraries. ``keep_going``: drop an experiment that fails and continue with
        the others; otherwise its error is raised.
        """
        self.experiments: dict[str, Experiment] = {}
        self.failed: dict[str, FailedJob] = {}
        self.took: dict[str, float] = {}  # seconds, by the title of a phase
        self._told: set[str] = set()  # messages about settings that were already sent
        self._is_checked = False  # whether the machines of a cluster were checked
        self._log, self._on_event, self._placement, self._keep_going = log, on_event, placement, keep_going

    def add(self, name: str, experiment: Experiment) -> None:
        """Claim the experiment's folders. Raises RunFolderError where one belongs to another configuration."""
        experiment.claim()
        for line in experiment.layout_notes:
            self._on_event(Event(stage="shots", message=f"{name}: {line}"))
        self.experiments[name] = experiment

    def run(self, until: StageName = "evaluate") -> None:
        """Run every stage up to ``until``, except finished work."""
        trains = STAGE_NAMES.index(until) >= STAGE_NAMES.index("train")
        for name, experiment in self.experiments.items():
            messages = {_other_passes(cell) for cell in experiment.cells if trains}
            messages = {
                f"{name}: {message}" for message in messages - {""}
            } - self._told  # this may be called again, after a person was asked
            for message in sorted(messages):
                self._on_event(Event(stage="shots", message=message))
            self._told |= messages
        for phase in phases_until(until):
            with timed(self.took, phase.title):
                self.do(phase.plan)
            if phase.writes_cards:
                self.write_cards()

    def do(self, plan: StagePlan) -> None:
        """Run one stage for every experiment. Drop those that needed an item that failed."""
        stages = {name: plan(experiment) for name, experiment in self.experiments.items()}
        if not stages:
            return
        joined = msgspec.structs.replace(
            next(iter(stages.values())).joined(stages.values()),
            placement=self._placement,
            keep_going=self._keep_going,
            log=str(self._log),
        )
        self._check_machines(joined)
        for failure in run_stage(joined, self._on_event):
            for name, stage in stages.items():
                if failure.key in {item.key for item in stage.items}:
                    self.drop(name, failure)

    def _check_machines(self, stage: Stage) -> None:
        """Check once, before any work, that every machine of a cluster sees the store and has the base model."""
        if self._is_checked or self._placement.ray in ("", "local") or stage.is_done:
            return
        with cluster(self._placement.ray):
            for model, store in {(experiment.model.path, experiment.store) for experiment in self.experiments.values()}:
                with machine_setup(model, store) as setup:
                    check_machines(setup, nodes())
        self._is_checked = True

    def write_cards(self) -> None:
        for experiment in self.experiments.values():
            write_cards(experiment)

    def drop(self, name: str, failure: FailedJob | FourshotError) -> None:
        """Drop an experiment and report why. Of several reasons, the first is kept."""
        if isinstance(failure, FourshotError):
            failure = FailedJob(key=name, kind=type(failure).__name__, message=str(failure))
        self.experiments.pop(name, None)
        if name not in self.failed:
            self.failed[name] = failure
            reason = " ".join(failure.message.removeprefix(name).split())
            self._on_event(Event(stage="failed", message=f"{name}: {reason}"))


@contextmanager
def timed(took: dict[str, float], title: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``took[title]``."""
    began_s = time.perf_counter()
    yield
    took[title] = took.get(title, 0.0) + time.perf_counter() - began_s


def _other_passes(cell: MethodCell) -> str:
    """Return a message that the epochs which the user set do not apply to the classifier; "" where they do."""
    passes, of_classifier = cell.settings.train.num_epochs, cell.settings.classifier_training.num_epochs
    if not cell.method.synthetic or passes in (of_classifier, RunSettings().train.num_epochs):
        return ""
    return (
        f"train.num_epochs = {passes:g} applies only to training on labels, such as the annotators'; the classifier "
        f"learns probabilities, for annotate.soft_epochs = {of_classifier:g} epochs"
    )
