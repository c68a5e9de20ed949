"""A service with students: alone, in a real process without vLLM, and beside adapters."""

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from fourshot.engine.errors import AdapterError
from fourshot.pipeline.selective import coverage_curve
from fourshot.serving.app.adapter_sync import AdapterSync
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.registry import Registry, base_named, no_base, write_pins
from fourshot.serving.app.service import Asker, Service
from fourshot.serving.app.students import Students, queue_of
from fourshot.serving.clients.local import LocalClassifier
from fourshot.serving.fleet.launch import complete
from fourshot.serving.settings import Limits, ServeSettings
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import RunningService, running_service, wait_for
from fourshot.serving.testing.students import MAX_TOKENS, make_student
from fourshot.training.students.onnx_export import Parity
from fourshot.training.students.serving_model import ServingModel, file_to_use
from tests.serving.test_adapter_sync import Sync
from tests.serving.test_server import (  # what attacks a service of adapters attacks this one
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

__all__ = (
    "test_a_client_that_sends_its_headers_slowly_is_hung_up_on",
    "test_a_flood_of_headers_is_hung_up_on",
    "test_a_path_leads_to_a_task_or_nowhere",
    "test_a_request_that_cannot_be_answered_says_why",
    "test_no_route_takes_an_adapter_by_its_path",
    "test_the_page_is_there",
    "test_what_is_no_http_is_told_so_in_the_same_form",
    "test_what_is_no_request_is_refused",
)

TASK, OTHER = task_of("task-0", ("good", "bad", "so-so")), task_of("other")
TEXTS = ["Where is my parcel?", "I was charged twice.", "A film. " * 20, "1"]
CURVE = coverage_curve([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0], "test split")
LIMITS = ("--max-body-bytes", "20000", "--max-texts", "16", "--header-timeout-s", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    make_student(root, TASK, coverage=CURVE)
    return root


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(folder, tmp_path_factory.mktemp("log") / "serve.log", *LIMITS, "--poll-s", "0.1") as started:
        yield started


def said(student: Path) -> np.ndarray:
    """What `predict` says of the texts, [num_texts, num_labels]."""
    with LocalClassifier(student) as classifier:
        return np.array([list(one.probabilities.values()) for one in classifier.predict(TEXTS)])


def test_students_alone_are_served_as_adapters_are_and_without_vllm(service: RunningService, folder: Path) -> None:
    (student,) = folder.iterdir()
    mapped = [Path(f"/proc/{process.pid}/maps").read_text() for process in service.processes()]
    assert len(mapped) == 2 and not any("/vllm/" in libraries for libraries in mapped), "the command and the server"
    listed = service.tasks()
    assert listed["base_model"] == "" and [one["methods"] for one in listed["tasks"]] == [["student"]]
    assert (listed["tasks"][0]["student"], listed["tasks"][0]["teacher"]) == (student.name, "a committee")
    answer = service.classify("task-0", {"input": TEXTS}).json()
    assert (answer["method"], answer["adapter"]) == ("student", student.name)
    found = np.array([list(one["probabilities"].values()) for one in answer["results"]])
    assert np.abs(found - said(student)).max() < 1e-5
    assert [one.get("cut_words", 0) > 0 for one in answer["results"]] == [False, False, True, False]
    assert answer["usage"]["prompt_tokens"] == sum(one["prompt_tokens"] for one in answer["results"])
    unsure = service.classify("task-0", {"input": TEXTS, "coverage": 0.25}).json()["results"]
    assert {one["label"] for one in unsure} - {None} != {one["label"] for one in unsure}
    lines = service.http.get("/metrics").text
    assert 'fourshot_requests_total{code="200",method="student",task="task-0"}' in lines
    assert service.http.get("/health").status_code == service.http.head("/metrics").status_code == 200
    document = service.http.get("/openapi.json").json()
    assert "/v1/classify/{task}" in document["paths"] and "Classified" in document["components"]["schemas"]
    assert service.classify("task-0", {"input": "x", "method": "adapter"}).json()["error"]["type"] == "no_adapter"
    assert service.http.get("/v1/models").json()["error"]["type"] == "not_found"


def test_students_come_and_go_under_load_and_every_answer_is_of_the_version_it_names(
    service: RunningService, folder: Path
) -> None:
    (first,) = folder.iterdir()
    expected = {first.name: said(first)}
    stop, wrong = threading.Event(), []

    def ask() -> int:
        answered = 0
        while not stop.is_set():
            answer = service.classify("task-0", {"input": TEXTS})
            if answer.status_code != 200:
                wrong.append(answer.text)
                continue
            body, answered = answer.json(), answered + 1
            found = np.array([list(one["probabilities"].values()) for one in body["results"]])
            if np.abs(found - expected[body["adapter"]]).max() > 1e-5:
                wrong.append(body)
        return answered

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            second = make_student(folder.parent, TASK, seed=1)
            expected[second.name] = said(second)
            shutil.copytree(second, folder / second.name)
            wait_for(lambda: version_of(service, "task-0") == second.name)
            write_pins(folder, {"task-0": first.name})
            wait_for(lambda: version_of(service, "task-0") == first.name)
            os.truncate(first / "model.safetensors", 1000)
            wait_for(lambda: "fourshot_damaged_adapters 1.0" in service.http.get("/metrics").text)
            assert version_of(service, "task-0") == first.name
            broken = make_student(folder, TASK, seed=2)
            os.truncate(broken / "model.safetensors", 1000)
            extra = make_student(folder, OTHER)
            wait_for(lambda: version_of(service, "other") == extra.name)
            shutil.rmtree(extra)
            wait_for(lambda: version_of(service, "other") == "")
            make_adapter(folder, OTHER)
            wait_for(lambda: len(service.tasks(True)["refused"]) == 3)
            shutil.rmtree(first)
            (folder / "pins.json").unlink()
            wait_for(lambda: version_of(service, "task-0") == second.name)
        finally:
            stop.set()
        assert all(one.result() > 0 for one in asking)
    assert not wrong, wrong[0]
    reasons = " ".join(one["reason"] for one in service.tasks(True)["refused"])
    assert "started for students alone" in reasons and "not those that its card names" in reasons


def test_a_shutdown_answers_what_was_accepted(service: RunningService) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(service.classify, "task-0", {"input": TEXTS * 4}) for _ in range(8)]
        wait_for(lambda: '{code="200",method="student"' in service.http.get("/metrics").text)
        service.process.send_signal(signal.SIGTERM)
        codes = [_code(one) for one in asked]
    assert set(codes) <= {200, 503, 0} and 200 in codes
    assert service.process.wait(30) == 0


def _code(asked: Any) -> int:
    import httpx

    try:
        return int(asked.result().status_code)
    except httpx.TransportError:  # it came when nobody listened any more
        return 0


# ---- in this process


def test_a_task_with_both_is_answered_by_the_newer_or_pinned_one_and_by_each_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.serving.app.base_model.stage", lambda folder, card, staging, *_: staging)
    adapter, student = make_adapter(tmp_path, OTHER), make_student(tmp_path, OTHER)
    os.utime(adapter / "card.json", (1000, 1000))
    sync = Sync(tmp_path)
    assert sync.now() == {"other": student.name}
    (info,) = sync.tasks()
    assert (info.methods, info.versions) == (["student", "adapter", "icl"], [student.name, adapter.name])
    write_pins(tmp_path, {"other": adapter.name})
    assert sync.now() == {"other": adapter.name}
    assert sync.tasks()[0].methods == ["adapter", "icl", "student"] and sync.tasks()[0].pinned
    shutil.rmtree(student)
    assert sync.now() == {"other": adapter.name} and sync.tasks()[0].student == ""


def test_students_alone_need_no_base_model_and_all_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    distilled = root / "desk" / "student"  # as `distill` leaves it, beside a run's folder
    student = make_student(distilled / "students" / "job", OTHER)
    (distilled / "student").symlink_to(student)
    (distilled / "manifest.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr("fourshot.serving.app.registry.resolve_model", pytest.fail)
        for served in (root, root / "desk", distilled, student):
            settings, fitted, contents = complete(ServeSettings(adapters=str(served)))
            assert settings.students_only and fitted is None
            assert [one.name for one in contents.adapters] == [student.name] and not contents.refused
    assert not complete(ServeSettings(adapters=str(student), vllm_arguments=("--disable-log-stats",)))[0].students_only
    make_adapter(root, OTHER)
    settings, fitted, _ = complete(ServeSettings(adapters=str(root)))
    assert fitted is not None and fitted.adapters == 1 and not settings.students_only
    refused = Registry(root, no_base).read().refused
    assert len(refused) == 1 and "students alone" in refused[0].reason


def service_of(root: Path, limits: Limits) -> tuple[Service, Students]:
    students = Students(root / ".staging", queue_of(limits))
    sync = AdapterSync(Registry(root, base_named(None)), students)
    asyncio.run(sync.refresh())
    metrics = Metrics(CollectorRegistry())
    return Service(base_name="", adapters=sync, limits=limits, metrics=metrics), students


def test_texts_wait_before_a_busy_student_and_who_gives_up_leaves_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_student(tmp_path, OTHER)
    service, students = service_of(tmp_path, Limits())
    gate, batches = threading.Event(), list[int]()
    (version,) = service.adapters.current["other"]
    compute = version.model.logits  # type: ignore[attr-defined]

    def slowly(rows: list[list[int]]) -> np.ndarray:
        batches.append(len(rows))
        gate.wait(10)
        return compute(rows)

    monkeypatch.setattr(version.model, "logits", slowly)  # type: ignore[attr-defined]
    body = json.dumps({"input": ["a text of some length, so to say"] * 200}).encode()

    async def run() -> None:
        many = asyncio.create_task(service.classify("other", body, Asker(name="many")))
        while not batches:
            await asyncio.sleep(0.01)
        one = asyncio.create_task(service.classify("other", b'{"input": "one"}', Asker(name="one")))
        gate.set()
        assert (await one).results[0].label and len((await many).results) == 200
        gate.clear()
        students.dispatcher._done_tokens, students.dispatcher._busy_s = 100.0, 1.0  # tokens/s: it is slow now
        waiting = asyncio.create_task(service.classify("other", body, Asker(name="many")))
        while not service.adapters.num_waiting:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()
        assert (await service.classify("other", b'{"input": "one"}')).results[0].label
        assert service.adapters.num_waiting == 0 and students.dispatcher._running_tokens == 0

    asyncio.run(run())
    assert max(batches) > 1, "texts that wait together are computed together"


def test_a_student_that_fails_is_a_fault_and_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_student(tmp_path, OTHER)
    make_student(tmp_path, TASK)
    service, _ = service_of(tmp_path, Limits())
    (version,) = service.adapters.current["other"]

    def fails(rows: object) -> None:
        raise AdapterError("it cannot compute")

    monkeypatch.setattr(version.model, "logits", fails)  # type: ignore[attr-defined]

    async def run() -> list[Any]:
        asked = [service.classify(task, b'{"input": ["a", "b"]}') for task in ("other", "task-0")]
        return await asyncio.gather(*asked, return_exceptions=True)

    failed, answered = asyncio.run(run())
    assert isinstance(failed, AdapterError) and len(answered.results) == 2


def test_onnx_is_used_where_the_card_says_that_it_answers_as_the_checkpoint_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fourshot.training.students.serving_model.find_spec", lambda name: name)
    in_float = Parity(file="model.onnx", megabytes=1, texts=200, other_labels=0, largest_difference=0)
    int8 = msgspec.structs.replace(in_float, file="model_int8.onnx", other_labels=2, largest_difference=0.05)
    assert file_to_use([in_float, int8]) == "onnx/model_int8.onnx"
    assert file_to_use([in_float, msgspec.structs.replace(int8, other_labels=3)]) == "onnx/model.onnx"
    assert file_to_use([]) == ""
    monkeypatch.setattr("fourshot.training.students.serving_model.find_spec", lambda name: None)
    assert file_to_use([in_float, int8]) == "", "onnxruntime is not installed"


def test_a_student_whose_answers_are_no_numbers_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    student = make_student(tmp_path, OTHER)
    weights = load_file(student / "model.safetensors")
    save_file({**weights, "classifier.bias": np.full(2, np.nan, np.float32)}, student / "model.safetensors")
    model = ServingModel(student, "", MAX_TOKENS, 2)
    with pytest.raises(AdapterError, match="no numbers"):
        model.logits([[2, 3]])
    with pytest.raises(AdapterError, match="cannot be loaded"):
        ServingModel(student, "onnx/model.onnx", MAX_TOKENS, 2)
