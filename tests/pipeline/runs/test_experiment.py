"""What an experiment trains and measures, told by its stages: nothing is trained here."""

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from fourshot.engine.alignment import Filler
from fourshot.engine.errors import InputError, RunFolderError
from fourshot.engine.files import write_json
from fourshot.engine.models import ResolvedModel
from fourshot.pipeline.card import CARD_FILE, AdapterCard, load_card, load_examples
from fourshot.pipeline.loop.rounds import Round
from fourshot.pipeline.runs.calibrating import CALIBRATED_FILE, Calibrated
from fourshot.pipeline.runs.cards import certainty_of, write_cards
from fourshot.pipeline.runs.cells import MethodCell, SeedExamples
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.learnt import LearntTexts
from fourshot.pipeline.runs.run_folder import GENERATED_FILE, RunFolder
from fourshot.pipeline.runs.stage_driver import StageDriver
from fourshot.pipeline.runs.stages.generate import pools, rounds
from fourshot.pipeline.runs.stages.style import prompt_styles
from fourshot.pipeline.runs.stages.train import classifiers, on_real_texts
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.runs.trainings import classifier_job
from fourshot.pipeline.synthesis.prompt_style import ChosenStyle
from fourshot.pipeline.synthesis.prompts import CHAT_VERSION, PROMPT_VERSION, PromptStyle, Wording
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Verdict
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.tables import Split, load_split
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import Task
from fourshot.pipeline.work_folder import LAYOUT_FILE
from fourshot.training.jobs.jobs import RESULT_FILE, TrainingJob
from fourshot.training.lora.examples import TrainingResult
from tests.pipeline.candidates import candidate as made
from tests.pipeline.chat import CHAT
from tests.pipeline.task_folders import write_task

METHODS = ("zero_shot", "icl", "lora", "lora_bare", "fourshot", "fourshot_bare", "lora25_bare")
MODEL = ResolvedModel(path="/models/base", name="base", revision="abc")
WRITTEN = {"Steam over the pot.": "warm", "Snow on snow.": "cold"}


def begun(
    folder: Path,
    *methods: str,
    wording: Wording = "task",
    prompt_style: PromptStyle = "plain",
    verbalizer: Literal["token", "word"] = "token",
    calibrate: bool = False,
    align: bool = False,
) -> Experiment:
    """An experiment with one seed whose texts are there and kept, and whose committee reads the shots alone."""
    folder.mkdir()
    task = load_task(write_task(folder))
    annotate = AnnotateSettings(folds=0)
    settings = RunSettings(
        wording=wording,
        prompt_style=prompt_style,
        verbalizer=verbalizer,
        annotate=annotate,
        calibrate=calibrate,
        align=align,
    )
    data = TaskData(task)
    seeds = [SeedExamples(seed=0, shots=tuple(data.train), more=tuple(data.train))]
    experiment = Experiment(data, MODEL, settings, methods or METHODS, seeds, folder / "out")
    experiment.claim()
    for writer in experiment.writers:
        write_texts(writer.folder)
    return experiment


def write_texts(folder: RunFolder) -> None:
    for number, (text, label) in enumerate(WRITTEN.items()):
        candidate = made(number, text, label)
        verdict = Verdict(candidate_id=candidate.id, kept=True, reason="kept")
        folder.append("candidates.jsonl", [candidate])
        folder.append("verdicts.jsonl", [verdict])
    counts = {"warm": 1, "cold": 1}
    record = Round(number=0, num_candidates=2, kept=counts, drawn=counts, sample_s=1.0, filter_s=1.0, output_tokens=8)
    folder.append("rounds.jsonl", [record])
    folder.write(GENERATED_FILE, {"kept": 2})


def finish(experiment: Experiment) -> dict[str, TrainingJob]:
    """As if everything had been trained. Returns what was, by the adapter's name."""
    jobs = {job.key: job for job in [*on_real_texts(experiment).items, *classifiers(experiment).items]}
    trained = {}
    for key, job in jobs.items():
        result = TrainingResult(
            name=f"adapter-{key}", path="", steps=1, planned_steps=1, losses=(0.5,), tokens=9, seconds=1.0, examples=2
        )
        (experiment.store / key / result.name).mkdir(parents=True)
        RunFolder(experiment.store / key).write(RESULT_FILE, result)
        trained[result.name] = job
    return trained


def test_a_bare_method_stands_on_the_texts_and_the_committee_of_its_counterpart(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "both")
    plain, bare = classifiers(experiment).items
    assert [example.target for example in bare.examples] == [example.target for example in plain.examples]
    assert bare.examples[-1].prompt == "Text: Snow on snow.\nLabel:"
    assert plain.examples[-1].prompt == f"{experiment.task.instruction}\n\n{bare.examples[-1].prompt}"
    assert bare.settings == plain.settings
    assert [item.folder for item in rounds(experiment).items] == [str(tmp_path / "both" / "out" / "seed0" / "fourshot")]

    alone = begun(tmp_path / "alone", "fourshot_bare")
    assert [job.key for job in classifiers(alone).items] == [bare.key]
    assert committee(alone) == committee(experiment)


def test_the_run_s_wording_is_that_of_its_classifiers_and_not_of_its_committee(tmp_path: Path) -> None:
    usual = begun(tmp_path / "usual", "lora", "fourshot")
    bare = begun(tmp_path / "bare", "zero_shot", "icl", "lora", "fourshot", wording="bare")
    assert committee(bare) == committee(usual)
    for cell in bare.cells:
        if cell.method.trained:
            assert all(example.prompt.startswith("Text: ") for example in bare.job(cell).examples)
    assert [cell.form.wording for cell in bare.cells] == ["task", "task", "bare", "bare"]


def test_what_is_trained_learns_a_token_for_each_label_and_the_base_says_words(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "zero_shot", "icl", "fourshot", "paper")
    trained = finish(experiment)
    said = {cell.name: experiment.evaluation_cell(cell).form.verbalizer for cell in experiment.cells}
    assert said == {"zero_shot": "word", "icl": "word", "fourshot": "token", "paper": "word"}  # paper: whole texts
    write_cards(experiment)
    for cell in experiment.cells:
        if result := experiment.result(cell):
            assert load_card(result.path).verbalizer == trained[result.name].verbalizer == said[cell.name]
    readers = [reader for item in rounds(experiment).items for reader in item.readers]
    assert len(readers) == 3 and {reader.verbalizer for reader in readers} == {"token"}
    whole = begun(tmp_path / "whole", "lora", verbalizer="word")
    assert [job.verbalizer for job in on_real_texts(whole).items] == ["word"]


def test_filler_is_the_same_in_training_reading_measuring_and_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler_of_base(monkeypatch)
    experiment = begun(tmp_path / "run", align=True)
    trained = finish(experiment)
    for examples in (job.examples for job in trained.values()):
        assert all(example.prompt.startswith("~~") for example in examples)
    (readers,) = (item.readers for item in rounds(experiment).items if item.readers)
    assert {reader.filler for reader in readers if reader.adapter} == {FILLER}
    assert all(prompt.startswith("~~") for kind, prompt in shown(experiment).items() if kind != "generation")
    write_cards(experiment)
    for cell in map(experiment.evaluation_cell, experiment.cells):
        assert cell.align and cell.form.filler == FILLER
        if cell.adapter:
            card = load_card(cell.adapter.path)
            assert card.prompt_format == cell.form
            assert asked(card) <= {example.prompt for example in trained[cell.adapter.name].examples}


def test_a_folder_keeps_the_layout_that_it_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filler_of_base(monkeypatch)
    old = begun(tmp_path / "run")  # as by a version that knows no filler
    keys, cells = committee(old), [old.evaluation_cell(cell).out for cell in old.cells]
    wanted = msgspec.structs.replace(old.settings, align=True)
    again = Experiment(old.data, MODEL, wanted, METHODS, old.seeds, old.root)
    said = list[str]()
    StageDriver(tmp_path / "log.txt", lambda event: said.append(event.message)).add("notes", again)
    assert committee(again) == keys and not (old.root / LAYOUT_FILE).exists()
    assert said == ["notes: the folder was begun without filler before prompts (align), and goes on without"]
    new = begun(tmp_path / "new", align=True)
    assert committee(new) != keys
    assert not {Path(cell).name for cell in cells} & {Path(new.evaluation_cell(cell).out).name for cell in new.cells}
    other = msgspec.structs.replace(new.settings, align=False)
    with pytest.raises(RunFolderError, match=r"begun with align = True.*--set align="):
        Experiment(new.data, MODEL, other, METHODS, new.seeds, new.root)


def shown(experiment: Experiment) -> dict[str, str]:
    """Prompts in the report."""
    return report_data(experiment, "A run").lineage.prompts


FILLER = Filler(token="~", number=2, prefix_tokens=32)


def filler_of_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the base had a tokenizer, and every prompt a place for it."""
    monkeypatch.setattr("fourshot.pipeline.synthesis.aligned.filler_for", lambda *_, **__: FILLER)


def committee(experiment: Experiment) -> list[str]:
    (writer,) = experiment.writers
    return [job.key for job in experiment.annotator_jobs(writer)]


def test_each_adapter_is_measured_and_carded_in_the_wording_of_its_training(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run")
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
        assert asked(card) <= {example.prompt for example in trained[cell.adapter.name].examples}


def asked(card: AdapterCard) -> set[str]:
    """What a server asks this adapter about its own shots."""
    return {card.prompt(shot.text) for shot in card.shots}


@pytest.mark.parametrize(
    ("methods", "kinds"),
    [
        (("zero_shot", "lora"), ["generation", "classification", "in context"]),
        (
            ("zero_shot", "lora_bare"),
            [
                "generation",
                "classification (Zero-shot)",
                "classification (LoRA on the shots, bare text)",
                "in context",
            ],
        ),
        (("icl",), ["generation", "in context"]),
    ],
)
def test_the_report_shows_every_prompt_that_is_used(tmp_path: Path, methods: tuple[str, ...], kinds: list[str]) -> None:
    experiment = begun(tmp_path / "run", *methods)
    prompts = report_data(experiment, "A run").lineage.prompts
    assert list(prompts) == kinds
    if "lora_bare" in methods:
        assert prompts[kinds[2]] == "Text: …\nLabel:"
        assert prompts[kinds[1]].startswith(experiment.task.instruction)


def test_a_folder_of_another_wording_is_refused(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "fourshot")
    other = msgspec.structs.replace(experiment.settings, wording="bare")
    again = Experiment(TaskData(experiment.task), MODEL, other, ["fourshot"], experiment.seeds, experiment.root)
    with pytest.raises(RunFolderError, match=r"wording: the folder has 'task', this run has 'bare'"):
        again.claim()


def test_a_split_is_read_once_and_a_job_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, rendered = list[str](), list[str]()

    def reading(task: Task, split: str) -> Split:
        read.append(split)
        return load_split(task, split)

    def rendering(task: Task, revision: str, cell: MethodCell, learnt: LearntTexts) -> TrainingJob:
        rendered.append(cell.name)
        return classifier_job(task, revision, cell, learnt)

    monkeypatch.setattr("fourshot.pipeline.task_data.load_split", reading)
    monkeypatch.setattr("fourshot.pipeline.runs.trainings.classifier_job", rendering)
    experiment = begun(tmp_path / "run")
    finish(experiment)
    write_cards(experiment)
    report_data(experiment, "A run")
    assert sorted(read) == ["test", "train"]
    assert sorted(rendered) == sorted(cell.name for cell in experiment.cells if cell.method.trained)


def test_texts_that_are_not_finished_are_no_training_s_yet(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "fourshot")
    cell = experiment.cell("fourshot")
    (cell.folder.path / GENERATED_FILE).unlink()
    assert experiment.result(cell) is None and experiment.outcome(cell).synthetic_examples == 2
    with pytest.raises(AssertionError):
        experiment.job(cell)


def test_a_method_that_is_named_twice_is_one_cell(tmp_path: Path) -> None:
    assert [cell.name for cell in begun(tmp_path / "run", "lora", "icl", "lora").cells] == ["lora", "icl"]


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base whose template need not be looked at."""
    monkeypatch.setattr("fourshot.pipeline.runs.experiment.untried_style", lambda *asked: None)


def test_the_style_that_was_found_is_that_of_every_prompt_and_lies_on_every_card(untried: None, tmp_path: Path) -> None:
    plain, experiment = begun(tmp_path / "plain"), begun(tmp_path / "run", prompt_style="auto")
    (item,) = prompt_styles(experiment).items
    assert prompt_styles(plain).items == ()
    assert {cell.form.chat for cell in experiment.cells} == {None}  # not found yet
    RunFolder(Path(item.out).parent).write(Path(item.out).name, ChosenStyle(chat=CHAT, reason="it is better"))
    assert {cell.form.chat for cell in (*experiment.cells, *experiment.writers)} == {CHAT}
    assert {text.chat for text in (*pools(experiment).items, *rounds(experiment).items)} == {CHAT}

    trained = finish(experiment)
    write_cards(experiment)
    assert all(example.prompt.startswith(CHAT.begin) for job in trained.values() for example in job.examples)
    (writer,) = experiment.writers
    readers = experiment.readers(writer)
    assert readers and {reader.chat for reader in readers} == {CHAT}
    for cell in experiment.cells:
        if result := experiment.result(cell):
            card = load_card(result.path)
            assert (card.chat, card.prompt_version) == (CHAT, CHAT_VERSION)
            assert asked(card) <= {example.prompt for example in trained[result.name].examples}
    lineage = report_data(experiment, "A run").lineage
    assert all(prompt.startswith(CHAT.begin) for prompt in lineage.prompts.values())
    assert lineage.hashes["chat template"] == CHAT.template_hash


def test_plain_answers_are_not_taken_for_answers_in_chat(untried: None, tmp_path: Path) -> None:
    found = {}
    for name, chat in (("plain", None), ("chat", CHAT)):
        experiment = begun(tmp_path / name, "zero_shot", "icl", prompt_style="auto")
        style = experiment.style_file(experiment.seeds[0])
        RunFolder(style.parent).write(style.name, ChosenStyle(chat=chat, reason="given"))
        found[name] = {Path(experiment.evaluation_cell(cell).out).name for cell in experiment.cells}
    usual = begun(tmp_path / "usual", "zero_shot", "icl")
    assert found["plain"] == {Path(usual.evaluation_cell(cell).out).name for cell in usual.cells}
    assert not found["plain"] & found["chat"]


def test_a_style_that_was_found_for_another_base_is_found_anew(untried: None, tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "icl", prompt_style="auto")
    other = ResolvedModel(path="/models/other", name="other", revision="def")
    again = Experiment(experiment.data, other, experiment.settings, ["icl"], experiment.seeds, experiment.root)
    (first,), (second,) = prompt_styles(experiment).items, prompt_styles(again).items
    assert Path(first.out).parent == Path(second.out).parent and first.out != second.out


def test_a_folder_of_another_style_is_refused(untried: None, tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "fourshot")
    other = msgspec.structs.replace(experiment.settings, prompt_style="chat")
    again = Experiment(TaskData(experiment.task), MODEL, other, ["fourshot"], experiment.seeds, experiment.root)
    with pytest.raises(RunFolderError, match=r"prompt_style: the folder has 'plain', this run has 'chat'"):
        again.claim()


def test_chat_without_a_template_is_refused_before_the_folder_is_claimed(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "fourshot")
    fake = ResolvedModel(path="fake", name="fake", revision="0")
    chat = msgspec.structs.replace(experiment.settings, prompt_style="chat")
    refused = Experiment(TaskData(experiment.task), fake, chat, ["fourshot"], experiment.seeds, tmp_path / "other")
    with pytest.raises(InputError):
        refused.claim()
    assert not (tmp_path / "other").exists()


def test_a_card_without_a_style_is_of_plain_text(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "lora")
    finish(experiment)
    write_cards(experiment)
    result = experiment.result(experiment.cell("lora"))
    assert result is not None
    file = Path(result.path) / CARD_FILE
    stored = msgspec.json.decode(file.read_bytes())
    del stored["chat"]
    file.write_bytes(msgspec.json.encode(stored))
    card = load_card(result.path)
    assert (card.chat, card.prompt_version, card.prompt_format.version) == (None, PROMPT_VERSION, PROMPT_VERSION)


def test_a_classifier_is_calibrated_by_adapters_that_each_left_shots_out(tmp_path: Path) -> None:
    plain = begun(tmp_path / "plain", "lora", "fourshot", "paper", "lora25")
    experiment = begun(tmp_path / "run", "lora", "fourshot", "paper", "lora25", calibrate=True)
    first = {job.key for job in on_real_texts(plain).items}
    judges = {job.key: job for job in on_real_texts(experiment).items if job.key not in first}.values()
    num_shots = len(experiment.seeds[0].shots)
    assert [len(job.examples) for job in judges] == [num_shots - 2] * 4, "of two methods, trained once"
    finish(plain)
    finish(experiment)
    items = {cell.name: experiment.calibration_item(cell) for cell in experiment.cells}
    assert {name for name, item in items.items() if item} == {"lora", "fourshot"}
    assert items["fourshot"] and [len(judge.left_out) for judge in items["fourshot"].judges] == [2] * 4
    for cell in experiment.cells:  # an old score is not taken for one of the calibrated classifier
        names = [Path(one.evaluation_cell(cell).out).name for one in (plain, experiment)]
        assert (names[0] == names[1]) == (items[cell.name] is None)
    again = begun(tmp_path / "elsewhere", "lora", "fourshot", "paper", "lora25", calibrate=True)
    finish(again)
    for cell in experiment.cells:  # nor is one measured again because the folder was moved
        assert len({Path(one.evaluation_cell(cell).out).name for one in (experiment, again)}) == 1


def test_the_card_says_the_temperature_and_what_it_was_found_on(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "lora", "fourshot", calibrate=True)
    finish(experiment)
    lora, fourshot = (experiment.result(experiment.cell(name)) for name in ("lora", "fourshot"))
    assert lora and fourshot
    write_json(Path(fourshot.path) / CALIBRATED_FILE, Calibrated(temperature=2.5, num_shots=8))
    write_cards(experiment)
    card = load_card(fourshot.path)
    assert (card.calibration.temperature, card.calibrated_on) == (2.5, "8 shots that adapters were trained without")
    assert (load_card(lora.path).calibration.temperature, load_card(lora.path).calibrated_on) == (1.0, "")
    learnt = load_examples(fourshot.path, card)
    assert [example.text for example in learnt if example.kind == "synthetic"] == list(WRITTEN)
    assert [example.text for example in learnt if example.kind == "shot"] == [shot.text for shot in card.shots]
    assert report_data(experiment, "a run").certainty == certainty_of(experiment, experiment.cell("fourshot"))


def test_where_probabilities_are_learnt_no_more_adapters_are_trained(tmp_path: Path) -> None:
    plain, calibrated = (begun(tmp_path / name, "soft", calibrate=name == "on") for name in ("off", "on"))
    assert [job.key for job in on_real_texts(plain).items] == [job.key for job in on_real_texts(calibrated).items]


def test_what_is_left_out_of_long_texts_is_the_same_in_training_measuring_and_serving(tmp_path: Path) -> None:
    usual = begun(tmp_path / "usual", "icl", "fourshot")
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
    out = {one.evaluation_cell(one.cell("icl")).out for one in (experiment, cut)}
    assert len(out) == 2, "no score of one is taken for the other's"
    assert report_data(usual, "usual").long_texts == ()
    told = report_data(experiment, "middle").long_texts
    assert told[0].startswith("shots: 7 of 8 texts have more than 3 words (the longest 7): the middle is not read, ")
