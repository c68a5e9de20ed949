"""One text on which a remote teacher always fails: the others are annotated, and repeating the command ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from fourshot.cli.main import main
from fourshot.engine.errors import ServiceError
from fourshot.pipeline.task import Task
from fourshot.serving.clients.remote.completions import CompletionResponse, read_labels
from tests.pipeline.task_folders import write_facts, write_jsonl
from tests.serving.fake_server import Reply
from tests.serving.test_remote_teacher import FakeEndpoint, annotations_of, answered, endpoint, failure, task, teacher
from tests.serving.test_remote_writing import WritingEndpoint, writing

__all__ = ("endpoint", "task", "writing")  # fixtures


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answered({"choices": []}), "its answer cannot be read: it has no `choices`"),
        (Reply(body=b'{"choices": [{"message": {"content": "\xff"}}]}'), "its answer cannot be read"),
        (answered({"error": {"message": "no candidate"}}), "no candidate"),
        (failure(500, "an assertion failed"), "an assertion failed"),
        (failure(403, "Forbidden"), "Forbidden"),
    ],
)
def test_an_answer_that_is_always_wrong_takes_no_other_text_with_it(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: Reply, reason: str
) -> None:
    usual = endpoint.usual
    monkeypatch.setattr(endpoint, "usual", lambda request: reply if b"stolen" in request.body else usual(request))
    snow, card, fire = annotations_of(teacher(endpoint, task), tmp_path, "Deep snow.", "A stolen card.", "A fire.")
    assert snow.probabilities and fire.probabilities and reason in card.fault
    sent = len(endpoint.chat_requests)
    (card,) = annotations_of(teacher(endpoint, task), tmp_path, "A stolen card.")
    assert reason in card.fault, "the command is repeated, and everything else is kept"
    assert len(endpoint.chat_requests) <= sent + 3
    with pytest.raises(ServiceError):
        annotations_of(teacher(endpoint, task), tmp_path, *(f"A stolen card {number}." for number in range(20)))


def test_a_first_input_that_is_refused_takes_no_other_with_it(
    writing: WritingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_facts(tmp_path)
    inputs = ["A stolen card | in | Cork", "Cork | in | Ireland", "Turin | in | Italy"]
    write_jsonl(tmp_path / "more.jsonl", [{"input": text} for text in inputs])
    usual, flagged = writing.usual, failure(400, "The content filter was triggered.")
    monkeypatch.setattr(writing, "usual", lambda request: flagged if b"stolen" in request.body else usual(request))
    command = ["annotate", str(tmp_path), "--unlabelled", str(tmp_path / "more.jsonl"), "--quiet"]
    command += ["--teacher", f"{writing.url}/v1", "--teacher-model", "large", "--out", str(tmp_path / "out.jsonl")]
    assert main(command) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["annotated_target"] for row in rows] == [None, *(f"It is {text}." for text in inputs[1:])]
    assert "The content filter was triggered" in capfd.readouterr().out
    monkeypatch.setattr(writing, "usual", lambda request: flagged)
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "nothing kept"))
    assert main([*command, "--out", str(tmp_path / "none.jsonl")]) == 2
    assert "refuses all known kinds of requests to generate texts" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "masses"),
    [
        ("<think>\nIs it cold? The text", [0.0, 0.0]),
        ("\n<think>warm", [0.0, 0.0]),
        ("<think>cold?</think>\nwarm", [0.0, 1.0]),
        ("hm, cold?</think> warm", [0.0, 1.0]),
    ],
)
def test_what_a_teacher_thinks_is_no_answer_though_it_comes_to_no_end(text: str, masses: list[Any]) -> None:
    assert read_labels(CompletionResponse(texts=(text,), is_cut=True), ["cold", "warm"]).masses == masses
