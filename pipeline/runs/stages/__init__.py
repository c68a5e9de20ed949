"""The stages of a run and their order. A new stage is a module in this folder and its entry in the lists here."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages import (
    ask,
    evaluate,
    generate,
    merge,
    probe,
    self_training,
    student,
    style,
    text_student,
    train,
    write,
)
from fourshot.pipeline.runs.stages.stage import Stage

# The stages after which a run can stop.
StageName = Literal["shots", "annotators", "annotate", "generate", "train", "evaluate", "report"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
STAGE_TYPES: tuple[type[Stage], ...] = (
    train.TrainStage,
    generate.GenerateStage,
    probe.ProbeStage,
    evaluate.EvaluateStage,
    merge.MergeStage,
    style.StyleStage,
    self_training.SelfTrainingStage,
    ask.AskStage,
    student.StudentStage,
    write.WriteStage,
    text_student.Seq2SeqStage,
    text_student.CausalStage,
)
StagePlan = Callable[[Experiment], Stage]  # a stage for an experiment of which the stages before it are finished


class Phase(NamedTuple):
    """A stage at its position in a run."""

    name: StageName
    plan: StagePlan
    title: str  # in forecasts
    writes_cards: bool = False  # it changes the adapters' cards


PHASES = (
    Phase("shots", style.prompt_styles, "find the prompt style"),
    Phase("annotators", generate.pools, "draw the pool"),
    Phase("annotators", train.on_real_texts, "train the annotators"),
    Phase("annotators", student.encoders, "fine-tune the encoders"),
    Phase("annotate", generate.unlabelled_texts, "annotate"),
    Phase("generate", generate.rounds, "generate"),
    Phase("train", train.first_classifiers, "train the first classifier"),
    Phase("train", self_training.predictions, "read the texts again"),
    Phase("train", train.classifiers, "train", writes_cards=True),
    Phase("evaluate", evaluate.methods, "evaluate", writes_cards=True),
)


def phases_until(last: StageName) -> list[Phase]:
    """Return the phases of a run that stops after ``last``. If that is before "train", only annotators are trained."""
    end = STAGE_NAMES.index(last)
    phases = [phase for phase in PHASES if STAGE_NAMES.index(phase.name) <= end]
    if end >= STAGE_NAMES.index("train"):
        return phases
    return [phase._replace(plan=train.annotators) if phase.plan is train.on_real_texts else phase for phase in phases]
