"""What endpoints of remote teachers get wrong that is no plain error: failures called success, redirects, no counts."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import fourshot
from fourshot.cli.main import main
from fourshot.engine.errors import InputError, RequestError, ServiceError, SpendingLimitError
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.serving.clients.client import Pace
from fourshot.serving.clients.proxies import MOST_ANSWER_BYTES
from fourshot.serving.clients.remote.completions import (
    CompletionResponse,
    FailedAnswerError,
    StrangeAnswerError,
    read_completion,
    read_labels,
)
from fourshot.serving.clients.remote.endpoint import CompletionRequest, Endpoint
from fourshot.serving.clients.remote.settings import RemoteSettings
from fourshot.serving.clients.remote.teacher import remote_teacher
from tests.pipeline.task_folders import write_jsonl
from tests.serving.fake_server import Reply
from tests.serving.test_remote_teacher import FakeEndpoint, annotations_of, answered, endpoint, failure, task, teacher

__all__ = ("endpoint", "task")  # fixtures


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_says_where_it_leads(
    code: int, endpoint: FakeEndpoint, task: Task, tmp_path: Path
) -> None:
    """Texts and key are for the address that was named."""
    for place, told in (("/v2/chat/completions", f"{endpoint.url}/v2"), ("http://host/v1", "http://host/v1")):
        endpoint.replies = [Reply(code, {"Location": place, "Content-Length": "0"})]
        before = len(endpoint.chat_requests)
        with pytest.raises(RequestError, match=rf"redirects to {told}, where nothing was sent.* --teacher {told}"):
            annotations_of(teacher(endpoint, task), tmp_path, "snow")
        assert len(endpoint.chat_requests) == before + 1


def test_what_waits_for_its_turn_is_not_sent_after_the_end(endpoint: FakeEndpoint) -> None:
    """After Ctrl-C, or when the key is rejected, only requests that are sent already are waited for, and paid."""
    endpoint.replies = [failure(401, "no such key")]
    bodies = [{"messages": [{"role": "user", "content": text}], "max_tokens": 1} for text in "abcd"]
    with Endpoint(f"{endpoint.url}/v1", "large", RemoteSettings(concurrency=4, retries=0), "work") as model:
        model._pace = Pace(1)  # as after some 429
        with pytest.raises(RequestError, match="no such key"):
            model.ask([CompletionRequest(route="chat", body=body) for body in bodies])
    assert len(endpoint.chat_requests) == 1


@pytest.mark.parametrize("code", [200, 400])
def test_an_answer_without_end_is_not_read_to_its_end(
    code: int, endpoint: FakeEndpoint, task: Task, tmp_path: Path
) -> None:
    """A megabyte of gzip holds a gigabyte, and the client puts all of it together in memory."""
    packed = gzip.compress(b" " * (MOST_ANSWER_BYTES + 1))
    assert len(packed) < MOST_ANSWER_BYTES / 500
    endpoint.replies = [Reply(code, {"Content-Encoding": "gzip"}, packed)] * 2
    with pytest.raises(ServiceError, match=r"not as an OpenAI.* \(tried 2 times\): it is larger than 64 MiB") as error:
        annotations_of(teacher(endpoint, task, retries=1), tmp_path, "snow")
    assert error.value.kind == "strange_answer"


def test_a_proxy_that_cannot_be_used_is_bad_input_that_names_its_variable(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HTTPS_PROXY", "socks4://proxy")
    for name in ("https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    annotator = remote_teacher("https://host/v1", "large", task, take_shots(task, 4, 0), RemoteSettings())
    with pytest.raises(InputError, match="HTTPS_PROXY does not name"):
        annotations_of(annotator, tmp_path, "snow")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (10, 1)),
        ({"prompt_tokens": None, "completion_tokens": None}, (10, 1)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (10, 1)),
        ({"prompt_tokens": 12.0, "completion_tokens": 3}, (12, 3)),
    ],
)
def test_tokens_that_nobody_counted_are_reckoned_so_that_a_limit_on_costs_holds(
    usage: dict[str, Any] | None, tokens: tuple[int, int]
) -> None:
    parts = [{"type": "thinking", "thinking": ["hm"]}, {"type": "text", "text": "warm"}, {"text": None}]
    for content in ("warm", parts):
        body = {"choices": [{"message": {"content": content}}], "usage": usage}
        completion = read_completion(json.dumps(body).encode(), 40)
        assert completion.texts == ("warm",)
        assert (completion.prompt_tokens, completion.output_tokens) == tokens


def test_why_a_text_has_no_label_is_told_with_the_number_of_such(
    endpoint: FakeEndpoint,
    task: Task,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [{"text": text} for text in ("Deep snow.", "A stolen card.", " ")])
    usual = endpoint.usual
    flagged = failure(400, "The content filter was triggered.")
    monkeypatch.setattr(endpoint, "usual", lambda request: flagged if b"stolen" in request.body else usual(request))
    command = ["annotate", str(tmp_path / "task.toml"), "--unlabelled", str(tmp_path / "notes.jsonl"), "--quiet"]
    command += ["--teacher", f"{endpoint.url}/v1", "--teacher-model", "large"]
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "is a folder, but a file is needed" in capfd.readouterr().err
    assert main([*command, "--out", str(tmp_path / "out.csv")]) == 0
    out = capfd.readouterr().out
    assert "1 row could not be annotated; reason for the first: The content filter was triggered.\n" in out
    assert "1 row without a text." in out and "3 rows in" in out


@pytest.mark.parametrize("message", ["Your input was flagged by moderation.", "Forbidden"])
def test_a_text_that_is_forbidden_takes_no_other_with_it(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    usual = endpoint.usual
    refusal = failure(403, message)
    monkeypatch.setattr(endpoint, "usual", lambda request: refusal if b"stolen" in request.body else usual(request))
    snow, card, fire = annotations_of(teacher(endpoint, task), tmp_path, "Deep snow.", "A stolen card.", "A fire.")
    assert snow.probabilities and fire.probabilities and message.rstrip(".") in card.fault


def test_a_key_that_is_forbidden_ends_it_before_and_after_the_first_answers(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = endpoint.usual
    refusal = failure(403, "Forbidden")
    monkeypatch.setattr(endpoint, "usual", lambda request: refusal)
    with pytest.raises(RequestError, match="The key of FOURSHOT_TEACHER_KEY is refused"):
        annotations_of(teacher(endpoint, task), tmp_path, "Deep snow.")
    monkeypatch.setattr(endpoint, "usual", lambda request: refusal if b"day" in request.body else usual(request))
    with pytest.raises(RequestError, match="The key of FOURSHOT_TEACHER_KEY is refused"):
        annotations_of(teacher(endpoint, task), tmp_path, *(f"Snow of day {number}." for number in range(40)))
    assert len(endpoint.chat_requests) < 40


def test_what_nobody_would_be_asked_with_is_refused_and_not_passed_over(task: Task, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [{"text": "Deep snow."}])
    notes, limits = tmp_path / "notes.jsonl", RemoteSettings(max_requests=1)
    for arguments, message in (
        ({"teacher_model": "large"}, "--teacher-model is a model at an address"),
        ({"key": "k"}, "--key is for a service at an address"),
        ({"remote": limits}, "need its model: give teacher_model"),
        ({"by": "http://host/v1", "remote": limits}, "need its model: give teacher_model"),
    ):
        with pytest.raises(InputError, match=message):
            fourshot.distill(task, unlabelled=notes, folder=tmp_path / "out", **arguments)
    with pytest.raises(InputError, match="need its model"):
        fourshot.annotate(task, notes, tmp_path / "out.csv", by="http://host/v1", remote=limits)
    with pytest.raises(InputError, match=r"not a text generation task\. Use annotate"):
        fourshot.annotate_text(tmp_path / "task.toml", notes, tmp_path / "out.csv")
    facts = fourshot.GenerationTask(name="facts", instruction="Write.")
    with pytest.raises(InputError, match="--teacher-model is a model at an address"):
        fourshot.distill_text(facts, folder=tmp_path / "out", generate=1, teacher_model="large")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="but localhost:8000/v1 is not one: addresses begin with http"):
        fourshot.annotate(task, notes, tmp_path / "out.csv", by="localhost:8000/v1", teacher_model="large")


@pytest.mark.parametrize("told", [-5, 0, 1e300, None, float("1e12") * 2])
def test_tokens_that_nobody_can_have_read_are_not_believed(told: float | None) -> None:
    body = {"choices": [{"text": "warm"}], "usage": {"prompt_tokens": told, "completion_tokens": told}}
    completion = read_completion(json.dumps(body).encode(), 40)
    assert (completion.prompt_tokens, completion.output_tokens) == (10, 1)


@pytest.mark.parametrize("place", ['{"error": %s}', '{"choices": %s}', "%s"])
def test_an_answer_that_is_nested_too_deep_is_none(place: str) -> None:
    with pytest.raises(StrangeAnswerError):
        read_completion((place % ("[" * 100_000 + "]" * 100_000)).encode(), 40)


@pytest.mark.parametrize("said", [b'"\xf0\x9f"', b'{"message": "bad \xff"}'])
def test_what_is_no_unicode_beside_an_answer_is_no_fault_of_the_program(said: bytes) -> None:
    with pytest.raises(FailedAnswerError, match="something that cannot be read"):
        read_completion(b'{"error": %s}' % said, 40)
    completion = read_completion(b'{"choices": [{"text": "warm", "logprobs": {"tokens": [%s]}}]}' % said, 40)
    assert (completion.texts, completion.steps) == (("warm",), ())


def test_an_endpoint_that_lists_no_models_is_asked_by_every_route(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = {"text": " cold", "logprobs": {"tokens": [" cold"], "top_logprobs": [{" cold": -0.1, " warm": -3}]}}
    usual = {"/v1/completions": answered({"choices": [choice]})}
    monkeypatch.setattr(endpoint, "usual", lambda request: usual.get(request.path, failure(404, "Not Found")))
    annotator = teacher(endpoint, task)
    assert annotations_of(annotator, tmp_path, "Deep snow.")[0].probabilities
    account = annotator.account()
    assert account and account.asked == "completions, probabilities of tokens"
    usual.clear()
    with pytest.raises(
        InputError, match=r"all known kinds .*Not Found\. It does not list its models\. .* ends in /v1\."
    ):
        annotations_of(teacher(endpoint, task, teacher_api="chat"), tmp_path, "Thick ice.")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("B: billing", "B"),
        ("**A)** a bill", "A"),
        ("B because it asks", "B"),
        ("The answer is B.", "B"),
        ("It is a refund, so: B", "B"),
        ("a refund, so: B", "B"),
        ("A", "A"),
        ("A: it is a refund", "A"),
        ("A\nA refund", "A"),
        ("A refund was asked", None),
        ("A refund was asked for, so: B", None),
        ("A or B", None),
        ("I would say it", None),
        ("C'est B", None),
        ("C'est une", None),
    ],
)
def test_a_letter_that_is_a_word_of_a_sentence_is_no_label(answer: str, label: str | None) -> None:
    masses = read_labels(CompletionResponse(texts=(answer,)), tuple("ABCDEFGHI")).masses
    assert masses == [float(letter == label) for letter in "ABCDEFGHI"]


def test_an_answer_may_begin_with_a_word_that_is_no_letter_of_a_label() -> None:
    assert read_labels(CompletionResponse(texts=("I would say it is B.",)), ("A", "B")).masses == [0, 1]
    assert read_labels(CompletionResponse(texts=("5 stars", "it is 5")), ("1", "5")).masses == [0, 1]


@pytest.mark.parametrize("reply", [Reply(body=b'{"choices": [{"message"'), Reply(do="hang")])
def test_what_may_have_been_answered_counts_as_the_most_that_it_may_cost(
    reply: Reply, endpoint: FakeEndpoint, task: Task, tmp_path: Path
) -> None:
    annotations_of(teacher(endpoint, task), tmp_path, "Deep snow.")  # the shots are paid for
    endpoint.replies, before = [reply] * 40, len(endpoint.chat_requests)
    limit: dict[str, Any] = {
        "max_cost": 0.015,
        "price_in": 1.0,
        "price_out": 500.0,
        "timeout_s": 0.5,
    }  # 6 tokens each, at most
    with pytest.raises(SpendingLimitError, match=r"--max-cost .*, \d failed for 0\.0\d+ at most; 0\.0"):
        annotations_of(teacher(endpoint, task, retries=30, concurrency=1, **limit), tmp_path, "A fire.")
    assert 1 <= len(endpoint.chat_requests) - before <= 4


def test_a_failure_that_is_told_costs_nothing(endpoint: FakeEndpoint, task: Task, tmp_path: Path) -> None:
    annotations_of(teacher(endpoint, task), tmp_path, "Deep snow.")
    endpoint.replies = [failure(500, "sorry"), answered({"error": {"message": "busy"}})] * 10
    limit: dict[str, Any] = {"max_cost": 0.015, "price_in": 1.0, "price_out": 500.0}
    assert annotations_of(teacher(endpoint, task, retries=30, **limit), tmp_path, "A fire.")[0].probabilities
