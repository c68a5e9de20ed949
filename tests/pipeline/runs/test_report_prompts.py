"""The prompts for generation that a report shows are those that texts were drawn with."""

import random
from pathlib import Path

import msgspec

from fourshot.pipeline.loop.rounds import ATTRIBUTES_FILE
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.drawing import PromptSource
from fourshot.pipeline.synthesis.settings import AnnotateSettings, VarietySettings
from fourshot.pipeline.synthesis.types import Candidate
from tests.pipeline.runs.prepared_experiments import experiment_with_texts


def test_the_report_shows_the_prompts_of_the_first_texts_as_they_were_drawn(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "fourshot")
    (writer,), task = experiment.writers, experiment.task
    of_shots = {index: {"topic": f"topic {index}"} for index in range(len(writer.shots))}
    attributes = {name: Attributes(values={"topic": ("snow", "sun")}, of_shots=of_shots) for name in task.label_names}
    (writer.folder.pool.path).mkdir()
    writer.folder.pool.write(ATTRIBUTES_FILE, attributes)
    soft = msgspec.structs.replace(
        experiment.settings,
        variety=VarietySettings(shots_shown=3, mixed=0.5),
        annotate=AnnotateSettings(targets="soft"),
    )
    label = task.labels[1]
    source = PromptSource(task, label, writer.shots, soft, attributes[label.name])
    numbers = random.Random(0)
    drawn = {prompt.mixed: prompt for prompt in (source.draw(numbers) for _ in range(20))}
    lines = (writer.folder.path / "candidates.jsonl").read_bytes().splitlines()
    candidates = [
        msgspec.structs.replace(
            msgspec.json.decode(line, type=Candidate),
            label=label.name,
            shots=prompt.shots,
            attributes=prompt.attributes,
            mixed=prompt.mixed,
        )
        for line, prompt in zip(lines, (drawn[True], drawn[False]), strict=True)
    ]
    (writer.folder.path / "candidates.jsonl").unlink()
    writer.folder.append("candidates.jsonl", candidates)
    prompts = report_data(experiment, "A run").lineage.prompts
    assert prompts["generation"] == drawn[False].prompt and "Topic: " in drawn[False].prompt
    assert prompts["generation, of any class"] == drawn[True].prompt
