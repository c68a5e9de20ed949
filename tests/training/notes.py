"""Eight notes, warm and cold: enough for a training that takes seconds."""

from collections.abc import Sequence

from fourshot.training.lora.examples import TrainingExample

WORDS = ("warm", "cold")
WARM = (
    "Sunlight on the red barn.",
    "A cup of cocoa by the fire while the children toast bread on long forks.",
    "Sand burns my feet at noon.",
    "Fresh bread smells.",
)
COLD = (
    "Frost on every window.",
    "The lake froze over night, and by morning the ducks were walking where they had swum.",
    "My fingers hurt in the snow.",
    "Grey wind from the sea.",
)
UNSEEN = ("Steam over a bath.", "Icicles hang from the roof.", "July in the desert.", "A glacier.", "Toast.", "Sleet.")


def prompt(text: str) -> str:
    return f"Classify the note as warm or cold.\n\nText: {text}\nLabel:"


def examples(texts: Sequence[str] = WARM, others: Sequence[str] = COLD) -> list[TrainingExample]:
    """Return training examples: ``texts`` have the first label, ``others`` the second."""
    return [
        TrainingExample(prompt=prompt(text), target=target)
        for target, side in enumerate((texts, others))
        for text in side
    ]
