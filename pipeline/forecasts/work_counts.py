"""The work of drawing, annotating and training for one task, counted in tokens, as `forecast.StageWork`.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Sequence
from itertools import takewhile
from math import perm
from statistics import fmean

import msgspec

from fourshot.engine.chat import ChatTurns
from fourshot.engine.context import within_context
from fourshot.engine.core import EngineSettings, Verbalizer
from fourshot.engine.labels import num_requests
from fourshot.engine.tokens import ANCHOR
from fourshot.pipeline.faults import shorten
from fourshot.pipeline.forecasts.forecast import StageWork
from fourshot.pipeline.synthesis.aligned import BEGINNINGS, aligned
from fourshot.pipeline.synthesis.drawing import most_tokens
from fourshot.pipeline.synthesis.prompt_style import ANSWER_TOKENS, in_turn
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt, generation_prompt
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.windows import parts_of
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.token_counter import token_counter
from fourshot.training.jobs.jobs import TrainingJob
from fourshot.training.lora.settings import LoraSettings

MOST_COUNTED = 100  # of twice as many shots or more, about this many are counted, spread over all
# Of the shots' text in a token, below which the base model may not know their language. English and Japanese texts have
# 3.6 to 5 with tokenizers for these languages, German ones 2.6 with one for English (docs/tasks.md).
FEW_BYTES, TOLD_BY = 3.0, 100  # the latter: tokens of all shots, fewer of which say nothing
BLOCK = 32  # tokens: the prefix cache holds complete blocks only


class TokenCounts:
    """Counts the tokens of one task's prompts."""

    def __init__(self, task: Task, shots: Sequence[Example], settings: RunSettings, model_path: str) -> None:
        self.task, self.shots, self.settings, self._model_path = task, tuple(shots), settings, model_path
        self.tokens = token_counter(model_path)
        self._most_tokens = within_context(EngineSettings(model=model_path)).max_model_len
        form = PromptFormat(max_text_words=settings.max_text_words)
        self.text_tokens = fmean(self.tokens(f" {form.shown(shot.text)}") for shot in self.shots) + 1
        self.num_labels = len(task.labels)

    def draws(self, per_class: float, *, chat: ChatTurns | None = None, batches: float = 1) -> StageWork:
        """Return the work of ``per_class`` draws per class; ``batches``: how often the prefix cache is emptied."""
        words, generate, variety = self.settings.max_text_words, self.settings.generate, self.settings.variety
        prompts, computed = 0.0, 0.0
        for label in self.task.labels:
            class_shots = [shot for shot in self.shots if shot.label == label.name]
            shown = min(variety.shots_shown or len(class_shots), len(class_shots))
            prompt = self.tokens(
                generation_prompt(self.task, label, class_shots[:shown], max_text_words=words, chat=chat)
            )
            orders = min(per_class, batches * (1 if variety.order == "fixed" else perm(len(class_shots), shown)))
            prompts += per_class
            computed += orders * prompt + (per_class - orders) * (prompt - (prompt - 1) // BLOCK * BLOCK)
        times = generate.keep_likelier_of
        return StageWork(
            stage="",
            calls=prompts * times,
            prompt_tokens=computed,
            output_tokens=prompts * times * self.text_tokens,
        )

    def classification(
        self, texts: float, form: PromptFormat, *, adapter: bool = False, shots: Sequence[Example] = ()
    ) -> StageWork:
        """Return the work of scoring ``texts`` texts, each as long as a mean shot, behind as many ``shots`` as fit."""
        shots = self.fitting(shots, form)
        shared, total = self._prompt(form, shots)
        questions = self._questions(form.verbalizer)
        if form.long_texts == "windows":
            texts *= fmean(len(parts_of(self.task, shot.text, form)) for shot in self.shots)
        tokens = texts * questions * (total - shared // BLOCK * BLOCK) + shared // BLOCK * BLOCK
        kind = "adapter_tokens" if adapter else "shots_tokens" if shots else "prompt_tokens"
        return msgspec.structs.replace(StageWork(stage="", calls=texts), **{kind: tokens})

    def committee(
        self,
        texts: float,
        adapters: Sequence[tuple[PromptFormat, Sequence[Example]]],
        shots: Sequence[Example],
        chat: ChatTurns | None,
    ) -> StageWork:
        """Return the work of annotation by ``adapters``, and by the base if it annotates in context, behind ``shots``.

        ``adapters``: of each, the form of its prompts and the shots in them.
        """
        annotate, total = self.settings.annotate, StageWork(stage="")
        by_adapters = annotate.annotator == "adapters"
        if in_context := annotate.in_context if by_adapters else annotate.annotator == "icl":
            base = PromptFormat(verbalizer=self.settings.base_verbalizer, chat=chat)
            total += self.classification(texts, base, shots=shots) * in_context
        for form, shown in adapters if by_adapters else ():
            total += self.classification(texts, form, adapter=True, shots=shown)
        return total

    def fitting(self, shots: Sequence[Example], form: PromptFormat) -> Sequence[Example]:
        """Return the shots that fit into a prompt: those of `shots_that_fit`, if all shots are about equally long."""
        room = self._most_tokens - ANSWER_TOKENS
        total = self.tokens(classification_prompt(self.task, "", form, shots)) + self.text_tokens
        return shots if total <= room else in_turn(self.task, shots)[: int(len(shots) * room / total)]

    def fitting_notes(self, chat: ChatTurns | None, shown: Sequence[Example] = ()) -> list[str]:
        """Return notes on prompts for drawing and annotation that cannot show all shots, and on words without bias.

        ``shown``: the shots that an adapter's prompts are to show.
        """
        annotate = self.settings.annotate
        by_base = annotate.annotator == "icl" or (annotate.annotator == "adapters" and annotate.in_context)
        notes = (
            self._drawing_note(chat),
            self._annotation_note("the base model", self.shots if by_base else (), chat),
            self._annotation_note("an adapter", shown, chat),
            self._bias_note(),
            self._language_note(),
        )
        return [note for note in notes if note]

    def _drawing_note(self, chat: ChatTurns | None) -> str:
        words, room = self.settings.max_text_words, self._most_tokens
        answer = most_tokens(self.task, self.shots, self.settings, lambda texts: [*map(self.tokens, texts)])
        longest = 0
        for label in self.task.labels:
            class_shots = [shot for shot in self.shots if shot.label == label.name]
            shown = class_shots[: self.settings.variety.shots_shown or len(class_shots)]
            prompt = generation_prompt(self.task, label, shown, max_text_words=words, chat=chat)
            longest = max(longest, self.tokens(prompt))
        if longest + answer <= room:
            return ""
        return (
            f"{self.task.name}: generation prompts show as many shots of their class as fit, not all; with all, and "
            f"{answer} tokens for a text, the longest takes {longest + answer} tokens, and {room} are allowed"
        )

    def _annotation_note(self, who: str, shots: Sequence[Example], chat: ChatTurns | None) -> str:
        shown = self.fitting(shots, PromptFormat(chat=chat))
        if len(shown) == len(shots):
            return ""
        classes = len({shot.label for shot in shown})
        return (
            f"{self.task.name}: {who} annotates with about {len(shown)} of {len(shots)} shots in its prompt, of "
            f"{classes} of {self.num_labels} classes; more do not fit"
        )

    def _bias_note(self) -> str:
        """Return a note on words that sampling.bias cannot affect; "" if all are single tokens, or cannot be counted.

        See `engine.tokens.word_biases`.
        """
        anchor, bias = self.tokens.pieces(ANCHOR), self.settings.sampling.bias
        several = [word for word, _ in bias if self.tokens.pieces(f"{ANCHOR} {word}")[:-1] != anchor]
        if not (several and self.tokens.is_exact):
            return ""
        words = shorten(map(repr, several))
        return f"{self.task.name}: sampling.bias has no effect on {words}: only single tokens can have one"

    def _language_note(self) -> str:
        """Return a note if the base model splits the shots into far more tokens than texts of a language it knows.

        Source: Rust et al. 2021, "How Good is Your Tokenizer? On the Monolingual Performance of Multilingual Language
        Models" (models are worse at languages whose words their tokenizer splits into many parts).
        """
        texts = [PromptFormat().shown_input(self.task, shot.text, "") for shot in self.shots]
        num_tokens = sum(map(self.tokens, texts))
        rate = sum(len(text.encode()) for text in texts) / max(1, num_tokens)
        if rate >= FEW_BYTES or num_tokens < TOLD_BY or not self.tokens.is_exact:
            return ""
        return (
            f"{self.task.name}: the base model splits the shots into tokens of {rate:.1f} bytes on average, so it may "
            "not know their language. Its texts and labels may be wrong: read some in the report, or name a base model "
            "that knows the language (--model)"
        )

    def training(self, examples: int, settings: LoraSettings, form: PromptFormat) -> StageWork:
        """Return the work of training one adapter on ``examples`` examples, each as long as a mean shot.

        The texts of a packed row share the beginning of their prompts.
        """
        steps = settings.planned_steps(examples, self.num_labels)
        shared, total = self._prompt(form)
        tokens = shared + min(settings.batch_size, examples) * (total - shared + 1)
        return StageWork(stage="", opens="trainer", trainings=1, steps=steps, train_tokens=steps * tokens)

    def sequences(self, job: TrainingJob) -> StageWork:
        """Return the work of training one adapter on sequences of shots."""
        sample = job.examples[:: max(1, len(job.examples) // MOST_COUNTED)]
        tokens = fmean(self.tokens(example.prompt) for example in sample) * len(job.examples)
        steps = job.settings.planned_steps(len(job.examples))
        return StageWork(stage="", opens="trainer", trainings=1, steps=steps, train_tokens=tokens)

    def _prompt(self, form: PromptFormat, shots: Sequence[Example] = ()) -> tuple[int, float]:
        """Return how many tokens all prompts of a kind share at their beginning, and the mean of a complete prompt."""
        if self.settings.aligns:
            plain = msgspec.structs.replace(form, filler=None)
            form = aligned(plain, self.task, EngineSettings(model=self._model_path), shots)
        kinds = [self.tokens.pieces(classification_prompt(self.task, text, form, shots)) for text in BEGINNINGS]
        shared = sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*kinds, strict=False)))
        sample = self.shots[:: max(1, len(self.shots) // MOST_COUNTED)]
        return shared, fmean(self.tokens(classification_prompt(self.task, shot.text, form, shots)) for shot in sample)

    def _questions(self, verbalizer: Verbalizer) -> int:
        """Return the number of requests for one text."""
        if not self.tokens.is_exact:
            return 1
        return num_requests([tuple(self.tokens.pieces(f" {word}")) for word in self.task.label_words], verbalizer)
