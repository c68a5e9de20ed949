"""Students that write: opened, served beside classifiers, asked by the clients and the command, and annotating."""

import asyncio
import copy
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

import fourshot
from fourshot.cli.main import main
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError, RequestError, ServiceError
from fourshot.engine.transformers_engine import TransformersEngine
from fourshot.pipeline.events import ignore
from fourshot.pipeline.tasks.generation import GenerationTask, writing_prompt
from fourshot.pipeline.text_student import greedy
from fourshot.serving.answers import RefusalError
from fourshot.serving.api import Generated, GenerateResponse, TaskInfo, TaskList, Usage
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.service import Service
from fourshot.serving.clients.writers import find_writer
from fourshot.serving.models.adapter_sync import AdapterSync
from fourshot.serving.models.registry import Registry, no_base
from fourshot.serving.models.students import open_students
from fourshot.serving.settings import Limits
from fourshot.serving.testing.adapters import task_of
from fourshot.serving.testing.server import RunningService, running_service, wait_for
from fourshot.training.students.llama_writer import LlamaWriter
from tests.pipeline.task_folders import write_jsonl
from tests.serving.fake_server import FakeService, Received, Reply, refusal, served
from tests.serving.random_students import MOST_WRITTEN, make_student, make_text_student

FACTS = GenerationTask(name="facts", instruction="Write a text.", input_name="Facts", target_name="Text")
DESK = task_of("desk")
INPUTS = ["rome in italy", "oslo", "bonn | in | germany."]


def test_the_writer_in_torch_alone_writes_what_transformers_does(tmp_path: Path) -> None:
    student = make_text_student(tmp_path, FACTS)
    prompts = [writing_prompt(FACTS, text) for text in INPUTS]
    writer = LlamaWriter(student)
    engine = TransformersEngine(EngineSettings(model=str(student), kind="transformers", max_model_len=128))
    by_index = {completion.prompt_index: completion for completion in engine.sample(prompts, greedy(40))}
    assert writer.encode(prompts) == engine.encode(prompts)
    expected = [
        (by_index[n].text.strip(), by_index[n].finish_reason == "stop", by_index[n].num_tokens) for n in range(3)
    ]
    assert writer.write(prompts, 40) == expected and len({text for text, _, _ in expected}) == 3
    assert [writer.write([prompt], 40)[0] for prompt in prompts] == expected, "whatever stands beside a text"


def test_a_generator_says_what_is_too_long_that_it_is_closed_and_that_it_is_not_copied(tmp_path: Path) -> None:
    generator = fourshot.Generator(make_text_student(tmp_path, FACTS))
    with pytest.raises(InputError, match=r"1 of 2 inputs .* one at 1, with \d+ tokens .* Shorten it\.$") as error:
        generator.generate(["oslo", "x" * 200])
    assert "max_model_len" not in str(error.value)
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            copied(generator)
    generator.close()
    generator.close()
    for use in (generator.generate, generator.count_tokens):
        with pytest.raises(InputError, match=r"This generator is closed\. Open another one\."):
            use(INPUTS)


def in_process(root: Path) -> Service:
    students, writers = open_students(root / ".staging", Limits(max_texts=4))
    sync = AdapterSync(Registry(root, no_base), students, writers=writers)
    asyncio.run(sync.refresh())
    return Service(base_name="", adapters=sync, limits=Limits(max_texts=4), metrics=Metrics(CollectorRegistry()))


def refused(service: Service, route: str, task: str, body: Any) -> RefusalError:
    with pytest.raises(RefusalError) as refusal:
        asyncio.run(getattr(service, route)(task, json.dumps(body).encode()))
    return refusal.value


def test_each_route_answers_for_its_kind_and_says_where_the_other_is_asked(tmp_path: Path) -> None:
    student = make_text_student(tmp_path, FACTS)
    make_student(tmp_path, DESK)
    service = in_process(tmp_path)
    desk, facts = service.tasks(False).tasks
    assert (facts.kind, facts.labels, facts.methods, facts.student) == ("generation", [], ["student"], student.name)
    assert desk.kind is msgspec.UNSET
    answer = asyncio.run(service.generate("facts", json.dumps({"input": INPUTS, "stream": False}).encode()))
    with fourshot.Generator(student) as generator:
        expected = generator.generate(INPUTS)
        assert generator.generate(iter(INPUTS)) == expected  # type: ignore[arg-type]
        for wrong, message in ((np.array([["x"]]), "got a ndarray"), (["x", None], "the input at 1 is None")):
            with pytest.raises(InputError, match=message):
                generator.generate(wrong)  # type: ignore[arg-type]
    assert [result.text for result in answer.results] == [result.text for result in expected]
    assert [result.completion_tokens for result in answer.results] == [result.completion_tokens for result in expected]
    assert answer.usage.total_tokens == sum(result.prompt_tokens + result.completion_tokens for result in expected)
    assert answer.student == student.name and {result.finish_reason for result in answer.results} <= {"stop", "length"}
    refusal = refused(service, "classify", "facts", {"input": "x"})
    assert (refusal.code, refusal.kind) == (400, "writes_texts") and "/v1/generate/facts" in str(refusal)
    refusal = refused(service, "generate", "desk", {"input": "x"})
    assert (refusal.code, refusal.kind) == (400, "has_labels") and "/v1/classify/desk" in str(refusal)
    assert refused(service, "generate", "facts", {"input": "x", "method": "icl"}).kind == "no_icl"
    refusal = refused(service, "classify", "desk", {"input": "x", "method": "icl"})
    assert (refusal.kind, "a student, which has no prompt" in str(refusal)) == ("no_icl", True)
    assert refused(service, "generate", "facts", {"input": {"a": "b"}}).kind == "bad_request"
    assert refused(service, "generate", "facts", {"input": ["x"] * 5}).kind == "too_many_texts"
    assert refused(service, "generate", "facts", {"input": ["x", " "]}).kind == "blank_text"
    assert refused(service, "generate", "facts", {"input": "x" * 200}).kind == "too_long"
    assert refused(service, "generate", "nothing", {"input": "x"}).code == 404


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    make_text_student(root, FACTS)
    return root


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(folder, tmp_path_factory.mktemp("log") / "serve.log", "--poll-s", "0.1") as started:
        yield started


def test_a_service_of_such_students_alone_loads_neither_vllm_nor_transformers(
    service: RunningService, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (student,) = folder.iterdir()
    mapped = [Path(f"/proc/{process.pid}/maps").read_text() for process in service.processes()]
    assert len(mapped) == 2 and not any("/vllm/" in libraries for libraries in mapped)
    with fourshot.Generator(student) as generator:
        expected = [result.text for result in generator.generate(INPUTS)]
    with fourshot.Client(service.address) as client:
        assert [result.text for result in client.generate("facts", INPUTS, batch=2)] == expected
        with pytest.raises(RequestError, match="generates texts"):
            client.predict("facts", INPUTS)
    assert main(["predict", "--url", service.address, "facts", *INPUTS]) == 0
    assert capfd.readouterr().out.splitlines() == [" ".join(text.split()) for text in expected]
    assert main(["predict", "--url", service.address, "facts", "x", "--coverage", "0.5"]) == 2
    assert "this one generates texts" in capfd.readouterr().err
    second = make_text_student(folder.parent, FACTS, seed=1)
    shutil.copytree(second, folder / second.name)
    wait_for(lambda: service.tasks()["tasks"][0]["adapter"] == second.name)
    os.truncate(folder / second.name / "model.safetensors", 1000)
    wait_for(lambda: "fourshot_damaged_adapters 1.0" in service.http.get("/metrics").text)
    document = service.http.get("/openapi.json").json()
    assert "/v1/generate/{task}" in document["paths"] and "Generated" in document["components"]["schemas"]
    assert "fourshot_written_tokens_total{" in service.http.get("/metrics").text


def test_a_table_gets_targets_and_a_kill_costs_a_part(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = make_text_student(tmp_path, FACTS)
    rows = [{"n": number, "input": text} for number, text in enumerate([*INPUTS, " ", "x" * 200, *["oslo"] * 40])]
    write_jsonl(tmp_path / "facts.jsonl", rows)
    monkeypatch.setattr("fourshot.serving.clients.writers.FEW", 1000)  # no vLLM
    command = ["annotate", str(student), "--unlabelled", str(tmp_path / "facts.jsonl")]
    command += ["--out", str(tmp_path / "out.jsonl")]
    generate = fourshot.Generator.generate

    def killed(generator: fourshot.Generator, inputs: list[str]) -> Any:
        if len(inputs) > 1 and inputs[-1] == "oslo" and len(inputs) < 32:
            raise KeyboardInterrupt
        return generate(generator, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(fourshot.Generator, "generate", killed)
        assert main(command) == 130
    assert main([*command, "--json"]) == 0
    summary = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (summary["rows"], summary["blank"], summary["unreadable"]) == (45, 1, 1)
    assert summary["written"] + summary["unfinished"] == 43
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with fourshot.Generator(student) as generator:
        expected = generator.generate(INPUTS)
    assert [row["annotated_target"] for row in written[:3]] == [
        result.text if result.is_whole else None for result in expected
    ]
    assert [row["n"] for row in written] == list(range(45)) and MOST_WRITTEN > 1
    assert main([*command, "--abstain-below", "0.5"]) == 2
    assert "for tasks with labels" in capfd.readouterr().err
    with pytest.raises(InputError, match="is not a student that generates"):
        fourshot.annotate_text(FACTS, tmp_path / "facts.jsonl", tmp_path / "more.csv", by=tmp_path)
    with pytest.raises(InputError, match=r"support_tickets has labels, .* Use annotate\."):
        fourshot.annotate_text("support_tickets", tmp_path / "facts.jsonl", tmp_path / "more.csv")
    with pytest.raises(InputError, match=r"--data is for tasks, but the folder .* has its own data\."):
        fourshot.annotate_text(student, tmp_path / "facts.jsonl", tmp_path / "more.csv", data="/nosuch")


LISTED = TaskInfo(
    task="facts", labels=[], adapter="facts-1", versions=["facts-1"], pinned=False, methods=[], kind="generation"
)


def answer_with(texts: int) -> GenerateResponse:
    result = Generated(
        text="Rome.", finish_reason="stop", prompt_tokens=1, completion_tokens=1, queue_ms=0.0, model_ms=0.0
    )
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1, total_tokens=2)
    return GenerateResponse(
        task="facts", method="student", student="facts-1", results=[result] * texts, usage=usage, total_ms=1.0
    )


class FailingService(FakeService):
    """Fails on what is odd."""

    def usual(self, request: Received) -> Reply:
        if b"odd" in request.body:
            return refusal(500, "fault", "The service has failed.")
        answer = answer_with(len(request.texts)) if request.body else TaskList(base_model="", tasks=[LISTED])
        return Reply(body=msgspec.json.encode(answer))


def test_an_input_on_which_a_service_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    with served(FailingService()) as service:
        write = find_writer(service.url, FACTS).write(tmp_path / "log.txt", ignore)
        (part,) = write(iter([["rome", "odd", "oslo"]]))
        assert [(answer.text, answer.fault) for answer in part] == [
            ("Rome.", ""),
            ("", "The service has failed."),
            ("Rome.", ""),
        ]
        with pytest.raises(ServiceError, match=r"generated none of 8 texts: The service has failed\."):
            list(write(iter([["odd"] * 8])))


def test_a_version_that_was_not_there_at_the_beginning_writes_no_row_in_another_s_name(tmp_path: Path) -> None:
    answer, listed = answer_with(1), TaskList(base_model="", tasks=[LISTED])
    with served(FakeService()) as service:
        replies = [listed, answer, msgspec.structs.replace(answer, student="facts-2")]
        service.replies = [Reply(body=msgspec.json.encode(reply)) for reply in replies]
        parts = find_writer(service.url, FACTS).write(tmp_path / "log.txt", ignore)(iter([["rome"], ["oslo"]]))
        assert [written.text for written in next(parts)] == ["Rome."]
        with pytest.raises(ServiceError, match=r"facts is now served by facts-2, and was by facts-1.*adapters pin"):
            next(parts)
