"""Methods beside each other on one task, over one or more seeds: what `run` and `compare` both are.

A method is a plan: which examples it may see, whether it writes synthetic ones, and how it answers. All phases of all
methods and seeds share their work: one process trains what stands on the shots alone, one generates, one trains what
stands on synthetic texts, one measures.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.core import Adapter
from fourshot.engine.models import ResolvedModel
from fourshot.engine.probe import Probed
from fourshot.pipeline.card import CARD_FILE, PROBED_FILE, AdapterCard
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.provenance import installed_versions
from fourshot.pipeline.runs.evaluate import Evaluation
from fourshot.pipeline.runs.generation import GenerateItem, fill_folders, pool_of
from fourshot.pipeline.runs.methods import METHODS
from fourshot.pipeline.runs.orders import (
    Cell,
    EvaluateOrder,
    MergeOrder,
    Order,
    ProbeItem,
    TrainOrder,
)
from fourshot.pipeline.runs.run_folder import RunFolder, RunManifest
from fourshot.pipeline.runs.trainings import classification_examples, hold_out
from fourshot.pipeline.synthesis.annotate import Reader
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording
from fourshot.pipeline.synthesis.rounds import finished_pairs, pool_folds
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.synthesis.worker import run_in_process
from fourshot.pipeline.tasks.tables import load_split
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.training.jobs.jobs import HERE, Placement, TrainingJob, finished
from fourshot.training.lora.examples import TrainingExample, TrainingResult

Stage = Literal["shots", "annotators", "generate", "train", "evaluate", "report"]
STAGES: tuple[Stage, ...] = ("shots", "annotators", "generate", "train", "evaluate", "report")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one seed."""

    method: str
    seed: int
    evaluation: Evaluation | None = None
    training: TrainingResult | None = None
    real_examples: int = 0
    synthetic_examples: int = 0


class Experiment:
    """Methods times seeds in one folder. ``folders[method, seed]`` is where a synthetic method keeps its texts."""

    def __init__(
        self,
        task: Task,
        model: ResolvedModel,
        settings: RunSettings,
        methods: Sequence[str],
        shots: dict[int, list[Example]],
        more_real: dict[int, list[Example]],
        root: Path,
        on_event: OnEvent,
        *,
        flat: bool = False,
        placement: Placement = HERE,
        store: Path | None = None,
    ) -> None:
        """``shots`` and ``more_real`` (25 per class, for the methods that want them) by seed.

        ``flat``: the method fourshot, of a single seed, lives in ``root`` itself. ``placement``: where to train.
        ``store``: where finished trainings lie, if not in ``root``.
        """
        self.task, self.model, self.base, self.root, self.on_event = task, model, settings, root, on_event
        self.methods = {name: METHODS[name] for name in methods}
        self.shots, self.more_real = shots, more_real
        self.seeds = sorted(shots)
        self.store = store or root / "adapters"
        self.flat, self.placement = flat, placement
        self._test_hash = _content_hash(load_split(task, "test", limit=settings.test_limit or None).examples)

    def settings(self, method: str, seed: int) -> RunSettings:
        return msgspec.structs.replace(METHODS[method].settings(self.base), seed=seed)

    def wording(self, method: str, seed: int) -> Wording:
        """Of the method's prompt, in training and after. What was not trained needs the instruction."""
        return self.settings(method, seed).wording if self.methods[method].trained else "task"

    def folder(self, method: str, seed: int) -> RunFolder:
        """Where the texts of a synthetic method lie."""
        writer = METHODS[method].texts_of or method
        if self.flat and writer == "fourshot":
            return RunFolder(self.root)
        return RunFolder(self.root / f"seed{seed}" / writer)

    def run(self, until: Stage = "evaluate") -> None:
        """Do every phase up to ``until``. What is finished is left alone."""
        last = STAGES.index(until)
        self.claim()
        if last >= STAGES.index("annotators"):
            self._generate(self.pools())
            # Methods that stand on real texts alone are trained here too, in the same process.
            # In a run that is the adapter of the shots, which is on the committee.
            self._train([*self.committee_jobs(), *self._real_jobs()], "annotator" if self.flat else "adapter")
        if last >= STAGES.index("generate"):
            self._generate(self.rounds())
        if last >= STAGES.index("train"):
            self._train(self.final_jobs(), "classifier")
            self.write_cards()
        if last >= STAGES.index("evaluate"):
            self._evaluate()
            self.write_cards()

    def outcomes(self) -> list[Outcome]:
        """What is there, by method and seed, in the methods' order."""
        return [self._outcome(name, seed) for name in self.methods for seed in self.seeds]

    def pairs(self, method: str, seed: int) -> list[tuple[Candidate, Verdict]]:
        return finished_pairs(self.folder(method, seed))

    def adapter(self, method: str, seed: int) -> TrainingResult | None:
        return finished(self.store, self._job(method, seed)) if self.methods[method].trained else None

    def claim(self) -> None:
        """Make the folders this experiment's. Raises RunFolderError where one belongs to another."""
        for name, seed in self._writers():
            folder = self.folder(name, seed)
            folder.claim(
                RunManifest(
                    task=self.task,
                    settings=self.settings(name, seed),
                    model_name=self.model.name,
                    model_revision=self.model.revision,
                    model_path=self.model.path,
                    versions=installed_versions(),
                )
            )
            if not folder.has("shots.json"):
                folder.write("shots.json", self.shots[seed])

    def pools(self) -> list[GenerateItem]:
        """What is to be drawn before committees can be trained."""
        return [
            GenerateItem(folder=str(self.folder(name, seed).path), draw_pool=True)
            for name, seed in self._writers()
            if self.settings(name, seed).annotate.has_pool
        ]

    def committee_jobs(self) -> list[TrainingJob]:
        """The trainings of all committees; they stand on `pools`."""
        return [job for name, seed in self._writers() for job in self._annotators(name, seed)]

    def rounds(self) -> list[GenerateItem]:
        """What is to be written and filtered; it stands on `committee_jobs`."""
        return [
            GenerateItem(folder=str(self.folder(name, seed).path), readers=self._readers(name, seed))
            for name, seed in self._writers()
        ]

    def final_jobs(self) -> list[TrainingJob]:
        """The classifiers that stand on synthetic texts."""
        synthetic = [name for name, method in self.methods.items() if method.synthetic]
        return [self._job(name, seed) for name in synthetic for seed in self.seeds]

    def _writers(self) -> list[tuple[str, int]]:
        """Methods whose texts are needed, be it by another method, with every seed."""
        names = dict.fromkeys(method.texts_of or name for name, method in self.methods.items() if method.synthetic)
        return [(name, seed) for name in names for seed in self.seeds]

    def _annotators(self, method: str, seed: int) -> list[TrainingJob]:
        """The trainings of the committee: those of the shots, then one per fold."""
        settings = self.settings(method, seed)
        annotate = settings.annotate
        if annotate.annotator != "adapters":
            return []
        of_shots = [
            self._shots_job(settings, seed, training_seed=seed + 1000 * number, wording=wording)
            for number, wording in zip(range(annotate.num_adapters), cycle(annotate.wordings), strict=False)
        ]
        return of_shots + [self._fold_job(method, settings, seed, fold) for fold in range(annotate.folds)]

    def _readers(self, method: str, seed: int) -> tuple[Reader, ...]:
        """The finished adapters of the committee, each with what it is to read and how."""
        annotate = self.settings(method, seed).annotate
        adapters = [Adapter(name=one.name, path=one.path) for one in self.annotator_results(method, seed)]
        of_shots = zip(adapters[: annotate.num_adapters], cycle(annotate.wordings), strict=False)
        return (
            *(Reader(adapter=adapter, wording=wording) for adapter, wording in of_shots),
            *(Reader(adapter=one, fold=fold) for fold, one in enumerate(adapters[annotate.num_adapters :])),
        )

    def _fold_job(self, method: str, settings: RunSettings, seed: int, fold: int) -> TrainingJob:
        """The shots and every candidate of the pool outside ``fold``, each believed to be what it was drawn for."""
        pool = pool_of(self.folder(method, seed).path)
        folds = pool_folds(pool, settings.annotate.folds)
        believed = [
            Example(text=candidate.text, label=candidate.label)
            for candidate, _ in finished_pairs(pool)
            if folds.get(candidate.id, fold) != fold
        ]
        brief = msgspec.structs.replace(settings.train, num_epochs=settings.annotate.fold_epochs)
        examples = self._mixed(settings, seed, believed, "task")
        return self._as_job(examples, msgspec.structs.replace(settings, train=brief), seed)

    def _mixed(
        self, settings: RunSettings, seed: int, synthetic: Sequence[Example], wording: Wording
    ) -> tuple[TrainingExample, ...]:
        form = PromptFormat(wording=wording, max_text_words=settings.max_text_words)
        as_prompts = partial(classification_examples, self.task, form=form)
        return as_prompts(self.shots[seed], weight=settings.shot_weight) + as_prompts(synthetic)

    def annotator_results(self, method: str, seed: int) -> list[TrainingResult]:
        """The finished trainings of the adapters that re-label for this method."""
        results = [finished(self.store, job) for job in self._annotators(method, seed)]
        return [result for result in results if result is not None]

    def _shots_job(self, settings: RunSettings, seed: int, training_seed: int, wording: Wording) -> TrainingJob:
        form = PromptFormat(wording=wording, max_text_words=settings.max_text_words)
        examples = classification_examples(self.task, self.shots[seed], form)
        return self._as_job(examples, settings, training_seed)

    def _as_job(self, examples: tuple[TrainingExample, ...], settings: RunSettings, training_seed: int) -> TrainingJob:
        return TrainingJob(
            name=self.task.name,
            model_revision=self.model.revision,
            examples=examples,
            labels=self.task.label_words,
            settings=settings.train,
            seed=training_seed,
        )

    def _real_jobs(self) -> list[TrainingJob]:
        real = [name for name, method in self.methods.items() if method.trained and not method.synthetic]
        return [self._job(name, seed) for name in real for seed in self.seeds]

    def _job(self, method: str, seed: int) -> TrainingJob:
        settings, plan, wording = self.settings(method, seed), self.methods[method], self.wording(method, seed)
        form = PromptFormat(wording=wording, max_text_words=settings.max_text_words)
        as_prompts = partial(classification_examples, self.task, form=form)
        if not plan.synthetic:
            if not plan.real_per_class:
                return self._shots_job(settings, seed, training_seed=seed, wording=wording)
            return self._as_job(as_prompts(self.more_real[seed]), settings, seed)
        kept = [Example(text=c.text, label=c.label) for c, v in self.pairs(method, seed) if v.kept]
        seen, held = hold_out(kept, settings.train.held_out)
        job = self._as_job(self._mixed(settings, seed, seen, wording), settings, seed)
        return msgspec.structs.replace(job, held_out=as_prompts(held))

    def _train(self, jobs: Sequence[TrainingJob], what: str) -> None:
        unique = {job.key: job for job in jobs}
        if unique:
            self._order(
                TrainOrder(
                    model_path=self.model.path,
                    store=str(self.store),
                    jobs=tuple(unique.values()),
                    placement=self.placement,
                    what=what,
                )
            )

    def _generate(self, items: Sequence[GenerateItem]) -> None:
        fill_folders(self.model.path, items, self.root / "log.txt", self.on_event, self.placement)

    def _evaluate(self) -> None:
        cells = {cell.out: cell for cell in (self._cell(name, seed) for name in self.methods for seed in self.seeds)}
        self._order(
            EvaluateOrder(
                model_path=self.model.path,
                task=self.task,
                cells=tuple(cells.values()),
                test_limit=self.base.test_limit,
                max_text_words=self.base.max_text_words,
                probes=self.probes(),
            )
        )

    def merge(self, method: str, seed: int) -> str:
        """Write a finished classifier and its base as one checkpoint; returns its folder."""
        trained = self.adapter(method, seed)
        if trained is None:
            raise ValueError(f"{method}, seed {seed}, has no adapter yet")
        out = str(self.root / "merged" / trained.name)
        adapter = Adapter(name=trained.name, path=trained.path)
        self._order(MergeOrder(model_path=self.model.path, adapter=adapter, out=out, probe=trained.probe))
        return out

    def probes(self) -> tuple[ProbeItem, ...]:
        """The finished classifiers, each with what its trainer answered."""
        trained = [self.adapter(name, seed) for name in self.methods for seed in self.seeds]
        return tuple(
            ProbeItem(adapter=Adapter(name=one.name, path=one.path), probe=one.probe)
            for one in trained
            if one and one.probe
        )

    def _cell(self, name: str, seed: int) -> Cell:
        """What is measured, into a file named by all that the answers depend on: no old score is taken for new."""
        method, trained = self.methods[name], self.adapter(name, seed)
        shots = tuple(self.shots[seed]) if method.shots_in_prompt else ()
        decides = (
            name,
            self.model.revision,
            self.task.instruction,
            self.task.labels,
            shots,
            trained.name if trained else "",
            self.wording(name, seed),
            method.calibration,
            self.base.max_text_words,
            self._test_hash,
        )
        return Cell(
            out=str((self.root / "scores" / f"{name}-{_content_hash(decides)}.json").resolve()),
            title=f"{method.display_name}, seed {seed}",
            shots=shots,
            adapter=Adapter(name=trained.name, path=trained.path) if trained else None,
            wording=self.wording(name, seed),
            calibration=method.calibration,
        )

    def _outcome(self, method: str, seed: int) -> Outcome:
        plan, file = self.methods[method], Path(self._cell(method, seed).out)
        kept = sum(verdict.kept for _, verdict in self.pairs(method, seed)) if plan.synthetic else 0
        uses_shots = plan.trained or plan.shots_in_prompt
        real = self.more_real[seed] if plan.real_per_class else self.shots[seed] if uses_shots else []
        return Outcome(
            method=method,
            seed=seed,
            evaluation=RunFolder(file.parent).read(file.name, Evaluation) if file.exists() else None,
            training=self.adapter(method, seed),
            real_examples=len(real),
            synthetic_examples=kept,
        )

    def write_cards(self) -> None:
        """Put beside each finished adapter what it is."""
        for outcome in self.outcomes():
            if outcome.training is None:
                continue
            settings, beside = self.settings(outcome.method, outcome.seed), RunFolder(outcome.training.path)
            card = AdapterCard(
                name=outcome.training.name,
                task=self.task,
                model_name=self.model.name,
                model_revision=self.model.revision,
                wording=self.wording(outcome.method, outcome.seed),
                max_text_words=settings.max_text_words,
                training=settings.train,
                seed=outcome.seed,
                shots=tuple(self.shots[outcome.seed]),
                real_examples=outcome.real_examples,
                synthetic_examples=outcome.synthetic_examples,
                steps=outcome.training.steps,
                train_tokens=outcome.training.tokens,
                train_flops=outcome.training.flops,
                train_s=outcome.training.seconds,
                probe=outcome.training.probe,
                probed=beside.read(PROBED_FILE, Probed) if beside.has(PROBED_FILE) else None,
                scores=outcome.evaluation.scores if outcome.evaluation else None,
                lineage=self._lineage(outcome.method, outcome.seed),
            )
            beside.write(CARD_FILE, card)

    def _lineage(self, method: str, seed: int) -> dict[str, str]:
        """Content hashes of what an adapter was made from, and of what it was measured on."""
        plan = self.methods[method]
        lineage = {"job": self._job(method, seed).key, "test": self._test_hash}
        lineage["real"] = _content_hash(self.more_real[seed] if plan.real_per_class else self.shots[seed])
        if plan.synthetic:
            lineage["synthetic"] = _content_hash([c for c, v in self.pairs(method, seed) if v.kept])
        return lineage

    def _order(self, order: Order) -> None:
        run_in_process(order, self.root / "log.txt", self.on_event)


def _content_hash(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:12]
