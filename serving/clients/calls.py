"""One request to the service as data: what is sent, how its answer is read, when it is sent again.

`serving.clients.client` sends it, blocking or awaiting; nothing here does either.
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
from fourshot.serving.clients.address import doubt_of, leading_to, read_address, remedy, without_password
from fourshot.serving.clients.local import Prediction
from fourshot.serving.clients.proxies import proxy_for

KEY_VARIABLE = "FOURSHOT_API_KEY"
BATCH = 64  # texts in one request
WRITTEN_BATCH = 8  # inputs in one request: each takes seconds
MAX_PART_BYTES = 512 << 10  # of texts in one request: half of what the service takes unless told otherwise
NO_KEY = re.compile(r"[^\x21-\x7e]|[\"']|^bearer\b", re.IGNORECASE)  # found in what is pasted, and in no key
MAX_CONNECT_S = 10.0
LONGEST_DEADLINE_S = 1e6

BUSY = 429
RETRIED_CODES = frozenset({408, BUSY, 502, 503, 504})
# Classifying changes nothing, so a connection that broke after the request was sent may be tried again, too.
RETRIED_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0  # before the second attempt; before any, where the service names no time
LONGEST_RETRY_AFTER_S = 30.0

ALL = Refusal()  # asks for a label of every text

Answer = TypeVar("Answer")


class ApiCall(msgspec.Struct, Generic[Answer], frozen=True, kw_only=True):
    """A request, and the type of its answer."""

    answer: type[Answer]
    method: str
    path: str  # below the service's address, quoted, with its query
    body: bytes = b""
    first: int = 0  # position of its first text in the list that it is a part of
    texts: int = -1  # how many results must come back; -1: it asks for none

    def request(self) -> dict[str, Any]:
        """The arguments of httpx's ``request``."""
        headers = {"Content-Type": "application/json"} if self.body else {}
        return {"method": self.method, "url": self.path, "content": self.body or None, "headers": headers}


def retry_policy(retries: int) -> dict[str, Any]:
    """The arguments of tenacity's ``Retrying`` and ``AsyncRetrying``; what the last attempt came to is the outcome."""
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
    """Clients that were rejected together must not ask again together: every wait has a random part.

    ``asked_s``: what the service asks to wait, see `retry_after_s`.
    """
    pause_s = tenacity.wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)(state)
    return pause_s * random.uniform(0.5, 1.0) if asked_s is None else asked_s + pause_s * random.uniform(0.0, 0.5)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait; None where it does not say, or says it as a date."""
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isascii() and value.isdigit() else None


def _tries(retrying: tenacity.BaseRetrying) -> str:
    attempts, waited_s = retrying.statistics["attempt_number"], retrying.statistics["idle_for"]
    return f" (tried {attempts} times, {waited_s:.1f} s of waiting between)" if attempts > 1 else ""


@contextmanager
def explained(retrying: tenacity.BaseRetrying, url: str) -> Iterator[None]:
    """Inside, an error of the last attempt is raised as a `ServiceError` that says what to do."""
    try:
        yield
    except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
        raise ServiceError(
            f"{url} has not answered in time{_tries(retrying)}: {str(error) or type(error).__name__}. Send fewer texts "
            "at once, or wait longer (timeout_s).",
            kind="timeout",
        ) from error
    except httpx.DecodingError as error:
        raise ServiceError(
            f"{url} answered with a body that cannot be unpacked ({error}). Look at what stands before the service.",
            kind="strange_answer",
        ) from error
    except httpx.RequestError as error:
        reason = (str(error) or type(error).__name__).removesuffix(".")
        raise ServiceError(
            f"no service answers at {url}{_tries(retrying)}: {reason}. {remedy(error, url)}", kind="unreachable"
        ) from error


def read(call: ApiCall[Answer], response: httpx.Response, retrying: tenacity.BaseRetrying, url: str) -> Answer:
    """The answer of the last attempt. Raises `ServiceError`, and `RequestError` for an answer of 4xx not retried."""
    code, tries = response.status_code, _tries(retrying)
    strange = f"{url} answered {code} {response.reason_phrase} to {call.method} {call.path}{tries}"
    strange += f", and not as a fourshot service does. Is this its address?{doubt_of(url)}{leading_to(response)}"
    if response.is_success:
        try:
            answer: Any = msgspec.json.decode(response.content, type=call.answer)
            if call.texts >= 0 and call.texts != len(answer.results):
                raise ValueError(f"{len(answer.results)} results for {counted(call.texts, 'text')}")
            return cast(Answer, answer)
        except ValueError as error:  # msgspec's and those of Unicode are values' too
            raise ServiceError(f"{strange} ({error})", code, "strange_answer") from error
    try:
        fault = msgspec.json.decode(response.content, type=ErrorAnswer).error
        kind, message = fault.type, f"{fault.message}{tries}{doubt_of(url) if code == 404 else ''}"
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
    """The call for one request. Raises InputError for a task without a name, and for text that is no Unicode."""
    content: Any = plain(texts) if isinstance(texts, str | Mapping) else listed_texts(texts, "classify")
    request = ClassifyRequest(input=content, method=method, **msgspec.structs.asdict(refusal))
    return _post("classify", task, request, ClassifyResponse, first)


def generate_calls(task: str, inputs: Sequence[str], batch: int) -> list[ApiCall[GenerateResponse]]:
    """The calls that have texts written for ``inputs``. Raises InputError, before any is sent, for a blank one."""
    texts = checked_strings(inputs, "generate")
    return [
        _post("generate", task, GenerateRequest(input=texts[first:end]), GenerateResponse, first)
        for first, end in _parts(texts, batch)
    ]


def written(answers: Sequence[GenerateResponse]) -> list[TextWritten]:
    """One per input, as `pipeline.text_student.Generator` gives them."""
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
    """The calls that classify ``texts`` in order. Raises InputError, before any is sent, for a blank text."""
    texts = checked_texts(texts, "predict")
    return [classify_call(task, texts[first:end], method, refusal, first) for first, end in _parts(texts, batch)]


def _parts(texts: Sequence[Given], batch: int) -> Iterator[tuple[int, int]]:
    """Beginning and end of each part: at most ``batch`` texts, and MAX_PART_BYTES unless one text alone has more.

    Raises InputError, before the first, for an impossible ``batch``.
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
        raise InputError(f"there is no task to ask{f': {task!r:.60} is no name' if task else ''}. Give its name.")
    try:
        quoted = quote(task, safe="")
    except UnicodeEncodeError as error:
        raise InputError(f"the task's name {task!r} has characters that are no Unicode: {error}.") from None
    # As a name of a folder, "." and ".." would be taken out of the address on its way.
    path = f"/v1/{route}/{quoted.replace('.', '%2E') if task in ('.', '..') else quoted}"
    body = _encoded(request)
    return ApiCall(answer=answer, method="POST", path=path, body=body, first=first, texts=len(request.inputs))


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise InputError(f"a text has characters that are no Unicode: {error}. Decode it as UTF-8 first.") from None
    except TypeError as error:
        raise InputError(f"a field of an input is no string: {error}. Give strings.") from None


def predictions(answers: Sequence[ClassifyResponse]) -> list[Prediction]:
    """One per text, as `serving.clients.local.LocalClassifier` gives them."""
    results = (result for answer in answers for result in answer.results)
    return [msgspec.convert(result, Prediction, from_attributes=True) for result in results]


def tasks_call(everything: bool) -> ApiCall[TaskList]:
    return ApiCall(answer=TaskList, method="GET", path="/v1/tasks?all=1" if everything else "/v1/tasks")


def http_options(
    url: str | httpx.URL, key: str | None, timeout_s: float, retries: int, transport: Callable[[], Any]
) -> tuple[str, dict[str, Any]]:
    """How messages call the service, and the arguments of httpx's clients; ``transport`` makes one without a proxy.

    Raises InputError for an address, a key, a time, a proxy or a number of ``retries`` that cannot be one, and for a
    key beside a password.
    """
    if retries < 0:
        raise InputError(f"retries is {retries}; give 0 or more.")
    address, url = read_address(url), without_password(str(url).strip())
    if not timeout_s > 0:
        raise InputError(f"timeout_s is {timeout_s:g}; give more than 0 seconds.")
    key = (os.environ.get(KEY_VARIABLE, "") if key is None else key).strip()
    if NO_KEY.search(key):
        raise InputError(
            "the key has characters that no key has. Give it as it was shown, without quotes and without the word "
            f"Bearer, or set {KEY_VARIABLE}."
        )
    if key and address.userinfo:
        raise InputError(f"{url} has a password, and there is a key, too (or {KEY_VARIABLE}). Leave one of them out.")
    proxy = proxy_for(address)
    # The service need not work for a client that has gone.
    deadline = {DEADLINE: str(math.ceil(1000 * timeout_s))} if timeout_s < LONGEST_DEADLINE_S else {}
    return f"{url}, through the proxy of {proxy.variable}," if proxy else url, {
        "base_url": address,
        "headers": {**deadline, **({"Authorization": f"Bearer {key}"} if key else {})},
        # Waiting for a free connection is our own doing, and bounded by the answers before it.
        "timeout": httpx.Timeout(min(timeout_s, LONGEST_DEADLINE_S), connect=min(timeout_s, MAX_CONNECT_S), pool=None),
        **({"proxy": proxy.proxy} if proxy else {"transport": transport()}),
    }
