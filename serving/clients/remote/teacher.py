"""Remote teacher: a model behind an OpenAI-compatible address annotates texts, with the shots in its prompt."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import msgspec
import numpy as np

from fourshot.engine import calibration as calibrations
from fourshot.engine.calibration import SMALLEST, Calibration
from fourshot.engine.errors import InputError, ServiceError
from fourshot.pipeline.distillation.annotators import Annotate, Annotation, NamedAnnotator, Parts
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.loop.rounds import RoundSink
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.rows.text_words import words_left_out
from fourshot.pipeline.synthesis.committee import PROMPT_FOLDS
from fourshot.pipeline.synthesis.evidence import KindEvidence, bounded_log, label_prior, shot_folds, weigh
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.windows import parts_of
from fourshot.pipeline.task import Example, Task
from fourshot.serving.clients.remote.account import account_of, work_of
from fourshot.serving.clients.remote.asking import FORM, REQUEST_MODES, RequestMode, requests_for, with_short_labels
from fourshot.serving.clients.remote.completions import LEAST, CompletionResponse, LabelAnswer, read_labels
from fourshot.serving.clients.remote.drawing import draw_texts, drawing_settings
from fourshot.serving.clients.remote.endpoint import GO_ON, CompletionRequest, Endpoint, RequestRefused
from fourshot.serving.clients.remote.forecasting import AskedTask, forecast_reading
from fourshot.serving.clients.remote.kept import KeptAnswers, answers_file
from fourshot.serving.clients.remote.settings import RemoteSettings, checked_endpoint, teacher_key

NO_ROOM = re.compile("context|too long|too many tokens|exceed", re.IGNORECASE)  # in errors about long prompts
FEW = 8  # texts that may all be refused by chance


def remote_teacher(
    url: str,
    model: str,
    task: Task,
    shots: Sequence[Example],
    settings: RemoteSettings,
    form: PromptFormat = FORM,
) -> NamedAnnotator:
    """Return ``model`` at ``url`` as an annotator. Sends nothing yet. Raises InputError for a bad address or key."""
    teacher_key()
    annotator = _RemoteAnnotator(checked_endpoint(url), model, task, tuple(shots), settings, form)
    return NamedAnnotator(
        name=annotator.name,
        task=task,
        open=annotator.open,
        shots=tuple(shots),
        forecast=annotator.forecast,
        account=lambda: annotator.account,
        draw=annotator.draw,
        check_draw=lambda settings: drawing_settings(settings, len(task.labels)),
    )


class _NotAnnotated(NamedTuple):
    """Why a text could not be annotated."""

    fault: str

    def __str__(self) -> str:
        return self.fault


class _RemoteAnnotator:
    """Queries the model, weighs its answers by those for the shots, and keeps an account."""

    def __init__(
        self,
        url: str,
        model: str,
        task: Task,
        shots: tuple[Example, ...],
        settings: RemoteSettings,
        form: PromptFormat,
    ) -> None:
        self._url, self._model, self._settings, self._form, self._all_shots = url, model, settings, form, shots
        self._task, self._shots = with_short_labels(task), shots
        self._labels = task.label_names
        self._mode: RequestMode | None = None
        self._prior = Calibration()
        self._evidence: KindEvidence | None = None
        self._outside: list[float] = []
        self.account: RemoteTeacher | None = None
        self._foretold: tuple[tuple[str, ...], dict[str, int]] | None = None

    @property
    def name(self) -> str:
        """Its name, which changes with everything that its answers depend on."""
        identity = (self._task, self._all_shots, self._form, self._settings.teacher_api, self._settings.votes)
        digest = hashlib.sha256(msgspec.json.encode((*identity, self._settings.answer_tokens))).hexdigest()[:12]
        return f"{self._model} at {self._url}, {digest}"

    def open(self, log: Path, on_event: OnEvent) -> Annotate:
        def annotate(parts: Parts) -> Iterator[list[Annotation]]:
            with Endpoint(self._url, self._model, self._settings, work_of(log), on_event) as endpoint:
                self._prepare(endpoint, on_event)
                for texts in parts:
                    answers = self._label_answers(endpoint, [(text, self._shots) for text in texts])
                    label_answers = [answer for answer in answers if isinstance(answer, LabelAnswer)]
                    if len(texts) >= FEW and not label_answers:
                        raise ServiceError(f"{self.name} annotated none of {len(texts)} texts: {answers[0]}. {GO_ON}")
                    self._outside += [answer.outside for answer in label_answers]
                    annotations = [self._annotation(text, answer) for text, answer in zip(texts, answers, strict=True)]
                    self.account = self._accounted(endpoint)
                    yield annotations

        return annotate

    def _prepare(self, endpoint: Endpoint, on_event: OnEvent) -> None:
        """Find out which request mode works, and how to weigh the answers, unless that is known."""
        if self._mode:
            return
        foretold_mode = self._known_mode()
        self._mode = self._choose_mode(endpoint, on_event)
        if self._foretold and self._mode != foretold_mode and self._mode != REQUEST_MODES[0]:
            on_event(Event(stage="forecast", message=str(self.forecast(*self._foretold))))
        self._weigh(endpoint, on_event)

    def _choose_mode(self, endpoint: Endpoint, on_event: OnEvent) -> RequestMode:
        """Return the first mode that the endpoint accepts. Shows fewer shots if it has no room for all."""
        longest = max((shot.text for shot in self._shots), key=len)
        modes = [mode for mode in REQUEST_MODES if self._settings.teacher_api in ("auto", mode.route)]
        while True:
            refused: list[RequestRefused] = []
            for mode in modes:
                answer = endpoint.ask(self._requests(longest, self._shots, mode)[:1])[0]
                if isinstance(answer, RequestRefused):
                    refused.append(answer)
                elif answer.steps or not mode.likely:
                    return self._as_answered(mode, answer)
            fewer = _fewer(self._shots)
            if not (fewer and any(NO_ROOM.search(refusal.message) for refusal in refused)):
                raise InputError(
                    f"{self._model} at {self._url} refuses all known kinds of requests to annotate texts. It says: "
                    f"{refused[0].message}." + f" Of completions: {refused[-1].message}." * (refused[-1] != refused[0])
                )
            self._shots = fewer
            message = f"{self._model} has no room for all shots: {len(fewer)} of {len(self._all_shots)} are shown"
            on_event(Event(stage="annotate", message=message))

    def _weigh(self, endpoint: Endpoint, on_event: OnEvent) -> None:
        """Fit how to weigh the answers, on shots annotated with others in the prompt. See `synthesis.evidence`.

        Raises InputError if it names no label for any shot.
        """
        folds = shot_folds([shot.label for shot in self._shots], PROMPT_FOLDS)
        tested = [(shot, fold) for shot, fold in zip(self._shots, folds, strict=True) if fold is not None]
        if not tested:
            return
        questions = [
            (shot.text, tuple(other for other, of in zip(self._shots, folds, strict=True) if of != fold))
            for shot, fold in tested
        ]
        answers = self._label_answers(endpoint, questions)
        self._outside += [answer.outside for answer in answers if isinstance(answer, LabelAnswer)]
        answered_shots = [
            (answer, shot) for answer, (shot, _) in zip(answers, tested, strict=True) if isinstance(answer, LabelAnswer)
        ]
        if not answered_shots:
            raise InputError(
                f"{self._model} at {self._url} names no label for any shot: {answers[0]}. Is it a model that follows "
                "instructions? A reasoning model needs more --answer-tokens."
            )
        targets = np.array([self._labels.index(shot.label) for _, shot in answered_shots])
        logs = _logs([answer for answer, _ in answered_shots])
        self._prior = label_prior(logs, targets)
        held_out = self._calibrated(logs)
        evidence = weigh({"remote": held_out}, targets)["remote"]
        accuracy = evidence.accuracy * len(answered_shots) / len(tested)  # a shot without a label counts as wrong
        self._evidence = msgspec.structs.replace(evidence, accuracy=accuracy, num_texts=len(tested))
        message = f"{self._model}: {accuracy:.0%} of {len(tested)} shots right, annotated with others in the prompt"
        on_event(Event(stage="annotate", message=message))

    def _requests(self, text: str, shots: Sequence[Example], mode: RequestMode) -> list[CompletionRequest]:
        return requests_for(self._task, text, shots, mode, self._settings, self._form)

    def _label_answers(
        self, endpoint: Endpoint, texts: Sequence[tuple[str, Sequence[Example]]]
    ) -> list[LabelAnswer | _NotAnnotated]:
        """Annotate each text, with its own shots in the prompt; the answer for a text in windows is the mean."""
        assert self._mode
        parts = [parts_of(self._task, text, self._form) for text, _ in texts]
        requests = [
            self._requests(part, shots, self._mode)
            for (_, shots), several in zip(texts, parts, strict=True)
            for part in several
        ]
        answers, num_votes = endpoint.ask([request for several in requests for request in several]), len(requests[0])
        starts = range(0, len(answers), num_votes)
        label_answers = iter([self._label_answer(answers[start : start + num_votes]) for start in starts])
        return [_mean(list(islice(label_answers, len(several)))) for several in parts]

    def _label_answer(self, answers: Sequence[CompletionResponse | RequestRefused]) -> LabelAnswer | _NotAnnotated:
        """Combine all votes for one text."""
        votes = [answer for answer in answers if isinstance(answer, CompletionResponse)]
        if len(votes) < len(answers):
            return _NotAnnotated(next(answer.message for answer in answers if isinstance(answer, RequestRefused)))
        joined = votes[0]
        if len(votes) > 1:
            joined = CompletionResponse(texts=tuple(text for vote in votes for text in vote.texts))
        answer = read_labels(joined, self._task.label_words)
        if sum(answer.masses) >= LEAST:
            return answer
        ending = ", cut short" if any(vote.is_cut for vote in votes) else ""
        return _NotAnnotated(f"the teacher names none of the labels: {joined.texts[0][:80]!r}{ending}")

    def _annotation(self, text: str, answer: LabelAnswer | _NotAnnotated) -> Annotation:
        if isinstance(answer, _NotAnnotated):
            return Annotation(fault=answer.fault)
        weight = self._evidence.weight if self._evidence else 1.0
        (row,) = calibrations.normalise(weight * self._calibrated(_logs([answer])))
        return Annotation(
            probabilities=tuple(np.round(row, 6).tolist()),
            agreement=None if answer.agreement is None else round(answer.agreement, 3),
            cut_words=words_left_out(bare_text(self._task, text), self._form.max_text_words, self._form.long_texts),
        )

    def _calibrated(self, logs: np.ndarray) -> np.ndarray:
        return bounded_log(np.exp(calibrations.apply(self._prior, logs)))

    def _accounted(self, endpoint: Endpoint) -> RemoteTeacher:
        assert self._mode
        request_kind = self._mode.describe(self._settings.votes)
        outside = round(fmean(self._outside), 6) if self._outside else None
        return account_of(endpoint, self._settings, request_kind, len(self._shots), outside, self._evidence)

    def draw(
        self, log: Path, on_event: OnEvent, settings: RunSettings, sink_of: Callable[[RunSettings], RoundSink]
    ) -> None:
        """Generate texts into the sink of some settings, and annotate them, until every class has enough."""
        sink = sink_of(drawing_settings(settings, len(self._labels)))
        with Endpoint(self._url, self._model, self._settings, work_of(log), on_event) as endpoint:
            self._prepare(endpoint, on_event)
            draw_texts(sink, endpoint, self._settings, lambda texts: self._log_probabilities(endpoint, texts))
            self.account = self._accounted(endpoint)

    def _log_probabilities(self, endpoint: Endpoint, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """Return the label log-probabilities of each text; uniform ones for a text that could not be annotated."""
        alike = (math.log(1 / len(self._labels)),) * len(self._labels)
        label_answers = self._label_answers(endpoint, [(text, self._shots) for text in texts])
        rows = [self._annotation(text, answer).probabilities for text, answer in zip(texts, label_answers, strict=True)]
        return [tuple(math.log(max(value, SMALLEST)) for value in row) if row else alike for row in rows]

    def forecast(self, sample: Sequence[str], counts: Mapping[str, int]) -> Forecast:
        """Forecast the requests by the mode known from stored answers; without any, `_prepare` may report another."""
        self._foretold = (tuple(sample), dict(counts))
        subject = AskedTask(self._task, self._shots, self._form, self._settings)
        mode = self._mode or self._known_mode()
        return forecast_reading(f"{self._model} at {self._url}", subject, mode, sample, counts)

    def _known_mode(self) -> RequestMode | None:
        """Return the mode in which this endpoint answered before, by stored answers; None without any."""
        if not self._shots or not answers_file(self._url, self._model).exists():
            return None
        store, longest = KeptAnswers(self._url, self._model, ""), max((shot.text for shot in self._shots), key=len)
        try:
            for mode in REQUEST_MODES:
                answer = store.find(store.key_of(self._requests(longest, self._shots, mode)[0]))
                if answer and (answer.steps or not mode.likely):
                    return self._as_answered(mode, answer)
        finally:
            store.close()
        return None

    def _as_answered(self, mode: RequestMode, answer: CompletionResponse) -> RequestMode:
        has_fewer = not mode.likely and len(answer.texts) < self._settings.votes
        return msgspec.structs.replace(mode, one_by_one=True) if has_fewer else mode


def _mean(label_answers: Sequence[LabelAnswer | _NotAnnotated]) -> LabelAnswer | _NotAnnotated:
    """Return the mean over the parts of one text, or why one of them could not be annotated."""
    answered_parts = [part for part in label_answers if isinstance(part, LabelAnswer)]
    if len(label_answers) == 1 or len(answered_parts) < len(label_answers):
        return next((part for part in label_answers if isinstance(part, _NotAnnotated)), label_answers[0])
    return LabelAnswer([fmean(masses) for masses in zip(*(part.masses for part in answered_parts), strict=True)])


def _logs(label_answers: Sequence[LabelAnswer]) -> np.ndarray:
    """Return the log-probabilities among the labels, float64 [num_texts, num_labels]."""
    masses = np.array([answer.masses for answer in label_answers])
    return np.log(masses / masses.sum(axis=1, keepdims=True) + SMALLEST)


def _fewer(shots: Sequence[Example]) -> tuple[Example, ...]:
    """Return ``shots`` without the last one of every class."""
    last = {shot.label: place for place, shot in enumerate(shots)}
    return tuple(shot for place, shot in enumerate(shots) if last[shot.label] != place)
