"""A distillation of a text generation task, with a base of two random layers and an engine that writes words."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import fourshot
import fourshot.text_api
from fourshot.cli.main import main
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import AdapterError, InputError, RunFolderError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.engine.machine.files import read_made
from fourshot.pipeline.distillation.annotating_text import NamedWriter, inputs_left
from fourshot.pipeline.distillation.request import TextDistillation
from fourshot.pipeline.distillation.text_pairs import written_pairs
from fourshot.pipeline.forecasts import forecast as forecasts
from fourshot.pipeline.runs.stages.stage import EngineStage, Stage
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.student_card import find_student, load_student_card
from fourshot.pipeline.tasks.generation import GenerationTask, Pair
from fourshot.pipeline.tasks.pairs import InputRows
from fourshot.pipeline.tasks.task_file import load_any_task
from fourshot.pipeline.text_distillation.distill_text import distill_text, read_data
from fourshot.pipeline.text_distillation.distilled_text import TextDistillSummary, _scores
from fourshot.pipeline.text_student import TextStudent, load_text_student_card
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.students.seq2seq import TextStudentResult
from fourshot.training.students.store import RESULT_FILE
from tests.engine.tiny_models import tiny_checkpoint
from tests.pipeline.forecasts.machine_speeds import SPEED
from tests.pipeline.task_folders import write_facts, write_jsonl
from tests.training.students.small_seq2seq import write_bart

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

BRIEF = fourshot.RunSettings(train=LoraSettings(min_steps=1, max_steps=1))
MORE = ("Cork | in | Ireland", "Turin | in | Italy", "Kiel | in | Germany", "Cork | in | Ireland", " ")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task, and inputs: one is a test input, one is there twice, one is blank."""
    monkeypatch.setattr(Stage, "needs_process", False)  # a process of its own loads the libraries again
    monkeypatch.setattr(EngineStage, "engine_settings", lambda stage: EngineSettings(model="fake", kind="fake"))
    write_facts(tmp_path)
    write_jsonl(tmp_path / "more.jsonl", [{"number": n, "input": text} for n, text in enumerate(MORE)])
    return tmp_path


def make(folder: Path, model: str, **changes: Any) -> TextDistillSummary:
    arguments: dict[str, Any] = {"unlabelled": folder / "more.jsonl", "real": 3, "settings": BRIEF, "student": model}
    return fourshot.distill_text(folder, folder=folder / "out", model=model, **arguments | changes)


def _held_out(summary: TextDistillSummary) -> int:
    """Of a sequence-to-sequence student: texts that it did not learn."""
    return read_made(Path(summary.student_path).parent / RESULT_FILE, TextStudentResult).held_out


def plan(folder: Path, model: str, *words: str) -> list[str]:
    """Of the command of `make`, in words."""
    arguments = ["--unlabelled", str(folder / "more.jsonl"), "--real", "3", "--model", model, "--student", model]
    return ["distill", str(folder), *arguments, "--out", str(folder / "out"), "--plan", "--json", *words]


def test_what_it_takes_is_told_and_nothing_is_made(
    folder: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecasts, "known_speed", lambda *_, **__: SPEED)
    short = ["--set", "train.min_steps=1", "--set", "train.max_steps=1"]
    assert main(plan(folder, tiny_model, *short, "--generate", "2")) == 0
    printed = json.loads(capfd.readouterr().out.splitlines()[-1])
    stages = {stage["stage"]: (stage["calls"], stage["steps"]) for stage in printed["stages"]}
    # Four inputs and two test inputs; two pairs are drawn for each that is wanted; two adapters, then the student.
    assert stages == {
        "train the teacher": (0, 2),
        "annotate": (6, 0),
        "generate": (4, 0),
        "train the student": (0, 1),
        "evaluate": (2, 0),
    }
    assert printed["seconds"] > 2 * SPEED.open_engine_s + 2 * SPEED.open_trainer_s and printed["memory_bytes"] == 3_000
    bart = ["--student", str(write_bart(folder / "bart"))]
    assert main(plan(folder, tiny_model, *short, *bart)) == 0
    printed = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert [stage["stage"] for stage in printed["stages"]] == ["train the teacher", "annotate"]
    assert not (folder / "out").exists()


def test_options_that_no_training_on_texts_takes_are_refused_and_by_a_plan_too(
    folder: Path, tiny_model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for option, said in (
        (["--set", "train.held_out=0.2"], "train.held_out: only for training classifiers. Leave it out."),
        (["--set", "train.label_smoothing=0.2"], "train.label_smoothing: only for training classifiers"),
        (["--held-out", "0.2"], "held_out of a student are for sequence-to-sequence models, but this one is"),
        (["--ray", "bogus"], "There is no Ray cluster at 'bogus'"),
    ):
        command = plan(folder, tiny_model, *option)
        for words in (command, [word for word in command if word != "--plan"]):
            assert main(words) == 2
            assert said in (message := capfd.readouterr().err) and "KEY=VALUE" not in message
    assert not (folder / "out").exists()


def test_which_pairs_are_real_does_not_hang_on_how_many_texts_are_measured(folder: Path) -> None:
    """A folder with other pairs is another distillation's, and one with another --test-limit is not."""
    tested = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    write_jsonl(folder / "train.jsonl", [*tested, *rows])
    task = load_any_task(folder)
    assert isinstance(task, GenerationTask)
    for limit in (1, 0):
        real, measured, notes = read_data(task, fourshot.RunSettings(test_limit=limit), 0)
        assert not {pair.input for pair in measured} & {pair.input for pair in real}
        assert len(measured) == (limit or 2) and "train: 2 inputs also in the test split left out" in notes


def test_a_causal_student_is_a_checkpoint_and_a_person_may_correct_what_it_learns(
    folder: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = make(folder, tiny_model)
    assert [row["method"] for row in summary.table] == ["student", "real", "teacher"]
    assert (summary.real_pairs, summary.annotated_pairs, summary.architecture) == (3, 2, "causal")
    notes = " ".join(summary.notes)
    assert "1 row left out: no input" in notes and "1 input left out: also in the test split" in notes
    assert "1 input left out: duplicates of others or of real ones" in notes
    card = load_text_student_card(folder / "out" / "student")
    assert card.scores and card.teacher_scores and card.base == tiny_model and card.real_pairs == 3
    assert "What they wrote" in (folder / "out" / "report.md").read_text()
    AutoModelForCausalLM.from_pretrained(summary.student_path)
    with TextStudent(folder / "out") as student:
        assert len(student.write(["Bern | in | Switzerland", "Rome | in | Italy"])) == 2
        with pytest.raises(InputError, match=r"generate got blank texts at \[0\]"):
            student.write([" "])

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "sample", lambda *_: pytest.fail("what was written is written again"))
        assert make(folder, tiny_model) == summary
    estimate = fourshot.text_api.plan_text_distillation(
        folder, unlabelled=folder / "more.jsonl", real=3, settings=BRIEF, student=tiny_model, model=tiny_model,
        folder=folder / "out",
    )  # fmt: skip
    assert estimate is None

    lines = (folder / "out" / "annotated.jsonl").read_text().splitlines()
    assert '"annotated_target":null' in lines[4] and '"number":0' in lines[0]
    rows = [{"input": MORE[0], "annotated_target": "Cork."}, {"input": MORE[1], "annotated_target": ""}]
    write_jsonl(folder / "out" / "annotated.jsonl", [*rows])
    again = make(folder, tiny_model)
    assert again.annotated_pairs == 1 and again.student_path != summary.student_path
    assert "2 texts of more.jsonl no longer in annotated.jsonl, and not used for training" in again.notes
    (folder / "out" / "annotated.xlsx").touch()
    with pytest.raises(InputError, match=r"has annotated\.xlsx\."):
        make(folder, tiny_model)
    (folder / "out" / "annotated.xlsx").unlink()
    with (Path(again.student_path) / "model.safetensors").open("ab") as weights:
        weights.write(b" ")
    with pytest.raises(AdapterError, match=r"model\.safetensors changed since training"):
        make(folder, tiny_model)
    with pytest.raises(RunFolderError, match="real: the folder has '3 pairs"):
        make(folder, tiny_model, real=2)
    assert main([*plan(folder, tiny_model), "--generate", "2"]) == 2


def test_a_sequence_to_sequence_student_is_predicted_with(
    folder: Path, tiny_model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bart = str(write_bart(folder / "bart"))
    settings = fourshot.TextStudentSettings(num_epochs=1, max_target_tokens=8, held_out=0.5)
    summary = make(folder, tiny_model, student=bart, student_settings=settings, generate=2)
    assert (summary.architecture, summary.annotated_pairs, summary.synthetic_pairs) == ("seq2seq", 2, 0)
    assert "the teacher wrote 0 of 2 pairs" in summary.notes  # this engine writes words alone
    assert [row["method"] for row in summary.table] == ["student", "real", "teacher"]
    assert main(["predict", str(folder / "out"), "Rome | in | Italy", "--json"]) == 0
    assert '"written":' in capfd.readouterr().out
    assert _held_out(summary) == 1
    rows = [{"input": MORE[0], "annotated_target": "Cork."}, {"input": MORE[1], "annotated_target": "Turin."}]
    write_jsonl(folder / "out" / "annotated.jsonl", rows)
    corrected = make(folder, tiny_model, student=bart, student_settings=settings, generate=2)
    assert corrected.annotated_pairs == 2 and _held_out(corrected) == 0, "what a person wrote is learnt"
    assert main(["predict", str(folder / "out"), "Rome", "--coverage", "0.5"]) == 2
    assert "this student generates texts" in capfd.readouterr().err


def test_a_student_that_writes_is_no_classifier(tmp_path: Path) -> None:
    card = {"task": {"kind": "generation", "name": "facts", "instruction": "Write."}}
    (tmp_path / "made").mkdir()
    write_jsonl(tmp_path / "made" / "student.json", [card])
    assert find_student(tmp_path / "made")
    with pytest.raises(InputError, match="it writes texts and gives no labels"):
        load_student_card(tmp_path / "made")
    with pytest.raises(InputError, match="it writes texts and gives no labels"):
        fourshot.Classifier(tmp_path / "made")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlabelled": None}, "nothing for a student to learn"),
        ({"real": 9}, "--real 9: the train split has 4 pairs"),
        ({"settings": fourshot.RunSettings(k=8)}, "The setting k is for classifiers"),
        ({"student_settings": fourshot.TextStudentSettings(held_out=0.2)}, "held_out of a student are for sequence"),
        ({"unlabelled": "task.toml"}, "task.toml"),
        ({"unlabelled": "written.jsonl"}, "has a column 'annotated_by', which would be added"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    folder: Path, tiny_model: str, changes: dict[str, Any], message: str
) -> None:
    write_jsonl(folder / "written.jsonl", [{"input": "Bonn", "annotated_by": "me"}])
    if changes.get("unlabelled"):
        changes = {"unlabelled": folder / changes["unlabelled"]}
    with pytest.raises(InputError, match=message):
        make(folder, tiny_model, **changes)
    assert not (folder / "out").exists()


def test_a_causal_student_that_cannot_be_trained_is_refused_before_anything_is_made(
    folder: Path, tiny_model: str
) -> None:
    with pytest.raises(InputError, match="of a packed row"):
        make(folder, tiny_model, student=tiny_checkpoint("lfm2", folder / "lfm2"))
    assert not (folder / "out").exists()


def test_what_a_teacher_wrote_is_taken_apart_and_counted(folder: Path) -> None:
    task = load_any_task(folder)
    assert isinstance(task, fourshot.GenerationTask)
    written = [
        WrittenAnswer(text="Rome | in | Italy\n\nText: Rome is in Italy."),
        WrittenAnswer(text="Rome | in | Italy"),
        WrittenAnswer(text="Bonn\n\nText: Bonn", is_whole=False),
        WrittenAnswer(text="rome | in  | Italy\n\nText: It is Rome."),
    ]
    pairs, notes = written_pairs(task, written, 2, [], [])
    assert pairs == [Pair(input="Rome | in | Italy", target="Rome is in Italy.")]
    assert notes == [
        "2 of 4 pairs that the teacher wrote are malformed",
        "1 written input left out: duplicates of others or of real ones",
        "the teacher wrote 1 of 2 pairs",
    ]
    student = NamedWriter(name="a student", task=task, write=lambda *_: pytest.fail("it is asked"))
    with pytest.raises(InputError, match="a student writes targets for given inputs, but cannot generate pairs"):
        distill_text(TextDistillation(task=task, folder=folder / "out", generate=2, by=student))


def test_models_that_write_the_same_have_times_of_their_own(tmp_path: Path) -> None:
    test = [Pair(input="Kiel | in | Germany", target="Kiel is in Germany.")]
    slow, fast = ([WrittenAnswer(text="Kiel.", is_whole=whole, seconds=s)] for s, whole in ((2.0, True), (0.5, False)))
    scores = [_scores(tmp_path, answers, test) for answers in (slow, fast)]
    assert [(score.seconds, score.unfinished) for score in scores if score] == [(2.0, 0), (0.5, 1)]


def test_a_plan_is_of_the_inputs_that_an_interrupted_call_left(tmp_path: Path) -> None:
    """As for labels: a remote teacher was paid for the others."""
    inputs = ["Cork", "", "Turin"]
    rows = [{"input": text} for text in inputs]
    table = InputRows(path=tmp_path, columns=("input",), input_columns=("input",), rows=rows, inputs=inputs)
    assert inputs_left(table, tmp_path / "out.csv") == ["Cork", "Turin"]
    (tmp_path / "out.csv.unfinished").mkdir()
    write_jsonl(tmp_path / "out.csv.unfinished" / "answers.jsonl", [{"text": "It is Cork."}])
    assert inputs_left(table, tmp_path / "out.csv") == ["Turin"]
