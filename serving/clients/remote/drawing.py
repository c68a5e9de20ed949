"""Text generation by a remote teacher: the same rounds, text filter and files as with a model on this machine.

Requests replace the draws of an engine. The teacher itself annotates the texts, without knowing the intended label.
"""

import math
import random
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from fourshot.engine.errors import InputError, ServiceError
from fourshot.pipeline.loop.driver import Driver
from fourshot.pipeline.loop.rounds import RoundSink
from fourshot.pipeline.loop.units import AnnotationUnit, Draw, DrawUnit, TaskBrief, Unit, UnitProgress, UnitResult
from fourshot.pipeline.rows.fields import heading
from fourshot.pipeline.synthesis.drawing import DrawPrompt, PromptSource
from fourshot.pipeline.synthesis.filters import clean_completion
from fourshot.pipeline.synthesis.prompts import END_OF_FIELDS, END_OF_TEXT, opening
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.task import Task
from fourshot.serving.clients.remote.asking import RequestMode, first_working_mode, writing_modes, writing_request
from fourshot.serving.clients.remote.completions import THOUGHT, CompletionResponse
from fourshot.serving.clients.remote.endpoint import GO_ON, CompletionRequest, Endpoint, RequestRefused
from fourshot.serving.clients.remote.settings import RemoteSettings

SPARE = 1.5  # texts of a round per text wanted; few, since each is paid for
LEAST_TOKENS = 48  # least limit for a text; otherwise it is 1.5 times the longest shot
BYTES_A_TOKEN = 2  # at least
FIRST_ROUND = "r00-"  # prefix of its ids, which requests omit: answers paid for earlier are stored without it
Reads = Callable[[Sequence[str]], list[tuple[float, ...]]]  # log-probabilities of each text


def drawn_for(per_class: int, num_labels: int) -> int:
    """Return the number of requests in the first round, which is the only one if few texts are rejected."""
    return math.ceil(SPARE * per_class) * num_labels


def drawing_settings(settings: RunSettings, num_labels: int) -> RunSettings:
    """Adapt ``settings`` to a remote teacher. Raises InputError for any that only a model on this machine supports."""
    untold = {
        "variety.attributes": settings.variety.attributes,
        "variety.suppress": settings.variety.suppress,
        "generate.keep_likelier_of": settings.generate.keep_likelier_of > 1,
        "sampling.bias": settings.sampling.bias,
    }
    if names := [name for name, value in untold.items() if value]:
        raise InputError(f"{' and '.join(names)}: a remote teacher does not support this. Leave it out.")
    per_round = math.ceil(SPARE * settings.generate.per_class)
    # A text that cannot be annotated has uniform probabilities, and must not be kept.
    confidence = max(settings.annotate.confidence, 1 / num_labels + 1e-3)
    annotate = msgspec.structs.replace(
        settings.annotate, folds=0, num_adapters=1, in_context=0, num_encoders=0, confidence=confidence
    )
    if annotate.annotator == "icl":
        annotate = msgspec.structs.replace(annotate, annotator="adapters")
    generate = msgspec.structs.replace(settings.generate, draws_per_round=per_round)
    return msgspec.structs.replace(settings, annotate=annotate, generate=generate)


def draw_texts(sink: RoundSink, endpoint: Endpoint, settings: RemoteSettings, read: Reads) -> None:
    """Fill ``sink``. Raises ShortRunError if a class stalls, and as `Endpoint.ask`."""
    Driver({sink.key: sink}).run(_RemoteWorker(endpoint, settings, read))


class _RemoteWorker:
    """A `pipeline.loop.workers.Workers` that does one unit at a time, as soon as it is given."""

    starts = 1

    def __init__(self, endpoint: Endpoint, settings: RemoteSettings, read: Reads) -> None:
        self._endpoint, self._settings, self._read = endpoint, settings, read
        self._mode: RequestMode | None = None
        self._sources: dict[str, PromptSource] = {}
        self._done: list[UnitResult | UnitProgress] = []

    def has_room(self) -> bool:
        return not self._done

    def give(self, unit: Unit, brief: TaskBrief) -> None:
        if isinstance(unit, AnnotationUnit):
            self._done.append(UnitResult(unit=unit, scores=tuple(self._read(unit.texts))))
        else:
            self._done.append(self._drawn(unit, brief))

    def wait(self, timeout_s: float) -> list[UnitResult | UnitProgress]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Do nothing: nothing runs in the background."""

    def _drawn(self, unit: DrawUnit, brief: TaskBrief) -> UnitResult:
        task = brief.task
        if not self._sources:
            self._sources = {
                label.name: PromptSource(task, label, brief.shots, brief.settings) for label in task.labels
            }
        prompts: list[tuple[str, DrawPrompt]] = []  # with the id of the text
        for part in unit.slices:
            numbers, source = random.Random(part.stream), self._sources[part.label]
            for number in range(part.draws):
                name = f"{part.id_prefix}{part.first_id + number:0{part.id_digits}d}"
                prompts.append((name, source.draw(numbers)))
        requests = [partial(self._request, *named_prompt, brief) for named_prompt in prompts]
        mode = self._mode = self._mode or first_working_mode(self._endpoint, writing_modes(self._settings), requests)
        answers = self._endpoint.ask([request(mode) for request in requests])
        refused = [answer for answer in answers if isinstance(answer, RequestRefused)]
        if answers and len(refused) == len(answers):
            raise ServiceError(
                f"{self._endpoint.model} generated none of {len(answers)} texts: {refused[0].message}. {GO_ON}"
            )
        draws = [
            Draw(candidate=_candidate(task, name, prompt, unit.batch, answer))
            for (name, prompt), answer in zip(prompts, answers, strict=True)
        ]
        tokens = sum(answer.output_tokens for answer in answers if isinstance(answer, CompletionResponse))
        return UnitResult(unit=unit, draws=tuple(draws), output_tokens=tokens)

    def _request(self, name: str, prompt: DrawPrompt, brief: TaskBrief, mode: RequestMode) -> CompletionRequest:
        """Return the request for one text. Its ``name`` distinguishes requests with the same prompt."""
        task, settings = brief.task, brief.settings
        longest = max(len(shot.text.encode()) for shot in brief.shots)
        room = settings.generate.max_tokens or max(LEAST_TOKENS, math.ceil(1.5 * longest / BYTES_A_TOKEN))
        number = int.from_bytes(name.removeprefix(FIRST_ROUND).encode())
        if mode.route == "chat":
            examples = prompt.prompt.removesuffix(opening(task)).rstrip()
            lines = ", ".join(f'"{heading(field)}:"' for field in task.input_fields)
            form = f", with the lines {lines}" if lines else ""
            content = f"{examples}\n\nWrite one more of these, unlike those above{form}. Answer with it alone."
            return writing_request(mode, content, self._settings, room, settings.sampling, sample=number)
        stop = list(END_OF_FIELDS) if task.input_fields else [END_OF_TEXT]
        return writing_request(mode, prompt.prompt, self._settings, room, settings.sampling, sample=number, stop=stop)


def _candidate(
    task: Task, name: str, prompt: DrawPrompt, number: int, answer: CompletionResponse | RequestRefused
) -> Candidate:
    """Return the generated text as a candidate; "" for a refused request, which the text filter then rejects."""
    completion = answer if isinstance(answer, CompletionResponse) else CompletionResponse(texts=("",))
    return Candidate(
        id=name,
        text=clean_completion(task, alone(opening(task), THOUGHT.sub("", completion.texts[0]))),
        label=prompt.label,
        round=number,
        prompt_hash=prompt.prompt_hash,
        mixed=prompt.mixed,
        shots=prompt.shots,
        num_tokens=completion.output_tokens,
        cumulative_logprob=0.0,  # endpoints do not say
        finish_reason="length" if completion.is_cut else "stop",
    )


def alone(name: str, answer: str) -> str:
    """Return the text in an answer, without an announcement ("Sure, here is one:") and without ``name`` ("Text:")."""
    text = answer.strip()
    first, _, rest = text.partition("\n")
    if first.rstrip().endswith(":") and rest.strip() and not first.startswith(name):
        text = rest.strip()
    return text.removeprefix(name).strip()
