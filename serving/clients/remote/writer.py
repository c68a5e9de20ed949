"""A remote teacher that writes targets, and complete pairs: a model behind an address, shown real pairs."""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean

import msgspec

from fourshot.engine.core import SamplingSettings
from fourshot.engine.errors import InputError, ServiceError
from fourshot.pipeline.distillation.annotating_text import Draw, NamedWriter, Parts, Write
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, between
from fourshot.pipeline.tasks.pairs import load_real, take_real
from fourshot.serving.clients.remote.account import account_of, work_of
from fourshot.serving.clients.remote.asking import RequestMode, first_working_mode, writing_modes, writing_request
from fourshot.serving.clients.remote.completions import THOUGHT, CompletionResponse
from fourshot.serving.clients.remote.drawing import alone
from fourshot.serving.clients.remote.endpoint import GO_ON, CompletionRequest, Endpoint, RequestRefused
from fourshot.serving.clients.remote.forecasting import forecast_requests
from fourshot.serving.clients.remote.settings import RemoteSettings, checked_endpoint, teacher_key

SHOWN = 8  # pairs in the prompt
LEAST_TOKENS = 64  # least limit for a target; otherwise it is twice the longest target shown
FEW = 8  # requests that may all fail by chance
END = "\n\n\n"  # of a pair
GREEDY = SamplingSettings(temperature=0.0)


def remote_writer(
    url: str, model: str, task: GenerationTask, settings: RemoteSettings, *, real: int | None = None, seed: int = 0
) -> NamedWriter:
    """Return ``model`` at ``url`` as a writer, shown the first of the ``real`` pairs that ``seed`` draws.

    ``real`` None: `USUAL_REAL` pairs; 0: all. Sends nothing yet. Raises InputError for a bad address, key or setting.
    """
    if settings.votes != RemoteSettings().votes:
        raise InputError("--votes is for tasks with labels: a target is generated once. Leave it out.")
    teacher_key()
    usable, *_ = load_real(task)
    shown_pairs = take_real(usable, real, seed)[:SHOWN]  # the first of those used in training
    writer = _RemoteWriter(checked_endpoint(url), model, task, tuple(shown_pairs), settings)
    return NamedWriter(
        name=writer.name,
        task=task,
        write=writer.write,
        forecast=writer.forecast,
        account=lambda: writer.account,
        draw=writer.draw,
    )


class _RemoteWriter:
    def __init__(
        self, url: str, model: str, task: GenerationTask, shown_pairs: tuple[Pair, ...], settings: RemoteSettings
    ) -> None:
        self._url, self._model, self._task, self._shown_pairs, self._settings = url, model, task, shown_pairs, settings
        self._mode: RequestMode | None = None
        self.account: RemoteTeacher | None = None

    @property
    def name(self) -> str:
        """Its name, which changes with everything that its targets depend on."""
        identity = (self._task, self._shown_pairs, self._settings.teacher_api, self._settings.answer_tokens)
        return f"{self._model} at {self._url}, {hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:12]}"

    def write(self, log: Path, on_event: OnEvent) -> Write:
        def of_parts(parts: Parts) -> Iterator[list[WrittenAnswer]]:
            with Endpoint(self._url, self._model, self._settings, work_of(log), on_event) as endpoint:
                for inputs in parts:
                    written = self._answers(endpoint, [partial(self._request, text) for text in inputs])
                    self._check([target.fault for target in written], "targets")
                    self.account = self._accounted(endpoint, "targets")
                    yield written

        return of_parts

    def draw(self, log: Path, on_event: OnEvent, real: Sequence[Pair], settings: RunSettings) -> Draw:
        """Generate pairs, each from a prompt with other ones of ``real``. Nothing is sent before one is requested."""

        def of_parts(parts: Iterator[range]) -> Iterator[list[WrittenAnswer]]:
            if (first := next(parts, None)) is None:
                return
            with Endpoint(self._url, self._model, self._settings, work_of(log), on_event) as endpoint:
                for numbers in chain([first], parts):
                    requests = [partial(self._drawing_request, real, settings, number) for number in numbers]
                    written = [_pair(self._task, answer) for answer in self._answers(endpoint, requests)]
                    self._check([pair.fault for pair in written], "pairs")
                    self.account = self._accounted(endpoint, "targets and pairs" if self.account else "pairs")
                    yield written

        return of_parts

    def _answers(
        self, endpoint: Endpoint, requests: Sequence[Callable[[RequestMode], CompletionRequest]]
    ) -> list[WrittenAnswer]:
        """Return the answer to each request, in the first mode that works."""
        mode = self._mode = self._mode or first_working_mode(endpoint, writing_modes(self._settings), requests)
        return [_written(answer) for answer in endpoint.ask([request(mode) for request in requests])]

    def _check(self, faults: Sequence[str], noun: str) -> None:
        """Raise ServiceError if all of many requests have a fault."""
        if len(faults) >= FEW and all(faults):
            raise ServiceError(f"{self.name} generated no {noun}, asked for {len(faults)}: {faults[0]}. {GO_ON}")

    def _accounted(self, endpoint: Endpoint, noun: str) -> RemoteTeacher:
        assert self._mode
        return account_of(endpoint, self._settings, f"{self._mode.route}, {noun}", len(self._shown_pairs))

    def _request(self, text: str, mode: RequestMode) -> CompletionRequest:
        """Return the request for the target of ``text``."""
        prompt = f"{self._prompt(self._shown_pairs)}{self._input_name}\n{text}"
        room = _room(len(pair.target.encode()) for pair in self._shown_pairs)
        if mode.route == "chat":
            message = f'{prompt}\n\nAnswer with what stands behind "{self._task.target_name}:", and nothing else.'
            return writing_request(mode, message, self._settings, room, GREEDY)
        return writing_request(mode, f"{prompt}{between(self._task)}", self._settings, room, GREEDY, stop=[END])

    def _drawing_request(
        self, real: Sequence[Pair], settings: RunSettings, number: int, mode: RequestMode
    ) -> CompletionRequest:
        """Return the request for pair ``number``."""
        shown_pairs = random.Random(f"{settings.seed} {number}").sample(real, min(SHOWN, len(real)))
        room = _room(len(f"{pair.input}{pair.target}".encode()) for pair in real)
        ask = partial(writing_request, mode, settings=self._settings, room=room, sampling=settings.sampling)
        if mode.route == "chat":
            lines = f'"{self._input_name}" and "{self._task.target_name}:"'
            instruction = (
                f"Write one more of these, unlike those above, with {lines} before its parts. Answer with it alone."
            )
            return ask(f"{self._prompt(shown_pairs)}{instruction}", sample=number)
        return ask(f"{self._prompt(shown_pairs)}{self._input_name}\n", sample=number, stop=[END])

    @property
    def _input_name(self) -> str:
        return f"{self._task.input_name}:"

    def _prompt(self, shown_pairs: Sequence[Pair]) -> str:
        """Return the prompt up to where the next pair begins."""
        pairs = (f"{self._input_name}\n{pair.input}{between(self._task)} {pair.target}{END}" for pair in shown_pairs)
        return f"{self._task.instruction}\n\n{''.join(pairs)}"

    def forecast(self, sample: Sequence[str], counts: Mapping[str, int]) -> Forecast:
        """Forecast one request for each input, and one for each pair ("generate")."""
        mode = writing_modes(self._settings)[0]
        sent_chars = fmean(self._request(text, mode).chars for text in sample) if sample else 0.0
        target_chars = fmean(len(pair.target) for pair in self._shown_pairs)
        stages = {name: (n, sent_chars, target_chars) for name, n in counts.items()}
        if pairs := counts.get("generate"):
            chars = self._drawing_request(self._shown_pairs, RunSettings(), 0, mode).chars
            stages["generate"] = pairs, chars, target_chars + fmean(len(pair.input) for pair in self._shown_pairs)
        doubt = "more where pairs are malformed or repeat others" if pairs else ""
        return forecast_requests(f"{self._model} at {self._url}", self._settings, stages, doubt)


def _room(lengths: Iterable[int]) -> int:
    """Return a limit in tokens for texts up to twice as long as the longest of ``lengths``, in bytes; two per token."""
    return max(LEAST_TOKENS, *lengths)


def _written(answer: CompletionResponse | RequestRefused) -> WrittenAnswer:
    if isinstance(answer, RequestRefused):
        return WrittenAnswer(text="", fault=answer.message)
    text = THOUGHT.sub("", answer.texts[0]).strip()
    if not text:
        return WrittenAnswer(text="", fault="the teacher wrote nothing" + ", cut short" * answer.is_cut)
    return WrittenAnswer(text=text, is_whole=not answer.is_cut)


def _pair(task: GenerationTask, written: WrittenAnswer) -> WrittenAnswer:
    """Return a pair joined as by `between`, however many lines the teacher left there; a fault if it is no pair."""
    if written.fault:
        return written
    trimmed = alone(f"{task.input_name}:", written.text)
    text = _joined(trimmed, f"{task.target_name}:", between(task))
    if not written.is_whole:
        return WrittenAnswer(text="", fault="a pair did not come to an end; --answer-tokens gives it more room")
    if between(task) not in text:
        return WrittenAnswer(text="", fault=f"a pair has no line {task.target_name!r}: {text[:80]!r}")
    return WrittenAnswer(text=text)


def _joined(text: str, name: str, joint: str) -> str:
    """Return ``text`` with ``joint`` in place of the first ``name`` that begins a line, and of the blanks around it."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if number and line.lstrip().startswith(name):
            before, after = "\n".join(lines[:number]), "\n".join([line.lstrip()[len(name) :], *lines[number + 1 :]])
            return f"{before.rstrip()}{joint} {after.lstrip()}"
    return text
