"""A committee: several annotators of the same texts, each kind weighted by its accuracy on unseen shots."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine import calibration as calibrations
from fourshot.engine.alignment import PromptFiller
from fourshot.engine.calibration import SMALLEST, Calibration
from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import Adapter, Engine, Verbalizer
from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.evidence import KindEvidence, bounded_log, label_prior, shot_folds, weigh
from fourshot.pipeline.synthesis.filters import longest_text
from fourshot.pipeline.synthesis.fitting import scores_behind_shots, shots_that_fit
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task

if TYPE_CHECKING:
    import numpy as np

    from fourshot.training.students.classifier import StudentClassifier


DECISIVE_LOG_ODDS = 1.0  # nats; an average's predictions further from zero rarely differ from its adapters' mean
PROMPT_FOLDS = 4  # parts of a prompt's shots, each left out once to be annotated
OPEN_ENCODERS = 8  # of all committees of a process, which may be many: each takes 0.1 GB


class EncoderFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A small encoder, fine-tuned on the shots (`training.students`)."""

    name: str  # content-hashed
    path: str
    max_tokens: int


class Annotator(msgspec.Struct, frozen=True, kw_only=True):
    """An annotator of a committee: an adapter, the base model in context, or an encoder."""

    adapter: Adapter | None
    encoder: EncoderFiles | None = None
    shown: tuple[int, ...] = ()  # indices of the shots in its prompt, in their order
    left_out: tuple[int, ...] = ()  # adapter or encoder: indices of the shots that it was not trained on
    wording: Wording = "task"  # of the prompts that it was trained on
    chat: ChatTurns | None = None  # of the same prompts
    filler: PromptFiller | None = None  # of the same prompts
    verbalizer: Verbalizer = "word"  # what it learnt to predict for a label
    fold: int | None = None  # annotates the candidates of this fold, which it was not trained on; None: all candidates
    averages: tuple["Annotator", ...] = ()  # of an average: the adapters that were averaged

    @property
    def kind(self) -> str:
        """Kind of annotator; all of one kind share one weight."""
        return "adapters" if self.adapter else "encoders" if self.encoder else "in context"

    @property
    def alone(self) -> tuple["Annotator", ...]:
        """Single annotators that it stands for: the members of an average, else itself."""
        return self.averages or (self,)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """All adapters whose files it needs."""
        return tuple(annotator.adapter for annotator in (self, *self.averages) if annotator.adapter)

    def form(self, of_task: PromptFormat) -> PromptFormat:
        """Return the format of its prompts; ``of_task`` determines what all annotators are shown of long texts."""
        return msgspec.structs.replace(
            of_task, wording=self.wording, verbalizer=self.verbalizer, chat=self.chat, filler=self.filler
        )


class Committee:
    """Annotators that are queried one after another; their log-probabilities are averaged and normalised.

    Adapters trained on the shots know little about the labels. What they know depends on the wording of the prompt and
    the random initialisation, so the mean over several is more accurate than the best of them. Source: Schick &
    Schuetze 2021, "Exploiting Cloze Questions for Few Shot Text Classification", section 3.2.

    The base model in context makes other errors; its predictions depend on the order of the shots. Source: Lu et al.
    2022, "Fantastically Ordered Prompts and Where to Find Them", section 2. Each kind is weighted by its predictions on
    shots that it has not seen (`pipeline.synthesis.evidence`). Without such shots, all kinds have the same weight.

    An encoder that was trained on sentences, not to continue texts, makes different errors again. It is another model,
    so it departs from the paper's rule of one model for all steps. Source: Blum & Mitchell 1998, "Combining Labeled and
    Unlabeled Data with Co-Training" (two views of a text teach each other).

    Adapters of a fold learn what most texts generated for a class have in common, so they contradict the label of a
    text that is not of its intended class. Source: Northcutt et al. 2021, "Confident Learning", section 3
    (out-of-sample predictions by cross-validation show label errors).
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        annotators: Sequence[Annotator],
        settings: RunSettings,
        shots: Sequence[Example] = (),
        longest: str = "",
    ) -> None:
        """``shots``: of the run. ``longest``: to annotate; "": a candidate's. Raises InputError for no annotators."""
        if not annotators:
            raise InputError("The adapters that annotate candidates are missing: none was given. Train at least one.")
        self._engine, self._task, self._shots = engine, task, shots
        self._aligns, annotate = settings.aligns, settings.annotate
        self._longest = longest or (longest_text(task, shots, settings.filter) if shots else "")
        self._form = PromptFormat(max_text_words=settings.max_text_words, long_texts=settings.long_texts)
        self._of_folds = [annotator for annotator in annotators if annotator.fold is not None]
        self._fold_weight = annotate.fold_weight
        self._several = sum(len(annotator.alone) for annotator in annotators) > 1  # then one could outvote the others
        self._kinds: dict[str, list[Annotator]] = {}
        for annotator in annotators:
            if annotator.fold is None:
                fitted = self._fitted(annotator) if annotator.shown else annotator
                self._kinds.setdefault(annotator.kind, []).append(fitted)
        self._priors: dict[Annotator, Calibration] = {}
        self._weighs = annotate.weights == "held_out"
        scored = self._kinds if self._weighs else {"in context"} & self._kinds.keys()
        self._has_scored_shots = not scored  # adapters of folds are not scored on the shots: they have seen all
        self.evidence: dict[str, KindEvidence] = {}  # by kind of annotator, once they were scored on the shots

    def _fitted(self, annotator: Annotator) -> Annotator:
        """Return an annotator with only those of its shots that fit into the prompt."""
        form = msgspec.structs.replace(self._form, wording=annotator.wording, chat=annotator.chat)
        shots = [self._shots[index] for index in annotator.shown]
        fitting = set(shots_that_fit(self._engine, self._task, shots, form, [self._longest]))
        return msgspec.structs.replace(
            annotator, shown=tuple(index for index in annotator.shown if self._shots[index] in fitting)
        )

    def probabilities(self, texts: Sequence[str], folds: Sequence[int | None] = ()) -> "np.ndarray":
        """Return label probabilities, float64 [num_texts, num_labels]; rows sum to one. ``folds``: see `annotate`."""
        return self.annotate(texts, folds)[0]

    def annotate(
        self, texts: Sequence[str], folds: Sequence[int | None] = (), intended: Sequence[str] = ()
    ) -> "tuple[np.ndarray, np.ndarray]":
        """Return (probabilities, agreement): agreement [num_texts] is the share that predicts the likeliest label.

        ``folds``: for each text, the fold whose adapter did not see it in training; None or omitted: none saw it. The
        adapters of folds count as one annotator: for each text, those that did not see it. ``intended``: the label that
        each text was generated for; "" or omitted: none. Only averages use it; an average counts as one annotator, too.
        """
        import numpy as np

        self.score_held_out_shots()
        logs = np.zeros((len(texts), len(self._task.labels)))
        answers = []
        for kind, annotators in self._kinds.items():
            weight = self.evidence[kind].weight if self.evidence else 1 / len(self._kinds)
            number = sum(len(member.alone) for member in annotators)
            for member in annotators:
                answers.append(
                    self._average_logs(member, texts, intended) if member.averages else self._logs(member, texts)
                )
                logs += weight * len(member.alone) * answers[-1] / number
        if self._of_folds:
            answers.append(bounded_log(self._fold_probabilities(texts, folds or [None] * len(texts))))
            logs += self._fold_weight * answers[-1]
        likeliest = logs.argmax(axis=1)
        return calibrations.normalise(logs), np.mean([answer.argmax(axis=1) == likeliest for answer in answers], axis=0)

    def _average_logs(self, average: Annotator, texts: Sequence[str], intended: Sequence[str]) -> "np.ndarray":
        """Return `_logs` of ``average``; for texts that it leaves open, the mean of its adapters replaces the result.

        A text is open if the log-odds of its intended label, against the likeliest other one, are less than
        `DECISIVE_LOG_ODDS` from zero. Without an intended label, the likeliest one takes its place.
        """
        import numpy as np

        logs = self._logs(average, texts)
        likeliest = logs.argmax(axis=1)
        names, rows = self._task.label_names, np.arange(len(texts))
        labels = intended or [""] * len(texts)
        meant = [names.index(label) if label else int(best) for label, best in zip(labels, likeliest, strict=True)]
        rival_logs = logs.copy()
        rival_logs[rows, meant] = -np.inf
        is_open = np.flatnonzero(np.abs(logs[rows, meant] - rival_logs.max(axis=1)) < DECISIVE_LOG_ODDS)
        open_texts = [texts[i] for i in is_open.tolist()]
        if open_texts:
            logs[is_open] = np.mean([self._logs(annotator, open_texts) for annotator in average.averages], axis=0)
        return logs

    def _fold_probabilities(self, texts: Sequence[str], folds: Sequence[int | None]) -> "np.ndarray":
        """Return the probabilities by the adapter that did not see a text, or their mean over all if none saw it."""
        import numpy as np

        total = np.zeros((len(texts), len(self._task.labels)))
        count = np.zeros((len(texts), 1))
        for annotator in self._of_folds:
            chosen = [i for i, fold in enumerate(folds) if fold in (None, annotator.fold)]
            if chosen:
                total[chosen] += self._answers(annotator, [texts[i] for i in chosen])
                count[chosen] += 1
        return total / count

    def score_held_out_shots(self) -> None:
        """Calibrate in-context annotators, and weight the kinds if wanted, on shots that they have not seen.

        This is done once, at the latest before the first texts are annotated. `evidence` has the weights.
        """
        import numpy as np

        if self._has_scored_shots:
            return
        self._has_scored_shots = True
        if not self._weighs:
            for annotator in self._kinds["in context"]:
                self._of_unseen(annotator)
            return
        names = self._task.label_names
        targets = self._targets()
        totals: dict[str, np.ndarray] = {}
        counts: dict[str, np.ndarray] = {}
        for kind, annotators in self._kinds.items():
            totals[kind], counts[kind] = np.zeros((len(targets), len(names))), np.zeros((len(targets), 1))
            for annotator in (member for group in annotators for member in group.alone):
                unseen, logs = self._of_unseen(annotator)
                totals[kind][unseen] += logs
                counts[kind][unseen] += 1
        answered_shots = np.flatnonzero(np.all([count[:, 0] > 0 for count in counts.values()], axis=0))
        if len(answered_shots):
            held_out = {kind: totals[kind][answered_shots] / counts[kind][answered_shots] for kind in totals}
            self.evidence = weigh(held_out, targets[answered_shots])

    def _targets(self) -> "np.ndarray":
        """Return the shots' labels as indices, [num_shots]."""
        import numpy as np

        names = self._task.label_names
        return np.array([names.index(shot.label) for shot in self._shots])

    def _of_unseen(self, annotator: Annotator) -> tuple[list[int], "np.ndarray"]:
        """Return the indices of the shots that an annotator has not seen, and its log-probabilities for them.

        The latter are [num_unseen, num_labels], calibrated and bounded. An annotator in context annotates each part of
        its shots with a prompt that lacks them; its label bias is fitted.
        """
        import numpy as np

        if annotator.kind != "in context":
            unseen = list(annotator.left_out)
            return unseen, self._logs(annotator, [self._shots[i].text for i in unseen])
        folds = shot_folds([shot.label for shot in self._shots], PROMPT_FOLDS)
        unseen, answers = [], [np.zeros((0, len(self._task.labels)))]
        for fold in sorted({fold for index in annotator.shown if (fold := folds[index]) is not None}):
            fold_shots = [i for i in annotator.shown if folds[i] == fold]
            without = msgspec.structs.replace(annotator, shown=tuple(i for i in annotator.shown if folds[i] != fold))
            unseen += fold_shots
            answers.append(self._answers(without, [self._shots[i].text for i in fold_shots]))
        logs = np.log(np.concatenate(answers) + SMALLEST)
        if unseen:
            self._priors[annotator] = label_prior(logs, self._targets()[unseen])
        return unseen, self._calibrated(annotator, logs)

    def _logs(self, annotator: Annotator, texts: Sequence[str]) -> "np.ndarray":
        """Return log-probabilities, float64 [num_texts, num_labels], calibrated and bounded."""
        import numpy as np

        if not texts:
            return np.zeros((0, len(self._task.labels)))
        return self._calibrated(annotator, np.log(self._answers(annotator, texts) + SMALLEST))

    def _calibrated(self, annotator: Annotator, logs: "np.ndarray") -> "np.ndarray":
        import numpy as np

        if prior := self._priors.get(annotator):
            logs = calibrations.apply(prior, logs)
        return bounded_log(np.exp(logs)) if self._several else logs

    def _answers(self, annotator: Annotator, texts: Sequence[str]) -> "np.ndarray":
        """Return the model's own probabilities, float64 [num_texts, num_labels]; rows sum to one."""
        if annotator.encoder:
            return self._encoded(annotator.encoder, texts)
        form = annotator.form(self._form)
        shots = [self._shots[index] for index in annotator.shown]
        if self._aligns and (shots or not annotator.adapter):
            form = aligned(form, self._task, self._engine.settings, shots, self._longest)
        scores = scores_behind_shots(self._engine, self._task, texts, form, shots, annotator.adapter)
        return calibrations.normalise(scores)

    def _encoded(self, files: EncoderFiles, texts: Sequence[str]) -> "np.ndarray":
        """Return the same for an encoder."""
        inputs = [encoder_text(self._task, text, files.max_tokens) for text in texts]
        return _opened(files).probabilities(inputs).astype("float64")


@lru_cache(maxsize=OPEN_ENCODERS)
def _opened(files: EncoderFiles) -> "StudentClassifier":
    """Load an encoder, in place of the one that was queried longest ago if too many are loaded."""
    from fourshot.training.students.classifier import StudentClassifier

    return StudentClassifier(files.path, files.max_tokens)
