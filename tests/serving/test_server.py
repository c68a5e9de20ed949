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
from pathlib import Path

import httpx
import numpy as np

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.card import AdapterCard
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import RunningService, wait_for
from tests.serving.attacks import (
    test_a_client_that_sends_its_headers_slowly_is_hung_up_on,
    test_a_flood_of_headers_is_hung_up_on,
    test_a_page_whose_name_was_made_to_lead_here_is_told_nothing,
    test_a_path_leads_to_a_task_or_nowhere,
    test_a_request_that_cannot_be_answered_says_why,
    test_no_route_takes_an_adapter_by_its_path,
    test_the_page_is_there,
    test_what_is_no_http_is_told_so_in_the_same_form,
    test_what_is_no_request_is_refused,
    version_of,
)
from tests.serving.beside_adapters import (
    test_a_model_behind_vllm_s_own_routes_is_a_teacher,
    test_a_task_without_an_adapter_is_answered_in_context_until_it_has_one,
    test_addresses_of_ours_and_of_vllms_answer_in_one_form,
    test_in_context_it_answers_with_the_base_and_the_shots_of_the_card,
    test_openapi_describes_our_routes,
    test_the_form_of_an_answer_may_be_asked_for,
    test_the_openai_client_still_works,
)
from tests.serving.ten_adapters import (
    TEXTS,
    TOLERANCE,
    base,
    cards,
    folder,
    offline,
    own_engine,
    probabilities,
    service,
)
from tests.waiting import until

__all__ = (
    "base",
    "cards",
    "folder",
    "offline",
    "own_engine",
    "service",
    "test_a_client_that_sends_its_headers_slowly_is_hung_up_on",
    "test_a_flood_of_headers_is_hung_up_on",
    "test_a_model_behind_vllm_s_own_routes_is_a_teacher",
    "test_a_page_whose_name_was_made_to_lead_here_is_told_nothing",
    "test_a_path_leads_to_a_task_or_nowhere",
    "test_a_request_that_cannot_be_answered_says_why",
    "test_a_task_without_an_adapter_is_answered_in_context_until_it_has_one",
    "test_addresses_of_ours_and_of_vllms_answer_in_one_form",
    "test_in_context_it_answers_with_the_base_and_the_shots_of_the_card",
    "test_no_route_takes_an_adapter_by_its_path",
    "test_openapi_describes_our_routes",
    "test_the_form_of_an_answer_may_be_asked_for",
    "test_the_openai_client_still_works",
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
    service: RunningService, cards: dict[str, AdapterCard], offline: dict[str, np.ndarray], base: ResolvedModel
) -> None:
    # Two tokens that are likelier than the next ones by nats: in a batch of another size the same ones come.
    prompt = {"model": base.name, "prompt": "Bread is made of", "max_tokens": 2, "temperature": 0}

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


def test_versions_come_and_go_without_a_restart(
    service: RunningService, folder: Path, cards: dict[str, AdapterCard], base: ResolvedModel
) -> None:
    first = cards["task-9"].name
    second = make_adapter(folder, cards["task-9"].task, seed=99, base=base)
    wait_for(lambda: version_of(service, "task-9") == second.name)
    assert service.classify("task-9", {"input": TEXTS}).json()["adapter"] == second.name
    (folder / "pins.json").write_text(json.dumps({"task-9": first}))
    wait_for(lambda: version_of(service, "task-9") == first)
    (folder / "pins.json").unlink()
    wait_for(lambda: version_of(service, "task-9") == second.name)
    shutil.rmtree(second)
    wait_for(lambda: version_of(service, "task-9") == first)
    extra = make_adapter(folder, task_of("extra"), seed=5, base=base)
    wait_for(lambda: version_of(service, "extra") == extra.name)
    shutil.rmtree(extra)
    wait_for(lambda: version_of(service, "extra") == "")
    assert service.classify("extra", {"input": "x"}).status_code == 404


def test_a_broken_adapter_harms_nothing_and_is_listed(
    service: RunningService, folder: Path, cards: dict[str, AdapterCard], base: ResolvedModel
) -> None:
    broken = make_adapter(folder, cards["task-8"].task, seed=77, base=base)
    with (broken / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(10_000)
    wait_for(lambda: any(refusal["path"] == broken.name for refusal in service.tasks(True)["refused"]))
    (reason,) = [refusal["reason"] for refusal in service.tasks(True)["refused"] if refusal["path"] == broken.name]
    assert "not those that its card names" in reason
    assert service.classify("task-8", {"input": "x"}).json()["adapter"] == cards["task-8"].name
    assert service.tasks()["refused"] == []
    shutil.rmtree(broken)


def test_a_broken_copy_of_an_adapter_does_not_hide_the_whole_one(
    service: RunningService, folder: Path, base: ResolvedModel, tmp_path: Path
) -> None:
    intact = make_adapter(tmp_path, task_of("twice"), seed=55, base=base)
    copy = Path(shutil.copytree(intact, folder / "a-copy"))  # stands before the whole one in the folder
    os.truncate(copy / "adapter_model.safetensors", 10_000)
    wait_for(lambda: "a-copy" in {refusal["path"] for refusal in service.tasks(True)["refused"]})
    shutil.copytree(intact, folder / ".making")
    (folder / ".making").rename(folder / intact.name)
    wait_for(lambda: version_of(service, "twice") == intact.name)
    assert "a-copy" in {refusal["path"] for refusal in service.tasks(True)["refused"]}
    shutil.rmtree(copy)
    shutil.rmtree(folder / intact.name)
    wait_for(lambda: version_of(service, "twice") == "")


def test_a_task_whose_only_version_is_damaged_answers_on(
    service: RunningService, folder: Path, base: ResolvedModel
) -> None:
    adapter = make_adapter(folder, task_of("hurt"), seed=66, base=base)
    wait_for(lambda: version_of(service, "hurt") == adapter.name)
    os.truncate(adapter / "adapter_model.safetensors", 10_000)
    wait_for(lambda: "fourshot_damaged_adapters 1.0" in service.http.get("/metrics").text)
    assert service.classify("hurt", {"input": "x"}).json()["adapter"] == adapter.name
    (reason,) = [refusal["reason"] for refusal in service.tasks(True)["refused"] if refusal["path"] == adapter.name]
    assert "still served" in reason
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
    (engine,) = service.engines()
    engine.suspend()  # so narrow a base would have answered before the signal came
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(service.classify, f"task-{n}", {"input": inputs}) for n in range(8)]
        wait_for(lambda: 0 < sum(not future.done() for future in futures) * len(inputs) <= texts_in_flight())
        service.process.send_signal(signal.SIGTERM)
        engine.resume()
        codes = {future.result().status_code for future in futures}
    assert 200 in codes and codes <= {200, 429}
    assert service.process.wait(30) == 0
    assert not engine.is_running()
