"""Students in the server's process: which of them answers, how their texts wait, and what is refused."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from fourshot.engine.errors import AdapterError
from fourshot.engine.machine.files import write_json
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.student_card import STUDENT_FILE, file_hashes, load_student_card
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.service import Caller, Service
from fourshot.serving.fleet.launch import complete
from fourshot.serving.models import admission
from fourshot.serving.models.adapter_sync import AdapterSync
from fourshot.serving.models.registry import Registry, base_named, no_base, write_pins
from fourshot.serving.models.students import Students, queue_of
from fourshot.serving.settings import Limits, ServeSettings
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.training.students.onnx_export import Parity
from fourshot.training.students.serving_model import ServingModel, file_to_use
from tests.serving.random_students import MAX_TOKENS, change_tokenizer, make_student, make_text_student
from tests.serving.test_adapter_sync import Sync

TASK, OTHER = task_of("task-0", ("good", "bad", "so-so")), task_of("other")
FACTS = GenerationTask(name="facts", instruction="Write a text.")


def test_a_task_with_both_is_answered_by_the_newer_or_pinned_one_and_by_each_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.serving.models.base_model.stage", lambda folder, card, staging, *_: staging)
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
        patch.setattr("fourshot.serving.models.registry.resolve_model", pytest.fail)
        for served in (root, root / "desk", distilled, student):
            settings, fitted, contents = complete(ServeSettings(adapters=str(served)))
            assert settings.students_only and fitted is None
            assert [adapter.name for adapter in contents.adapters] == [student.name] and not contents.refused
    assert not complete(ServeSettings(adapters=str(student), vllm_arguments=("--disable-log-stats",)))[0].students_only
    make_adapter(root, OTHER)
    settings, fitted, _ = complete(ServeSettings(adapters=str(root)))
    assert fitted is not None and fitted.adapters == 1 and not settings.students_only
    refused = Registry(root, no_base).read().refused
    assert len(refused) == 1 and "students only" in refused[0].reason


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
        bulk = asyncio.create_task(service.classify("other", body, Caller(name="many")))
        while not batches:
            await asyncio.sleep(0.01)
        single = asyncio.create_task(service.classify("other", b'{"input": "one"}', Caller(name="one")))
        gate.set()
        assert (await single).results[0].label and len((await bulk).results) == 200
        gate.clear()
        students.dispatcher._done_tokens, students.dispatcher._busy_s = 100.0, 1.0  # tokens/s: it is slow now
        waiting = asyncio.create_task(service.classify("other", body, Caller(name="many")))
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


def test_what_a_full_disk_kept_out_is_tried_again_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_student(tmp_path, OTHER)
    full, copy = [True], shutil.copyfile

    def copyfile(source: Path, target: Path) -> Path:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return copy(source, target)

    monkeypatch.setattr("fourshot.serving.models.admission.shutil.copyfile", copyfile)
    monkeypatch.setattr("fourshot.serving.models.adapter_sync.RETRY_S", 0.0)
    sync = AdapterSync(Registry(tmp_path, base_named(None)), Students(tmp_path / ".staging", queue_of(Limits())))
    for _ in range(3):
        asyncio.run(sync.refresh())
        assert not sync.current and "No space left" in sync.refused()[0].reason
    assert len([record for record in caplog.records if "is refused" in record.message]) == 1
    full.clear()
    asyncio.run(sync.refresh())
    assert [*sync.current] == ["other"] and not sync.refused()


class Panic(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize("name", ["logits", "encode"])
@pytest.mark.parametrize(("fault", "raised"), [(AdapterError("no"), AdapterError), (Panic("no"), RuntimeError)])
def test_a_student_that_fails_is_a_fault_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: BaseException, raised: type[Exception]
) -> None:
    make_student(tmp_path, OTHER)
    make_student(tmp_path, TASK)
    service, _ = service_of(tmp_path, Limits())
    (version,) = service.adapters.current["other"]

    def fails(rows: object) -> None:
        raise fault

    monkeypatch.setattr(version.model, name, fails)  # type: ignore[attr-defined]

    async def run() -> list[Any]:
        calls = [service.classify(task, b'{"input": ["a", "b"]}') for task in ("other", "task-0")]
        return await asyncio.gather(*calls, return_exceptions=True)

    failed, answered = asyncio.run(run())
    assert isinstance(failed, raised) and len(answered.results) == 2


def test_a_student_that_no_model_can_be_made_of_is_refused_and_the_others_are_served(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = make_student(tmp_path, OTHER)
    weights = load_file(broken / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "pooler" not in name}, broken / "model.safetensors")
    card = load_student_card(broken)
    (broken / STUDENT_FILE).unlink()
    write_json(broken / STUDENT_FILE, msgspec.structs.replace(card, files=file_hashes(broken)))
    make_student(tmp_path, TASK)
    service, _ = service_of(tmp_path, Limits())
    assert list(service.adapters.current) == ["task-0"]
    assert ["cannot be loaded" in refused.reason for refused in service.adapters.refused()] == [True]


@pytest.mark.parametrize("name", ["", ".", "../other", ".hidden"])
def test_a_student_whose_name_is_that_of_no_folder_is_refused_and_takes_no_copy_of_others_away(
    tmp_path: Path, name: str
) -> None:
    nameless = make_student(tmp_path, OTHER)
    card = load_student_card(nameless)
    (nameless / STUDENT_FILE).unlink()
    write_json(nameless / STUDENT_FILE, msgspec.structs.replace(card, name=name))
    make_student(tmp_path, TASK)
    service, _ = service_of(tmp_path, Limits())
    assert list(service.adapters.current) == ["task-0"]
    (version,) = service.adapters.current["task-0"]
    assert version.folder and version.folder.is_dir()
    assert ["is not a file name" in refused.reason for refused in service.adapters.refused()] == [True]


def test_onnx_is_used_where_the_card_says_that_it_answers_as_the_checkpoint_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fourshot.training.students.serving_model.find_spec", lambda name: name)
    in_float = Parity(file="model.onnx", megabytes=1, texts=200, other_labels=0, largest_difference=0)
    int8 = msgspec.structs.replace(in_float, file="model_int8.onnx", other_labels=2, largest_difference=0.05)
    assert file_to_use([in_float, int8]) == "onnx/model_int8.onnx"
    differs = msgspec.structs.replace(int8, other_labels=3)
    assert file_to_use([in_float, differs]) == "onnx/model.onnx"
    for tested, lost, file in ((200, 0.5, "model_int8"), (200, 0.6, "model"), (199, 0.0, "model")):
        measured = msgspec.structs.replace(differs, tested=tested, points_lost=lost)
        assert file_to_use([in_float, measured]) == f"onnx/{file}.onnx"
    assert file_to_use([]) == ""
    monkeypatch.setattr("fourshot.training.students.serving_model.find_spec", lambda name: None)
    assert file_to_use([in_float, int8]) == "", "onnxruntime is not installed"


def test_a_student_whose_answers_are_no_numbers_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    student = make_student(tmp_path, OTHER)
    weights = load_file(student / "model.safetensors")
    save_file({**weights, "classifier.bias": np.full(2, np.nan, np.float32)}, student / "model.safetensors")
    model = ServingModel(student, "", MAX_TOKENS, 2)
    with pytest.raises(AdapterError, match="not numbers"):
        model.logits([[2, 3]])
    with pytest.raises(AdapterError, match="cannot be loaded"):
        ServingModel(student, "onnx/model.onnx", MAX_TOKENS, 2)


def test_a_tokenizer_is_tried_by_another_process_once_for_all_students_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[str]()

    def run(command: list[str], **options: Any) -> Any:
        tried.append(command[-1])
        return subprocess.run(command, **options)

    monkeypatch.setattr(admission, "_usable_tokenizers", set())
    monkeypatch.setattr(admission, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": run}))
    first, second = make_student(tmp_path, OTHER), make_student(tmp_path, TASK)
    for student in (first, second, first):
        admission.check_tokenizer(student)
    assert tried == [str(first / "tokenizer.json")]
    monkeypatch.setattr(admission, "PROBE_S", 0.001)
    change_tokenizer(second, lambda tokenizer: tokenizer.update(truncation=None, padding=None, version="1.0 "))
    with pytest.raises(AdapterError, match=r"not loaded within 0\.001 s"):
        admission.check_tokenizer(second)
    assert len(tried) == 2


@pytest.mark.parametrize("name", ["._model.safetensors", "notes.txt", "._config.json"])
def test_files_beside_a_student_that_its_card_does_not_name_are_not_copied(tmp_path: Path, name: str) -> None:
    """Copied from a Mac, or added by its owner: neither damage it."""
    (root := tmp_path / "served").mkdir()
    for student in (make_student(root, TASK), make_text_student(root, FACTS)):
        (student / name).write_bytes(b"of no use")
    contents = Registry(root, no_base).read()
    assert contents.tasks == ["facts", "task-0"] and not contents.refused
    for stored in contents.adapters:
        assert not isinstance(stored.card, AdapterCard)
        copy, _ = admission.stage_student(stored.folder, stored.card, tmp_path / "copies")
        assert (copy / "model.safetensors").is_file() and not (copy / name).exists()
