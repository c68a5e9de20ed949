"""What an experiment trains and measures, told by its stages: nothing is trained here."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.alignment import PromptFiller
from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine import files
from fourshot.pipeline import work_folder
from fourshot.pipeline.card import load_card
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, RunFolder
from fourshot.pipeline.cells.training_texts import TrainingTexts
from fourshot.pipeline.cells.trainings import classifier_job
from fourshot.pipeline.rows.examples import Split, load_split
from fourshot.pipeline.runs.cards import write_cards
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stage_driver import StageDriver
from fourshot.pipeline.runs.stages.generate import rounds
from fourshot.pipeline.runs.stages.train import classifiers, on_real_texts
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.work_folder import LAYOUT_FILE, Layout, WorkFolder
from fourshot.training.jobs.jobs import TrainingJob
from tests.pipeline.runs.prepared_experiments import (
    METHODS,
    MODEL,
    experiment_with_texts,
    finish,
    prompts_of,
    write_texts,
)


def test_a_bare_method_stands_on_the_texts_and_the_committee_of_its_counterpart(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "both")
    plain, bare = classifiers(experiment).items
    assert [example.target for example in bare.examples] == [example.target for example in plain.examples]
    assert bare.examples[-1].prompt == "Text: Snow on snow.\nLabel:"
    assert plain.examples[-1].prompt == f"{experiment.task.instruction}\n\n{bare.examples[-1].prompt}"
    assert bare.settings == plain.settings
    assert [item.folder for item in rounds(experiment).items] == [str(tmp_path / "both" / "out" / "seed0" / "fourshot")]

    alone = experiment_with_texts(tmp_path / "alone", "fourshot_bare")
    assert [job.key for job in classifiers(alone).items] == [bare.key]
    assert committee(alone) == committee(experiment)


def test_the_run_s_wording_is_that_of_its_classifiers_and_not_of_its_committee(tmp_path: Path) -> None:
    usual = experiment_with_texts(tmp_path / "usual", "lora", "fourshot")
    bare = experiment_with_texts(tmp_path / "bare", "zero_shot", "icl", "lora", "fourshot", wording="bare")
    assert committee(bare) == committee(usual)
    for cell in bare.cells:
        if cell.method.trained:
            assert all(example.prompt.startswith("Text: ") for example in bare.job(cell).examples)
    assert [cell.form.wording for cell in bare.cells] == ["task", "task", "bare", "bare"]


def test_what_is_trained_learns_a_token_for_each_label_and_the_base_says_words(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "zero_shot", "icl", "fourshot", "paper")
    trained = finish(experiment)
    kinds = {cell.name: experiment.evaluation_cell(cell).form.verbalizer for cell in experiment.cells}
    assert kinds == {"zero_shot": "auto", "icl": "auto", "fourshot": "token", "paper": "word"}  # paper: whole texts
    write_cards(experiment)
    for cell in experiment.cells:
        if result := experiment.result(cell):
            assert load_card(result.path).verbalizer == trained[result.name].verbalizer == kinds[cell.name]
    annotators = [annotator for item in rounds(experiment).items for annotator in item.annotators]
    assert len(annotators) == 4 and {annotator.verbalizer for annotator in annotators} == {"token"}
    by_words = experiment_with_texts(tmp_path / "whole", "lora", verbalizer="word")
    assert [job.verbalizer for job in on_real_texts(by_words).items] == ["word"]


def test_filler_is_the_same_in_training_reading_measuring_and_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler_of_base(monkeypatch)
    experiment = experiment_with_texts(tmp_path / "run", align=True)
    trained = finish(experiment)
    for examples in (job.examples for job in trained.values()):
        assert all(example.prompt.startswith("~~") for example in examples)
    (annotators,) = (item.annotators for item in rounds(experiment).items if item.annotators)
    assert {annotator.filler for annotator in annotators if annotator.adapter} == {FILLER}
    assert all(prompt.startswith("~~") for kind, prompt in shown(experiment).items() if kind != "generation")
    write_cards(experiment)
    for cell in map(experiment.evaluation_cell, experiment.cells):
        assert cell.align and cell.form.filler == FILLER
        if cell.adapter:
            card = load_card(cell.adapter.path)
            assert card.prompt_format == cell.form
            assert prompts_of(card) <= {example.prompt for example in trained[cell.adapter.name].examples}


def test_a_folder_keeps_the_layout_that_it_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filler_of_base(monkeypatch)
    old = experiment_with_texts(tmp_path / "run")  # as by a version that knows no filler
    keys, cells = committee(old), [old.evaluation_cell(cell).out for cell in old.cells]
    aligned = msgspec.structs.replace(old.settings, align=True)
    again = Experiment(old.data, MODEL, aligned, METHODS, old.seeds, old.root)
    messages = list[str]()
    StageDriver(tmp_path / "log.txt", lambda event: messages.append(event.message)).add("notes", again)
    assert committee(again) == keys and not WorkFolder(old.root).read(LAYOUT_FILE, Layout).align
    assert messages == ["notes: the folder was begun without filler before prompts (align), and continues without it"]
    new = experiment_with_texts(tmp_path / "new", align=True)
    assert committee(new) != keys
    assert not {Path(cell).name for cell in cells} & {Path(new.evaluation_cell(cell).out).name for cell in new.cells}
    other = msgspec.structs.replace(new.settings, align=False)
    with pytest.raises(RunFolderError, match=r"begun with align = True.*--set align="):
        Experiment(new.data, MODEL, other, METHODS, new.seeds, new.root)


def test_a_kill_while_a_folder_is_begun_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any number of its first files, of which one says that prompts begin with filler."""
    filler_of_base(monkeypatch)
    first = experiment_with_texts(tmp_path / "first", align=True)

    def claimed(name: str) -> Experiment:
        experiment = Experiment(first.data, MODEL, first.settings, METHODS, first.seeds, tmp_path / name)
        experiment.claim()
        return experiment

    undisturbed = claimed("undisturbed")
    names = files_of(undisturbed.root)
    assert "layout.json" in names and len(names) >= 3
    for written in range(len(names)):
        left = [*range(written)]

        def write(*arguments: Any, real: Any = files.write_json, left: list[int] = left) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop()
            real(*arguments)

        with monkeypatch.context() as killed:
            killed.setattr(work_folder, "write_json", write)
            with pytest.raises(KeyboardInterrupt):
                claimed(f"killed-{written}")
        again = claimed(f"killed-{written}")
        assert (committee(again), files_of(again.root)) == (committee(undisturbed), names)
        assert not again.layout_notes


def files_of(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def shown(experiment: Experiment) -> dict[str, str]:
    """Prompts in the report."""
    return report_data(experiment, "A run").lineage.prompts


FILLER = PromptFiller(token="~", number=2, prefix_tokens=32)


def filler_of_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the base had a tokenizer, and every prompt a place for it."""
    monkeypatch.setattr("fourshot.pipeline.synthesis.aligned.filler_for", lambda *_, **__: FILLER)


def committee(experiment: Experiment) -> list[str]:
    (writer,) = experiment.writers
    return [job.key for job in experiment.annotator_jobs(writer)]


def test_each_adapter_is_measured_and_carded_in_the_wording_of_its_training(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run")
    trained = finish(experiment)
    cells = {cell.name: experiment.evaluation_cell(cell) for cell in experiment.cells}
    assert len({cell.out for cell in cells.values()}) == len(METHODS)
    write_cards(experiment)
    for name, cell in cells.items():
        if cell.adapter is None:
            assert cell.form.wording == "task"
            continue
        card = load_card(cell.adapter.path)
        assert card.wording == cell.form.wording == ("bare" if name.endswith("_bare") else "task")
        assert prompts_of(card) <= {example.prompt for example in trained[cell.adapter.name].examples}


@pytest.mark.parametrize(
    ("methods", "kinds"),
    [
        (("zero_shot", "lora"), ["classification", "in context"]),
        (
            ("zero_shot", "lora_bare"),
            ["classification (Zero-shot)", "classification (LoRA on the shots, bare text)", "in context"],
        ),
        (("icl",), ["in context"]),
        (("fourshot",), ["generation", "classification", "in context"]),
    ],
)
def test_the_report_shows_every_prompt_that_is_used(tmp_path: Path, methods: tuple[str, ...], kinds: list[str]) -> None:
    experiment = experiment_with_texts(tmp_path / "run", *methods)
    prompts = report_data(experiment, "A run").lineage.prompts
    assert list(prompts) == kinds
    if "lora_bare" in methods:
        assert prompts[kinds[1]] == "Text: …\nLabel:"
        assert prompts[kinds[0]].startswith(experiment.task.instruction)


def test_a_folder_of_another_wording_is_refused(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "fourshot")
    other = msgspec.structs.replace(experiment.settings, wording="bare")
    again = Experiment(TaskData(experiment.task), MODEL, other, ["fourshot"], experiment.seeds, experiment.root)
    with pytest.raises(RunFolderError, match=r"wording: the folder has 'task', this call has 'bare'"):
        again.claim()


def test_a_split_is_read_once_and_a_job_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, rendered = list[str](), list[str]()

    def reading(task: Task, split: str) -> Split:
        read.append(split)
        return load_split(task, split)

    def rendering(task: Task, revision: str, cell: MethodCell, learnt: TrainingTexts) -> TrainingJob:
        rendered.append(cell.name)
        return classifier_job(task, revision, cell, learnt)

    monkeypatch.setattr("fourshot.pipeline.task_data.load_split", reading)
    monkeypatch.setattr("fourshot.pipeline.cells.trainings.classifier_job", rendering)
    experiment = experiment_with_texts(tmp_path / "run")
    finish(experiment)
    write_cards(experiment)
    report_data(experiment, "A run")
    assert sorted(read) == ["test", "train"]
    assert sorted(rendered) == sorted(cell.name for cell in experiment.cells if cell.method.trained)


def test_texts_that_are_not_finished_are_no_training_s_yet(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "fourshot")
    cell = experiment.cell("fourshot")
    (cell.folder.path / GENERATED_FILE).unlink()
    assert experiment.result(cell) is None and experiment.outcome(cell).synthetic_examples == 2
    with pytest.raises(AssertionError):
        experiment.job(cell)


def test_a_method_that_is_named_twice_is_one_cell(tmp_path: Path) -> None:
    assert [cell.name for cell in experiment_with_texts(tmp_path / "run", "lora", "icl", "lora").cells] == [
        "lora",
        "icl",
    ]


def test_what_is_left_out_of_long_texts_is_the_same_in_training_measuring_and_serving(tmp_path: Path) -> None:
    usual = experiment_with_texts(tmp_path / "usual", "icl", "fourshot")
    settings = msgspec.structs.replace(usual.settings, max_text_words=3, long_texts="middle")
    experiment = Experiment(usual.data, MODEL, settings, ["icl", "fourshot"], usual.seeds, tmp_path / "middle")
    experiment.claim()
    for writer in experiment.writers:
        write_texts(writer.folder)
    finish(experiment)
    write_cards(experiment)
    cell = experiment.cell("fourshot")
    assert "Text: Sunlight … red barn.\n" in experiment.job(cell).examples[0].prompt
    result = experiment.result(cell)
    assert result and load_card(result.path).prompt_format == experiment.evaluation_cell(cell).form == cell.form
    cut = Experiment(
        usual.data,
        MODEL,
        msgspec.structs.replace(settings, long_texts="cut"),
        ["icl"],
        usual.seeds,
        tmp_path / "middle",
    )
    out = {run.evaluation_cell(run.cell("icl")).out for run in (experiment, cut)}
    assert len(out) == 2, "no score of one is taken for the other's"
    read_by = [msgspec.structs.replace(usual.settings, base_verbalizer=name) for name in ("auto", "word", "prefix")]
    runs = [Experiment(usual.data, MODEL, each, ["icl"], usual.seeds, tmp_path / "middle") for each in read_by]
    assert len({run.evaluation_cell(run.cell("icl")).out for run in runs}) == 3
    assert report_data(usual, "usual").long_texts == ()
    notes = report_data(experiment, "middle").long_texts
    assert notes[0].startswith("shots: 7 of 8 texts have more than 3 words (the longest 7): the middle is not used, ")


def test_a_run_says_which_build_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this is a checkout; its version is that of all builds."""
    monkeypatch.setattr("fourshot.pipeline.provenance.source_commit", lambda: "abc1234+")
    (writer,) = experiment_with_texts(tmp_path / "run", "fourshot").writers
    assert writer.folder.manifest().versions["commit"] == "abc1234+"
    monkeypatch.setattr("fourshot.pipeline.provenance.source_commit", lambda: "")
    experiment_with_texts(tmp_path / "installed", "fourshot")
    assert "commit" not in RunFolder(next((tmp_path / "installed").rglob("manifest.json")).parent).manifest().versions


def test_a_report_counts_short_classes_by_the_settings_of_its_method(tmp_path: Path) -> None:
    for method, least_texts in (("paper", 21), ("fourshot", 0)):
        experiment = experiment_with_texts(tmp_path / method, method)
        assert report_data(experiment, "A run").least_texts == least_texts
