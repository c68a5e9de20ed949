"""Everything that can be set about a run, in one place: the command line, the file and the API share it.

Importing this module loads neither torch nor vllm.
"""

from typing import Literal

import msgspec

from engine.core import Sampling
from engine.errors import InputError
from pipeline.filters import FilterSettings
from training.settings import PRESETS as TRAINING_PRESETS
from training.settings import LoraSettings


class GenerateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many texts, and how they are drawn."""

    per_class: int = 50  # N: synthetic texts to keep per class
    draws_per_round: int = 64  # candidates per class and round, for classes that still need some
    keep_likelier_of: Literal[1, 2] = 1  # completions per candidate, of which the likelier is taken (docs/design.md)
    max_candidates: int = 640  # per class; a class that has drawn this many without reaching N has stalled
    min_acceptance: float = 0.02  # a class below this after two rounds has stalled
    max_tokens: int = 0  # per text; 0 takes it from the longest shot

    def __post_init__(self) -> None:
        if self.per_class < 0 or self.draws_per_round < 1 or self.max_candidates < 1:
            raise InputError(
                "per_class must be at least 0, draws_per_round and max_candidates at least 1; got "
                f"{self.per_class}, {self.draws_per_round} and {self.max_candidates}."
            )


class AnnotateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who re-labels the candidates, and when a label is believed (docs/design.md says why folds are the default).

    folds: a pool of candidates is drawn first and dealt into ``folds`` parts; an adapter trained on the shots and all
    other parts reads each part. adapters: ``num_adapters`` adapters trained on the shots alone. icl: the base model,
    shown the shots. none: nobody.
    """

    annotator: Literal["folds", "adapters", "icl", "none"] = "folds"
    folds: int = 2
    pool_per_class: int = 80  # well-formed candidates that the fold adapters are trained on
    fold_passes: float = 2.0  # over the data; what is learnt later is which labels are wrong, by heart
    num_adapters: int = 2  # a text is kept where all of them agree with the intended label
    confidence: float = 0.0  # least probability of the intended label, averaged over the annotators
    calibration: Literal["none", "contextual", "batch"] = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1 or self.num_adapters < 1 or self.folds < 2 or self.pool_per_class < 2:
            raise InputError(
                "confidence must be from 0 to 1, num_adapters at least 1, folds and pool_per_class at least 2; got "
                f"{self.confidence}, {self.num_adapters}, {self.folds} and {self.pool_per_class}."
            )


class RunSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run: from shots to a measured adapter."""

    k: int = 4  # shots per class
    seed: int = 0  # draws the shots, the texts and the batches
    sampling: Sampling = Sampling()
    generate: GenerateSettings = GenerateSettings()
    filter: FilterSettings = FilterSettings()
    annotate: AnnotateSettings = AnnotateSettings()
    train: LoraSettings = TRAINING_PRESETS["default"]
    shot_weight: float = 1.0  # of a real example's loss, where a synthetic one counts 1
    max_text_words: int = 300  # longer texts are cut, the same in training and serving
    test_limit: int = 0  # test texts to measure on; 0 means all
    allow_short: bool = False  # go on with what there is where a class stalls below N
    allow_fewer_shots: bool = False


PRESETS: dict[str, RunSettings] = {
    "default": RunSettings(),
    # The recipe of Patwa et al. 2024 taken literally: in-context re-labelling without calibration, 21 + 4 per class.
    "paper": RunSettings(
        generate=GenerateSettings(per_class=21, max_candidates=256, keep_likelier_of=2),
        annotate=AnnotateSettings(annotator="icl"),
        train=TRAINING_PRESETS["paper"],
    ),
}
