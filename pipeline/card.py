"""The card stored beside an adapter: all that is needed to query it, and its origin."""

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
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION, PromptFormat, Wording, classification_prompt
from fourshot.pipeline.task import Example, Task
from fourshot.training.lora.adapter_files import ADAPTER_WEIGHTS, is_unchanged
from fourshot.training.lora.settings import LoraSettings

CARD_FILE = "card.json"
PROBED_FILE = "probed.json"  # beside the card: exists once the engine has reproduced the trainer's predictions
EXAMPLES_FILE = "examples.json"  # beside the card: what the adapter was trained on
LINK = "adapter"  # in a run folder: a link to the adapter of its classifier


class TrainingText(msgspec.Struct, frozen=True, kw_only=True):
    """A text that an adapter was trained on."""

    text: str
    label: str  # the likeliest one, where it was trained on with a probability for each
    kind: Literal["shot", "synthetic", "unlabelled"]  # the last: of the user's own texts


class AdapterCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about an adapter except its weights."""

    schema: int = 1
    name: str  # content-hashed
    task: Task
    model_name: str
    model_revision: str
    prompt_version: str = PROMPT_VERSION
    wording: Wording = "task"  # of the prompts it was trained on
    chat: ChatTurns | None = None  # of these prompts: the base's chat template, with its hash; None: plain text
    filler: PromptFiller | None = None  # in front of these prompts; None: nothing, as in adapters of earlier versions
    verbalizer: Verbalizer = "word"  # the tokens it was trained to predict for a label; at first always its word
    max_text_words: int = MAX_TEXT_WORDS
    # Which part of longer texts is not read. windows: none, all is read in parts; the first part is trained on.
    long_texts: LongTexts = "cut"
    calibration: Calibration = NONE
    calibrated_on: str = ""  # what the temperature was fitted on, for people; "": it was not
    coverage: CoverageCurve | None = None  # its accuracy where it labels only a share of the texts
    scope: Scope | None = None  # its out-of-scope rule
    training: LoraSettings
    seed: int = 0  # of the training
    shots: tuple[Example, ...] = ()  # in the order of the prompt; a server can answer in context with them
    real_examples: int
    synthetic_examples: int
    unlabelled_examples: int = 0  # the user's own texts, with the labels of annotators
    reviewed: dict[str, int] = {}  # what a person did: "relabelled", "dropped", "kept" -> texts
    steps: int
    train_tokens: int
    train_flops: float = 0.0
    train_s: float
    probe: Probe | None = None  # predictions of the trainer, to compare an engine with
    probed: ProbeResult | None = None  # how vLLM compared; None: not probed yet
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
        """Whether its task's prompts have filler in front, including those with shots."""
        return self.filler is not None

    def annotator(self, adapter: Path) -> Annotator:
        """Return the adapter in the folder ``adapter`` as an annotator."""
        return Annotator(
            adapter=Adapter(name=self.name, path=str(adapter.resolve())),
            wording=self.wording,
            chat=self.chat,
            filler=self.filler,
            verbalizer=self.verbalizer,
        )

    def prompt(self, text: str, shots: Sequence[Example] = ()) -> str:
        """Return the adapter's prompt for ``text``, as in training; with ``shots``, the base's, without filler."""
        form = msgspec.structs.replace(self.prompt_format, filler=None) if shots else self.prompt_format
        return classification_prompt(self.task, text, form, shots)


def load_examples(adapter: str | Path, card: AdapterCard) -> list[TrainingText]:
    """Return the adapter's training texts; only its shots if an earlier version trained it, which stored no others."""
    try:
        return read_json(Path(adapter) / EXAMPLES_FILE, list[TrainingText])
    except (FileNotFoundError, msgspec.DecodeError):
        return [TrainingText(text=shot.text, label=shot.label, kind="shot") for shot in card.shots]


def load_card(adapter: str | Path) -> AdapterCard:
    """Read the card in an adapter's folder. Raises AdapterError where it is missing or cannot be read."""
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
    """Return the base model of an adapter; ``model`` names it if it has moved since training.

    Raises AdapterError for another base model, and as `check_usable`; ModelNotFoundError where it does not exist.
    """
    check_usable(card, adapter)
    # The hub may have another state of that name by now.
    base = resolve_again(card.model_name, card.model_revision) if model is None else resolve_model(model)
    if base.revision != card.model_revision:
        raise AdapterError(
            f"The adapter {adapter} was trained on {card.model_name} revision {card.model_revision}; "
            f"{base.name} here is revision {base.revision}. Name the base it was trained on (--model), or train "
            "again on this one."
        )
    return base


def check_usable(card: AdapterCard, adapter: Path) -> None:
    """Raise AdapterError for an adapter of another prompt version, and for a damaged or changed one."""
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
