"""Which settings have no effect in a comparison of some methods. Importing this module loads neither torch nor vllm."""

from collections.abc import Iterator, Sequence

from fourshot.pipeline.cells.methods import METHODS, Method
from fourshot.pipeline.settings.effects import (
    OF_TRAINING,
    OF_WRITING,
    SMOOTHING,
    Unused,
    changed_names,
    is_of,
    unused_in_run,
)
from fourshot.pipeline.synthesis.settings import PRESETS, AnnotateSettings, RunSettings
from fourshot.training.lora.settings import LoraSettings


def unused_in_comparison(settings: RunSettings, methods: Sequence[str]) -> list[Unused]:
    """Return the changed settings without effect: neither ``methods`` nor the writers of their texts use them."""
    names = dict.fromkeys(name for method in methods for name in (method, METHODS[method].texts_of) if name)
    unused_by_method = [list(_unused_by(METHODS[name], settings)) for name in names]
    by_reason: dict[str, list[str]] = {}
    for setting in changed_names(settings, [PRESETS["default"]]):
        reasons = {_why_unused(setting, unused) for unused in unused_by_method}
        if "" not in reasons:
            reason = reasons.pop() if len(reasons) == 1 else "not used by any compared method"
            by_reason.setdefault(reason, []).append(setting)
    return [Unused(unused_names, reason) for reason, unused_names in by_reason.items()]


def _unused_by(method: Method, settings: RunSettings) -> Iterator[Unused]:
    """Yield the settings that a method does not use, including those that its recipe overrides."""
    own = method.settings(settings)
    yield Unused(list(changed_names(own, [settings])), "the compared methods have their own values")
    if method.annotators_of:
        of_texts = ["wording", "calibrate", "annotate.average", SMOOTHING]
        of_texts += () if own.annotate.has_pool else OF_WRITING
        yield Unused(of_texts, "no compared method learns texts")
    if method.has_annotators:
        yield from unused_in_run(own, has_unlabelled=False)
        return
    of_writing = [*OF_WRITING, "filter", "shot_weight", "unlabelled", "train.held_out"]
    yield Unused(of_writing, "no compared method generates texts")
    of_annotating = [f"annotate.{name}" for name in AnnotateSettings.__struct_fields__]
    if method.trained:  # unless it has more real texts, adapters in the annotators' wordings calibrate it
        of_annotating = [name for name in of_annotating if name != "annotate.wordings" or method.real_per_class]
        yield Unused([*of_annotating, "base_verbalizer"], "no compared method has annotators")
        return
    # `train.loss` has an effect on every method: with a loss on texts, no prompt has filler (`RunSettings.aligns`).
    of_training = [f"train.{name}" for name in LoraSettings.__struct_fields__ if name != "loss"]
    of_training += [name for name in OF_TRAINING if name != "train"]
    yield Unused([*of_annotating, *of_training], "no compared method is trained")


def _why_unused(setting: str, unused: Sequence[Unused]) -> str:
    """Return why a method does not use a setting; "" where it does."""
    return next((why for names, why in unused if any(is_of(setting, name) for name in names)), "")
