"""Estimate the work that a corpus still needs, beyond what is in its shards."""

from collections.abc import Mapping, Sequence

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.corpus.sink import replayed
from fourshot.pipeline.forecasts.forecast import StageWork
from fourshot.pipeline.forecasts.speed import Speed
from fourshot.pipeline.forecasts.work_counts import TokenCounts
from fourshot.pipeline.loop.units import TaskBrief
from fourshot.pipeline.synthesis.prompts import PromptFormat

STAGE = "make the corpus"
WASTE = 1.03  # factor for draws that are in flight when a class has enough


def remaining_work(
    briefs: Mapping[str, TaskBrief],
    shards: Mapping[str, Sequence[ShardRecord]],
    model: ResolvedModel,
    speed: Speed,
    *,
    compiled_from: int,
) -> list[StageWork]:
    """Return the remaining work of each unfinished task, by its acceptance so far, or the expected one without draws.

    ``compiled_from``: missing rows of all tasks from which the engine is compiled; with adapters, it never is.
    """
    work = list[StageWork]()
    plans = {name: replayed(brief, shards.get(name, ())) for name, brief in briefs.items()}
    rows = sum(sum(plan.counts.missing.values()) for plan in plans.values())
    compiled = rows >= compiled_from and not any(brief.annotators for brief in briefs.values())
    for name, brief in briefs.items():
        plan = plans[name]
        if plan.is_done:
            continue
        counts = TokenCounts(brief.task, brief.shots, brief.settings, model.path)
        has_annotator = brief.settings.annotate.annotator != "none"
        expected = speed.accepted(counts.num_labels) if has_annotator else speed.well_formed
        draws = [
            missing / (plan.counts.by_label[label].acceptance if plan.counts.by_label[label].drawn else expected)
            for label, missing in plan.counts.missing.items()
            if not plan.counts.has_stalled(label)
        ]
        per_class = WASTE * sum(draws) / counts.num_labels
        part = counts.draws(per_class, chat=brief.chat) + _annotation(
            brief, counts, per_class * counts.num_labels * speed.well_formed
        )
        work.append(msgspec.structs.replace(part, stage=STAGE, compiled=compiled))
    return work


def _annotation(brief: TaskBrief, counts: TokenCounts, texts: float) -> StageWork:
    annotate, total = brief.settings.annotate, StageWork(stage="")
    if annotate.annotator == "icl":
        form = PromptFormat(verbalizer=brief.settings.base_verbalizer, chat=brief.chat)
        total += counts.classification(texts, form, shots=brief.shots)
    for annotator in brief.annotators:
        form = PromptFormat(wording=annotator.wording, verbalizer=annotator.verbalizer, chat=annotator.chat)
        total += counts.classification(texts, form, adapter=True)
    return total
