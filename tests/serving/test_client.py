"""The client against a fake server that answers what a service may: both clients, the same promises."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from fourshot import AsyncClient, InputError, Prediction, RequestError, ServiceError
from tests.serving.client_caller import ClientCaller
from tests.serving.fake_server import HANG_S, FakeService, Reply, classified, refusal, unused_url

ROOT = Path(__file__).resolve().parent.parent.parent


def test_answers_are_the_types_of_the_service(ask: ClientCaller, service: FakeService) -> None:
    answer = ask("classify", "tone", "this is good", "icl")
    assert answer.results == [classified("good")] and (answer.task, answer.method) == ("tone", "icl")
    assert service.received[0].path == "/v1/classify/tone"
    assert (service.received[0].texts, service.received[0].method) == (["this is good"], "icl")
    assert [result.label for result in ask("classify", "tone", ("so good", "so bad")).results] == ["good", "bad"]
    assert service.received[1].method is None


def test_strings_of_numpy_and_objects_of_any_kind_are_sent_as_json_has_them(
    ask: ClientCaller, service: FakeService
) -> None:
    fields = MappingProxyType({np.str_("subject"): np.str_("good")})
    for method, texts in (("classify", np.str_("good")), ("classify", fields), ("predict", [fields, np.str_("good")])):
        ask(method, "tone", texts)
    sent = [msgspec.json.decode(request.body)["input"] for request in service.received]
    assert sent == ["good", {"subject": "good"}, [{"subject": "good"}, "good"]]
    with pytest.raises(InputError, match="a field of an input is not a string"):
        ask("classify", "tone", {"subject": object()})


def test_tasks(ask: ClientCaller, service: FakeService) -> None:
    assert [info.task for info in ask("tasks").tasks] == ["tone"]
    ask("tasks", everything=True)
    assert [request.path for request in service.received] == ["/v1/tasks", "/v1/tasks?all=1"]


def test_any_name_of_a_task_is_one_part_of_the_path(ask: ClientCaller, service: FakeService) -> None:
    ask("classify", "a/b c?d%20", "good")
    assert service.received[0].path == "/v1/classify/a%2Fb%20c%3Fd%2520"
    ask("classify", "..", "good")
    assert service.received[1].path == "/v1/classify/%2E%2E"
    with pytest.raises(InputError, match="no task"):
        ask("classify", "", "good")
    with pytest.raises(InputError, match="not Unicode"):
        ask("classify", "caf\udce9", "good")


def test_a_service_below_a_path_is_asked_there(ask: ClientCaller, service: FakeService) -> None:
    ask("classify", "tone", "good", settings={"url": f"{service.url}/models/"})
    assert service.received[0].path == "/models/v1/classify/tone"


def test_a_rejected_request_is_sent_again_when_the_service_says(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [refusal(429, Retry_After="3"), refusal(503, Retry_After="5")]
    assert ask("classify", "tone", "good").results[0].label == "good"
    first, second = ask.slept
    assert 3 <= first <= 4 and 5 <= second <= 6
    assert len(service.received) == 3


def test_nobody_is_made_to_wait_for_hours(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [refusal(503, Retry_After="86400"), refusal(503, Retry_After="Wed, 21 Oct 2099 07:28:00 GMT")]
    ask("classify", "tone", "good")
    assert 30 <= ask.slept[0] <= 31 and ask.slept[1] < 1


def test_pauses_grow_where_none_is_named(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [refusal(code) for code in (502, 503, 504, 408, 429, 503, 503)]
    ask("classify", "tone", "good", settings={"retries": 7})
    for waited_s, most_s in zip(ask.slept, (0.25, 0.5, 1, 2, 4, 8, 8), strict=True):
        assert most_s / 2 <= waited_s <= most_s


@pytest.mark.parametrize("do", ["hang up", "break off"])
def test_a_broken_connection_is_tried_again(ask: ClientCaller, service: FakeService, do: str) -> None:
    service.replies = [Reply(do=do, body=b'{"task": "to'), Reply(do=do)]
    assert ask("classify", "tone", "good").results[0].label == "good"
    assert (len(service.received), len(ask.slept)) == (3, 2)


def test_attempts_come_to_an_end(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [refusal(503, "engine_down", "It is being started again.")] * 9
    with pytest.raises(ServiceError, match=r"It is being started again. \(tried 3 times, .* s of waiting") as error:
        ask("classify", "tone", "good", settings={"retries": 2})
    assert (error.value.code, error.value.kind, error.value.exit_code) == (503, "engine_down", 1)
    assert not isinstance(error.value, InputError)
    assert len(service.received) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413])
def test_a_wrong_request_is_bad_input_and_not_sent_again(ask: ClientCaller, service: FakeService, code: int) -> None:
    service.replies = [refusal(code, "unknown_task", "There is no task 'tune' here.", Retry_After="1")]
    with pytest.raises(RequestError, match=r"There is no task 'tune' here\.$") as error:
        ask("classify", "tune", "good")
    assert (error.value.code, error.value.kind, error.value.exit_code) == (code, "unknown_task", 2)
    assert isinstance(error.value, ServiceError) and isinstance(error.value, InputError)
    assert (len(service.received), ask.slept) == (1, [])


def test_a_fault_of_the_service_is_not_sent_again(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [refusal(500)]
    with pytest.raises(ServiceError, match="It says why") as error:
        ask("tasks")
    assert (error.value.code, error.value.exit_code, len(service.received)) == (500, 1, 1)


@pytest.mark.parametrize("reply", [Reply(body=b"<html>"), Reply(404, body=b"{}"), Reply(302, {"Location": "/login"})])
def test_an_address_of_something_else_is_asked_about(ask: ClientCaller, service: FakeService, reply: Reply) -> None:
    service.replies = [reply]
    with pytest.raises(ServiceError, match=rf"{service.url} answered {reply.code} .* Is this its address\?") as error:
        ask("tasks")
    assert error.value.kind == "strange_answer"


def test_an_answer_about_other_texts_is_none(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [Reply(body=msgspec.json.encode(ask("classify", "tone", ["so good", "so bad"])))]
    with pytest.raises(ServiceError, match=r"Is this its address\? \(2 results for 1 text\)"):
        ask("predict", "tone", ["one"])


def test_a_service_that_is_silent_is_given_up(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [Reply(do="hang")]
    began = time.monotonic()
    with pytest.raises(ServiceError, match=r"did not respond in time.*timeout_s") as error:
        ask("classify", "tone", "good", settings={"timeout_s": 0.1})
    assert time.monotonic() - began < HANG_S / 2
    assert (error.value.code, error.value.kind) == (0, "timeout")


def test_where_nobody_listens_it_says_how_to_start_one(ask: ClientCaller) -> None:
    url = unused_url()
    with pytest.raises(ServiceError, match=f"no service answers at {url} .tried 5 times.*`fourshot serve") as error:
        ask("classify", "tone", "good", settings={"url": url})
    assert (error.value.kind, error.value.exit_code, len(ask.slept)) == ("unreachable", 1, 4)


def test_healthy_asks_once_and_raises_nothing(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [Reply(), refusal(503), Reply(do="hang up")]
    assert [ask("healthy") for _ in range(3)] == [True, False, False]
    assert [request.path for request in service.received] == 3 * ["/health"]
    assert ask("healthy", settings={"url": unused_url()}) is False
    assert ask.slept == []


def test_the_key_is_that_of_the_call_or_of_the_environment(
    ask: ClientCaller, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("classify", "tone", "good")
    monkeypatch.setenv("FOURSHOT_API_KEY", "from-environment\n")
    ask("classify", "tone", "good")
    ask("classify", "tone", "good", settings={"key": "given"})
    sent = [request.headers.get("Authorization") for request in service.received]
    assert sent == [None, "Bearer from-environment", "Bearer given"]
    with pytest.raises(InputError, match="characters that do not occur in keys") as error:
        ask("tasks", settings={"key": "schlüssel"})
    assert "schl" not in str(error.value)


def test_a_proxy_is_not_asked_for_this_machine(ask: ClientCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, unused_url())
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask("healthy")


@pytest.mark.parametrize("settings", [{"retries": -1}, {"timeout_s": 0}])
def test_numbers_that_mean_nothing_are_bad_input(ask: ClientCaller, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ask("tasks", settings=settings)


def test_a_long_list_goes_in_parts_and_comes_back_in_order(ask: ClientCaller, service: FakeService) -> None:
    texts = [f"text number {index}" for index in range(150)]
    predictions = ask("predict", "tone", texts)
    assert predictions[7] == Prediction(label="7", probability=0.75, probabilities={"7": 0.75, "other": 0.25})
    assert [prediction.label for prediction in predictions] == [str(index) for index in range(150)]
    assert sorted(len(request.texts) for request in service.received) == [22, 64, 64]
    service.received.clear()
    assert len(ask("predict", "tone", texts, "icl", batch=75)) == 150
    assert [(len(request.texts), request.method) for request in service.received] == 2 * [(75, "icl")]


def test_long_texts_do_not_make_a_request_too_large(ask: ClientCaller, service: FakeService) -> None:
    texts = [f"{'é' * 100_000} {index}" for index in range(6)]  # 200 kB each
    assert [prediction.label for prediction in ask("predict", "tone", texts)] == list("012345")
    assert [len(request.texts) for request in service.received] == [2, 2, 2]


def test_nothing_is_sent_for_bad_texts(ask: ClientCaller, service: FakeService) -> None:
    assert ask("predict", "tone", []) == []
    with pytest.raises(InputError, match=r"at \[70\]. Leave them out"):
        ask("predict", "tone", [*["good"] * 70, " "])
    with pytest.raises(InputError, match="Put it in a list"):
        ask("predict", "tone", "one text")
    for none in (None, float("nan"), 5, b"text"):
        with pytest.raises(InputError, match=r"the input at 1 is .*, which is not a text \(1 such\).*missing values"):
            ask("predict", "tone", ["good", none])
    with pytest.raises(InputError, match="batch is 0"):
        ask("predict", "tone", ["good"], batch=0)
    with pytest.raises(InputError, match="not Unicode"):
        ask("predict", "tone", ["\udcff"])
    assert service.received == []


def test_inputs_with_fields_are_sent_as_objects(ask: ClientCaller, service: FakeService) -> None:
    ask("predict", "tone", [{"subject": "a", "body": "b"}])
    ask("classify", "tone", {"subject": "a", "body": "b"})
    assert [msgspec.json.decode(request.body)["input"] for request in service.received] == [
        [{"subject": "a", "body": "b"}],
        {"subject": "a", "body": "b"},
    ]
    with pytest.raises(InputError, match=r"got one object\. Put it in a list"):
        ask("predict", "tone", {"subject": "a"})


@pytest.mark.parametrize("kind", [tuple, iter, np.array, lambda texts: list(np.array(texts))])
def test_any_row_of_texts_is_a_list_of_them(ask: ClientCaller, service: FakeService, kind: Any) -> None:
    assert [prediction.label for prediction in ask("predict", "tone", kind(["so good", "so bad"]))] == ["good", "bad"]


def test_what_is_no_list_and_no_name_is_bad_input(ask: ClientCaller, service: FakeService) -> None:
    with pytest.raises(InputError, match="got None"):
        ask("predict", "tone", None)
    with pytest.raises(InputError, match="task is 3, of the type int"):
        ask("predict", 3, ["so good"])
    assert not service.received


def test_a_client_may_wait_for_ever(ask: ClientCaller, service: FakeService) -> None:
    settings = {"timeout_s": float("inf"), "url": httpx.URL(service.url)}
    assert ask("predict", "tone", ["so good"], settings=settings)[0].label == "good"


def test_a_fault_in_a_later_part_says_which(ask: ClientCaller, service: FakeService) -> None:
    service.too_long = "text 67"
    with pytest.raises(RequestError, match=r"texts from number 64 on, counted from there: The texts at \[3\]"):
        ask("predict", "tone", [f"text {index}" for index in range(100)])


def async_predict(service: FakeService, texts: list[str], slept: list[float], **more: Any) -> list[Prediction]:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def ask() -> list[Prediction]:
        async with AsyncClient(service.url, sleep=sleep) as client:
            return await client.predict("tone", texts, **more)

    return asyncio.run(ask())


def test_the_async_client_has_several_requests_on_their_way(service: FakeService) -> None:
    service.answer_s = 0.2
    texts = [f"text {index}" for index in range(24)]
    assert [prediction.label for prediction in async_predict(service, texts, [], batch=2, concurrency=4)] == [
        str(index) for index in range(24)
    ]
    assert service.peak == 4
    with pytest.raises(InputError, match="concurrency is 0"):
        async_predict(service, texts, [], concurrency=0)


def test_a_list_does_not_fail_of_its_own_load(service: FakeService) -> None:
    service.answer_s, service.most = 0.01, 1
    slept: list[float] = []
    texts = [f"text {index}" for index in range(60)]
    assert len(async_predict(service, texts, slept, batch=1)) == 60
    assert 0 < len(slept) <= 20, "those that were turned away came back one at a time"


def test_when_one_part_fails_the_others_are_given_up(service: FakeService) -> None:
    service.answer_s = 0.05
    service.replies = [refusal(404, "unknown_task")]
    with pytest.raises(RequestError):
        async_predict(service, ["good"] * 100, [], batch=1, concurrency=2)
    assert len(service.received) <= 4


def test_importing_it_loads_no_model_library() -> None:
    heavy = {"torch", "vllm", "transformers", "numpy", "ray", "peft", "datasets"}
    code = f"import sys, fourshot.serving.clients.client; print(*sorted({heavy!r} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
