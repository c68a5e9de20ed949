"""The card that lies beside an adapter: all that is needed to answer with it, and where it comes from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.alignment import PromptFiller
from fourshot.engine.calibration import NONE, Calibration
from fourshot.engine.chat import ChatTurns
from fourshot.engine.checkpoints.models import (
    ResolvedModel,
    broken_shards,
    damage_message,
    resolve_again,
    resolve_model,
)
from fourshot.engine.core import Adapter, Verbalizer
from fourshot.engine.errors import AdapterError
from fourshot.engine.machine.files import read_json
from fourshot.engine.probe import Probe, ProbeResult
from fourshot.pipeline.rows.text_words import MAX_TEXT_WORDS, LongTexts
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.selective import CoverageCurve, Scope
from fourshot.pipeline.settings.earlier_names import decode_stored
from fourshot.pipeline.synthesis.committee import Reader
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION, PromptFormat, Wording, reading_prompt
from fourshot.pipeline.task import Example, Task
from fourshot.training.lora.adapter_files import ADAPTER_WEIGHTS, is_unchanged
from fourshot.training.lora.settings import LoraSettings

CARD_FILE = "card.json"
PROBED_FILE = "probed.json"  # beside the card: that the served adapter was found to answer as in training
EXAMPLES_FILE = "examples.json"  # beside the card: what the adapter was trained on
LINK = "adapter"  # in a run folder: leads to the adapter of its classifier


class TrainingText(msgspec.Struct, frozen=True, kw_only=True):
    """A text that an adapter was trained on."""

    text: str
    label: str  # the likeliest one, where it was learnt with a probability of each
    kind: Literal["shot", "synthetic", "unlabelled"]  # the last: of the user's own texts


class AdapterCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about an adapter but its weights."""

    schema: int = 1
    name: str  # content-hashed
    task: Task
    model_name: str
    model_revision: str
    prompt_version: str = PROMPT_VERSION
    wording: Wording = "task"  # of the prompts it was trained on
    chat: ChatTurns | None = None  # of the same: the base's chat template, with its hash; None: plain text
    filler: PromptFiller | None = None  # in front of the same; None: nothing, as in adapters of earlier versions
    verbalizer: Verbalizer = "word"  # what it was trained to say for a label; before there was a choice, its word
    max_text_words: int = MAX_TEXT_WORDS
    # What is not read of longer ones. windows: all is, in parts; learnt is the first part.
    long_texts: LongTexts = "cut"
    calibration: Calibration = NONE
    calibrated_on: str = ""  # what the temperature was fitted on, for people; "": it was not
    coverage: CoverageCurve | None = None  # how accurate it is where it answers a share of the texts
    scope: Scope | None = None  # which texts are none of the task's
    training: LoraSettings
    seed: int = 0  # of the training
    shots: tuple[Example, ...] = ()  # in the order of the prompt; a server can answer in context with them
    real_examples: int
    synthetic_examples: int
    unlabelled_examples: int = 0  # texts of the user's, with the labels that annotators gave them
    reviewed: dict[str, int] = {}  # what a person did: "relabelled", "dropped", "kept" -> texts
    steps: int
    train_tokens: int
    train_flops: float = 0.0
    train_s: float
    probe: Probe | None = None  # what the trainer answered, to compare a server with
    probed: ProbeResult | None = None  # how vLLM compared; None: it was not asked yet
    scores: Scores | None = None
    lineage: dict[str, str] = {}  # what -> content hash

    @property
    def prompt_format(self) -> PromptFormat:
        return PromptFormat(
            wording=self.wording,
            verbalizer=self.verbalizer,
            max_text_words=self.max_text_words,
            long_texts=self.long_texts,
            chat=self.chat,
            filler=self.filler,
        )

    @property
    def align(self) -> bool:
        """Whether its task's prompts have filler in front, those with shots too."""
        return self.filler is not None

    def reader(self, adapter: Path) -> Reader:
        """The adapter in this folder as an annotator."""
        return Reader(
            adapter=Adapter(name=self.name, path=str(adapter.resolve())),
            wording=self.wording,
            chat=self.chat,
            filler=self.filler,
            verbalizer=self.verbalizer,
        )

    def prompt(self, text: str, shots: Sequence[Example] = ()) -> str:
        """What the adapter is asked about ``text``, as in training; with ``shots``, what the base is asked."""
        form = msgspec.structs.replace(self.prompt_format, filler=None) if shots else self.prompt_format
        return reading_prompt(self.task, text, form, shots)


def load_examples(adapter: str | Path, card: AdapterCard) -> list[TrainingText]:
    """What the adapter in this folder was trained on; of one from before this was kept, its shots."""
    try:
        return read_json(Path(adapter) / EXAMPLES_FILE, list[TrainingText])
    except (FileNotFoundError, msgspec.DecodeError):
        return [TrainingText(text=shot.text, label=shot.label, kind="shot") for shot in card.shots]


def load_card(adapter: str | Path) -> AdapterCard:
    """Read the card in an adapter folder. Raises AdapterError where there is none or it is not one."""
    file = Path(adapter) / CARD_FILE
    try:
        return decode_stored(file.read_bytes(), AdapterCard)
    except FileNotFoundError:
        raise AdapterError(
            f"{adapter} has no {CARD_FILE}, so fourshot did not make it. Give an adapter's folder, or a run's."
        ) from None
    except msgspec.DecodeError as error:
        raise AdapterError(
            f"{file} is not a card that this version reads: {error}. Train the adapter again."
        ) from error


def base_of(card: AdapterCard, adapter: Path, model: str | None = None) -> ResolvedModel:
    """The base model that an adapter is asked on; ``model`` names it where it is not where it was in training.

    Raises AdapterError for an adapter of other prompts, a damaged one, and for another base model;
    ModelNotFoundError where there is none.
    """
    if card.prompt_version != (renders := card.prompt_format.version):
        raise AdapterError(
            f"The adapter {adapter} was trained on prompts of version {card.prompt_version}; this fourshot "
            f"renders version {renders}. Train again, or install the fourshot it was made with."
        )
    faults = broken_shards(adapter)
    if not faults and (adapter / ADAPTER_WEIGHTS).is_file() and not is_unchanged(adapter, card.name):
        faults = ["its weights are not those that its card names"]
    if faults:
        raise AdapterError(damage_message(f"The adapter {adapter}", faults))
    # The hub may have another state of that name by now.
    base = resolve_again(card.model_name, card.model_revision) if model is None else resolve_model(model)
    if base.revision != card.model_revision:
        raise AdapterError(
            f"The adapter {adapter} was trained on {card.model_name} revision {card.model_revision}; "
            f"{base.name} here is revision {base.revision}. Name the base it was trained on (--model), or train "
            "again on this one."
        )
    return base
