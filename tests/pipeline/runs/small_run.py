"""The folder of a run with generated texts: two shots, one kept text and three rejected ones."""

from pathlib import Path

from fourshot.pipeline.cells.run_folder import GENERATED_FILE, SHOTS_FILE, RunFolder, RunManifest
from fourshot.pipeline.loop.rounds import Round
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Reason, Verdict
from fourshot.pipeline.task import Example, Label, Task
from tests.pipeline.candidates import candidate as made

TASK = Task(name="colours", instruction="Warm or cold?", noun="note", labels=(Label(name="warm"), Label(name="cold")))
SHOTS = [Example(text="Sunlight on the red barn.", label="warm"), Example(text="Frost on every window.", label="cold")]
TEXTS: dict[
    str, tuple[str, float, Reason]
] = {  # text -> (intended class, probability of "warm", reason of the verdict)
    "<b>Steam</b> over the pot.": ("warm", 0.9, "kept"),
    "Snow in the hall.": ("warm", 0.45, "label_disagrees"),
    "Fog.": ("cold", 0.2, "too_short"),
    "Ash on the snow.": ("cold", 0.6, "label_disagrees"),
}


def write_run(path: Path, task: Task = TASK) -> RunFolder:
    """Write a run folder as after `fourshot generate`, and return it."""
    folder = RunFolder(path)
    settings = RunSettings()
    folder.claim(RunManifest(task=task, settings=settings, model_name="m", model_revision="1", model_path="/m"))
    folder.write(SHOTS_FILE, SHOTS)
    for number, (text, (label, warmth, reason)) in enumerate(TEXTS.items()):
        candidate = made(number, text, label)
        share = {} if reason == "too_short" else {"warm": warmth, "cold": 1 - warmth}
        verdict = Verdict(candidate_id=candidate.id, kept=reason == "kept", reason=reason, probabilities=share)
        folder.append("candidates.jsonl", [candidate])
        folder.append("verdicts.jsonl", [verdict])
    counts = {"warm": 2, "cold": 2}
    record = Round(number=0, num_candidates=4, kept=counts, drawn=counts, sample_s=1.0, filter_s=1.0, output_tokens=8)
    folder.append("rounds.jsonl", [record])
    folder.write(GENERATED_FILE, {"kept": 1})
    return folder
