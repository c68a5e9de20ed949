"""From an experiment's folder to the table and to what the report shows."""

from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import get_args

import msgspec

from fourshot.pipeline.provenance import installed_versions
from fourshot.pipeline.report.data import Lineage, MethodRow, ReportData, method_row
from fourshot.pipeline.runs.experiment import Experiment, Outcome
from fourshot.pipeline.runs.generation import pool_of
from fourshot.pipeline.runs.methods import METHODS
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording, generation_prompt, reading_prompt
from fourshot.pipeline.synthesis.rounds import Round
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.types import Example


def table(experiment: Experiment) -> list[MethodRow]:
    """One row per method that was measured on every seed, in the methods' order."""
    by_method: dict[str, list[Outcome]] = defaultdict(list)
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
        )
        for method, outcomes in by_method.items()
        if len(outcomes) == len(experiment.seeds)
    ]


def report_data(experiment: Experiment, title: str) -> ReportData:
    """Everything the report shows; texts and losses are those of the first seed's main method."""
    rows = table(experiment)
    seed = experiment.seeds[0]
    synthetic = [name for name, method in experiment.methods.items() if method.synthetic]
    main = "fourshot" if "fourshot" in synthetic else synthetic[0] if synthetic else ""
    pairs = experiment.pairs(main, seed) if main else []
    trained = experiment.adapter(main, seed) if main else None
    return ReportData(
        title=title,
        task=experiment.task,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        num_test=next((o.evaluation.scores.n for o in experiment.outcomes() if o.evaluation), 0),
        methods=tuple(rows),
        headline_method=main if any(row.method == main for row in rows) else "",
        reason_counts=_reasons(pairs),
        kept=tuple(pair for pair in pairs if pair[1].kept),
        rejected=tuple(pair for pair in pairs if not pair[1].kept),
        real_texts=_by_class(experiment.shots[seed] + experiment.more_real.get(seed, [])),
        synthetic_texts=_by_class([Example(text=c.text, label=c.label) for c, v in pairs if v.kept]),
        losses=_losses(experiment),
        stage_seconds=_seconds(experiment, main, seed),
        settings=msgspec.to_builtins(experiment.base),
        versions=installed_versions(),
        lineage=Lineage(
            base_model=experiment.model.name,
            revision=experiment.model.revision,
            hashes={"adapter": trained.name} if trained else {},
            shots=tuple(experiment.shots[seed]),
            prompts=_prompts(experiment, seed),
        ),
        try_it=f"fourshot predict {experiment.root} {_QUOTED}" if trained else "",
        seed=seed,
    )


_QUOTED = '"your text"'


def _reasons(pairs: list[tuple[Candidate, Verdict]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for candidate, verdict in pairs:
        counts[candidate.label][verdict.reason] += 1
    return {label: dict(reasons) for label, reasons in counts.items()}


def _by_class(examples: list[Example]) -> dict[str, tuple[str, ...]]:
    texts: dict[str, dict[str, None]] = defaultdict(dict)  # a dict, for order without repetition
    for example in examples:
        texts[example.label][example.text] = None
    return {label: tuple(found) for label, found in texts.items()}


def _losses(experiment: Experiment) -> dict[str, tuple[tuple[int, float], ...]]:
    seed = experiment.seeds[0]
    curves = {}
    for name, method in experiment.methods.items():
        result = experiment.adapter(name, seed) if method.trained else None
        if result:
            curves[method.display_name] = tuple(enumerate(result.losses, start=1))
    return curves


def _seconds(experiment: Experiment, main: str, seed: int) -> dict[str, float]:
    """Work of the main method alone, without loading models."""
    if not main:
        return {}
    rounds = experiment.folder(main, seed).lines("rounds.jsonl", Round)
    trained = experiment.adapter(main, seed)
    seconds = {
        "draw the pool": sum(
            r.sample_s for r in pool_of(experiment.folder(main, seed).path).lines("rounds.jsonl", Round)
        ),
        "train the annotators": sum(result.seconds for result in experiment.annotator_results(main, seed)),
        "generate": sum(record.sample_s for record in rounds),
        "filter": sum(record.filter_s for record in rounds),
        "train": trained.seconds if trained else 0.0,
    }
    for outcome in experiment.outcomes():
        if outcome.evaluation and outcome.seed == seed and outcome.method == main:
            seconds["evaluate"] = outcome.evaluation.scores.seconds
    return {stage: round(value, 2) for stage, value in seconds.items() if value}


def _prompts(experiment: Experiment, seed: int) -> dict[str, str]:
    """One of each kind; what a text is classified with once for every wording that a method uses."""
    task, shots, words = experiment.task, experiment.shots[seed], experiment.base.max_text_words
    label = task.labels[0]
    own = [shot for shot in shots if shot.label == label.name]
    forms = {wording: PromptFormat(wording=wording, max_text_words=words) for wording in get_args(Wording)}
    users: dict[Wording, list[str]] = defaultdict(list)
    for name, method in experiment.methods.items():
        if not method.shots_in_prompt:
            users[experiment.wording(name, seed)].append(method.display_name)
    several = len(users) > 1
    return {
        "generation": generation_prompt(task, label, own, max_text_words=words),
        **{
            f"classification ({', '.join(names)})" if several else "classification": reading_prompt(
                task, "…", forms[wording]
            )
            for wording, names in users.items()
        },
        "in context": reading_prompt(task, "…", forms["task"], shots),
    }
