"""The methods that an experiment sets beside each other; an ablation is one more row of data.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """A way of classifying."""

    display_name: str
    explanation: str
    shots_in_prompt: bool = False
    calibration: Literal["none", "contextual", "batch"] = "none"  # of a prompting method's answers
    trained: bool = False
    real_per_class: int = 0  # 0: the shots
    synthetic: bool = False
    texts_of: str = ""  # the method whose synthetic texts it is trained on; "": its own
    changed: Callable[[RunSettings], RunSettings] | None = None  # the run's settings, as this method has them

    def settings(self, base: RunSettings) -> RunSettings:
        return self.changed(base) if self.changed else base


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


def _annotated(**changes: Any) -> Callable[[RunSettings], RunSettings]:
    def changed(base: RunSettings) -> RunSettings:
        annotate = msgspec.structs.replace(base.annotate, **changes)
        return msgspec.structs.replace(base, annotate=annotate, allow_short=True)

    return changed


def _varied(**changes: Any) -> Callable[[RunSettings], RunSettings]:
    def changed(base: RunSettings) -> RunSettings:
        return msgspec.structs.replace(base, variety=msgspec.structs.replace(base.variety, **changes), allow_short=True)

    return changed


def _bare(base: RunSettings) -> RunSettings:
    return msgspec.structs.replace(base, wording="bare")


METHODS: dict[str, Method] = {
    "zero_shot": Method(display_name="Zero-shot", explanation="the base model, instruction only"),
    "zero_shot_calibrated": Method(
        display_name="Zero-shot, calibrated", explanation="the same, batch-calibrated", calibration="batch"
    ),
    "icl": Method(display_name="In context", explanation="the base model, shown the shots", shots_in_prompt=True),
    "icl_calibrated": Method(
        display_name="In context, calibrated",
        explanation="the same, batch-calibrated",
        shots_in_prompt=True,
        calibration="batch",
    ),
    "lora": Method(display_name="LoRA on the shots", explanation="LoRA trained on the shots alone", trained=True),
    "fourshot": Method(
        display_name="fourshot",
        explanation="LoRA trained on shots and kept synthetic texts",
        trained=True,
        synthetic=True,
    ),
    "paper": Method(
        display_name="The paper's recipe",
        explanation="in-context filter without calibration, loss on the whole text (preset paper)",
        trained=True,
        synthetic=True,
        changed=_paper,
    ),
    "lora25": Method(
        display_name="LoRA on 25 real",
        explanation="LoRA trained on 25 real texts per class",
        trained=True,
        real_per_class=25,
    ),
    "lora_bare": Method(
        display_name="LoRA on the shots, bare text",
        explanation="as lora, trained and asked without the instruction",
        trained=True,
        changed=_bare,
    ),
    "fourshot_bare": Method(
        display_name="fourshot, bare text",
        explanation="as fourshot, on the same texts, trained and asked without the instruction",
        trained=True,
        synthetic=True,
        texts_of="fourshot",
        changed=_bare,
    ),
    "lora25_bare": Method(
        display_name="LoRA on 25 real, bare text",
        explanation="as lora25, trained and asked without the instruction",
        trained=True,
        real_per_class=25,
        changed=_bare,
    ),
    "unfiltered": Method(
        display_name="fourshot, unfiltered",
        explanation="ablation: every well-formed synthetic text is kept",
        trained=True,
        synthetic=True,
        changed=_annotated(annotator="none"),
    ),
    "shots_filter": Method(
        display_name="fourshot, shots-only filter",
        explanation="ablation: re-labelled by the adapters trained on the shots alone",
        trained=True,
        synthetic=True,
        changed=_annotated(annotator="adapters", folds=0),
    ),
    "folds_filter": Method(
        display_name="fourshot, folds-only filter",
        explanation="ablation: re-labelled by the adapters trained on shots and the other fold's candidates",
        trained=True,
        synthetic=True,
        changed=_annotated(annotator="adapters", num_adapters=0),
    ),
    "icl_filter": Method(
        display_name="fourshot, in-context filter",
        explanation="ablation: re-labelled in context, batch-calibrated",
        trained=True,
        synthetic=True,
        changed=_annotated(annotator="icl", calibration="batch"),
    ),
    "fixed_order": Method(
        display_name="shots in one order",
        explanation="as fourshot, the shots in the same order in all prompts",
        trained=True,
        synthetic=True,
        changed=_varied(order="fixed"),
    ),
    "redrawn": Method(
        display_name="two shots, drawn anew",
        explanation="as fourshot, each prompt shows two of the class's shots",
        trained=True,
        synthetic=True,
        changed=_varied(shots_shown=2),
    ),
    "attributes": Method(
        display_name="attributes",
        explanation="as fourshot, each prompt asks for a topic, a style and a length",
        trained=True,
        synthetic=True,
        changed=_varied(attributes=True),
    ),
    "suppressed": Method(
        display_name="suppressed words",
        explanation="as fourshot, words that a class over-uses are pushed down",
        trained=True,
        synthetic=True,
        changed=_varied(suppress=1.0),
    ),
    "attributes_suppressed": Method(
        display_name="attributes, suppressed words",
        explanation="both",
        trained=True,
        synthetic=True,
        changed=_varied(attributes=True, suppress=1.0),
    ),
}
