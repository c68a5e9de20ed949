"""A task of 150 labels: answered over HTTP in context and by a student, listed, and asked by the command."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from fourshot.cli import main as cli
from fourshot.pipeline.task import Example, Label, Task
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.service import Service
from fourshot.serving.models.adapter_sync import AdapterSync
from fourshot.serving.models.registry import Registry, no_base
from fourshot.serving.models.students import Students, queue_of
from fourshot.serving.settings import Limits
from tests.serving.app_in_process import InProcess
from tests.serving.fake_server import FakeServer, Received, Reply, served
from tests.serving.random_students import make_student

NAMES = tuple(f"change setting {number:03}" for number in range(150))
INTENTS = Task(
    name="intents", instruction="Sort each text.", noun="text", labels=tuple(Label(name=name) for name in NAMES)
)
TEXTS = ["Turn it on", "Turn it off, please"]
OF_OPENAI = {"model": "intents", "user": "me", "stream": False, "metadata": {"a": "b"}, "encoding_format": "float"}


def in_context(_: Path) -> InProcess:
    app = InProcess()
    app.adapters.add(INTENTS, [Example(text=f"so {name}", label=name) for name in NAMES])
    return app


def by_student(root: Path) -> InProcess:
    app = InProcess()
    make_student(root, INTENTS)
    sync = AdapterSync(Registry(root, no_base), Students(root / ".staging", queue_of(Limits())))
    asyncio.run(sync.refresh())
    metrics = Metrics(CollectorRegistry())
    app.bare.state.fourshot = Service(base_name="", adapters=sync, limits=Limits(), metrics=metrics)
    return app


class Forwarding(FakeServer):
    """An application on a port."""

    def __init__(self, app: InProcess) -> None:
        super().__init__()
        self._app = app

    def usual(self, request: Received) -> Reply:
        method = "POST" if request.body else "GET"
        with self.lock:  # one event loop at a time
            answer = asyncio.run(self._app.ask(method, request.path, request.body))
        return Reply(answer.code, {"Content-Type": "application/json"}, answer.body)


@pytest.mark.parametrize("make_app", [in_context, by_student])
@pytest.mark.parametrize("more", [{}, OF_OPENAI])
def test_every_label_has_its_probability(make_app: Any, more: dict[str, Any], tmp_path: Path) -> None:
    body = json.dumps({"input": TEXTS, **more}).encode()
    app = make_app(tmp_path)
    answer = asyncio.run(app.ask("POST", "/v1/classify/intents", body))
    assert answer.code == 200, answer.body
    results = json.loads(answer.body)["results"]
    assert len(results) == len(TEXTS)
    for result in results:
        assert tuple(result["probabilities"]) == NAMES
        assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert result["label"] == max(result["probabilities"], key=result["probabilities"].__getitem__)
        assert result["probability"] == result["probabilities"][result["label"]]


@pytest.mark.parametrize("make_app", [in_context, by_student])
def test_the_tasks_list_all_labels_and_the_page_is_the_same(make_app: Any, tmp_path: Path) -> None:
    app = make_app(tmp_path)
    (listed,) = (
        task for task in json.loads(asyncio.run(app.ask("GET", "/v1/tasks")).body)["tasks"] if task["task"] == "intents"
    )
    assert tuple(listed["labels"]) == NAMES
    page = asyncio.run(app.ask("GET", "/"))
    assert page.code == 200 and page.body == asyncio.run(InProcess().ask("GET", "/")).body


@pytest.mark.parametrize("make_app", [in_context, by_student])
def test_the_command_prints_the_label_of_each_text(
    make_app: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOURSHOT_API_KEY", raising=False)
    with served(Forwarding(make_app(tmp_path))) as server:
        assert cli.main(["predict", "--url", server.url, "intents", *TEXTS]) == 0
        lines = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
        assert [text for _, _, text in lines] == TEXTS and {label for label, _, _ in lines} <= {*NAMES}
        assert cli.main(["predict", "--url", server.url, "intents", *TEXTS, "--json"]) == 0
        *printed, _ = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [tuple(prediction["probabilities"]) for prediction in printed] == [NAMES] * len(TEXTS)
    assert [prediction["label"] for prediction in printed] == [label for label, _, _ in lines]
