"""The inputs of a corpus for each task: its data, with shots and test texts to exclude, and adapters that annotate."""

from pathlib import Path

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import AdapterError, InputError
from fourshot.pipeline.card import CARD_FILE, check_usable, load_card
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData

CARDS = (CARD_FILE, f"*/{CARD_FILE}", f"*/*/{CARD_FILE}")


def data_of(task: Task, on_event: OnEvent = ignore) -> TaskData:
    """Return the splits of ``task``, which need not have test texts. Events about them begin with its name."""

    def tell(event: Event) -> None:
        on_event(Event(stage="corpus", message=f"{task.name}: {event.message}"))

    return TaskData(task, tell, needs_test=False)


def annotators_of(task: Task, folder: Path, model: ResolvedModel) -> tuple[Annotator, ...]:
    """Return the adapters in ``folder`` that were trained for ``task`` on this base model. All of them annotate.

    ``folder`` is that of a finished run, of several runs (`fourshot train --tasks`), or of an adapter. Raises
    InputError if there is no such adapter. Raises AdapterError for a card that cannot be read or has other label words,
    and for an adapter that is damaged or was trained on other prompts.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of adapters: {folder}. Give an existing one (--adapters).")
    annotators = {}
    for card_file in sorted(card for pattern in CARDS for card in folder.glob(pattern)):
        card = load_card(card_file.parent)
        same_base = (card.model_name, card.model_revision) == (model.name, model.revision)
        if card.task.name != task.name or not same_base:
            continue
        if card.task.label_words != task.label_words:
            raise AdapterError(
                f"The adapter {card_file.parent} was trained for {task.name} with the label words "
                f"{', '.join(card.task.label_words)}; the task file now has {', '.join(task.label_words)}. Train it "
                "again, or name another folder (--adapters)."
            )
        check_usable(card, card_file.parent)
        annotators[card.name] = card.annotator(card_file.parent)
    if not annotators:
        raise InputError(
            f"{folder} has no adapter for {task.name} on {model.name} ({model.revision}). Train one (fourshot train), "
            "name another folder (--adapters), or have the base model annotate (--annotator icl)."
        )
    return tuple(annotators.values())
