"""Tests of a service's other responses: in context, on vLLM's own routes, and about itself.

A module that imports them has the fixtures of `ten_adapters`.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from fourshot.engine.calibration import CONTENT_FREE, NONE, apply, contextual
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Engine
from fourshot.engine.errors import RequestError
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.events import ignore
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.serving.clients.remote.asking import RequestMode, requests_for
from fourshot.serving.clients.remote.completions import CompletionResponse, read_labels
from fourshot.serving.clients.remote.endpoint import Endpoint
from fourshot.serving.clients.remote.settings import RemoteSettings
from fourshot.serving.clients.remote.teacher import remote_teacher
from fourshot.serving.models.in_context import InContext, write_in_context
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import RunningService, wait_for
from tests.pipeline.task_folders import COLD, WARM, write_task
from tests.serving.attacks import version_of
from tests.serving.ten_adapters import TEXTS, TOLERANCE, probabilities


def test_in_context_it_answers_with_the_base_and_the_shots_of_the_card(
    service: RunningService, cards: dict[str, AdapterCard], own_engine: Engine
) -> None:
    card = cards["task-1"]

    def score(texts: list[str]) -> np.ndarray:
        return own_engine.score(
            [classification_prompt(card.task, t, PromptFormat(), card.shots) for t in texts], card.task.label_words
        )

    expected = np.exp(apply(contextual(score(list(CONTENT_FREE))), score(TEXTS)))
    answer = service.classify("task-1", {"input": TEXTS, "method": "icl"})
    assert np.abs(probabilities(answer, card.task) - expected).max() < 2 * TOLERANCE
    assert (answer.json()["method"], answer.json()["adapter"]) == ("icl", "")


def test_a_task_without_an_adapter_is_answered_in_context_until_it_has_one(
    service: RunningService, folder: Path, base: ResolvedModel
) -> None:
    task = task_of("young", ("warm", "cold"))
    shots = tuple(Example(text=f"a {label.word} day", label=label.name) for label in task.labels)
    file = write_in_context(folder, InContext(task=task, shots=shots))
    wait_for(lambda: "young" in {info["task"] for info in service.tasks()["tasks"]})
    answer = service.classify("young", {"input": "a warm evening"}).json()
    assert (answer["method"], answer["adapter"], len(answer["results"][0]["probabilities"])) == ("icl", "", 2)
    refused = service.classify("young", {"input": "x", "method": "adapter"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "no_adapter")
    adapter = make_adapter(folder, task, seed=3, base=base)
    wait_for(lambda: version_of(service, "young") == adapter.name)
    assert service.classify("young", {"input": "a warm evening"}).json()["method"] == "adapter"
    shutil.rmtree(adapter)
    wait_for(lambda: version_of(service, "young") == "")
    assert service.classify("young", {"input": "a warm evening"}).json()["method"] == "icl"
    file.unlink()
    wait_for(lambda: "young" not in {info["task"] for info in service.tasks()["tasks"]})


def test_the_openai_client_still_works(
    service: RunningService, cards: dict[str, AdapterCard], base: ResolvedModel
) -> None:
    client = openai.OpenAI(base_url=f"{service.address}/v1", api_key="none")
    models = [model.id for model in client.models.list()]
    assert models[0] == base.name
    assert {card.name for card in cards.values()} <= set(models)
    completion = client.chat.completions.create(
        model=models[0], messages=[{"role": "user", "content": "Say hello."}], max_tokens=5
    )
    assert completion.choices[0].message.content
    card = cards["task-3"]
    adapted = client.completions.create(
        model=card.name, prompt=classification_prompt(card.task, TEXTS[0], PromptFormat()), max_tokens=1, temperature=0
    )
    plain = client.completions.create(
        model=models[0],
        prompt=classification_prompt(card.task, TEXTS[0], PromptFormat()),
        max_tokens=1,
        temperature=0,
        logprobs=1,
    )
    assert adapted.choices[0].text and plain.choices[0].text
    answer: Any = client.post("/classify/task-3", body={"input": TEXTS[:1]}, cast_to=object)
    assert answer["results"][0]["label"] in card.task.label_names


def test_the_form_of_an_answer_may_be_asked_for(service: RunningService, base: ResolvedModel) -> None:
    client = openai.OpenAI(base_url=f"{service.address}/v1", api_key="none")
    model, turns = base.name, [{"role": "user", "content": "Say hello."}]
    create: Any = partial(client.chat.completions.create, model=model, messages=turns, max_tokens=20)
    chosen = create(extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert chosen.choices[0].message.content in ("yes", "no")
    written = create(response_format={"type": "json_object"})
    assert written.choices[0].message.content.lstrip().startswith("{")


def test_a_model_behind_vllm_s_own_routes_is_a_teacher(
    service: RunningService, base: ResolvedModel, own_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "home"))
    task = load_task(write_task(tmp_path))
    shots = [Example(text=text, label=label) for text, label in ((WARM[0], "warm"), (COLD[0], "cold"))]
    url, model = f"{service.address}/v1", base.name
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
            prompts = [classification_prompt(task, text, PromptFormat(), shots) for text in TEXTS]
            offline = np.exp(apply(NONE, own_engine.score(prompts, task.label_words)))
            assert np.abs(masses / masses.sum(axis=1, keepdims=True) - offline).max() < TOLERANCE
    annotator = remote_teacher(url, model, task, shots, RemoteSettings())
    (answers,) = annotator.open(tmp_path / "log.txt", ignore)([TEXTS])
    assert all(sum(answer.probabilities) == pytest.approx(1, abs=1e-5) for answer in answers)
    account = annotator.account()
    assert account and account.asked == "chat, probabilities of tokens" and account.requests == len(TEXTS) + 1
    assert account.paid_requests == 1, "the texts were answered above"
    with pytest.raises(RequestError, match=f"It has {model}, "):
        list(remote_teacher(url, "another", task, shots, RemoteSettings()).open(tmp_path / "log.txt", ignore)([TEXTS]))


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
