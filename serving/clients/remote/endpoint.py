"""Queries a model behind an OpenAI-compatible address: concurrently, with retries and a budget, and never twice.

Source of requests and responses: https://platform.openai.com/docs/api-reference (chat, completions, models).
"""

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx
import msgspec
import tenacity

from fourshot.engine.errors import InputError, RequestError, ServiceError, SpendingLimitError
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.faults import clipped
from fourshot.serving.clients.calls import BUSY, pause_s, retry_after_s
from fourshot.serving.clients.client import Pace
from fourshot.serving.clients.proxies import AnswerTooLargeError, openai_client, proxy_for
from fourshot.serving.clients.remote import refusals
from fourshot.serving.clients.remote.budget import Budget
from fourshot.serving.clients.remote.completions import (
    CompletionResponse,
    FailedAnswerError,
    StrangeAnswerError,
    read_completion,
)
from fourshot.serving.clients.remote.kept import KeptAnswers
from fourshot.serving.clients.remote.settings import KEY_VARIABLES, RemoteSettings, teacher_key

if TYPE_CHECKING:
    import openai

REFUSALS = (400, 403, 404, 405, 413, 422, 501)  # codes that may concern one request and not another
CLOSE_S = 5.0
PROGRESS_EVERY_S = 2.0  # between reports of progress
MOST_DOUBTS = 8  # in a row, after which the fault is taken to be that of the key or the endpoint, not of texts
GO_ON = "Its answers so far are kept, and the same command resumes from there."


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request, without the model's name."""

    route: Literal["chat", "completions"]
    body: dict[str, Any]
    sample: int = 0  # number among requests of the same body, if each gives one answer

    @property
    def chars(self) -> int:
        """Number of characters in the prompt."""
        return len(self.body.get("prompt", "")) + sum(len(turn["content"]) for turn in self.body.get("messages", ()))


class RequestRefused(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoint refuses this request, and would refuse it again; it may answer others."""

    code: int
    message: str


class Endpoint:
    """One model at one address, for one piece of work. A context manager."""

    def __init__(self, url: str, model: str, settings: RemoteSettings, work: str, on_event: OnEvent = ignore) -> None:
        """``work``: the piece of work that is charged, see `KeptAnswers`.

        Raises InputError if the client for such endpoints is not installed, and for a proxy that cannot be used.
        """
        try:
            import openai
        except ImportError:
            raise InputError(
                "A teacher behind an OpenAI-compatible address needs OpenAI's client. Install it in fourshot's "
                "clone: pip install '.[teacher]'"
            ) from None
        self.url, self.model, self._settings, self._on_event = url, model, settings, on_event
        self._key, self._key_from = teacher_key()
        proxy = proxy_for(httpx.URL(url))
        self._at = f"{url}, through the proxy of {proxy.variable}," if proxy else url
        self.kept = KeptAnswers(url, model, work)
        self._budget = Budget(settings, self.kept.spent)
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=self._key,
            max_retries=0,  # made here, so that every attempt counts and all slow down together
            timeout=settings.timeout_s,
            http_client=openai_client(httpx.URL(url), proxy),
        )
        self._pace, self._ended, self._missing = Pace(settings.concurrency), asyncio.Event(), 0
        self._doubts = list[ServiceError]()  # in a row: faults of one request, or of all
        # A loop in a thread of its own: the caller may have one, as notebooks do.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def ask(self, requests: Sequence[CompletionRequest]) -> list[CompletionResponse | RequestRefused]:
        """Return the answer to each request. All are stored before this returns.

        Raises RequestError for what the user must change, SpendingLimitError at a limit, ServiceError if retries have
        not helped. Before that, and after Ctrl-C, it waits for requests in flight, because they are paid for.
        """
        self._ended.clear()  # before anything can set it
        answering = asyncio.run_coroutine_threadsafe(self._all(requests), self._loop)
        try:
            while not wait([answering], PROGRESS_EVERY_S).done:
                message, total = f"asking {self.model}", len(requests)
                done = total - self._missing
                self._on_event(Event(stage="annotate", message=message, done=done, total=total, unit="requests"))
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(self._ended.set)
            wait([answering])
            raise
        return answering.result()

    async def _all(self, requests: Sequence[CompletionRequest]) -> list[CompletionResponse | RequestRefused]:
        keys = [self.kept.key_of(request) for request in requests]
        answers: dict[str, CompletionResponse | RequestRefused] = {
            key: kept for key in set(keys) if (kept := self.kept.find(key))
        }
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in answers}
        queue, self._missing = iter(missing.items()), len(missing)
        faults = list[Exception]()

        async def work() -> None:
            for key, request in queue:
                if self._ended.is_set():
                    return
                try:
                    answers[key] = await self._answer(key, request)
                    self._missing -= 1
                except Exception as error:  # raised below, once nothing is in flight any more
                    faults.append(error)
                    self._ended.set()

        await asyncio.gather(*(work() for _ in range(self._settings.concurrency)))
        if faults and isinstance(faults[0], SpendingLimitError):
            raise SpendingLimitError(f"{self._budget.describe()} {GO_ON} Give a higher limit, or leave it out.")
        if faults:
            raise faults[0]
        if self._doubts and not (self.kept.spent.requests or self.kept.used.requests):
            raise self._doubts[0]
        self.kept.use([key for key, answer in answers.items() if isinstance(answer, CompletionResponse)])
        return [answers[key] for key in keys if key in answers]

    async def _answer(self, key: str, request: CompletionRequest) -> CompletionResponse | RequestRefused:
        async def pause(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds)
                raise ServiceError("given up, because another request failed")

        retrying = tenacity.AsyncRetrying(
            sleep=pause,
            retry=tenacity.retry_if_exception(refusals.may_pass),
            stop=tenacity.stop_after_attempt(self._settings.retries + 1),
            wait=_wait_s,
            reraise=True,
        )
        try:
            completion: CompletionResponse = await retrying(self._send, key, request)
        except _errors() as error:
            return await self._refusal_of(error, int(retrying.statistics["attempt_number"]))
        return completion

    async def _send(self, key: str, request: CompletionRequest) -> CompletionResponse:
        """Make one attempt. Its answer is on disk when this returns."""
        import openai

        route = self._client.chat.completions if request.route == "chat" else self._client.completions
        limit = request.body.get("n", 1) * (request.body.get("max_tokens") or request.body["max_completion_tokens"])
        async with self._pace.turn(), self._budget.room(request.chars, limit):
            if self._ended.is_set():  # since it began to wait
                raise ServiceError("given up, because another request failed")
            try:
                async with asyncio.timeout(self._settings.timeout_s):  # the client's own is per read
                    answer = await route.with_raw_response.create(model=self.model, **request.body)
                completion = read_completion(answer.content, request.chars)
            except openai.RateLimitError:
                self._pace.learn(busy=True)
                raise
            except (AnswerTooLargeError, openai.APIConnectionError) as error:
                if isinstance(cause := error.__cause__ or error, AnswerTooLargeError):  # some versions wrap it
                    raise StrangeAnswerError(str(cause)) from None
                if isinstance(error, openai.APITimeoutError):
                    raise TimeoutError from error
                raise
            self._pace.learn(busy=False)
            self._doubts = []
            self.kept.keep(key, completion)
            self._budget.record(completion, request.chars)
            return completion

    async def _refusal_of(self, error: Exception, tries: int) -> RequestRefused:
        """Return the refusal of this one request. Raises what to do about any other error of the last attempt."""
        import openai

        tried = f" (tried {tries} times)" if tries > 1 else ""
        if isinstance(error, openai.APIStatusError):
            self._check_place(error.response)
            return await self._explained_status(error, f"{self.model} at {self.url} answers {error.status_code}{tried}")
        if isinstance(error, TimeoutError):
            raise ServiceError(
                f"{self.model} at {self.url} did not answer within {self._settings.timeout_s:g} s{tried}. {GO_ON} "
                "Give it more time with --timeout-s, or fewer requests at a time with --concurrency.",
                kind="timeout",
            ) from error
        if isinstance(error, openai.APIConnectionError):
            cause = self._without_key(str(error.__cause__ or error)).rstrip(".")
            raise ServiceError(f"no response from {self._at}{tried}: {cause}. {GO_ON}", kind="unreachable") from error
        if isinstance(error, FailedAnswerError):
            message = clipped(self._without_key(str(error)), refusals.MOST_MESSAGE_CHARS).rstrip(".")
            fault = f"{self.model} at {self.url} answers 200, but reports an error{tried}: {message}. {GO_ON}"
            return self._doubted(ServiceError(fault, 200, "failed"), message)
        fault = f"{self.url} answered, but not as an OpenAI-compatible endpoint does{tried}: {error}. "
        fault += f"Is this its address? It usually ends in /v1. {GO_ON}"
        return self._doubted(ServiceError(fault, 200, "strange_answer"), f"its answer cannot be read: {error}")

    async def _explained_status(self, error: "openai.APIStatusError", answers: str) -> RequestRefused:
        code, message = error.status_code, self._without_key(refusals.message_of(error)).rstrip(".")
        intro = f"{answers}: {message}."
        if code == 402 or refusals.is_used_up(error):
            raise RequestError(f"{intro} The quota of the account there is used up. {GO_ON}", code, "used_up")
        if code in (401, 403) and not refusals.is_moderated(error):
            cause = f"The key of {self._key_from} is refused" if self._key_from else "It needs a key"
            remedy = f"set {KEY_VARIABLES[0]} in the environment"
            return self._doubted(RequestError(f"{intro} {cause}: {remedy}. {GO_ON}", code, "no_key"), message)
        if code == 404:
            names = await self._models()
            advice = "Name one with --teacher-model; an address usually ends in /v1"
            if names and self.model not in names:
                raise RequestError(f"{intro} It has {', '.join(names[:20])}. {advice}.", code, "unknown_model")
            if not names:  # it may be the route that is unknown, and another one known
                message += f". It does not list its models. {advice}"
        if code in REFUSALS:
            return RequestRefused(code=code, message=message)
        if code == 500:
            return self._doubted(ServiceError(f"{intro} {GO_ON}", code, "failed"), message)
        if (asked_s := retry_after_s(error.response.headers) or 0) > refusals.LONGEST_RETRY_AFTER_S:
            intro += f" It asks for a pause of {asked_s:.0f} s."
        raise ServiceError(f"{intro} {GO_ON}", code, "busy" if code == BUSY else "failed")

    def _doubted(self, fault: ServiceError, message: str) -> RequestRefused:
        """Return the refusal of a request whose ``fault`` may be its own. Raises ``fault`` if it hardly is."""
        self._doubts.append(fault)
        if fault.code == 401 or len(self._doubts) >= MOST_DOUBTS:
            raise fault
        return RequestRefused(code=fault.code, message=message)

    def _check_place(self, response: Any) -> None:
        """Raise RequestError if the response is a redirect."""
        if not response.has_redirect_location:
            return
        url = str(response.url.join(response.headers["location"])).removesuffix("/completions").removesuffix("/chat")
        raise RequestError(
            f"{self.url} redirects to {url}, where nothing was sent. If that is the right address, give it: --teacher "
            f"{url}.",
            kind="moved",
        )

    async def _models(self) -> list[str]:
        """Return the names of the endpoint's models; [] if it does not list them."""
        try:
            return [model.id async for model in self._client.models.list()]
        except Exception:  # whatever it is: the error before it is the one to report
            return []

    def _without_key(self, message: str) -> str:
        """Return ``message`` without the key: some endpoints repeat what they refuse."""
        return message.replace(self._key, "***") if self._key_from else message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self.kept.close()


def _errors() -> tuple[type[Exception], ...]:
    """Return the errors of one attempt that have to be explained."""
    import openai

    return openai.OpenAIError, TimeoutError, StrangeAnswerError


def _wait_s(state: tenacity.RetryCallState) -> float:
    assert state.outcome is not None
    response = getattr(state.outcome.exception(), "response", None)
    return pause_s(state, retry_after_s(response.headers) if response is not None else None)
