"""All settings of a run: the command line, settings files and the API share them.

The comments behind the fields are shown as the help of their options.

Importing this module loads neither torch nor vllm.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from fourshot.engine.core import SamplingSettings, Typed, Verbalizer
from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.text_words import MAX_TEXT_WORDS, LongTexts
from fourshot.pipeline.synthesis.filters import FilterSettings
from fourshot.pipeline.synthesis.numbers import check_numbers
from fourshot.pipeline.synthesis.prompts import PromptStyle, Wording
from fourshot.training.lora.settings import PRESETS as TRAINING_PRESETS
from fourshot.training.lora.settings import LoraSettings

POOL_TIMES = 3  # texts of a pool for each text to keep, but at least
POOL_TEXTS = 400  # over all classes, enough to train adapters on
SOFT_TIMES = 2  # factor of the texts to keep if probabilities are learnt, and
SOFT_DRAWS = 1.75  # of the candidates per round
FEW_CLASSES = 16  # from so many, adapters see no shots by default: few prompts would have room for all
FEW_SHOTS = 64  # nor do they with more shots than this: prompts would show only some, and be as long as possible
# Annotators of texts that are learnt with probabilities, and how these are learnt (docs/training-log.md). WITH_BASE: as
# before adapters saw the shots, when the base in context was better than they, and their mean underconfident.
COMMITTEE: dict[str, Any] = {"annotator": "adapters", "num_adapters": 4, "num_encoders": 0, "folds": 0}
COMMITTEE |= {"in_context": 0, "soft_temperature": 1.0, "soft_epochs": 2.0}
WITH_BASE: dict[str, Any] = {"in_context": 3, "soft_temperature": 0.5, "soft_epochs": 1.0}


class GenerateSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many texts are generated, and how they are sampled."""

    per_class: int = 50  # synthetic texts to keep per class
    draws_per_round: int = 64  # candidates per class and round at most, for classes that still need some
    keep_likelier_of: Literal[1, 2] = 1  # completions per draw, of which the likelier becomes the candidate
    # Per class; a class with this many and fewer than N kept has stalled. 0: as many as N needs at min_acceptance.
    max_candidates: int = 640
    min_acceptance: float = 0.02  # a class with a lower acceptance rate after two rounds has stalled
    max_tokens: int = 0  # per text; 0: 1.5 times the longest shot, at least 32

    def __post_init__(self) -> None:
        for name, least in (("per_class", 1), ("draws_per_round", 1), ("max_candidates", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"generate.{name} must be at least {least}; got {value}.")
        if not (self.min_acceptance or self.max_candidates) or not 0 <= self.min_acceptance <= 1:
            raise InputError(
                "min_acceptance is a share from 0 to 1, and above 0 if max_candidates is 0, because a class might "
                f"otherwise never stall; got {self.min_acceptance} and {self.max_candidates}."
            )

    @property
    def for_soft(self) -> "GenerateSettings":
        """The same for soft labels: twice as many texts per class, and 1.75 times as many draws per round.

        No well-formed text is dropped, so this takes no more draws than keeping those with agreed labels. The increased
        ``per_class`` is at most half of `most_candidates`, so that no class stalls because of the increase.
        """
        most = max(self.per_class, self.most_candidates // 2)
        more = round(self.draws_per_round * SOFT_DRAWS)
        return msgspec.structs.replace(self, per_class=min(SOFT_TIMES * self.per_class, most), draws_per_round=more)

    @property
    def most_candidates(self) -> int:
        """Candidates per class after which a class has stalled."""
        return self.max_candidates or math.ceil(self.per_class / self.min_acceptance)


class VarietySettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the prompts of a class are varied (docs/diversity.md says what each setting gains)."""

    order: Literal["drawn", "fixed"] = "drawn"  # of the shots in a prompt: random in each, or the same in all
    mixed: float = 0.5  # share of prompts that show shots of all classes and request none; with soft targets only
    shots_shown: int = 0  # random selection of the class's shots in each prompt; 0 shows all
    attributes: bool = False  # each prompt requests a topic, a style and a length (`pipeline.synthesis.attributes`)
    suppress: float = 0.0  # how strongly words that a class over-uses are suppressed (`pipeline.synthesis.overuse`)

    def __post_init__(self) -> None:
        if not 0 <= self.mixed <= 1:
            raise InputError(f"variety.mixed is a share of the prompts, from 0 to 1; got {self.mixed}.")
        if self.shots_shown < 0 or not 0 <= self.suppress < math.inf:
            raise InputError(
                f"variety.shots_shown and variety.suppress must be at least 0; got {self.shots_shown} and "
                f"{self.suppress}."
            )


class AnnotateSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who annotates the candidates, and which labels are accepted (docs/design.md says why).

    adapters: a committee. It has ``num_adapters`` adapters, trained on the shots alone, with ``wordings`` in turn. It
    has ``in_context`` annotators that are the base model, shown the shots in different orders, and ``num_encoders``
    small encoders, fine-tuned on the shots. It has ``folds`` adapters trained on shots and candidates: a pool of
    candidates is generated first and split into folds, each annotated by the adapter trained without it. icl: the base
    model, shown the shots. none: no annotator.
    """

    annotator: Literal["adapters", "icl", "none"] = "adapters"  # who annotates the synthetic texts
    # Training target. agreement: the intended label, for texts of which the annotators predict it. soft: the
    # probability of each label, for every well-formed text; not with train.loss "text".
    targets: Literal["agreement", "soft"] = "agreement"
    # Of the probabilities in training: below 1 sharpens them, because a mean of annotators is underconfident.
    soft_temperature: float = 0.5
    # Whether probabilities are scaled so that each label is predicted as often as texts were generated for it. See
    # `evidence.alignment`; docs/training.md says why it is off.
    distribution_alignment: bool = False
    intended_odds: float = 20.0  # factor of the odds of the label that a text was generated for; 1: unchanged
    soft_epochs: float = 1.0  # passes over texts with probabilities, in place of train.num_epochs
    label_smoothing: float = 0.1  # as train.label_smoothing, for the classifier that learns generated texts
    # Of each kind of annotator. held_out: fitted on shots that the annotators have not seen: every adapter leaves some
    # out. equal: every adapter is trained on all shots. auto: equal if all are adapters that see shots, else held_out.
    weights: Literal["auto", "equal", "held_out"] = "auto"
    num_adapters: int = 4  # trained on the shots alone; 0 leaves annotation to the others
    # Whether the prompts of these adapters show the shots, in training and annotation (docs/design.md). auto: below 16
    # classes and up to 64 shots, unless average is first. Never with a single shot of a class or other wordings.
    show_shots: Literal["auto", "always", "never"] = "auto"
    # The training of adapters that see shots, on sequences of shots, ends once the mean label loss of three steps is
    # below this, in nats; 0: at the planned step (docs/training-log.md).
    converged_loss: float = 0.05
    sequences_per_step: Literal[0, 1, 2] = 0  # 0: one, or two where one has fewer labels than train.batch_size
    # first: the average of adapters with equal prompts annotates first (`training.lora.averaging`), and they themselves
    # only what it leaves open. auto: first with 16 classes or more, if labels are learnt. `annotate`, `distill`: never.
    average: Literal["auto", "first", "never"] = "auto"
    in_context: int = 0  # annotators that are the base model, each shown the shots in a different order
    num_encoders: int = 0  # annotators that are the bundled encoder, fine-tuned on the shots: they make other errors
    # Of the adapters' prompts, in turn. Others than the classifier's may be inaccurate (docs/training.md).
    wordings: tuple[Wording, ...] = ("task",)
    folds: int = 0  # adapters trained on shots and a pool of candidates, each without one fold; 0: none, and no pool
    fold_weight: float = 0.5  # of a fold adapter's log-probability; that of the mean of the others is 1
    fold_epochs: float = 2.0  # more would memorise the wrong labels
    # With many classes no more than three times per_class, see `RunSettings.pool_per_class`.
    pool_per_class: int = 80  # well-formed candidates that the fold adapters are trained on
    confidence: float = 0.0  # least probability of the label, 0 to 1
    self_training: bool = False  # with labels: a first classifier annotates all texts again; its surest are learnt
    calibration: Literal["none", "contextual", "batch"] = "none"  # of the annotator icl

    def __post_init__(self) -> None:
        are_shares = 0 <= self.confidence <= 1 and 0 <= self.label_smoothing < 1
        if not are_shares or self.num_adapters < 0 or self.folds < 0 or self.folds == 1:
            raise InputError(
                "confidence must be from 0 to 1, label_smoothing from 0 to below 1, num_adapters at least 0, folds 0 "
                f"or at least 2; got {self.confidence}, {self.label_smoothing}, {self.num_adapters} and {self.folds}."
            )
        if self.pool_per_class < 2 or not 0 < self.fold_weight < math.inf or not self.wordings:
            raise InputError(
                "pool_per_class must be at least 2, fold_weight above 0, wordings one or more; got "
                f"{self.pool_per_class}, {self.fold_weight} and {list(self.wordings)}."
            )
        if not (self.soft_temperature > 0 and 0 < self.intended_odds < math.inf and 0 <= self.soft_epochs < math.inf):
            raise InputError(
                "annotate.soft_temperature and intended_odds must be above 0, soft_epochs a number of at least 0; got "
                f"{self.soft_temperature}, {self.intended_odds} and {self.soft_epochs}."
            )
        if self.in_context < 0 or self.num_encoders < 0:
            raise InputError(f"in_context and num_encoders: at least 0, got {self.in_context} and {self.num_encoders}.")
        if self.annotator == "adapters" and not self.num_annotators:
            raise InputError(
                "num_adapters, in_context, num_encoders and folds are all 0, so there is no annotator. Set one of "
                "them, or annotator to 'none'."
            )

    @property
    def num_annotators(self) -> int:
        """Number of annotators of a committee."""
        return self.num_adapters + self.in_context + self.num_encoders + self.folds

    @property
    def trains_adapters(self) -> bool:
        """Whether the annotators are a committee with adapters."""
        return self.annotator == "adapters" and self.num_adapters + self.folds > 0

    @property
    def has_pool(self) -> bool:
        """Whether candidates are generated before any annotator exists."""
        return self.annotator == "adapters" and self.folds > 0


class UnlabelledSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a user's unlabelled texts are used."""

    mode: Literal["beside", "instead"] = "beside"  # learnt in addition to generated texts, or instead of them
    most: int = 1000  # texts of the file, selected at random if it has more; 0: all
    text_column: str = ""  # of a table; "": the task's, or the only one
    encoding: str = ""  # of a text file; "": by its byte-order mark, else UTF-8

    def __post_init__(self) -> None:
        if self.most < 0:
            raise InputError(f"unlabelled.most is a number of texts, 0 for all; got {self.most}.")


class RunSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one run: from shots to an evaluated adapter."""

    k: int = 4  # real examples per class to start from
    seed: int = 0  # draws the shots, the texts and the batches
    sampling: SamplingSettings = SamplingSettings()
    generate: GenerateSettings = GenerateSettings()
    variety: VarietySettings = VarietySettings()
    filter: FilterSettings = FilterSettings()
    annotate: AnnotateSettings = AnnotateSettings()
    unlabelled: UnlabelledSettings = UnlabelledSettings()
    train: LoraSettings = TRAINING_PRESETS["default"]
    wording: Wording = "task"  # of the classifier's prompt, in training and serving; "bare" leaves out the instruction
    prompt_style: PromptStyle = "plain"  # chat: the base's chat template; auto: the style that labels more shots right
    verbalizer: Literal["token", "word"] = "token"  # what adapters learn to predict for a label: one token, or its word
    # What a base without an adapter predicts: words, or prefixes that distinguish them; auto: these for many labels.
    base_verbalizer: Literal["auto", "word", "prefix"] = "auto"
    shot_weight: float = 1.0  # of a real example's loss; that of a synthetic one is 1
    max_text_words: int = MAX_TEXT_WORDS  # longer texts are cut, the same in training and serving
    # cut, middle: without their end or middle. windows: all, in overlapping parts; only the first part is learnt.
    long_texts: LongTexts = "cut"  # what is used of texts above max_text_words
    align: bool = True  # filler before prompts, so that the cache holds all that is before a text (docs/engine.md)
    test_limit: int = 0  # test texts to evaluate on, 0 for all
    calibrate: bool = True  # correct overconfident classifiers; trains up to four small adapters on the shots
    allow_short: bool = False  # continue with fewer texts if a class stalls below N
    allow_fewer_shots: bool = False  # continue if a class has fewer than k examples

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.learns_soft and self.train.loss == "text":
            raise InputError(
                "train.loss is 'text', which learns one label of each text; annotate.targets is 'soft', which gives "
                "each text a probability of every label. Set annotate.targets to 'agreement', or train.loss to 'label'."
            )

    @property
    def learns_soft(self) -> bool:
        """Whether texts are learnt with a probability of each label; never without an annotator."""
        return self.annotate.targets == "soft" and self.annotate.annotator != "none"

    @property
    def for_soft(self) -> "RunSettings":
        """The same for learning probabilities: other annotators, and more texts."""
        annotate = msgspec.structs.replace(self.annotate, targets="soft", **COMMITTEE)
        return msgspec.structs.replace(self, annotate=annotate, generate=self.generate.for_soft)

    @property
    def aligns(self) -> bool:
        """Whether prompts have filler in front. With a loss on the complete text, the model would learn to write it."""
        return self.align and self.train.loss == "label"

    def shows_shots(self, wording: Wording, labels: Sequence[str]) -> bool:
        """Return whether an annotator sees shots in its prompt: an adapter trained on shots with these ``labels``."""
        show, counts = self.annotate.show_shots, Counter(labels)
        can_show = wording == "task" and self.train.loss == "label" and min(counts.values(), default=0) > 1
        are_few = len(counts) < FEW_CLASSES and len(labels) <= FEW_SHOTS
        by_itself = are_few and self.annotate.average != "first"  # which needs equal prompts
        return can_show and (show == "always" or (show == "auto" and by_itself))

    @property
    def classifier_training(self) -> LoraSettings:
        """How a classifier is trained on synthetic texts. Smoothing needs labels of one token, and bounds the loss."""
        if self.learns_soft:
            return msgspec.structs.replace(self.train, num_epochs=self.annotate.soft_epochs)
        if self.train.label_smoothing or self.train.converged_loss or self.learnt_verbalizer != "token":
            return self.train
        return msgspec.structs.replace(self.train, label_smoothing=self.annotate.label_smoothing)

    @property
    def mixed_share(self) -> float:
        """Share of the prompts that request no class: 0 if the intended labels are learnt."""
        return self.variety.mixed if self.learns_soft else 0.0

    def pool_per_class(self, num_labels: int) -> int:
        """Return the pool's well-formed texts per class: ``annotate.pool_per_class``, or fewer if these are enough.

        Three times ``generate.per_class`` are enough, if these are at least 400 texts over all classes.
        """
        needed = max(POOL_TIMES * self.generate.per_class, math.ceil(POOL_TEXTS / num_labels))
        return min(self.annotate.pool_per_class, needed)

    @property
    def learnt_verbalizer(self) -> Verbalizer:
        """What adapters learn to predict for a label: always words if prompt and label are learnt as text."""
        return "word" if self.train.loss == "text" else self.verbalizer


PRESETS: dict[str, RunSettings] = {
    "default": RunSettings(),
    # Every well-formed text is learnt with the probabilities of a committee of adapters.
    "soft": RunSettings().for_soft,
    # The recipe of Patwa et al. 2024 taken literally: in-context annotation without calibration, 21 + 4 per class.
    "paper": RunSettings(
        generate=GenerateSettings(per_class=21, max_candidates=256, keep_likelier_of=2),
        annotate=AnnotateSettings(annotator="icl"),
        train=TRAINING_PRESETS["paper"],
    ),
    # Many texts for their own sake: annotated by the base model, so that nothing has to be trained first.
    "corpus": RunSettings(
        generate=GenerateSettings(per_class=1000, max_candidates=0),
        annotate=AnnotateSettings(annotator="icl", calibration="batch"),
    ),
}
