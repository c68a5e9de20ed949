"""A remote teacher that writes targets: a model behind an OpenAI-compatible address, shown real pairs."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import msgspec

from fourshot.engine.core import SamplingSettings
from fourshot.engine.errors import ServiceError
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.forecast import Forecast
from fourshot.pipeline.runs.annotating_text import NamedWriter, Parts, Write
from fourshot.pipeline.runs.stages.write import Written
from fourshot.pipeline.student_card import RemoteTeacher
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, between, drawing_prompt
from fourshot.pipeline.tasks.pairs import load_pairs, take_real, without_tested
from fourshot.pipeline.tasks.split_files import find_split_file
from fourshot.serving.clients.remote.account import accounted, work_of
from fourshot.serving.clients.remote.asking import Way, agreed, writing_request, writing_ways
from fourshot.serving.clients.remote.endpoint import GO_ON, Endpoint, Refused, Request
from fourshot.serving.clients.remote.forecasting import forecast_requests
from fourshot.serving.clients.remote.said import THOUGHT, Said
from fourshot.serving.clients.remote.settings import RemoteSettings, checked_endpoint, teacher_key

USUAL_REAL = 100  # pairs, of which those that are shown are the first
SHOWN = 8  # pairs in the prompt
LEAST_TOKENS = 64  # of a target, at most twice as long as the longest that is shown
FEW = 8  # inputs that may all be refused by chance
GREEDY = SamplingSettings(temperature=0.0)


def remote_writer(
    url: str, model: str, task: GenerationTask, settings: RemoteSettings, *, real: int | None = None, seed: int = 0
) -> NamedWriter:
    """``model`` at ``url``, shown the first of the ``real`` pairs that ``seed`` draws (None: `USUAL_REAL`; 0: all).

    Sends nothing yet. Raises InputError for what cannot be asked.
    """
    teacher_key()
    pairs, test = load_pairs(task, "train").pairs, list[Pair]()
    if task.data.hub or find_split_file(Path(task.data.folder), task.data.test_split):
        test = load_pairs(task, "test").pairs
    usable, _ = without_tested(pairs, test)
    shown = take_real(usable, min(USUAL_REAL, len(usable)) if real is None else real, seed)[:SHOWN]
    writer = _RemoteWriter(checked_endpoint(url), model, task, tuple(shown), settings)
    return NamedWriter(
        name=writer.name, task=task, write=writer.write, forecast=writer.forecast, account=lambda: writer.account
    )


class _RemoteWriter:
    def __init__(
        self, url: str, model: str, task: GenerationTask, shown: tuple[Pair, ...], settings: RemoteSettings
    ) -> None:
        self._url, self._model, self._task, self._shown, self._settings = url, model, task, shown, settings
        longest = max(len(pair.target.encode()) for pair in shown)
        self._room = max(LEAST_TOKENS, longest)  # two bytes for a token, twice as long
        self._way: Way | None = None
        self.account: RemoteTeacher | None = None

    @property
    def name(self) -> str:
        """Changes with what would be written."""
        known = (self._task, self._shown, self._settings.teacher_api, self._settings.answer_tokens)
        return f"{self._model} at {self._url}, {hashlib.sha256(msgspec.json.encode(known)).hexdigest()[:12]}"

    def write(self, log: Path, on_event: OnEvent) -> Write:
        def of_parts(parts: Parts) -> Iterator[list[Written]]:
            with Endpoint(self._url, self._model, self._settings, work_of(log), on_event) as endpoint:
                for inputs in parts:
                    first = partial(self._request, inputs[0])
                    way = self._way = self._way or agreed(endpoint, writing_ways(self._settings), first)
                    answers = endpoint.ask([self._request(text, way) for text in inputs])
                    written = [_written(one) for one in answers]
                    if len(inputs) >= FEW and all(one.fault for one in written):
                        raise ServiceError(f"{self.name} writes for none of {len(inputs)}: {written[0].fault}. {GO_ON}")
                    self.account = accounted(endpoint, self._settings, f"{way.route}, targets", len(self._shown))
                    yield written

        return of_parts

    def _request(self, text: str, way: Way) -> Request:
        begun = drawing_prompt(self._task)
        names = f"{self._task.input_name}:\n", between(self._task)
        pairs = "".join(f"{names[0]}{pair.input}{names[1]} {pair.target}\n\n\n" for pair in self._shown)
        prompt = f"{self._task.instruction}\n\n{pairs}{begun.removeprefix(self._task.instruction).lstrip()}{text}"
        if way.route == "chat":
            said = f'{prompt}\n\nAnswer with what stands behind "{self._task.target_name}:", and nothing else.'
            return writing_request(way, said, self._settings, self._room, GREEDY)
        return writing_request(way, f"{prompt}{names[1]}", self._settings, self._room, GREEDY, stop=["\n\n\n"])

    def forecast(self, sample: Sequence[str], counts: Mapping[str, int]) -> Forecast:
        """A request for each input."""
        ways = writing_ways(self._settings)
        read = fmean(self._request(text, ways[0]).chars for text in sample) if sample else 0.0
        said = fmean(len(pair.target) for pair in self._shown)
        return forecast_requests(
            f"{self._model} at {self._url}", self._settings, {name: (n, read, said) for name, n in counts.items()}
        )


def _written(answer: Said | Refused) -> Written:
    if isinstance(answer, Refused):
        return Written(text="", fault=answer.message)
    text = THOUGHT.sub("", answer.texts[0]).strip()
    if not text:
        return Written(text="", fault="the teacher wrote nothing" + ", cut short" * answer.is_cut)
    return Written(text=text, is_whole=not answer.is_cut)
