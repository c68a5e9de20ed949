"""Training examples of annotators whose prompts show the shots: sequences of shots, of which every label is learnt.

A prompt with shots repeats what is to be learnt. An adapter that is trained to use it needs to change the base model
less than one that must store the shots in its weights. In a sequence, each label is predicted from the shots before it,
so one prompt teaches as many labels as it shows.

Sources: Chen et al. 2022, "Meta-learning via Language Model In-context Tuning", and Min et al. 2022, "MetaICL: Learning
to Learn In Context" (a model is trained to predict labels from examples in its prompt; there on other tasks).
"""

import random
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from fourshot.engine.context import within_context
from fourshot.engine.core import EngineSettings
from fourshot.pipeline.synthesis.prompt_style import ANSWER_TOKENS
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt, context
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.token_counter import token_counter
from fourshot.training.lora.examples import ShownLabel, TrainingExample
from fourshot.training.lora.settings import LoraSettings

TIMES_AS_MANY_STEPS = 2  # as without shots in the prompt; with as many, labels of the last shots shown are preferred
MOST_STEPS = 40  # however many shots there are: sequences of more shots are longer
CONVERGED_STEPS = 3  # the last ones, whose mean label loss decides whether a training ends early
MOST_PER_STEP = 2  # sequences
MOST_TOKENS = 1024  # of a sequence; memory and time of a step grow with the square of its length


def sequence_examples(
    task: Task, shots: Sequence[Example], form: PromptFormat, settings: RunSettings, model_path: str, seed: int
) -> tuple[tuple[TrainingExample, ...], LoraSettings]:
    """Return sequences of ``shots``, and the settings of a training that sees each of them once.

    ``form``: of the prompts. A sequence ends at `MOST_TOKENS`, or before the engine's context does.
    """
    train = settings.train
    planned = train.planned_steps(len(shots), len(task.labels))
    steps = max(train.min_steps, min(MOST_STEPS, TIMES_AS_MANY_STEPS * planned))
    steps = min(steps, train.max_steps or steps)
    draw, room = random.Random(f"{seed}/sequences"), _room(task, form, model_path)
    tokens = _tokens(task, shots, form, model_path)
    sequences = []
    for _ in range(steps * MOST_PER_STEP):
        sequence = drawn_sequence(shots, draw)
        fitting = sum(1 for total in accumulate(tokens[shot] for shot in sequence) if total <= room)
        sequences.append(sequence[: max(1, fitting)])
    has_enough = sum(map(len, sequences)) >= train.batch_size * len(sequences)  # labels in one sequence, on average
    at_once = settings.annotate.sequences_per_step or (1 if has_enough else MOST_PER_STEP)
    examples = [_example(task, sequence, form) for sequence in sequences[: steps * at_once]]
    once = {"batch_size": at_once, "num_epochs": 1.0, "min_steps": 1, "max_steps": 0}
    if settings.annotate.converged_loss:
        once |= {"converged_loss": settings.annotate.converged_loss, "converged_steps": CONVERGED_STEPS}
    return tuple(examples), msgspec.structs.replace(train, **once)


def drawn_sequence(shots: Sequence[Example], draw: random.Random) -> list[Example]:
    """Return a random sequence of distinct ``shots`` in which no label can be guessed from those before it.

    The class of each shot is drawn anew, and the sequence ends with the last shot of a class. In a random order of all
    shots, the last label would be the one of which a shot is missing.
    """
    remaining = {label: draw.sample(of_label, len(of_label)) for label, of_label in _by_label(shots).items()}
    sequence = list[Example]()
    while all(remaining.values()):
        sequence.append(remaining[draw.choice(list(remaining))].pop())
    return sequence


def _by_label(shots: Sequence[Example]) -> dict[str, list[Example]]:
    by_label: dict[str, list[Example]] = {}
    for shot in shots:
        by_label.setdefault(shot.label, []).append(shot)
    return by_label


def _room(task: Task, form: PromptFormat, model_path: str) -> int:
    """Return how many tokens of a prompt are left for shots."""
    most = min(MOST_TOKENS, within_context(EngineSettings(model=model_path)).max_model_len)
    return most - token_counter(model_path)(classification_prompt(task, "", form)) - ANSWER_TOKENS


def _tokens(task: Task, shots: Sequence[Example], form: PromptFormat, model_path: str) -> dict[Example, int]:
    """Return how many tokens a prompt is longer with each of ``shots``, rounded up."""
    count = token_counter(model_path)
    without = count(classification_prompt(task, "", form))
    return {shot: count(classification_prompt(task, "", form, [shot])) - without + 1 for shot in shots}


def _example(task: Task, sequence: Sequence[Example], form: PromptFormat) -> TrainingExample:
    *before, last = sequence
    index = {label.name: number for number, label in enumerate(task.labels)}
    without = len(context(task, (), form))
    shown, end = [], without
    for shot in before:
        target = index[shot.label]
        answer = f" {task.labels[target].read_as}{form.turns.next}"  # with which the part up to this shot ends
        end += len(context(task, [shot], form)) - without
        shown.append(ShownLabel(start=end - len(answer), target=target))
    prompt = classification_prompt(task, last.text, form, before)
    return TrainingExample(prompt=prompt, target=index[last.label], shown=tuple(shown))
