"""The complete HTTP application in this process, without vLLM and a model: guard, routes and a real `Service`.

The model's responses are fixed; everything else is as in `fourshot serve`.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
import numpy as np
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from fourshot.engine.calibration import NONE
from fourshot.engine.core import EngineSettings
from fourshot.engine.labels import LabelTokens
from fourshot.pipeline.task import Example, Label, Task
from fourshot.serving.api import Refused, TaskInfo
from fourshot.serving.app.guard import Guard
from fourshot.serving.app.keys import Keys
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.routes import add_routes
from fourshot.serving.app.service import Service
from fourshot.serving.models.base_model import BaseModel, ModelVersion
from fourshot.serving.models.dispatcher import Dispatcher
from fourshot.serving.models.in_context import InContext
from fourshot.serving.models.scorer import ScoredText
from fourshot.serving.settings import Limits

DESK = Task(
    name="desk",
    instruction="Sort each message.",
    noun="message",
    labels=(Label(name="lock", word="lock"), Label(name="billing", word="billing")),
)


class FakeTokenizer:
    """A tokenizer with one token per word, plus one."""

    bos_token_id = eos_token_id = None
    eos_token = ""

    def __call__(self, texts: Sequence[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(range(1 + len(text.split()))) for text in texts]}


class FakeScorer:
    """A scorer that always predicts the first label. It responds only while the event ``answers`` is set."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.answers = asyncio.Event()
        self.answers.set()

    def work_tokens(self, prompts: Sequence[Sequence[int]], labels: LabelTokens, lora: None) -> int:
        return sum(map(len, prompts))

    async def score_all(
        self, prompts: Sequence[Sequence[int]], labels: LabelTokens, lora: None, client: str
    ) -> list[ScoredText]:
        return await asyncio.gather(*(self._score(len(ids), len(labels.words), client) for ids in prompts))

    async def _score(self, tokens: int, num_labels: int, client: str) -> ScoredText:
        await self._dispatcher.turn("", tokens, client=client)
        try:
            await self.answers.wait()
        finally:
            self._dispatcher.done(tokens)
        rest = num_labels - 1
        logprobs = tuple(np.log([0.75, *[0.25 / rest] * rest]))
        return ScoredText(
            logprobs=logprobs, prompt_tokens=tokens, cached_tokens=0, completion_tokens=1, queue_s=0, model_s=0
        )


class FakeAdapters:
    """Tasks that are answered in context: `desk`, `split`, whose inputs have fields, and those given to `add`."""

    def __init__(self, scorer: FakeScorer, dispatcher: Dispatcher) -> None:
        self.num_inside, self.close = 0, dispatcher.close
        model: Any = object.__new__(BaseModel)  # without an engine
        model.tokenizer, model.scorer, model.dispatcher = FakeTokenizer(), scorer, dispatcher
        model.settings = EngineSettings(model="fake", max_model_len=2048)
        self._model, self.current = model, dict[str, list[ModelVersion]]()
        self.add(DESK, [Example(text=f"a {label.name}", label=label.name) for label in DESK.labels])
        split = msgspec.structs.replace(DESK, name="split", fields=("subject", "body"))
        self.add(split, [Example(text="Subject: a\nBody: b", label="lock")])

    def add(self, task: Task, shots: Sequence[Example]) -> None:
        """Add a task that is answered in context."""
        ids = tuple((number,) for number in range(1, 1 + len(task.labels)))
        labels = LabelTokens(words=task.label_words, ids=ids, terminated=False)
        version = ModelVersion(self._model, InContext(task=task, shots=tuple(shots)), {"icl": labels}, None, None)
        version._icl_calibration = NONE
        self.current[task.name] = [version]

    def tasks(self) -> list[TaskInfo]:
        return [
            TaskInfo(
                task=name, labels=[*version.task.label_names], adapter="", versions=[], pinned=False, methods=["icl"]
            )
            for name, (version,) in self.current.items()
            if name != "split"
        ]

    def refused(self) -> list[Refused]:
        return [Refused(path="broken", reason="why")]


class Answer(NamedTuple):
    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error of a response, which must have the documented form."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "code"} and error["code"] == self.code, error
        return error


class InProcess:
    """The application; call `ask` inside an event loop."""

    def __init__(
        self,
        limits: Limits | None = None,
        keys: Keys | None = None,
        cors_origins: Sequence[str] = (),
        tokens_per_s: float = 0.0,
    ) -> None:
        limits = limits or Limits()
        self.dispatcher = Dispatcher(
            slots=1,
            window_tokens=8192,
            max_wait_s=0.25,
            max_queue_s=limits.max_queue_s,
            tokens_per_s=tokens_per_s,
        )
        self.scorer = FakeScorer(self.dispatcher)
        self.adapters = FakeAdapters(self.scorer, self.dispatcher)
        self.service = Service(
            base_name="a/model",
            adapters=self.adapters,  # type: ignore[arg-type]
            limits=limits,
            metrics=Metrics(CollectorRegistry()),
        )
        self.bare = FastAPI()  # without the guard, as other servers would mount it
        add_routes(self.bare, limits, has_keys=keys is not None)
        self.bare.state.fourshot = self.service
        self.guard = Guard(self.bare, limits, keys, cors_origins)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Sequence[tuple[str, str | bytes]] = (),
        *,
        parts: Sequence[bytes] = (),
        app: Any = None,
        peer: str = "192.0.2.1",
    ) -> Answer:
        """Send a request. ``path``: as sent, with its percent-encoding. ``parts``: the body in chunks."""
        raw, _, query = path.encode().partition(b"?")
        raw_headers = [
            (name.lower().encode(), v if isinstance(v, bytes) else v.encode("latin-1")) for name, v in headers
        ]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote_to_bytes(raw).decode("utf-8", "replace"),  # as uvicorn does
            "raw_path": raw,
            "query_string": query,
            "root_path": "",
            "headers": raw_headers,
            "client": (peer, 1),
            "server": ("inner", 8000),
        }
        waiting, sent = list(parts or (body,)), []

        async def receive() -> dict[str, Any]:
            if not waiting:
                await asyncio.Event().wait()  # the client stays
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await (app or self.guard)(scope, receive, send)
        start, *rest = sent
        answer_headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], answer_headers, b"".join(message.get("body", b"") for message in rest))


def answer_to(*request: Any, make_app: Callable[[], InProcess] = InProcess, **more: Any) -> Answer:
    """Send one request to a new application. Return the response."""

    async def run() -> Answer:
        return await make_app().ask(*request, **more)

    return asyncio.run(run())
