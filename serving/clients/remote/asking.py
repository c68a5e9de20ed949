"""Requests to a model behind an address, to annotate or generate texts, in the modes in which endpoints differ."""

import string
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Literal

import msgspec

from fourshot.engine.core import SamplingSettings
from fourshot.engine.errors import InputError
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_messages, classification_prompt
from fourshot.pipeline.task import Example, Task
from fourshot.serving.clients.remote.completions import CompletionResponse, bare
from fourshot.serving.clients.remote.endpoint import CompletionRequest, Endpoint, RequestRefused
from fourshot.serving.clients.remote.settings import RemoteSettings

SPARE_TOKENS = 4  # in addition to those of the longest label
BYTES_A_TOKEN = 2  # of a label, at least
VOTE_TEMPERATURE = 1.0
MOST_TRIED = 4  # requests to generate: the content of the first may be the reason for its refusal
FORM = PromptFormat()


class RequestMode(msgspec.Struct, frozen=True, kw_only=True):
    """One way to query an endpoint."""

    route: Literal["chat", "completions"]
    likely: int = 0  # number of tokens whose probability is requested; 0: answers are sampled, as votes
    is_bare: bool = False  # without parameters that the newest models of some endpoints refuse
    one_by_one: bool = False  # one request per vote, if the endpoint gives only one answer to each

    def describe(self, votes: int) -> str:
        """Return a description for people, and for the card."""
        return f"{self.route}, {'probabilities of tokens' if self.likely else f'{votes} votes'}"


# From the most informative to the most common. Sources: OpenAI's reference (at most 20 likely tokens in chat, 5 in
# completions; reasoning models take neither max_tokens nor temperature nor logprobs), and vLLM's (--max-logprobs 20).
REQUEST_MODES = (
    RequestMode(route="chat", likely=20),
    RequestMode(route="chat", likely=5),
    RequestMode(route="chat"),
    RequestMode(route="chat", one_by_one=True),
    RequestMode(route="chat", is_bare=True, one_by_one=True),
    RequestMode(route="completions", likely=20),
    RequestMode(route="completions", likely=5),
    RequestMode(route="completions"),
    RequestMode(route="completions", one_by_one=True),
)


def with_short_labels(task: Task) -> Task:
    """Return ``task`` with the labels to request: letters or numbers if words begin alike; then one token decides."""
    words = [bare(word) for word in task.label_words]
    first_words = [word.replace("_", " ").replace("-", " ").split(" ")[0] for word in words]
    alike = len(set(first_words)) < len(first_words) or "" in first_words
    letters = string.ascii_uppercase
    if not alike or (len(words) > len(letters) and len(set(words)) == len(words)):
        return task
    names = letters if len(words) <= len(letters) else [str(number) for number in range(1, len(words) + 1)]
    options = "; ".join(f"{name}: {word}" for name, word in zip(names, task.label_words, strict=False))
    labels = (msgspec.structs.replace(label, word=name) for label, name in zip(task.labels, names, strict=False))
    return msgspec.structs.replace(task, instruction=f"{task.instruction} {options}.", labels=tuple(labels))


def requests_for(
    task: Task,
    text: str,
    shots: Sequence[Example],
    mode: RequestMode,
    settings: RemoteSettings,
    form: PromptFormat = FORM,
) -> list[CompletionRequest]:
    """Return the requests that annotate one text: one, or one per vote. ``task`` as from `with_short_labels`."""
    longest = max(len(word.encode()) for word in task.label_words)
    room = settings.answer_tokens or longest // BYTES_A_TOKEN + SPARE_TOKENS
    body: dict[str, Any] = {"max_completion_tokens" if mode.is_bare else "max_tokens": room}
    if mode.route == "chat":
        body["messages"] = classification_messages(task, text, form, shots)
        body |= {"logprobs": True, "top_logprobs": mode.likely} if mode.likely else {}
    else:
        body |= {"prompt": classification_prompt(task, text, form, shots), "stop": ["\n"]}
        body |= {"logprobs": mode.likely} if mode.likely else {}
    if not mode.is_bare:
        body["temperature"] = 0.0 if mode.likely else VOTE_TEMPERATURE
    if mode.likely:
        return [CompletionRequest(route=mode.route, body=body)]
    if mode.one_by_one:
        return [CompletionRequest(route=mode.route, body=body, sample=number) for number in range(settings.votes)]
    return [CompletionRequest(route=mode.route, body=body | {"n": settings.votes})]


def writing_request(
    mode: RequestMode, content: str, settings: RemoteSettings, room: int, sampling: SamplingSettings, **options: Any
) -> CompletionRequest:
    """Return the request to generate a text. ``content``: the complete prompt, or for chat the user's message."""
    body: dict[str, Any] = {"max_completion_tokens" if mode.is_bare else "max_tokens": settings.answer_tokens or room}
    if mode.route == "chat":
        body["messages"] = [{"role": "user", "content": content}]
    else:
        body["prompt"] = content
        body |= {"stop": options["stop"]} if options.get("stop") else {}
    if not mode.is_bare:
        body["temperature"] = sampling.temperature
        body |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
    return CompletionRequest(route=mode.route, body=body, sample=options.get("sample", 0))


def first_working_mode(
    endpoint: Endpoint, modes: Sequence[RequestMode], requests: Sequence[Callable[[RequestMode], CompletionRequest]]
) -> RequestMode:
    """Return the first of ``modes`` in which the endpoint answers one of ``requests``. Raises InputError if none."""
    refused: list[RequestRefused] = []
    for request, mode in product(requests[:MOST_TRIED], modes):
        answer = endpoint.ask([request(mode)])[0]
        if isinstance(answer, CompletionResponse):
            return mode
        refused.append(answer)
    raise InputError(
        f"{endpoint.model} at {endpoint.url} refuses all known kinds of requests to generate texts. It says: "
        f"{refused[0].message}."
    )


def writing_modes(settings: RemoteSettings) -> list[RequestMode]:
    """Return the modes in which to generate a text, the most likely to work first."""
    modes = (RequestMode(route="chat"), RequestMode(route="chat", is_bare=True), RequestMode(route="completions"))
    return [mode for mode in modes if settings.teacher_api in ("auto", mode.route)]
