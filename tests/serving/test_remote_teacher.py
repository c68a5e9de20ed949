"""A teacher behind an OpenAI-compatible address: what it answers, what it costs, and every way in which it fails."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.errors import FourshotError, InputError, RequestError, ServiceError, SpendingLimitError
from fourshot.pipeline.distillation.annotators import Annotation, NamedAnnotator
from fourshot.pipeline.events import ignore
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.task import Label, Task
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.serving.clients.remote import endpoint as endpoints
from fourshot.serving.clients.remote.asking import with_short_labels
from fourshot.serving.clients.remote.completions import CompletionResponse, TokenStep, read_labels
from fourshot.serving.clients.remote.settings import RemoteSettings
from fourshot.serving.clients.remote.teacher import remote_teacher
from tests.pipeline.task_folders import write_task
from tests.serving.fake_server import FakeServer, Received, Reply, served, unused_url

COLD_WORDS = ("snow", "ice", "frost", "froze")
KEY = "sk-secret-0123"


class FakeEndpoint(FakeServer):
    """Answers as a chat model that knows cold words: 80 % for what it says, 15 % for the other label."""

    def __init__(self) -> None:
        super().__init__()
        self.tells = True  # probabilities of tokens
        self.gives_n = True  # several samples in one answer
        self.says: str | None = None  # whatever the text is
        self.refuses: tuple[str, ...] = ()  # fields of requests

    @property
    def chat_requests(self) -> list[Received]:
        """What was asked of the model."""
        return [request for request in self.received if request.path == "/v1/chat/completions"]

    def usual(self, request: Received) -> Reply:
        if request.path == "/v1/models":
            return answered({"object": "list", "data": [{"id": "large", "object": "model"}]})
        body = json.loads(request.body)
        if request.path != "/v1/chat/completions":
            return failure(404, "no such route")
        if body["model"] != "large":
            return failure(404, "The model does not exist")
        if wrong := [name for name in self.refuses if name in body]:
            return failure(400, f"Unsupported parameter: {wrong[0]}")
        text = body["messages"][-1]["content"].casefold()
        labels = ["cold", "warm"] if any(word in text for word in COLD_WORDS) else ["warm", "cold"]
        answer = labels[0] if self.says is None else self.says
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        if self.tells and body.get("logprobs"):
            likely = [token(answer, 0.8), *([token(labels[1], 0.15)] if self.says is None else [])]
            choice["logprobs"] = {"content": [{**likely[0], "top_logprobs": likely}]}
        choices = [choice] * (body.get("n", 1) if self.gives_n else 1)
        return answered({"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": len(choices)}})


def token(text: str, probability: float) -> dict[str, Any]:
    return {"token": text, "logprob": math.log(probability)}


def answered(content: dict[str, Any]) -> Reply:
    return Reply(headers={"Content-Type": "application/json"}, body=json.dumps(content).encode())


def failure(code: int, message: str, kind: str = "", **headers: str) -> Reply:
    reply_headers = {
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Reply(code, reply_headers, json.dumps({"error": {"message": message, "type": kind, "code": kind}}).encode())


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeEndpoint]:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOURSHOT_TEACHER_KEY", KEY)
    monkeypatch.setattr(endpoints, "pause_s", lambda state, asked_s: 0.0)
    with served(FakeEndpoint()) as server:
        yield server


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_task(write_task(tmp_path))


def teacher(server: FakeEndpoint, task: Task, model: str = "large", **settings: Any) -> NamedAnnotator:
    settings = {"retries": 2, "timeout_s": 20.0, **settings}
    return remote_teacher(f"{server.url}/v1", model, task, take_shots(task, 4, 0), RemoteSettings(**settings))


def annotations_of(annotator: NamedAnnotator, folder: Path, *texts: str) -> list[Annotation]:
    return [annotation for part in annotator.open(folder / "log.txt", ignore)([texts]) for annotation in part]


def test_probabilities_are_of_tokens_and_weighed_by_shots_that_it_has_not_seen(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path
) -> None:
    annotator = teacher(endpoint, task, price_in=2.0, price_out=10.0)
    snow, fire = annotations_of(annotator, tmp_path, "Deep snow.", "A fire.")
    assert min(snow.probabilities[1], fire.probabilities[0]) > 0.8
    first = json.loads(endpoint.chat_requests[1].body)["messages"]
    assert "Answer with one of these labels and nothing else: warm, cold." in first[0]["content"]
    assert [turn["role"] for turn in first] == ["user", "assistant"] * 6 + ["user"], "two of the eight are left out"
    account = annotator.account()
    assert account and account.held_out and (account.held_out.accuracy, account.held_out.num_texts) == (0.875, 8)
    assert account.asked == "chat, probabilities of tokens" and account.outside == pytest.approx(0.05)
    assert (account.requests, account.paid_requests, account.prompt_tokens) == (11, 11, 1100)
    assert account.cost == pytest.approx((1100 * 2 + 11 * 10) / 1e6)


@pytest.mark.parametrize(("gives_n", "requests"), [(True, 1), (False, 4)])
def test_votes_are_sampled_where_it_tells_no_probabilities(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, gives_n: bool, requests: int
) -> None:
    endpoint.tells, endpoint.gives_n = False, gives_n
    annotator = teacher(endpoint, task, votes=4)
    annotations_of(annotator, tmp_path, "Deep snow.")
    before = len(endpoint.chat_requests)
    (fire,) = annotations_of(annotator, tmp_path, "A fire.")
    assert fire.probabilities[0] > 0.8 and fire.agreement == 1.0
    assert len(endpoint.chat_requests) - before == requests
    endpoint.refuses = ("temperature", "max_tokens", "logprobs")  # as reasoning models do
    (ice,) = annotations_of(teacher(endpoint, task, votes=5), tmp_path, "Thick ice.")
    assert ice.probabilities[1] > 0.8


@pytest.mark.parametrize(
    ("completion", "masses"),
    [
        (
            CompletionResponse(texts=("order",), steps=(TokenStep("order", {"order": -0.2, " new": -1.8}),)),
            (0.82, 0.17),
        ),
        (
            CompletionResponse(
                texts=(" New order",), steps=(TokenStep(" New", {" New": -0.1}), TokenStep(" order", {" order": 0.0}))
            ),
            (0, 0.9),
        ),
        (CompletionResponse(texts=("new order", "It is an order.", "none", "**Order**")), (0.5, 0.25)),
        (CompletionResponse(texts=("<think>new order? no</think> order",)), (1, 0)),
        (CompletionResponse(texts=("orderly",), steps=(TokenStep("orderly", {"orderly": -0.1}),)), (0, 0)),
    ],
)
def test_answers_are_read_by_the_tokens_that_tell_labels_apart(
    completion: CompletionResponse, masses: tuple[float, float]
) -> None:
    assert read_labels(completion, ("order", "new order")).masses == pytest.approx(masses, abs=0.01)


def test_a_long_text_is_read_in_windows_where_that_is_asked_for(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path
) -> None:
    shots = take_shots(task, 1, 0)  # none can be left out
    form = PromptFormat(max_text_words=6, long_texts="windows")
    annotator = remote_teacher(f"{endpoint.url}/v1", "large", task, shots, RemoteSettings(), form)
    (answer,) = annotations_of(annotator, tmp_path, "The day was quite long and ended in deep snow.")
    assert answer.probabilities == pytest.approx((0.5, 0.5), abs=0.01) and answer.cut_words == 0
    assert len(endpoint.chat_requests) == 1 + 2
    account = annotator.account()
    assert account and account.held_out is None


def test_the_names_of_fields_are_no_words_of_a_text_that_were_cut(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path
) -> None:
    pairs = msgspec.structs.replace(task, fields=("premise", "hypothesis"))
    form = PromptFormat(max_text_words=6)
    annotator = remote_teacher(f"{endpoint.url}/v1", "large", pairs, take_shots(task, 1, 0), RemoteSettings(), form)
    complete, cut = (
        "Premise: Deep snow lay there.\nHypothesis: Snow fell.",
        "Premise: a b c d e\nHypothesis: Snow fell.",
    )
    assert [annotation.cut_words for annotation in annotations_of(annotator, tmp_path, complete, cut)] == [0, 1]


def test_labels_that_begin_alike_are_asked_for_by_letters(task: Task) -> None:
    alike = task.labels[0], Label(name="a", word="billing question"), Label(name="b", word="billing complaint")
    lettered = with_short_labels(Task(name="t", instruction="Which?", noun="n", labels=alike))
    assert lettered.label_words == ("A", "B", "C") and "B: billing question;" in lettered.instruction
    assert with_short_labels(task) is task


def test_nothing_is_paid_for_twice(endpoint: FakeEndpoint, task: Task, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    annotations_of(teacher(endpoint, task), tmp_path / "first", "Deep snow.", "A fire.", "A fire.")
    paid = len(endpoint.chat_requests)
    assert paid == 1 + 8 + 2
    annotator = teacher(endpoint, task)
    assert len(annotations_of(annotator, tmp_path / "second", "A fire.", "Thick ice.")) == 2
    assert len(endpoint.chat_requests) == paid + 1
    account = annotator.account()
    assert account and (account.requests, account.paid_requests) == (11, 1)
    annotations_of(teacher(endpoint, task, model="large", votes=3), tmp_path / "second", "A fire.")
    assert len(endpoint.chat_requests) == paid + 1, "votes are not asked for where probabilities are told"


PASSING = [
    failure(429, "slow down", Retry_After="1"),
    failure(500, "sorry"),
    Reply(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}),
    Reply(body=b'{"choices": [', headers={"Content-Type": "application/json"}),
    answered({"choices": []}),
    answered({"error": {"message": "busy", "code": 429}}),
    Reply(do="hang up"),
]


def test_what_passes_is_asked_again(endpoint: FakeEndpoint, task: Task, tmp_path: Path) -> None:
    endpoint.replies = [*PASSING]
    assert annotations_of(teacher(endpoint, task, retries=len(PASSING), concurrency=1), tmp_path, "Deep snow.")[
        0
    ].probabilities
    assert len(endpoint.chat_requests) == 1 + 8 + 1 + len(PASSING)


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (failure(429, "slow down"), ServiceError, "answers 429 .tried 3 times.: slow down"),
        (failure(429, "tomorrow", Retry_After="4000"), ServiceError, "a pause of 4000 s"),
        (failure(429, "pay", "insufficient_quota"), RequestError, "account there is used up"),
        (failure(503, "sorry"), ServiceError, "answers 503"),
        (failure(401, f"no such key: {KEY}"), RequestError, r"no such key: \*\*\*\. The key of FOURSHOT_TEACHER_KEY"),
        (Reply(body=b"<html></html>"), ServiceError, "not as an OpenAI-compatible endpoint does"),
        (answered({"error": {"message": f"gone: {KEY}"}}), ServiceError, r"reports an error .*: gone: \*\*\*\."),
        (Reply(do="hang up"), ServiceError, "no response from"),
        (Reply(do="hang"), ServiceError, "did not answer within 1.5 s"),
    ],
)
def test_what_does_not_pass_ends_it_and_what_was_answered_is_kept(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, reply: Reply, kind: type[FourshotError], message: str
) -> None:
    texts = [f"snow {number}" for number in range(20)]
    annotations_of(teacher(endpoint, task), tmp_path, "Deep snow.")
    endpoint.replies = [*[endpoint.usual(endpoint.chat_requests[-1])] * 5, *[reply] * 40]
    more: dict[str, Any] = {"timeout_s": 1.5, "retries": 0} if reply.do == "hang" else {}
    with pytest.raises(kind, match=message):
        annotations_of(teacher(endpoint, task, concurrency=2, **more), tmp_path, *texts)
    sent = len(endpoint.chat_requests)
    endpoint.replies = []
    endpoint.over.set()
    assert all(annotation.probabilities for annotation in annotations_of(teacher(endpoint, task), tmp_path, *texts))
    assert len(endpoint.chat_requests) == sent + 15, "five were answered before"


def test_a_wrong_model_an_unknown_label_and_nobody_are_told(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match=r"answers 404.*It has large\. Name one with --teacher-model"):
        annotations_of(teacher(endpoint, task, model="larger"), tmp_path, "snow")
    endpoint.says = "lukewarm"
    with pytest.raises(InputError, match=r"names no label for any shot.*'lukewarm'"):
        annotations_of(teacher(endpoint, task, votes=1), tmp_path, "snow")
    monkeypatch.setattr(endpoint, "url", unused_url())
    with pytest.raises(ServiceError, match="no response from"):
        annotations_of(teacher(endpoint, task), tmp_path, "snow")
    with pytest.raises(InputError, match="must not contain a name, password or query"):
        remote_teacher(f"http://me:{KEY}@host/v1", "large", task, (), RemoteSettings())


@pytest.mark.parametrize(
    ("limit", "answered"),
    [({"max_requests": 12}, 12), ({"max_cost": 12.5 * 110e-6, "price_in": 1.0, "price_out": 10.0}, 11)],
)
def test_a_limit_is_of_all_calls_for_one_table(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, limit: dict[str, Any], answered: int
) -> None:
    texts = [f"snow {number}" for number in range(9)]
    for _ in range(2):
        with pytest.raises(SpendingLimitError, match=f"is reached: {answered} requests were answered, 0 failed"):
            annotations_of(teacher(endpoint, task, **limit), tmp_path, *texts)
        assert len(endpoint.chat_requests) == answered, "one that may cost more than is left is not sent"
    assert len(annotations_of(teacher(endpoint, task), tmp_path, *texts)) == 9 and len(endpoint.chat_requests) == 18
