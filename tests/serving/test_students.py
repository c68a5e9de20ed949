"""A service with students: alone, in a real process without vLLM, and beside adapters."""

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourshot.cli import main as cli
from fourshot.pipeline.selective import coverage_curve
from fourshot.serving.clients.local import LocalClassifier
from fourshot.serving.models.registry import write_pins
from fourshot.serving.models.students import Students, queue_of
from fourshot.serving.settings import Limits
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import RunningService, running_service, wait_for
from tests.serving.attacks import (  # what attacks a service of adapters attacks this one
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
from tests.serving.random_students import change_tokenizer, end_its_process, make_student

__all__ = (
    "test_a_client_that_sends_its_headers_slowly_is_hung_up_on",
    "test_a_flood_of_headers_is_hung_up_on",
    "test_a_page_whose_name_was_made_to_lead_here_is_told_nothing",
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


def test_a_service_that_ends_meanwhile_leaves_the_end_of_its_log(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "serve.log"

    def use() -> None:
        with running_service(folder, log, *LIMITS) as started:
            started.process.terminate()
            started.process.wait(60)
            log.write_text("its last words")
            started.tasks()

    with pytest.raises(RuntimeError, match=r"the service ended: exit code 0\nits last words$"):
        use()


def predicted(student: Path) -> np.ndarray:
    """What `predict` says of the texts, [num_texts, num_labels]."""
    with LocalClassifier(student) as classifier:
        return np.array([list(prediction.probabilities.values()) for prediction in classifier.predict(TEXTS)])


def test_students_alone_are_served_as_adapters_are_and_without_vllm(service: RunningService, folder: Path) -> None:
    (student,) = folder.iterdir()
    mapped = [Path(f"/proc/{process.pid}/maps").read_text() for process in service.processes()]
    assert len(mapped) == 2 and not any("/vllm/" in libraries for libraries in mapped), "the command and the server"
    listed = service.tasks()
    assert listed["base_model"] == "" and [info["methods"] for info in listed["tasks"]] == [["student"]]
    assert (listed["tasks"][0]["student"], listed["tasks"][0]["teacher"]) == (student.name, "a committee")
    answer = service.classify("task-0", {"input": TEXTS}).json()
    assert (answer["method"], answer["adapter"]) == ("student", student.name)
    served = np.array([list(result["probabilities"].values()) for result in answer["results"]])
    assert np.abs(served - predicted(student)).max() < 1e-5
    assert [result.get("cut_words", 0) > 0 for result in answer["results"]] == [False, False, True, False]
    assert answer["usage"]["prompt_tokens"] == sum(result["prompt_tokens"] for result in answer["results"])
    unsure = service.classify("task-0", {"input": TEXTS, "coverage": 0.25}).json()["results"]
    assert {result["label"] for result in unsure} - {None} != {result["label"] for result in unsure}
    lines = service.http.get("/metrics").text
    assert 'fourshot_requests_total{code="200",method="student",task="task-0"}' in lines
    assert service.http.get("/health").status_code == service.http.head("/metrics").status_code == 200
    document = service.http.get("/openapi.json").json()
    assert "/v1/classify/{task}" in document["paths"] and "Classified" in document["components"]["schemas"]
    assert service.classify("task-0", {"input": "x", "method": "adapter"}).json()["error"]["type"] == "no_adapter"
    assert service.http.get("/v1/models").json()["error"]["type"] == "not_found"
    assert service.classify("task-0", {"input": []}).status_code == 400
    lines = service.http.get("/metrics").text
    assert 'fourshot_requests_total{code="400",method="student",task="task-0"}' in lines
    assert 'method="adapter",task="task-0"' in lines, "what was asked for by name is counted under that name"


def test_students_come_and_go_under_load_and_every_answer_is_of_the_version_it_names(
    service: RunningService, folder: Path
) -> None:
    (first,) = folder.iterdir()
    expected = {first.name: predicted(first)}
    stop, wrong = threading.Event(), []

    def ask() -> int:
        answered = 0
        while not stop.is_set():
            answer = service.classify("task-0", {"input": TEXTS})
            if answer.status_code != 200:
                wrong.append(answer.text)
                continue
            body, answered = answer.json(), answered + 1
            served = np.array([list(result["probabilities"].values()) for result in body["results"]])
            if np.abs(served - expected[body["adapter"]]).max() > 1e-5:
                wrong.append(body)
        return answered

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            second = make_student(folder.parent, TASK, seed=1)
            expected[second.name] = predicted(second)
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
            refused = {first.name, broken.name, make_adapter(folder, OTHER).name}  # and no pin of what answers on
            wait_for(lambda: {refusal["path"] for refusal in service.tasks(True)["refused"]} == refused)
            shutil.rmtree(first)
            (folder / "pins.json").unlink()
            wait_for(lambda: version_of(service, "task-0") == second.name)
        finally:
            stop.set()
        assert all(future.result() > 0 for future in asking)
    assert not wrong, wrong[0]
    reasons = " ".join(refusal["reason"] for refusal in service.tasks(True)["refused"])
    assert "started for students only" in reasons and "not those that its card names" in reasons


def test_a_student_whose_tokenizer_ends_processes_does_not_end_the_service(
    service: RunningService, folder: Path, tmp_path: Path
) -> None:
    before = {process.pid for process in service.processes()}
    for seed, change in ((7, end_its_process), (8, panic)):
        deadly = make_student(tmp_path, OTHER, seed=seed)
        change_tokenizer(deadly, change)
        shutil.copytree(deadly, folder / deadly.name)
        refused: list[str] = []

        def is_refused(name: str = deadly.name, refused: list[str] = refused) -> bool:
            refused[:] = [one["reason"] for one in service.tasks(True)["refused"] if one["path"] == name]
            return bool(refused)

        wait_for(is_refused)
        assert "tokenizer.json" in refused[0] and service.classify("task-0", {"input": "x"}).status_code == 200
        shutil.rmtree(folder / deadly.name)
    extra = make_student(folder, OTHER)
    wait_for(lambda: version_of(service, "other") == extra.name)
    shutil.rmtree(extra)
    assert {process.pid for process in service.processes()} == before


def panic(tokenizer: dict[str, Any]) -> None:
    """Have the library panic, which is no Exception to Python."""
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAAgAAA"}


def test_a_text_that_fails_the_model_fails_no_other_text_of_its_batch(tmp_path: Path) -> None:
    class Version:
        def compute(self, texts: list[str]) -> list[str]:
            if "bad" in texts:
                raise ValueError("values that are no numbers")
            return [text.upper() for text in texts]

    students, version, texts = Students(tmp_path, queue_of(Limits())), Version(), ["a", "b", "bad", "c", "d"]

    async def ask() -> list[Any]:
        asking = (students.ask(version, text, 1, 0, f"asker {text}") for text in texts)  # type: ignore[arg-type]
        return await asyncio.gather(*asking, return_exceptions=True)

    answers = asyncio.run(ask())
    assert isinstance(answers[2], ValueError)
    assert [answer[0] for answer in answers if isinstance(answer, tuple)] == ["A", "B", "C", "D"]


def test_a_shutdown_answers_what_was_accepted(service: RunningService) -> None:
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(service.classify, "task-0", {"input": TEXTS * 4}) for _ in range(8)]
        wait_for(lambda: '{code="200",method="student"' in service.http.get("/metrics").text)
        service.process.send_signal(signal.SIGTERM)
        codes = [_code(future) for future in futures]
    assert set(codes) <= {200, 503, 0} and 200 in codes
    assert service.process.wait(30) == 0


def _code(future: Any) -> int:
    import httpx

    try:
        return int(future.result().status_code)
    except httpx.TransportError:  # it came when nobody listened any more
        return 0


def test_a_coverage_that_rests_on_few_test_texts_is_pointed_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    student = make_student(tmp_path, TASK, coverage=CURVE)
    assert cli.main(["predict", str(student), "Where is my parcel?", "--coverage", "0.5"]) == 0
    warned = capfd.readouterr().err
    assert "the threshold for a coverage of 0.5 is based on only 4 texts of the test split, so" in warned
    assert cli.main(["predict", str(student), "Where is my parcel?", "--abstain-below", "0.5"]) == 0
    assert "coverage" not in capfd.readouterr().err
