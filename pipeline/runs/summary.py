"""Compile the table of methods and the data of the report from an experiment's folder."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec

from fourshot.engine.core import EngineSettings
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.methods import METHODS
from fourshot.pipeline.cells.training_texts import TrainingTexts
from fourshot.pipeline.faults import as_word
from fourshot.pipeline.forecasts.forecast import FORECAST_FILE, Forecast
from fourshot.pipeline.loop.rounds import ATTRIBUTES_FILE, Round, finished_pairs
from fourshot.pipeline.provenance import installed_versions
from fourshot.pipeline.report.data import Lineage, MethodRow, ReportData, method_row
from fourshot.pipeline.report.text import now
from fourshot.pipeline.rows.fields import sample_argument
from fourshot.pipeline.runs.cards import certainty_of
from fourshot.pipeline.runs.experiment import Experiment, MethodOutcome
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.filters import bare_shots
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt, generation_prompt, mixed_prompt
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example
from fourshot.pipeline.task_data import cut_line
from fourshot.pipeline.work_folder import WorkFolder


def table(experiment: Experiment) -> list[MethodRow]:
    """Return one row per method that was evaluated on every seed, in the methods' order."""
    by_method: dict[str, list[MethodOutcome]] = defaultdict(list)
    for outcome in experiment.outcomes():
        if outcome.evaluation is not None:
            by_method[outcome.method].append(outcome)
    return [
        method_row(
            method,
            METHODS[method].display_name,
            [outcome.evaluation.scores for outcome in outcomes if outcome.evaluation],
            real_examples=outcomes[0].real_examples,
            synthetic_examples=round(sum(outcome.synthetic_examples for outcome in outcomes) / len(outcomes)),
            unlabelled_examples=outcomes[0].unlabelled_examples or None,
        )
        for method, outcomes in by_method.items()
        if len(outcomes) == len(experiment.seeds)
    ]


def left_out(experiment: Experiment) -> dict[str, str]:
    """Return why methods have no row, by display name: the reason of the first seed without an evaluation.

    Without test texts, one entry stands for all methods.
    """
    if not experiment.test:
        return {"The evaluation": f"{experiment.data.why_no_test}. Put labelled texts there and repeat the command."}
    missing = [outcome for outcome in experiment.outcomes() if outcome.left_out]
    return {METHODS[outcome.method].display_name: outcome.left_out for outcome in reversed(missing)}


def report_data(experiment: Experiment, title: str) -> ReportData:
    """Return everything the report shows. On the first seed, texts are of the main method, losses of all methods."""
    rows, outcomes = table(experiment), experiment.outcomes()
    first = experiment.seeds[0]
    main = _main_cell(experiment)
    learnt = experiment.training_texts(main) if main else TrainingTexts(shots=first.shots)
    pairs = learnt.synthetic
    trained, measured = (experiment.result(main), experiment.outcome(main).evaluation) if main else (None, None)
    texts_by_use = {
        "shots": [shot.text for shot in first.shots],
        "unlabelled": [candidate.text for candidate in experiment.unlabelled],
        "test": [example.text for example in experiment.test],
    }
    # By the class that they are trained on as: mixed prompts request no class.
    written = [Example(text=c.text, label=verdict.predicted or c.label) for c, verdict in pairs if verdict.kept]
    cut = [cut_line(name, texts, experiment.settings, experiment.task) for name, texts in texts_by_use.items()]
    return ReportData(
        title=title,
        task=experiment.task,
        created=now(),
        num_test=next((outcome.evaluation.scores.n for outcome in outcomes if outcome.evaluation), 0),
        methods=tuple(rows),
        left_out=left_out(experiment),
        answers=measured.answers(experiment.task.label_names) if measured else (),
        long_texts=tuple(filter(None, cut)),
        certainty=certainty_of(experiment, main) if main and trained else None,
        headline_method=main.name if main and any(row.method == main.name for row in rows) else "",
        reason_counts=_reasons(pairs),
        kept=tuple(pair for pair in pairs if pair[1].kept),
        rejected=tuple(pair for pair in pairs if not pair[1].kept),
        least_texts=main.settings.generate.per_class if main and main.settings.allow_short else 0,
        unlabelled=dict(Counter(verdict.reason for _, verdict in learnt.unlabelled)),
        labelled=len(learnt.answered),
        reviewed=learnt.review.counts,
        real_texts=_by_class(bare_shots(experiment.task, [*first.shots, *first.more])),
        synthetic_texts=_by_class(bare_shots(experiment.task, written)),
        losses=_losses(experiment),
        stage_seconds=_seconds(experiment, main) if main else {},
        forecast=WorkFolder(experiment.root).find(FORECAST_FILE, Forecast),
        settings=msgspec.to_builtins(experiment.settings),
        versions=installed_versions(),
        lineage=Lineage(
            base_model=experiment.model.name,
            revision=experiment.model.revision,
            hashes=_hashes(main, trained.name if trained else "") | (learnt.lineage if trained else {}),
            shots=learnt.shots,
            prompts=_prompts(experiment),
        ),
        try_it=f"fourshot predict {as_word(experiment.root)} {sample_argument(experiment.task)}" if trained else "",
        seed=first.seed,
    )


def _hashes(main: MethodCell | None, adapter: str) -> dict[str, str]:
    """Return the content hashes of the adapter and the chat template, as far as there are such."""
    chat = main.form.chat.template_hash if main and main.form.chat else ""
    return {name: value for name, value in (("adapter", adapter), ("chat template", chat)) if value}


def _main_cell(experiment: Experiment) -> MethodCell | None:
    """Return the first seed's cell of fourshot, else of the first method with synthetic texts, else None."""
    synthetic = [cell for cell in experiment.first_cells if cell.method.synthetic]
    return next((cell for cell in synthetic if cell.name == "fourshot"), synthetic[0] if synthetic else None)


def _reasons(pairs: list[tuple[Candidate, Verdict]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for candidate, verdict in pairs:
        counts[candidate.label][verdict.reason] += 1
    return {label: dict(reasons) for label, reasons in counts.items()}


def _by_class(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    texts: dict[str, dict[str, None]] = defaultdict(dict)  # a dict, for order without repetition
    for example in examples:
        texts[example.label][example.text] = None
    return {label: tuple(of_label) for label, of_label in texts.items()}


def _losses(experiment: Experiment) -> dict[str, tuple[tuple[int, float], ...]]:
    trained = {cell.method.display_name: experiment.result(cell) for cell in experiment.first_cells}
    return {name: tuple(enumerate(result.losses, start=1)) for name, result in trained.items() if result}


def _seconds(experiment: Experiment, main: MethodCell) -> dict[str, float]:
    """Return the seconds of each stage for the main method alone, without loading models; no stages of 0 s."""
    rounds = main.folder.lines("rounds.jsonl", Round)
    outcome = experiment.outcome(main)
    seconds = {
        "draw the pool": sum(record.sample_s for record in main.folder.pool.lines("rounds.jsonl", Round)),
        "train the annotators": sum(result.seconds for result in experiment.annotator_results(main)),
        "generate": sum(record.sample_s for record in rounds),
        "filter": sum(record.filter_s for record in rounds),
        "train": outcome.training.seconds if outcome.training else 0.0,
        "evaluate": outcome.evaluation.scores.seconds if outcome.evaluation else 0.0,
    }
    return {stage: round(value, 2) for stage, value in seconds.items() if value}


def _annotation_prompt(experiment: Experiment) -> str:
    """Return the prompt of an annotator that sees shots; "" if none does: then it is that of the classifier."""
    settings, task = experiment.settings, experiment.task
    for writer in experiment.writers[:1]:
        for annotator in experiment.annotators(writer):
            if annotator.adapter and annotator.shown:
                shots = [writer.shots[index] for index in annotator.shown]
                form = annotator.form(
                    PromptFormat(max_text_words=settings.max_text_words, long_texts=settings.long_texts)
                )
                if settings.aligns:
                    form = aligned(form, task, EngineSettings(model=experiment.model.path), shots)
                return classification_prompt(task, "…", form, shots)
    return ""


def _generation_prompts(experiment: Experiment) -> dict[str, str]:
    """Return the prompt of the first generated text of each kind, with the shots and attributes that it showed."""
    task, prompts = experiment.task, dict[str, str]()
    for writer in experiment.writers[:1]:
        words, chat = writer.settings.max_text_words, writer.form.chat
        places = (writer.folder, writer.folder.pool)
        listed = filter(None, (place.find(ATTRIBUTES_FILE, dict[str, Attributes]) for place in places))
        attributes = next(listed, dict[str, Attributes]())
        first = {candidate.mixed: candidate for candidate, _ in reversed(finished_pairs(writer.folder))}
        if drawn := first.get(False):
            (label,) = [label for label in task.labels if label.name == drawn.label]
            of_shots = attributes[label.name].of_shots if label.name in attributes else {}
            prompts["generation"] = generation_prompt(
                task,
                label,
                [writer.shots[index] for index in drawn.shots],
                max_text_words=words,
                of_shots=[of_shots[index] for index in drawn.shots] if of_shots else (),
                wanted_attributes=drawn.attributes,
                chat=chat,
            )
        if drawn := first.get(True):
            shown = [writer.shots[index] for index in drawn.shots]
            prompts["generation, of any class"] = mixed_prompt(task, shown, max_text_words=words, chat=chat)
    return prompts


def _prompts(experiment: Experiment) -> dict[str, str]:
    """Return one prompt of each kind, by purpose. Each wording in use has its own classification prompt."""
    task, shots, words = experiment.task, experiment.seeds[0].shots, experiment.settings.max_text_words
    chat = experiment.first_cells[0].form.chat
    users: dict[str, list[str]] = defaultdict(list)
    for cell in experiment.first_cells:
        if not cell.method.shots_in_prompt:
            users[classification_prompt(task, "…", cell.form)].append(cell.method.display_name)
    several = len(users) > 1
    asked_with = {}
    if METHODS["icl"].display_name not in left_out(experiment):
        in_context = PromptFormat(max_text_words=words, long_texts=experiment.settings.long_texts, chat=chat)
        if experiment.settings.aligns:
            in_context = aligned(in_context, task, EngineSettings(model=experiment.model.path), shots)
        asked_with["in context"] = classification_prompt(task, "…", in_context, shots)
    if annotation := _annotation_prompt(experiment):
        asked_with["annotation"] = annotation
    return {
        **_generation_prompts(experiment),
        **{
            f"classification ({', '.join(names)})" if several else "classification": prompt
            for prompt, names in users.items()
        },
        **asked_with,
    }
