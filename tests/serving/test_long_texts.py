"""What of a text is not read is said by every way of asking, and is the same part in each."""

import asyncio
import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from fourshot.cli import main as cli
from fourshot.engine.core import EngineSettings
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.task import Example
from fourshot.serving.api import Method
from fourshot.serving.clients.local import LocalClassifier
from fourshot.serving.models.base_model import ModelVersion
from fourshot.serving.models.registry import StoredAdapter
from fourshot.serving.models.scorer import ScoredText, combined_answers
from fourshot.serving.models.version import PreparedRequest
from fourshot.serving.testing.adapters import task_of
from fourshot.training.lora.settings import LoraSettings
from tests.serving.app_in_process import DESK, InProcess, answer_to
from tests.serving.fake_server import FakeService, Received, Reply, served

LONG = "begin " + "word " * 308 + "end"
FORM = {"max_text_words": 4, "long_texts": "middle", "prompt_version": "1-middle"}
CARD = AdapterCard(
    name="tone-0123",
    task=task_of("tone"),
    model_name="base",
    model_revision="abc",
    training=LoraSettings(),
    real_examples=8,
    synthetic_examples=20,
    steps=1,
    train_tokens=1,
    train_s=1.0,
)


class FakeEngine:
    prompts: list[str] = []  # noqa: RUF012 - of all that were opened

    def __init__(self, settings: EngineSettings) -> None: ...

    def score(self, prompts: list[str], *_: Any) -> np.ndarray:
        self.prompts[:] = prompts
        return np.log(np.full((len(prompts), 2), 0.5, dtype=np.float32))

    def close(self) -> None: ...


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "card.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(CARD, **FORM)))
    base = SimpleNamespace(path="", name="base", revision="abc")
    monkeypatch.setattr("fourshot.serving.clients.local.base_of", lambda *_: base)
    monkeypatch.setattr("fourshot.serving.clients.local.open_engine", FakeEngine)
    return tmp_path


def test_the_command_counts_what_is_not_read(adapter: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(adapter), "short", LONG, "1 2 3 4 5", "--json"]) == 0
    printed = capfd.readouterr()
    assert [json.loads(line).get("cut_words") for line in printed.out.splitlines()] == [None, 306, 1, None]
    assert printed.err == ("fourshot: warning: 2 of 3 texts are too long for the classifier; ignored: 307 words.\n")


def version_of(stored: StoredAdapter) -> ModelVersion:
    model: Any = SimpleNamespace(settings=EngineSettings(model="fake"), dispatcher=None)
    return ModelVersion(model, stored, {}, None, None)


def test_a_classifier_here_and_a_server_are_shown_the_same_of_a_text(adapter: Path) -> None:
    classifier = LocalClassifier(adapter)
    classifier.predict([LONG])
    (prompt,) = FakeEngine.prompts
    assert "Text: begin … word word end\n" in prompt
    card = msgspec.structs.replace(CARD, **FORM)
    stored = StoredAdapter(card=card, folder=adapter, written_at=0.0, signature=())
    version = version_of(stored)
    assert version.prompts(LONG, "adapter") == [prompt]


def test_windows_leave_nothing_out_and_are_the_same_here_and_on_a_server(
    adapter: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    card = msgspec.structs.replace(CARD, max_text_words=200, long_texts="windows", prompt_version="1-windows")
    (adapter / "card.json").write_bytes(msgspec.json.encode(card))
    assert cli.main(["predict", str(adapter), "short", LONG, "--json"]) == 0
    printed = capfd.readouterr()
    assert [json.loads(line).get("cut_words") for line in printed.out.splitlines()[:2]] == [
        None,
        None,
    ] and not printed.err
    stored = StoredAdapter(card=card, folder=adapter, written_at=0.0, signature=())
    version = version_of(stored)
    parts = version.prompts(LONG, "adapter")
    assert FakeEngine.prompts == [*version.prompts("short", "adapter"), *parts] and len(parts) == 2


def test_a_server_gives_one_answer_to_the_parts_of_a_text() -> None:
    def part(first: float, **seconds: float) -> ScoredText:
        logprobs = (math.log(first), math.log(1 - first))
        return ScoredText(logprobs=logprobs, prompt_tokens=9, cached_tokens=4, completion_tokens=1, **seconds)

    parts = [part(0.9, queue_s=1.0, model_s=1.0), part(0.5, queue_s=2.0, model_s=3.0), part(0.2, queue_s=0, model_s=1)]
    both, alone = combined_answers(parts, [2, 1])
    assert alone == parts[2] and np.exp(both.logprobs) == pytest.approx([0.9, 0.1]), "the other part says nothing"
    assert (both.prompt_tokens, both.cached_tokens, both.completion_tokens) == (18, 8, 2)
    assert (both.queue_s, both.model_s) == (1.0, 4.0), "from the first that began to the last that was done"


def test_a_server_says_how_much_of_each_text_it_did_not_read() -> None:
    answer = json.loads(answer_to("POST", "/v1/classify/desk", json.dumps({"input": ["short", LONG]}).encode()).body)
    assert [result.get("cut_words") for result in answer["results"]] == [None, 10]


def test_many_prompts_are_made_in_a_thread_however_short_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In context, each of them has the examples, too: 256 texts of ten characters are a million characters."""
    in_main_thread, prepare = list[bool](), ModelVersion._prepare

    def recorded(version: ModelVersion, texts: Sequence[str], method: Method) -> PreparedRequest:
        in_main_thread.append(threading.current_thread() is threading.main_thread())
        return prepare(version, texts, method)

    async def run() -> None:
        app = InProcess()
        app.adapters.add(DESK, [Example(text="please open the door " * 20, label="lock")] * 20)
        for texts in (["a"], ["a"] * 10):
            assert (await app.ask("POST", "/v1/classify/desk", json.dumps({"input": texts}).encode())).code == 200

    monkeypatch.setattr(ModelVersion, "_prepare", recorded)
    asyncio.run(run())
    assert in_main_thread == [True, False]


def test_a_client_hands_on_what_the_service_did_not_read(capfd: pytest.CaptureFixture[str]) -> None:
    class Cutting(FakeService):
        def usual(self, request: Received) -> Reply:
            reply = super().usual(request)
            answer = msgspec.json.decode(reply.body)
            answer["results"][0]["cut_words"] = 1
            return Reply(body=msgspec.json.encode(answer))

    with served(Cutting()) as service:
        assert cli.main(["predict", "--url", service.url, "tone", "so good", "--json"]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out.splitlines()[0])["cut_words"] == 1
    assert "1 of 1 texts is too long for the classifier; ignored: 1 word." in printed.err
