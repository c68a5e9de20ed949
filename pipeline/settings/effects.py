"""Which settings have an effect in which command: commands share them all, and a settings file may be for several.

Settings that the user changed without effect are reported in one line before the work begins. Importing this module
loads neither torch nor vllm.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.faults import shorten
from fourshot.pipeline.synthesis.settings import PRESETS, AnnotateSettings, RunSettings

MOST_LISTED = 8  # settings that are named for one reason
OF_FOLDS = ("annotate.fold_weight", "annotate.fold_epochs", "annotate.pool_per_class")
OF_SEQUENCES = ("annotate.converged_loss", "annotate.sequences_per_step")
OF_COMMITTEE = (
    *(f"annotate.{name}" for name in ("num_adapters", "in_context", "num_encoders", "folds", "weights", "average")),
    "annotate.show_shots",
    *OF_SEQUENCES,
    *OF_FOLDS,
)
OF_PROBABILITIES = (  # as training targets
    *(f"annotate.{name}" for name in ("soft_temperature", "soft_epochs", "intended_odds", "distribution_alignment")),
    "variety.mixed",
)
# Without wordings, which adapters for calibration use, too, and without confidence, which `check_confidence` checks.
OF_ANNOTATING = tuple(
    f"annotate.{name}"
    for name in AnnotateSettings.__struct_fields__
    if name not in ("annotator", "wordings", "confidence", "label_smoothing")
)
SELF_TRAINING = "annotate.self_training"
SMOOTHING = "annotate.label_smoothing"
OF_WRITING = ("generate", "variety", "sampling", "allow_short")
OF_TRAINING = ("train", "wording", "verbalizer", "shot_weight", "calibrate")
OF_ENGINE = ("prompt_style", "base_verbalizer", "align")


class Unused(NamedTuple):
    """Settings that have no effect, and why."""

    names: Sequence[str]  # dotted; a group stands for all that is in it
    why: str


def unused_in_run(settings: RunSettings, *, has_unlabelled: bool) -> list[Unused]:
    """Return the settings without effect in a run, for one task or many."""
    annotate = settings.annotate
    unused = [] if has_unlabelled else [Unused(["unlabelled"], "no file of texts without labels is given")]
    unused += [*_ruled_out(settings)]
    if has_unlabelled and settings.unlabelled.mode == "instead" and not annotate.has_pool:
        unused.append(Unused([*OF_WRITING, SELF_TRAINING], "unlabelled.mode is 'instead', so no texts are written"))
    if annotate.annotator == "none":
        return [*unused, Unused([*OF_ANNOTATING, "variety.mixed"], "annotate.annotator is 'none'")]
    if annotate.annotator == "icl":
        unused.append(Unused(OF_COMMITTEE, "annotate.annotator is 'icl'"))
    else:
        unused.append(Unused(["annotate.calibration"], "only for annotate.annotator 'icl'"))
        if not annotate.folds:
            unused.append(Unused(OF_FOLDS, "annotate.folds is 0"))
        if annotate.average == "first" and annotate.show_shots == "always":
            unused.append(Unused(["annotate.average"], "annotate.show_shots gives each adapter another prompt"))
    if settings.learns_soft:
        unused.append(Unused([SELF_TRAINING, SMOOTHING], "training uses probabilities, not labels"))
    else:
        unused.append(Unused(OF_PROBABILITIES, "training uses labels, not probabilities"))
    return unused


def _ruled_out(settings: RunSettings) -> Iterator[Unused]:
    """Yield the settings that other settings rule out in every command."""
    if settings.variety.shots_shown >= settings.k:
        yield Unused(["variety.shots_shown"], "prompts show all k shots of a class already")
    if settings.train.min_warmup_steps and not settings.train.warmup:
        yield Unused(["train.min_warmup_steps"], "train.warmup is 0")
    if settings.train.converged_steps and not settings.train.converged_loss:
        yield Unused(["train.converged_steps"], "train.converged_loss is 0")
    if settings.train.label_smoothing:
        yield Unused([SMOOTHING], "train.label_smoothing replaces it")
    elif settings.train.converged_loss:
        yield Unused([SMOOTHING], "train.converged_loss ends a training before it is certain")
    elif settings.learnt_verbalizer == "word":
        yield Unused([SMOOTHING], "the labels are learnt as words or text")
    if settings.annotate.show_shots == "never":
        yield Unused(OF_SEQUENCES, "annotate.show_shots is 'never'")


def unused_in_corpus(settings: RunSettings) -> list[Unused]:
    """Return the settings without effect in a corpus, which trains and evaluates nothing."""
    annotator = settings.annotate.annotator
    who = {"adapters": "the adapters that are named", "icl": "the base model, shown the shots"}.get(annotator)
    unused = [
        Unused(
            [*OF_TRAINING, *OF_PROBABILITIES, SELF_TRAINING, SMOOTHING, "test_limit"],
            "a corpus trains and measures nothing",
        ),
        *_ruled_out(settings),
        Unused(["unlabelled"], "a corpus contains only its own texts"),
        Unused([*OF_COMMITTEE, "annotate.wordings"], f"annotated by {who or 'nobody'}" + " alone" * bool(who)),
    ]
    if annotator != "icl":
        unused.append(Unused(["annotate.calibration", "base_verbalizer"], "only for annotate.annotator 'icl'"))
    return unused


def unused_by_teacher(settings: RunSettings, *, writes: bool) -> list[Unused]:
    """Return the settings without effect in a distillation that trains its teacher, a committee without classifier."""
    annotate = settings.annotate
    keeps_folds = bool(annotate.folds) and annotate.num_annotators == annotate.folds
    unused = [
        Unused(["unlabelled", "generate.per_class"], "--unlabelled and --generate determine the training texts"),
        Unused(
            ["wording", "calibrate", "train.held_out", SELF_TRAINING, SMOOTHING, *OF_PROBABILITIES[:-1]],
            "the classifier is a separate student",
        ),
    ]
    if not keeps_folds:
        unused.append(Unused(["annotate.folds", *OF_FOLDS, "shot_weight"], "this teacher is trained only on the shots"))
    if not (writes or keeps_folds):
        names = [*OF_WRITING, "annotate.targets", "annotate.confidence", "annotate.average"]
        unused.append(Unused(names, "the teacher writes no texts"))
    if annotate.annotator == "icl":
        unused.append(Unused([*OF_COMMITTEE, "annotate.wordings"], "annotate.annotator is 'icl'"))
    else:
        unused.append(Unused(["annotate.calibration"], "only for annotate.annotator 'icl'"))
    return unused


def unused_with_teacher(settings: RunSettings, *, is_remote: bool, has_shots: bool, writes: bool) -> list[Unused]:
    """Return the settings without effect in a distillation from an existing teacher.

    A teacher that ``is_remote`` is shown the shots, and may generate texts.
    """
    draws = is_remote and writes
    of_annotating = [f"annotate.{name}" for name in AnnotateSettings.__struct_fields__]
    if draws:
        of_annotating = [
            name for name in of_annotating if name.partition(".")[2] not in ("annotator", "targets", "confidence")
        ]
    unused = [
        Unused([*OF_TRAINING, *OF_ENGINE, *of_annotating], "the teacher is not trained here"),
        Unused(["unlabelled", "generate.per_class"], "--unlabelled and --generate determine the training texts"),
    ]
    if not draws:
        unused.append(Unused([*OF_WRITING, "filter"], "no texts are written here"))
    if not is_remote:
        unused.append(Unused(["max_text_words", "long_texts"], "the teacher has its own prompts"))
        if has_shots:
            unused.append(Unused(["k", "allow_fewer_shots"], "the teacher has its own shots"))
    return unused


def unused_line(settings: RunSettings, unused: Sequence[Unused], usual: Sequence[str] = ("default",)) -> str:
    """Return a message on ``unused`` settings that differ from all presets ``usual``; "" where there are none."""
    changed = list(dict.fromkeys(changed_names(settings, [PRESETS[name] for name in usual])))
    named, reasons = set[str](), list[str]()
    for names, why in unused:
        idle_names = [name for name in changed if name not in named and any(is_of(name, idle) for idle in names)]
        named.update(idle_names)
        if idle_names:
            reasons.append(f"{shorten(idle_names, MOST_LISTED)} ({why})")
    return f"settings without effect here: {'; '.join(reasons)}" if reasons else ""


def tell_unused(
    settings: RunSettings,
    unused: Sequence[Unused],
    stage: str,
    on_event: OnEvent,
    usual: Sequence[str] = ("default",),
) -> list[str]:
    """Report `unused_line`, before the work of a command begins, and return it in a list; [] where it is empty."""
    line = unused_line(settings, unused, usual)
    if line:
        on_event(Event(stage=stage, message=line, notice=True))
    return [line] if line else []


def check_confidence(settings: RunSettings) -> None:
    """Raise InputError for a least confidence without annotators: the user expects it to leave texts out."""
    if settings.annotate.confidence and settings.annotate.annotator == "none":
        raise InputError(
            "annotate.confidence (--confidence) is the minimum confidence of annotators, but annotate.annotator is "
            "'none'. "
            "Leave one of them out."
        )


def changed_names(settings: RunSettings, usual: Sequence[RunSettings]) -> Iterator[str]:
    """Yield the dotted names of the settings that differ from those in each of ``usual``."""

    def differing(value: Any, others: Sequence[Any], name: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from differing(inner, [other[key] for other in others], f"{name}.{key}" if name else key)
        elif all(value != other for other in others):
            yield name

    yield from differing(msgspec.to_builtins(settings), [msgspec.to_builtins(each) for each in usual], "")


def is_of(setting: str, name: str) -> bool:
    """Whether ``name`` is the setting itself, or a group that contains it."""
    return setting == name or setting.startswith(f"{name}.")
