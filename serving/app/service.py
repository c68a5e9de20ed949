"""Request handling: from a request's bytes to the response's struct. HTTP itself is in `serving.app.routes`."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import numpy as np

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import MOST_NAMED, shorten
from fourshot.pipeline.rows.fields import as_texts
from fourshot.pipeline.selective import Abstained, AbstentionRule, rule_of
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.text_student import TextStudentCard
from fourshot.serving.answers import RefusalError, quoted, stopping
from fourshot.serving.api import (
    DEADLINE,
    WRITES,
    Classified,
    ClassifyRequest,
    ClassifyResponse,
    Generated,
    GenerateRequest,
    GenerateResponse,
    Method,
    TaskList,
    Usage,
)
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.requests import AnyRequest, read_request
from fourshot.serving.models.adapter_sync import AdapterSync
from fourshot.serving.models.scorer import ScoredText
from fourshot.serving.models.version import ClassifierVersion, GeneratorVersion, Version
from fourshot.serving.settings import Limits

Answer = TypeVar("Answer")
CLIENT_GONE = 499  # nginx's code for a client that left before its response: no fault of the service


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The client of a request, and the request's deadline."""

    name: str = ""  # of a key, or a peer's address: the queue shares the model fairly between these
    deadline_s: float = math.inf  # seconds from the request's arrival
    tasks: tuple[str, ...] = ()  # that the client may query; empty: all


ANYBODY = Caller()


class Service:
    """The tasks of one server. All methods run on its event loop."""

    def __init__(self, *, base_name: str, adapters: AdapterSync, limits: Limits, metrics: Metrics) -> None:
        """``base_name``: the base model's name, "" if only students are served."""
        self.adapters, self.metrics = adapters, metrics
        self._base_name, self._limits = base_name, limits
        self._requests, self._in_flight = metrics.num_requests, metrics.num_in_flight
        self._answering = 0  # requests, from their arrival; `_in_flight` counts their texts a little later
        self.stopping = False

    async def drain(self, seconds: float) -> None:
        """Accept no more requests, wait at most ``seconds`` for the accepted ones, and refuse what is still queued."""
        self.stopping = True
        end = time.monotonic() + seconds
        while (self._answering or self.adapters.num_inside) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.adapters.close(stopping())
        await asyncio.sleep(0.1)  # so that the last responses are sent

    def tasks(self, everything: bool) -> TaskList:
        """Return the served tasks, and what was rejected if ``everything``."""
        served = [
            msgspec.structs.replace(info, requests=self._requests[info.task], in_flight=self._in_flight[info.task])
            for info in self.adapters.tasks()
        ]
        refused = self.adapters.refused() if everything else []
        return TaskList(base_model=self._base_name, tasks=served, refused=refused)

    async def classify(self, task: str, body: bytes, caller: Caller = ANYBODY) -> ClassifyResponse:
        """Return the response to a classification request with this JSON ``body``. Raises `RefusalError`."""
        return await self._respond(task, body, caller, ClassifyRequest, self._classified)

    async def generate(self, task: str, body: bytes, caller: Caller = ANYBODY) -> GenerateResponse:
        """Return the response to a text generation request with this JSON ``body``. Raises `RefusalError`."""
        return await self._respond(task, body, caller, GenerateRequest, self._generated)

    async def _respond(
        self,
        task: str,
        body: bytes,
        caller: Caller,
        kind: type[AnyRequest],
        answer: Callable[[Any, AnyRequest, Method, float, Caller], Awaitable[Answer]],
    ) -> Answer:
        arrived = time.monotonic()
        versions = self.adapters.current.get(task, ())
        # The task's default method: a request refused before its own method is known is counted under it.
        code, method = 500, next((method for version in versions for method in version.methods), "adapter")
        self._answering += 1
        try:
            if self.stopping:
                raise stopping()
            request = read_request(body, self._limits, kind)
            if not versions:
                mine = [name for name in sorted(self.adapters.current) if not caller.tasks or name in caller.tasks]
                names = shorten(mine, MOST_NAMED) or "none yet"
                raise RefusalError(404, "unknown_task", f"There is no task {quoted(task)} here. Tasks are: {names}.")
            fitting = _of_kind(versions, task, generates_text=kind is GenerateRequest)
            method = request.method or fitting[0].methods[0]
            version = _chosen(fitting, method)
            within_s = min(self._limits.timeout_s, caller.deadline_s)
            async with asyncio.timeout(within_s) as limit:
                response = await answer(version, request, method, arrived, caller)
            code = 200
            return response
        except RefusalError as refusal:
            code = refusal.code
            raise
        except asyncio.CancelledError:
            code = CLIENT_GONE
            raise
        except TimeoutError:
            if not limit.expired():  # raised by the model's code, not by `limit`
                raise
            code = 504
            whose = f"as {DEADLINE} requires" if caller.deadline_s < self._limits.timeout_s else "the limit here"
            raise RefusalError(
                504, "timeout", f"There was no response within {within_s:g} s, {whose}. Send fewer texts at once.", 1.0
            ) from None
        finally:
            self._answering -= 1
            # Only names that exist become labels of metrics: a client must not be able to make new ones.
            if versions:
                self._requests[task] += 1
                self.metrics.requests.labels(task, method, code).inc()
                self.metrics.latency.labels(task, method).observe(time.monotonic() - arrived)

    async def _classified(
        self, version: ClassifierVersion, request: ClassifyRequest, method: Method, arrived: float, caller: Caller
    ) -> ClassifyResponse:
        try:
            texts = as_texts(version.task, request.inputs)
        except InputError as error:
            raise RefusalError(400, "bad_input", str(error)) from None
        rule = _rule(version, request, method)
        self._check(version, caller)  # before anything is computed
        async with self._in_progress(version, len(texts)):
            prepared = await version.prepare(texts, method)
            self._check(version, caller, version.work_tokens(prepared, method))
            scored, probabilities = await version.score(prepared, method, caller.name)
        task, names = version.task.name, version.task.label_names
        results = [
            _result(names, row, rule.abstains(float(row.max())), text, cut_words)
            for row, text, cut_words in zip(probabilities, scored, prepared.cut_words, strict=True)
        ]
        for result in results:
            if result.label is None:
                self.metrics.abstained.labels(task, method, result.abstained).inc()
            else:
                self.metrics.labels.labels(task, method, result.label).inc()
        return ClassifyResponse(
            task=task,
            method=method,
            adapter="" if method == "icl" else version.name,
            results=results,
            usage=self._counted(task, method, results, sum(text.completion_tokens for text in scored)),
            total_ms=round(1000 * (time.monotonic() - arrived), 3),
        )

    async def _generated(
        self, version: GeneratorVersion, request: GenerateRequest, method: Method, arrived: float, caller: Caller
    ) -> GenerateResponse:
        self._check(version, caller)
        async with self._in_progress(version, len(request.inputs)):
            tokens = await version.count_tokens(request.inputs)
            self._check(version, caller, sum(tokens))
            answers = await version.generate(request.inputs, tokens, caller.name)
        results = [
            Generated(
                text=written.text,
                finish_reason="stop" if written.is_whole else "length",
                prompt_tokens=written.prompt_tokens,
                completion_tokens=written.completion_tokens,
                queue_ms=round(1000 * queue_s, 3),
                model_ms=round(1000 * model_s, 3),
                cut_input=written.is_cut,
            )
            for written, queue_s, model_s in answers
        ]
        return GenerateResponse(
            task=version.task.name,
            method=method,
            student=version.name,
            results=results,
            usage=self._counted(
                version.task.name, method, results, sum(result.completion_tokens for result in results)
            ),
            total_ms=round(1000 * (time.monotonic() - arrived), 3),
        )

    def _counted(
        self, task: str, method: Method, results: Sequence[Classified | Generated], completion_tokens: int
    ) -> Usage:
        """Return the token counts of a request, and add them to the metrics."""
        prompt_tokens = sum(result.prompt_tokens for result in results)
        cached_tokens = sum(result.cached_tokens for result in results if isinstance(result, Classified))
        self.metrics.prompt_tokens.labels(task, method).inc(prompt_tokens)
        self.metrics.cached_tokens.labels(task, method).inc(cached_tokens)
        for result in results:
            self.metrics.queue.labels(task, method).observe(result.queue_ms / 1000)
            if isinstance(result, Generated):
                self.metrics.written_tokens.labels(task, method, result.finish_reason).inc(result.completion_tokens)
        return Usage(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )

    def _check(self, version: Version, caller: Caller, tokens: int = 0) -> None:
        try:
            version.dispatcher.check(caller.name, tokens, min(caller.deadline_s, self._limits.timeout_s))
        except RefusalError as refusal:
            self.metrics.rejected.labels("deadline" if refusal.kind == "deadline" else "queue").inc()
            raise

    @asynccontextmanager
    async def _in_progress(self, version: Version, texts: int) -> AsyncIterator[None]:
        """Keep ``version`` loaded, and count ``texts`` as in flight, while a request is processed."""
        task = version.task.name
        version.in_use += 1
        self._in_flight[task] += texts
        self.metrics.in_flight.labels(task).set(self._in_flight[task])
        try:
            yield
        finally:
            version.in_use -= 1
            self._in_flight[task] -= texts
            self.metrics.in_flight.labels(task).set(self._in_flight[task])


def _of_kind(versions: Sequence[Version], task: str, *, generates_text: bool) -> list[Version]:
    """Return the versions that generate texts, or those that predict labels. Raises `RefusalError` if there is none."""
    matching = [version for version in versions if isinstance(version.task, GenerationTask) is generates_text]
    if matching:
        return matching
    if generates_text:
        raise RefusalError(
            400, "has_labels", f"{task} has labels, and generates no texts: use POST /v1/classify/{task}."
        )
    raise RefusalError(400, WRITES, f"{task} has no labels, and generates texts: use POST /v1/generate/{task}.")


def _chosen(versions: Sequence[Version], method: Method) -> Version:
    """Return the first of a task's versions that offers ``method``. Raises `RefusalError` if none does."""
    for version in versions:
        if method in version.methods:
            return version
    name = versions[0].name or versions[0].task.name
    methods = [offered for version in versions for offered in version.methods]
    no_examples = "has no examples that fit into a prompt"
    if {*methods} == {"student"}:
        no_examples = "is a student, which has no prompt that could show examples"
    reasons = {"adapter": "has no adapter", "student": "has no student", "icl": no_examples}
    message = f"{name} {reasons[method]}; it can be used with {' or '.join(methods)}."
    raise RefusalError(400, f"no_{method}", message)


def _rule(version: ClassifierVersion, request: ClassifyRequest, method: Method) -> AbstentionRule:
    """Return the rule by which texts get no label. Raises `RefusalError` if the version's card has no data for it."""
    card = None if method == "icl" or isinstance(version.card, TextStudentCard) else version.card
    try:
        return rule_of(request.refusal, card.coverage if card else None, card.scope if card else None)
    except InputError as error:
        prefix = "In context, " if method == "icl" else f"{version.name}: "
        raise RefusalError(400, "cannot_abstain", f"{prefix}{error}") from None


def _result(
    names: tuple[str, ...], row: np.ndarray, abstained: Abstained, scored: ScoredText, cut_words: int
) -> Classified:
    best = int(row.argmax())
    return Classified(
        label=None if abstained else names[best],
        abstained=abstained,
        cut_words=cut_words,
        probability=float(row[best]),
        probabilities={name: float(value) for name, value in zip(names, row, strict=True)},
        prompt_tokens=scored.prompt_tokens,
        cached_tokens=scored.cached_tokens,
        queue_ms=round(1000 * scored.queue_s, 3),
        model_ms=round(1000 * scored.model_s, 3),
    )
