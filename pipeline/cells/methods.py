"""The methods that an experiment compares; an ablation is one more row of data.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.synthesis.settings import PRESETS, WITH_BASE, RunSettings
from fourshot.pipeline.work_folder import OF_ANNOTATORS


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """How texts are classified: what is shown, what is trained on what, and which settings differ from the run's."""

    display_name: str
    shots_in_prompt: bool = False
    calibration: Literal["none", "batch"] = "none"  # of the predictions for test texts
    trained: bool = False
    real_per_class: int = 0  # real examples to train on; 0: the shots
    synthetic: bool = False
    texts_of: str = ""  # the method whose synthetic texts it is trained on; "": its own
    annotators_of: str = ""  # the method whose annotators predict together, in place of a classifier; "": none
    changed: Callable[[RunSettings], RunSettings] | None = None  # returns the run's settings with the method's changes

    def settings(self, base: RunSettings) -> RunSettings:
        return self.changed(base) if self.changed else base

    @property
    def has_annotators(self) -> bool:
        """Whether it needs annotators: to annotate its texts, or to predict in place of a classifier."""
        return self.synthetic or bool(self.annotators_of)


def _paper(base: RunSettings) -> RunSettings:
    preset = PRESETS["paper"]
    return msgspec.structs.replace(
        base,
        generate=preset.generate,
        annotate=preset.annotate,
        train=preset.train,
        wording=preset.wording,
        shot_weight=1.0,
        allow_short=True,
    )


def _bare(base: RunSettings) -> RunSettings:
    return msgspec.structs.replace(base, wording="bare")


def _changed(group: Literal["annotate", "variety"], **changes: Any) -> Callable[[RunSettings], RunSettings]:
    """Return a function that applies ``changes`` to one group of settings."""

    def changed(base: RunSettings) -> RunSettings:
        return msgspec.structs.replace(base, **{group: msgspec.structs.replace(getattr(base, group), **changes)})

    return changed


def _recipe(group: Literal["annotate", "variety"], display_name: str, **changes: Any) -> Method:
    """Return the method fourshot with ``changes`` to one group of settings."""
    with_changes = _changed(group, **changes)

    def changed(base: RunSettings) -> RunSettings:
        return msgspec.structs.replace(with_changes(base), allow_short=True)

    return _synthetic(display_name=display_name, changed=changed)


_lora = partial(Method, trained=True)
_synthetic = partial(Method, trained=True, synthetic=True)
_ablation = partial(_recipe, "annotate")
_varied = partial(_recipe, "variety")


def _soft(display_name: str, *, mixed: float = 0.5, **changes: Any) -> Method:
    """Return a method with the preset "soft" and ``changes`` to its annotators; ``mixed``: see `VarietySettings`."""

    def changed(base: RunSettings) -> RunSettings:
        preset, layout = PRESETS["soft"], {name: getattr(base.annotate, name) for name in OF_ANNOTATORS}
        return msgspec.structs.replace(
            base,
            generate=preset.generate,
            annotate=msgspec.structs.replace(preset.annotate, **layout, **changes),
            variety=msgspec.structs.replace(base.variety, mixed=mixed),
            allow_short=True,
        )

    return _synthetic(display_name=display_name, changed=changed)


METHODS: dict[str, Method] = {
    # The base model, with the instruction alone.
    "zero_shot": Method(display_name="Zero-shot"),
    "zero_shot_calibrated": Method(display_name="Zero-shot, bias-corrected", calibration="batch"),
    # The base model, shown the shots.
    "icl": Method(display_name="In context", shots_in_prompt=True),
    "icl_calibrated": Method(display_name="In context, bias-corrected", shots_in_prompt=True, calibration="batch"),
    # LoRA, trained on the shots alone; on shots and kept synthetic texts.
    "lora": _lora(display_name="LoRA on the shots"),
    "fourshot": _synthetic(display_name="fourshot"),
    # The annotators of fourshot, applied to the test texts. Nothing is trained that fourshot does not train.
    "committee": Method(display_name="Mean of the annotators", annotators_of="fourshot"),
    # The same classifiers, with their bias towards labels subtracted as in context: fitted on the test texts.
    "lora_calibrated": _lora(display_name="LoRA on the shots, bias-corrected", calibration="batch"),
    "fourshot_calibrated": _synthetic(
        display_name="fourshot, bias-corrected", texts_of="fourshot", calibration="batch"
    ),
    # The same texts, annotated again by a first classifier.
    "self_training": _synthetic(
        display_name="fourshot, self-trained", texts_of="fourshot", changed=_changed("annotate", self_training=True)
    ),
    # In-context filter without calibration, loss on the complete text.
    "paper": _synthetic(display_name="The paper's recipe", changed=_paper),
    # LoRA trained on 25 real texts per class.
    "lora25": _lora(display_name="LoRA on 25 real", real_per_class=25),
    # Trained and queried without the instruction.
    "lora_bare": _lora(display_name="LoRA on the shots, bare text", changed=_bare),
    "fourshot_bare": _synthetic(display_name="fourshot, bare text", texts_of="fourshot", changed=_bare),
    "lora25_bare": _lora(display_name="LoRA on 25 real, bare text", real_per_class=25, changed=_bare),
    # Who annotates: nobody, so that every well-formed text is kept; the adapters trained on the shots alone; those
    # trained on shots and the other fold's candidates; both; the base model in context.
    "unfiltered": _ablation("fourshot, unfiltered", annotator="none"),
    "shots_filter": _ablation("fourshot, shots-only filter", annotator="adapters", folds=0),
    "folds_filter": _ablation("fourshot, folds-only filter", annotator="adapters", num_adapters=0, folds=2),
    "shots_and_folds_filter": _ablation("fourshot, shots-and-folds filter", annotator="adapters", folds=2),
    "icl_filter": _ablation("fourshot, in-context filter", annotator="icl", calibration="batch"),
    # The preset soft: every text is learnt with a committee's probabilities. The same with prompts that all request a
    # class, and without the intended class. The preset of earlier versions, with the base model in context beside the
    # adapters: as it was, with equal weights, with additional encoders, without adapters, with encoders instead.
    "soft": _soft("soft labels"),
    "soft_by_class": _soft("soft labels, no mixed prompts", mixed=0.0),
    "soft_as_read": msgspec.structs.replace(_soft("soft labels, as read", intended_odds=1.0), texts_of="soft"),
    "soft_with_base": _soft("soft labels, in context too", **WITH_BASE),
    "soft_equal": _soft("soft labels, in context too, equal weights", **WITH_BASE, weights="equal"),
    "soft_encoders": _soft("soft labels, in context and encoders too", **WITH_BASE, num_encoders=4),
    "soft_in_context": _soft("soft labels, in context only", **WITH_BASE, num_adapters=0),
    "soft_no_adapters": _soft("soft labels, encoders and in context", **WITH_BASE, num_encoders=4, num_adapters=0),
    # Variation of the prompts: shots in the same order in all; two of the class's shots in each; a topic, a style and a
    # length requested; words that a class over-uses suppressed; the last two together.
    "fixed_order": _varied("shots in one order", order="fixed"),
    "redrawn": _varied("two shots, drawn anew", shots_shown=2),
    "attributes": _varied("attributes", attributes=True),
    "suppressed": _varied("suppressed words", suppress=1.0),
    "attributes_suppressed": _varied("attributes, suppressed words", attributes=True, suppress=1.0),
}


def check_annotators(methods: Sequence[str], settings: RunSettings) -> None:
    """Raise InputError for a method that queries the committee if there is none."""
    for name in methods:
        method = METHODS[name]
        if method.annotators_of and (annotator := method.settings(settings).annotate.annotator) != "adapters":
            raise InputError(
                f"The method {name} needs a committee, but annotate.annotator is {annotator!r}. Leave the method out, "
                "or set annotate.annotator to 'adapters'. icl and icl_calibrated query the base model in context."
            )
