"""What a classifier learns of a text, found from the shots: a label for certain, or how likely each label is.

A classifier that learns labels for certain, in several passes, forgets what a base knew that reads texts well in
context. Where the base reads them badly, so are the probabilities that a committee with it gives. In single runs each
recipe was the better one with another base (docs/training.md). The model's name does not tell which base it is; shots
that readers have not seen may, though they are few.
"""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.synthesis.settings import RunSettings

# Of the log loss of somebody who knows nothing: what the base in context may have. Above it, probabilities of a
# committee with it say so little that a classifier learns nothing from them (docs/training-log.md, "Soft labels").
MOST_LOSS = 0.7


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What is learnt of a text in one run, and why."""

    targets: Literal["agreement", "soft"]
    reason: str
    evidence: dict[str, KindEvidence] = {}  # by kind of reader; empty where they could not be compared

    def __str__(self) -> str:
        learnt = "probabilities of all labels" if self.targets == "soft" else "labels that annotators agree with"
        return f"learns {learnt}: {self.reason}"


def chosen_recipe(evidence: Mapping[str, KindEvidence], num_labels: int) -> Recipe:
    """Probabilities if the base in context is more accurate on held-out shots than adapters, at a lower log loss.

    ``evidence``: by kind of reader, "adapters" and "in context".

    Where accuracy and log loss disagree, or as many are right, there are too few shots to tell: labels are learnt. So
    they are where the base knows little itself: its loss is near log(num_labels), that of equal probabilities.
    """
    adapters, in_context = evidence["adapters"], evidence["in context"]
    is_better = in_context.accuracy > adapters.accuracy and in_context.loss < adapters.loss
    guess = math.log(num_labels)
    is_better &= in_context.loss <= MOST_LOSS * guess
    return Recipe(
        targets="soft" if is_better else "agreement",
        reason=(
            f"of {in_context.num_texts} held-out shots, the base in context reads {in_context.accuracy:.0%} correctly "
            f"(loss {in_context.loss:.2f}), adapters {adapters.accuracy:.0%} (loss {adapters.loss:.2f}); the loss of a "
            f"guess is {guess:.2f}"
        ),
        evidence=dict(evidence),
    )


def resolved(settings: RunSettings, recipe: Recipe | None) -> RunSettings:
    """``settings`` with what was found; without it, labels that agree are learnt."""
    return settings.with_targets(recipe.targets) if recipe and settings.is_tried else settings
