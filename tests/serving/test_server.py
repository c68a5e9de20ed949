"""The real service: vLLM's server with our plugins, ten adapters, real requests.

One file, although a long one: its tests share one server, and the last ones end it.
"""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from fourshot.engine.calibration import CONTENT_FREE, NONE, apply, contextual
from fourshot.engine.core import Engine
from fourshot.engine.errors import RequestError
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.events import ignore
from fourshot.pipeline.synthesis.prompts import PromptFormat, reading_prompt
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.serving.clients.remote.asking import RequestMode, requests_for
from fourshot.serving.clients.remote.completions import CompletionResponse, read_labels
from fourshot.serving.clients.remote.endpoint import Endpoint
from fourshot.serving.clients.remote.settings import RemoteSettings
from fourshot.serving.clients.remote.teacher import remote_teacher
from fourshot.serving.models.registry import InContext, write_in_context
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import RunningService, wait_for
from tests.pipeline.task_folders import COLD, WARM, write_task
from tests.serving.attacks import (
    test_a_client_that_sends_its_headers_slowly_is_hung_up_on,
    test_a_flood_of_headers_is_hung_up_on,
    test_a_path_leads_to_a_task_or_nowhere,
    test_a_request_that_cannot_be_answered_says_why,
    test_no_route_takes_an_adapter_by_its_path,
    test_the_page_is_there,
    test_what_is_no_http_is_told_so_in_the_same_form,
    test_what_is_no_request_is_refused,
    version_of,
)
from tests.serving.ten_adapters import TEXTS, TOLERANCE, cards, folder, offline, probabilities, service
from tests.waiting import until

__all__ = (
    "cards",
    "folder",
    "offline",
    "service",
    "test_a_client_that_sends_its_headers_slowly_is_hung_up_on",
    "test_a_flood_of_headers_is_hung_up_on",
    "test_a_path_leads_to_a_task_or_nowhere",
    "test_a_request_that_cannot_be_answered_says_why",
    "test_no_route_takes_an_adapter_by_its_path",
    "test_the_page_is_there",
    "test_what_is_no_http_is_told_so_in_the_same_form",
    "test_what_is_no_request_is_refused",
)


def test_all_adapters_of_the_folder_are_tasks(service: RunningService, cards: dict[str, AdapterCard]) -> None:
    listed = service.tasks()
    assert {info["task"]: info["adapter"] for info in listed["tasks"]} == {
        name: card.name for name, card in cards.items()
    }
    assert listed["tasks"][0]["labels"] == ["good-label", "bad-label"]


def test_adapters_differ_so_that_a_mixed_up_one_would_show(offline: dict[str, np.ndarray]) -> None:
    """By more than answers may differ from those offline; among tasks with equally many labels."""
    for left, right in itertools.combinations(offline.values(), 2):
        assert left.shape != right.shape or np.abs(left - right).max() > 1.5 * TOLERANCE


def test_each_answers_alone_as_it_does_offline(
    service: RunningService, cards: dict[str, AdapterCard], offline: dict[str, np.ndarray]
) -> None:
    for name, card in cards.items():
        served = np.concatenate([probabilities(service.classify(name, {"input": text}), card.task) for text in TEXTS])
        assert np.abs(served - offline[name]).max() < TOLERANCE, name
        answer = service.classify(name, {"input": TEXTS}).json()
        assert answer["adapter"] == card.name
        for result, row in zip(answer["results"], offline[name], strict=True):
            assert row[card.task.label_names.index(result["label"])] > row.max() - 2 * TOLERANCE
        assert answer["usage"]["prompt_tokens"] == sum(result["prompt_tokens"] for result in answer["results"])
        questions = answer["usage"]["completion_tokens"] / len(TEXTS)
        assert (questions > 1) == (name == "task-5"), "only whole words of several tokens take more than one"


def test_each_answers_the_same_among_others_and_the_base(
    service: RunningService, cards: dict[str, AdapterCard], offline: dict[str, np.ndarray]
) -> None:
    base = service.http.get("/v1/models").json()["data"][0]["id"]
    prompt = {"model": base, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}

    def completed(_: int) -> str:
        return str(service.http.post("/v1/completions", json=prompt).json()["choices"][0]["text"])

    def difference(name: str) -> float:
        answer = service.classify(name, {"input": TEXTS})
        while answer.status_code == 429:
            time.sleep(0.2)
            answer = service.classify(name, {"input": TEXTS})
        served = probabilities(answer, cards[name].task)
        return float(np.abs(served - offline[name]).max())

    alone = completed(0)
    with ThreadPoolExecutor(24) as pool:
        completion = [pool.submit(completed, number) for number in range(8)]
        errors = list(pool.map(difference, list(cards) * 4))
        assert max(errors) < TOLERANCE
        assert {answer.result() for answer in completion} == {alone}


def test_in_context_it_answers_with_the_base_and_the_shots_of_the_card(
    service: RunningService, cards: dict[str, AdapterCard], vllm_engine: Engine
) -> None:
    card = cards["task-1"]

    def score(texts: list[str]) -> np.ndarray:
        return vllm_engine.score(
            [reading_prompt(card.task, t, PromptFormat(), card.shots) for t in texts], card.task.label_words
        )

    expected = np.exp(apply(contextual(score(list(CONTENT_FREE))), score(TEXTS)))
    answer = service.classify("task-1", {"input": TEXTS, "method": "icl"})
    assert np.abs(probabilities(answer, card.task) - expected).max() < 2 * TOLERANCE
    assert (answer.json()["method"], answer.json()["adapter"]) == ("icl", "")


def test_answers_have_times_and_counts(service: RunningService, cards: dict[str, AdapterCard]) -> None:
    answer = service.classify("task-0", {"input": TEXTS}).json()
    filler = cards["task-0"].filler
    assert filler and {result["cached_tokens"] for result in answer["results"]} == {filler.prefix_tokens}
    for result in answer["results"]:
        assert 0 <= result["queue_ms"] <= answer["total_ms"]
        assert 0 < result["model_ms"] <= answer["total_ms"]
    lines = service.http.get("/metrics").text
    for name in ("requests_total", "latency_seconds_bucket", "labels_total", "cached_tokens_total"):
        assert f"fourshot_{name}{{" in lines, name
    assert 'task="task-0"' in lines
    assert "vllm:" in lines  # its own are still there


def test_the_openai_client_still_works(service: RunningService, cards: dict[str, AdapterCard]) -> None:
    client = openai.OpenAI(base_url=f"{service.address}/v1", api_key="none")
    models = [model.id for model in client.models.list()]
    assert models[0] == "SmolLM2-135M-Instruct"
    assert {card.name for card in cards.values()} <= set(models)
    completion = client.chat.completions.create(
        model=models[0], messages=[{"role": "user", "content": "Say hello."}], max_tokens=5
    )
    assert completion.choices[0].message.content
    card = cards["task-3"]
    adapted = client.completions.create(
        model=card.name, prompt=reading_prompt(card.task, TEXTS[0], PromptFormat()), max_tokens=1, temperature=0
    )
    plain = client.completions.create(
        model=models[0],
        prompt=reading_prompt(card.task, TEXTS[0], PromptFormat()),
        max_tokens=1,
        temperature=0,
        logprobs=1,
    )
    assert adapted.choices[0].text and plain.choices[0].text


def test_the_form_of_an_answer_may_be_asked_for(service: RunningService) -> None:
    client = openai.OpenAI(base_url=f"{service.address}/v1", api_key="none")
    model, turns = "SmolLM2-135M-Instruct", [{"role": "user", "content": "Say hello."}]
    create: Any = partial(client.chat.completions.create, model=model, messages=turns, max_tokens=20)
    chosen = create(extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert chosen.choices[0].message.content in ("yes", "no")
    written = create(response_format={"type": "json_object"})
    assert written.choices[0].message.content.lstrip().startswith("{")


def test_a_model_behind_vllm_s_own_routes_is_a_teacher(
    service: RunningService, vllm_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "home"))
    task = load_task(write_task(tmp_path))
    shots = [Example(text=text, label=label) for text, label in ((WARM[0], "warm"), (COLD[0], "cold"))]
    url, model = f"{service.address}/v1", "SmolLM2-135M-Instruct"
    modes = (
        RequestMode(route="chat", likely=20),
        RequestMode(route="completions", likely=20),
        RequestMode(route="chat"),
    )
    for mode in modes:
        with Endpoint(url, model, RemoteSettings(), "tests") as endpoint:
            requests = [requests_for(task, text, shots, mode, RemoteSettings())[0] for text in TEXTS]
            completions = [
                completion for completion in endpoint.ask(requests) if isinstance(completion, CompletionResponse)
            ]
        assert [len(completion.texts) for completion in completions] == [
            1 if mode.likely else RemoteSettings().votes
        ] * len(TEXTS)
        if mode.route == "completions":
            masses = np.array([read_labels(completion, task.label_words).masses for completion in completions])
            prompts = [reading_prompt(task, text, PromptFormat(), shots) for text in TEXTS]
            offline = np.exp(apply(NONE, vllm_engine.score(prompts, task.label_words)))
            assert np.abs(masses / masses.sum(axis=1, keepdims=True) - offline).max() < TOLERANCE
    reader = remote_teacher(url, model, task, shots, RemoteSettings())
    (answers,) = reader.read(tmp_path / "log.txt", ignore)([TEXTS])
    assert all(sum(answer.probabilities) == pytest.approx(1, abs=1e-5) for answer in answers)
    account = reader.account()
    assert account and account.asked == "chat, probabilities of tokens" and account.requests == len(TEXTS) + 1
    assert account.paid_requests == 1, "the texts were answered above"
    with pytest.raises(RequestError, match=f"It has {model}, "):
        list(remote_teacher(url, "another", task, shots, RemoteSettings()).read(tmp_path / "log.txt", ignore)([TEXTS]))


def test_versions_come_and_go_without_a_restart(
    service: RunningService, folder: Path, cards: dict[str, AdapterCard]
) -> None:
    first = cards["task-9"].name
    second = make_adapter(folder, cards["task-9"].task, seed=99)
    wait_for(lambda: version_of(service, "task-9") == second.name)
    assert service.classify("task-9", {"input": TEXTS}).json()["adapter"] == second.name
    (folder / "pins.json").write_text(json.dumps({"task-9": first}))
    wait_for(lambda: version_of(service, "task-9") == first)
    (folder / "pins.json").unlink()
    wait_for(lambda: version_of(service, "task-9") == second.name)
    shutil.rmtree(second)
    wait_for(lambda: version_of(service, "task-9") == first)
    extra = make_adapter(folder, task_of("extra"), seed=5)
    wait_for(lambda: version_of(service, "extra") == extra.name)
    shutil.rmtree(extra)
    wait_for(lambda: version_of(service, "extra") == "")
    assert service.classify("extra", {"input": "x"}).status_code == 404


def test_a_task_without_an_adapter_is_answered_in_context_until_it_has_one(
    service: RunningService, folder: Path
) -> None:
    task = task_of("young", ("warm", "cold"))
    shots = tuple(Example(text=f"a {label.word} day", label=label.name) for label in task.labels)
    file = write_in_context(folder, InContext(task=task, shots=shots))
    wait_for(lambda: "young" in {info["task"] for info in service.tasks()["tasks"]})
    answer = service.classify("young", {"input": "a warm evening"}).json()
    assert (answer["method"], answer["adapter"], len(answer["results"][0]["probabilities"])) == ("icl", "", 2)
    refused = service.classify("young", {"input": "x", "method": "adapter"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "no_adapter")
    adapter = make_adapter(folder, task, seed=3)
    wait_for(lambda: version_of(service, "young") == adapter.name)
    assert service.classify("young", {"input": "a warm evening"}).json()["method"] == "adapter"
    shutil.rmtree(adapter)
    wait_for(lambda: version_of(service, "young") == "")
    assert service.classify("young", {"input": "a warm evening"}).json()["method"] == "icl"
    file.unlink()
    wait_for(lambda: "young" not in {info["task"] for info in service.tasks()["tasks"]})


def test_a_broken_adapter_harms_nothing_and_is_listed(
    service: RunningService, folder: Path, cards: dict[str, AdapterCard]
) -> None:
    broken = make_adapter(folder, cards["task-8"].task, seed=77)
    with (broken / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    wait_for(lambda: any(refusal["path"] == broken.name for refusal in service.tasks(True)["refused"]))
    (reason,) = [refusal["reason"] for refusal in service.tasks(True)["refused"] if refusal["path"] == broken.name]
    assert "not those that its card names" in reason
    assert service.classify("task-8", {"input": "x"}).json()["adapter"] == cards["task-8"].name
    assert service.tasks()["refused"] == []
    shutil.rmtree(broken)


def test_a_broken_copy_of_an_adapter_does_not_hide_the_whole_one(
    service: RunningService, folder: Path, tmp_path: Path
) -> None:
    intact = make_adapter(tmp_path, task_of("twice"), seed=55)
    copy = Path(shutil.copytree(intact, folder / "a-copy"))  # stands before the whole one in the folder
    os.truncate(copy / "adapter_model.safetensors", 50_000)
    wait_for(lambda: "a-copy" in {refusal["path"] for refusal in service.tasks(True)["refused"]})
    shutil.copytree(intact, folder / ".making")
    (folder / ".making").rename(folder / intact.name)
    wait_for(lambda: version_of(service, "twice") == intact.name)
    assert "a-copy" in {refusal["path"] for refusal in service.tasks(True)["refused"]}
    shutil.rmtree(copy)
    shutil.rmtree(folder / intact.name)
    wait_for(lambda: version_of(service, "twice") == "")


def test_openapi_describes_our_routes(service: RunningService) -> None:
    document = service.http.get("/openapi.json").json()
    classify = document["paths"]["/v1/classify/{task}"]["post"]
    assert classify["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ClassifyRequest")
    assert {"200", "400", "401", "403", "404", "413", "415", "429", "503", "504"} <= set(classify["responses"])
    schemas = document["components"]["schemas"]
    assert {"input", "method", "model", "user", "stream"} <= set(schemas["ClassifyRequest"]["properties"])
    assert {"Classified", "Usage", "TaskInfo", "Refused", "ErrorAnswer", "Fault"} <= set(schemas)
    assert list(document["paths"]).index("/v1/chat/completions") > 2  # after ours


@pytest.mark.parametrize(
    ("method", "path", "code", "kind"),
    [
        ("POST", "/v1/classify/task-0/", 200, ""),
        ("GET", "/v1/models/", 200, ""),
        ("HEAD", "/metrics", 200, ""),
        ("GET", "/docs", 200, ""),
        ("GET", "/docs/files/swagger-ui.css", 200, ""),
        ("POST", "/v1/classify/my-org%2Ftask-0", 404, "unknown_task"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/classify/task-0", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/classify/task-0", 400, "cors"),
    ],
)
def test_addresses_of_ours_and_of_vllms_answer_in_one_form(
    service: RunningService, method: str, path: str, code: int, kind: str
) -> None:
    headers = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"} if kind == "cors" else {}
    body = {"input": "x"} if method == "POST" else None
    answer = service.http.request(method, path, json=body, headers=headers, follow_redirects=False)
    assert answer.status_code == code, answer.text
    if kind:
        assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == (kind, code)


def test_a_task_whose_only_version_is_damaged_answers_on(service: RunningService, folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(folder, task_of("hurt"), seed=66)
    wait_for(lambda: version_of(service, "hurt") == adapter.name)
    os.truncate(adapter / "adapter_model.safetensors", 100_000)
    wait_for(lambda: "fourshot_damaged_adapters 1.0" in service.http.get("/metrics").text)
    assert service.classify("hurt", {"input": "x"}).json()["adapter"] == adapter.name
    (reason,) = [refusal["reason"] for refusal in service.tasks(True)["refused"] if refusal["path"] == adapter.name]
    assert "answered on" in reason
    shutil.rmtree(adapter)
    wait_for(lambda: version_of(service, "hurt") == "")


# From here on the service is hurt: these come last.


def test_an_engine_that_is_killed_is_started_again_and_no_answer_is_wrong(
    service: RunningService, cards: dict[str, AdapterCard], offline: dict[str, np.ndarray]
) -> None:
    task = cards["task-2"].task
    answers: list[tuple[float, int]] = []  # when, and with which code; 0: the connection broke

    async def ask(client: httpx.AsyncClient) -> None:
        while True:
            try:
                answer = await client.post("/v1/classify/task-2", json={"input": TEXTS})
            except httpx.TransportError:
                answers.append((time.monotonic(), 0))
            else:
                answers.append((time.monotonic(), answer.status_code))
                if answer.status_code == 200:
                    assert np.abs(probabilities(answer, task) - offline["task-2"]).max() < TOLERANCE
                    continue
                assert answer.status_code == 503 and answer.json()["error"]["message"], answer.text
            await asyncio.sleep(0.1)  # as a client does that was asked to wait

    async def answered(number: int, since: float = 0.0) -> float:
        """When so many were answered with 200 after ``since``; the time of the first."""
        good: list[float] = []

        def are_enough() -> bool:
            good[:] = [at for at, code in answers if code == 200 and at > since]
            return len(good) >= number

        await until(are_enough, 120)
        return good[0]

    async def run() -> tuple[float, float]:
        async with httpx.AsyncClient(base_url=service.address, timeout=60) as client:
            asking = asyncio.gather(*(ask(client) for _ in range(4)))
            await answered(8)
            (engine,) = service.engines()
            engine.kill()
            killed = time.monotonic()
            with contextlib.suppress(httpx.TransportError):  # a connection that ends with the server
                while (await client.get("/health")).status_code != 503:
                    await asyncio.sleep(0.05)
            away = time.monotonic()
            again = await answered(16, away)
            assert (await client.get("/health")).status_code == 200
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            return killed, again

    killed, again = asyncio.run(run())
    assert {code for at, code in answers if at < killed} == {200}
    assert {code for at, code in answers if at > again} == {200}
    assert "fourshot_restarts 1.0" in service.http.get("/metrics").text


def test_a_shutdown_answers_what_was_accepted(service: RunningService) -> None:
    """All eight are known to the service when the signal comes; what comes later may be told to ask again."""
    inputs = [f"{text} {number} {'and so on ' * 10}" for number in range(4) for text in TEXTS]

    def texts_in_flight() -> int:
        return sum(info["in_flight"] for info in service.tasks()["tasks"])

    wait_for(lambda: not texts_in_flight())  # of the tests before
    engines = service.engines()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(service.classify, f"task-{n}", {"input": inputs}) for n in range(8)]
        wait_for(lambda: 0 < sum(not future.done() for future in futures) * len(inputs) <= texts_in_flight())
        service.process.send_signal(signal.SIGTERM)
        codes = {future.result().status_code for future in futures}
    assert 200 in codes and codes <= {200, 429}
    assert service.process.wait(30) == 0
    assert not any(engine.is_running() for engine in engines)
