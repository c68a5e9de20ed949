"""Requests to the service as data: what is sent, how the response is parsed, and when a request is retried.

`serving.clients.client` sends them, blocking or awaiting; nothing here does either.
"""

import math
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

import httpx
import msgspec
import tenacity

from fourshot.engine.errors import InputError, RequestError, ServiceError
from fourshot.pipeline.faults import counted
from fourshot.pipeline.rows.fields import Given
from fourshot.pipeline.rows.text_lists import checked_strings, checked_texts, listed_texts, plain
from fourshot.pipeline.selective import Refusal
from fourshot.pipeline.text_student import TextWritten
from fourshot.serving.api import (
    DEADLINE,
    ClassifyRequest,
    ClassifyResponse,
    ErrorAnswer,
    GenerateRequest,
    GenerateResponse,
    Method,
    TaskList,
)
from fourshot.serving.certificates import tls_of
from fourshot.serving.clients.address import address_hint, read_address, redirect_hint, remedy, without_password
from fourshot.serving.clients.local import Prediction
from fourshot.serving.clients.proxies import proxy_for

KEY_VARIABLE = "FOURSHOT_API_KEY"
BATCH = 64  # texts in one request
WRITTEN_BATCH = 8  # inputs in one request: each takes seconds
MAX_PART_BYTES = 512 << 10  # of texts in one request: half of the service's default limit
NO_KEY = re.compile(r"[^\x21-\x7e]|[\"']|^bearer\b", re.IGNORECASE)  # may be pasted along, and is in no key
MAX_CONNECT_S = 10.0
LONGEST_DEADLINE_S = 1e6

BUSY = 429
RETRIED_CODES = frozenset({408, BUSY, 502, 503, 504})
# Classification is idempotent, so a request may be retried even if its connection broke after it was sent.
RETRIED_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0  # before the second attempt; before any, if the service names no time
LONGEST_RETRY_AFTER_S = 30.0

ALL = Refusal()  # never abstain
IN_CONTEXT = "the model in context"

Answer = TypeVar("Answer")


class ApiCall(msgspec.Struct, Generic[Answer], frozen=True, kw_only=True):
    """A request, and the type of its response."""

    answer: type[Answer]
    method: str
    path: str  # below the service's address, quoted, with its query
    body: bytes = b""
    first: int = 0  # position of its first text in the user's list
    texts: int = -1  # number of results that must come back; -1: the response has none

    def request(self) -> dict[str, Any]:
        """Return the arguments of httpx's ``request``."""
        headers = {"Content-Type": "application/json"} if self.body else {}
        return {"method": self.method, "url": self.path, "content": self.body or None, "headers": headers}


def retry_policy(retries: int) -> dict[str, Any]:
    """Return the arguments of tenacity's ``Retrying`` and ``AsyncRetrying``. The last attempt's outcome is final."""
    on_status = tenacity.retry_if_result(lambda response: response.status_code in RETRIED_CODES)
    return {
        "retry": tenacity.retry_if_exception_type(RETRIED_ERRORS) | on_status,
        "stop": tenacity.stop_after_attempt(retries + 1),
        "wait": _wait_s,
        "retry_error_callback": lambda state: state.outcome.result(),
    }


def _wait_s(state: tenacity.RetryCallState) -> float:
    assert state.outcome is not None
    asked_s = None if state.outcome.failed else retry_after_s(state.outcome.result().headers)
    return pause_s(state, None if asked_s is None else min(asked_s, LONGEST_RETRY_AFTER_S))


def pause_s(state: tenacity.RetryCallState, asked_s: float | None) -> float:
    """Return the seconds to wait before the next attempt, ``asked_s`` (see `retry_after_s`) or more.

    A part is random: clients that were rejected together must not retry together.
    """
    pause_s = tenacity.wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)(state)
    return pause_s * random.uniform(0.5, 1.0) if asked_s is None else asked_s + pause_s * random.uniform(0.0, 0.5)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait; None if it does not say, or says it as a date."""
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isascii() and value.isdigit() else None


def _tries(retrying: tenacity.BaseRetrying) -> str:
    attempts, waited_s = retrying.statistics["attempt_number"], retrying.statistics["idle_for"]
    return f" (tried {attempts} times, {waited_s:.1f} s of waiting between)" if attempts > 1 else ""


@contextmanager
def as_service_error(retrying: tenacity.BaseRetrying, url: str) -> Iterator[None]:
    """Raise a connection error of the last attempt, inside the block, as a `ServiceError` that says what to do."""
    try:
        yield
    except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
        raise ServiceError(
            f"{url} did not respond in time{_tries(retrying)}: {str(error) or type(error).__name__}. Send fewer texts "
            "at once, or wait longer (timeout_s).",
            kind="timeout",
        ) from error
    except httpx.DecodingError as error:
        raise ServiceError(
            f"{url} answered with a body that cannot be decompressed ({error}). Check the proxy in front of it.",
            kind="strange_answer",
        ) from error
    except httpx.RequestError as error:
        reason = (str(error) or type(error).__name__).removesuffix(".")
        raise ServiceError(
            f"no service answers at {url}{_tries(retrying)}: {reason}. {remedy(error, url)}", kind="unreachable"
        ) from error


def read(call: ApiCall[Answer], response: httpx.Response, retrying: tenacity.BaseRetrying, url: str) -> Answer:
    """Parse the last attempt's response. Raises `ServiceError`, and `RequestError` for a 4xx that is not retried."""
    code, tries = response.status_code, _tries(retrying)
    strange = f"{url} answered {code} {response.reason_phrase} to {call.method} {call.path}{tries}"
    strange += f", but not as a fourshot service does. Is this its address?{address_hint(url)}{redirect_hint(response)}"
    if response.is_success:
        try:
            answer: Any = msgspec.json.decode(response.content, type=call.answer)
            if call.texts >= 0 and call.texts != len(answer.results):
                raise ValueError(f"{len(answer.results)} results for {counted(call.texts, 'text')}")
            return cast(Answer, answer)
        except ValueError as error:  # errors of msgspec and of Unicode are ValueErrors
            raise ServiceError(f"{strange} ({error})", code, "strange_answer") from error
    try:
        fault = msgspec.json.decode(response.content, type=ErrorAnswer).error
        kind, message = fault.type, f"{fault.message}{tries}{address_hint(url) if code == 404 else ''}"
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind, message = "strange_answer", strange
    if not response.is_client_error or code in RETRIED_CODES:
        raise ServiceError(message, code, kind)
    if call.first:
        message = f"In the texts from number {call.first} on, counted from there: {message}"
    raise RequestError(message, code, kind)


def classify_call(
    task: str, texts: Given | Sequence[Given], method: Method | None, refusal: Refusal = ALL, first: int = 0
) -> ApiCall[ClassifyResponse]:
    """Return the call for one request. Raises InputError for a task without a name, and for invalid Unicode."""
    content: Any = plain(texts) if isinstance(texts, str | Mapping) else listed_texts(texts, "classify")
    request = ClassifyRequest(input=content, method=method, **msgspec.structs.asdict(refusal))
    return _post("classify", task, request, ClassifyResponse, first)


def generate_calls(task: str, inputs: Sequence[str], batch: int) -> list[ApiCall[GenerateResponse]]:
    """Return the calls that generate texts for ``inputs``. Raises InputError, before any is sent, for a blank one."""
    texts = checked_strings(inputs, "generate")
    return [
        _post("generate", task, GenerateRequest(input=texts[first:end]), GenerateResponse, first)
        for first, end in _parts(texts, batch)
    ]


def written(answers: Sequence[GenerateResponse]) -> list[TextWritten]:
    """Return one text per input, as `pipeline.text_student.Generator` does."""
    return [
        TextWritten(
            text=result.text,
            is_whole=result.finish_reason == "stop",
            is_cut=result.cut_input,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
        )
        for answer in answers
        for result in answer.results
    ]


def predict_calls(
    task: str, texts: Sequence[Given], method: Method | None, refusal: Refusal, batch: int
) -> list[ApiCall[ClassifyResponse]]:
    """Return the calls that classify ``texts`` in order. Raises InputError, before any is sent, for a blank text."""
    texts = checked_texts(texts, "predict")
    return [classify_call(task, texts[first:end], method, refusal, first) for first, end in _parts(texts, batch)]


def _parts(texts: Sequence[Given], batch: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part: at most ``batch`` texts, and MAX_PART_BYTES unless one text alone has more.

    Raises InputError, before the first part, for an impossible ``batch``.
    """
    if batch < 1:
        raise InputError(f"batch is {batch}; a request needs at least 1 text.")
    first = size = 0
    for index, text in enumerate(texts):
        added = len(_encoded(text))
        if index > first and (index - first >= batch or size + added > MAX_PART_BYTES):
            yield first, index
            first, size = index, 0
        size += added
    if len(texts):
        yield first, len(texts)


def _post(
    route: str, task: str, request: ClassifyRequest | GenerateRequest, answer: type[Answer], first: int
) -> ApiCall[Answer]:
    if not task or not isinstance(task, str):
        raise InputError(f"no task is given{f': {task!r:.60} is not a name' if task else ''}. Give its name.")
    try:
        quoted = quote(task, safe="")
    except UnicodeEncodeError as error:
        raise InputError(f"the task's name {task!r} has characters that are not Unicode: {error}.") from None
    # "." and ".." would be removed from the path on the way, like names of folders.
    path = f"/v1/{route}/{quoted.replace('.', '%2E') if task in ('.', '..') else quoted}"
    body = _encoded(request)
    return ApiCall(answer=answer, method="POST", path=path, body=body, first=first, texts=len(request.inputs))


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise InputError(f"a text has characters that are not Unicode: {error}. Decode it as UTF-8 first.") from None
    except TypeError as error:
        raise InputError(f"a field of an input is not a string: {error}. Give strings.") from None


def predictions(answers: Sequence[ClassifyResponse]) -> list[Prediction]:
    """Return one prediction per text, as `serving.clients.local.LocalClassifier` does."""
    results = (result for answer in answers for result in answer.results)
    return [msgspec.convert(result, Prediction, from_attributes=True) for result in results]


def check_version(task: str, now: str, before: str) -> None:
    """Raise ServiceError if another version of ``task`` answers ``now`` than ``before``, "" in context."""
    if now != before:
        raise ServiceError(
            f"{task} is now served by {now or IN_CONTEXT}, and was by {before or IN_CONTEXT}. A table needs one "
            "annotator. Pin the earlier one (`fourshot adapters pin`) and repeat the command, or begin another table."
        )


def tasks_call(everything: bool) -> ApiCall[TaskList]:
    return ApiCall(answer=TaskList, method="GET", path="/v1/tasks?all=1" if everything else "/v1/tasks")


def http_options(
    url: str | httpx.URL, key: str | None, timeout_s: float, retries: int, transport: Callable[..., Any]
) -> tuple[str, dict[str, Any]]:
    """Return how messages call the service, and the arguments of httpx's clients.

    ``transport`` makes a transport for use without a proxy. Raises InputError for an invalid address, key, time, proxy
    or number of ``retries``, for a key in addition to a password, and as `tls_of`.
    """
    if retries < 0:
        raise InputError(f"retries is {retries}; give 0 or more.")
    address, url = read_address(url), without_password(str(url).strip())
    if not timeout_s > 0:
        raise InputError(f"timeout_s is {timeout_s:g}; give more than 0 seconds.")
    key = (os.environ.get(KEY_VARIABLE, "") if key is None else key).strip()
    if NO_KEY.search(key):
        raise InputError(
            "the key has characters that do not occur in keys. Give it as it was shown, without quotes and without "
            f"the word Bearer, or set {KEY_VARIABLE}."
        )
    if key and address.userinfo:
        raise InputError(f"{url} has a password, but a key is given, too (or {KEY_VARIABLE}). Leave one of them out.")
    proxy, tls = proxy_for(address), tls_of(address)
    # The service need not work for a client that waits no longer.
    deadline = {DEADLINE: str(math.ceil(1000 * timeout_s))} if timeout_s < LONGEST_DEADLINE_S else {}
    return f"{url}, through the proxy of {proxy.variable}," if proxy else url, {
        "base_url": address,
        "headers": {**deadline, **({"Authorization": f"Bearer {key}"} if key else {})},
        # The wait for a free connection is due to our own requests, and limited by their timeouts.
        "timeout": httpx.Timeout(min(timeout_s, LONGEST_DEADLINE_S), connect=min(timeout_s, MAX_CONNECT_S), pool=None),
        **({"proxy": proxy.proxy, "verify": tls} if proxy else {"transport": transport(verify=tls)}),
    }
