"""Find the adapter that a folder stands for: its own, or that of a finished run. Loads no heavy library."""

from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import check_mounted
from fourshot.pipeline.card import CARD_FILE, LINK, load_card
from fourshot.pipeline.student_card import STUDENT_FILE, find_student
from fourshot.pipeline.work_folder import MANIFEST_FILE


def find_classifier(folder: str | Path) -> Path:
    """Return the student's folder that ``folder`` leads to, or else the adapter's, as `find_adapter` does."""
    return find_student(folder) or find_adapter(folder)


def find_adapter(folder: str | Path) -> Path:
    """Return ``folder`` if it is an adapter's, else the folder of the adapter that a run links to.

    In a folder without this link, it is the only adapter trained on synthetic or unlabelled texts, or the only adapter.
    Raises `InputError` if there is no adapter, or if several could be meant.
    """
    check_mounted(folder)
    folder = Path(folder)
    if (folder / CARD_FILE).is_file():
        return folder
    if (folder / LINK / CARD_FILE).is_file():
        return (folder / LINK).resolve()
    if find_student(folder):
        raise InputError(
            f"{folder} is a student, not an adapter. `fourshot predict` and `fourshot serve` accept it as it is."
        )
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}. Give an adapter's folder, or that of a finished run.")
    adapters = (file.parent for file in sorted(folder.rglob(CARD_FILE)) if file.is_file())
    cards = {
        path: load_card(path)
        for path in adapters
        if not any(find_student(folder / up) for up in path.relative_to(folder).parents)  # not a teacher's
    }
    foreign = sorted({path.name for path in folder.rglob("adapter_*") if path.is_file()})
    if not cards and foreign and not (folder / MANIFEST_FILE).exists():
        if run := next((up for up in folder.resolve().parents if (up / MANIFEST_FILE).exists()), None):
            raise InputError(f"{folder} is a part of the run in {run}, and cannot be used by itself. Name {run}.")
        raise InputError(
            f"{folder} holds an adapter ({', '.join(foreign)}) and no {CARD_FILE}: another trainer made it, or it was "
            "copied without its card. Only fourshot's own can be used: the card holds the task, its labels and the "
            "prompt that the adapter was trained with. Copy the card too, or train with fourshot."
        )
    if not cards and (students := sorted(str(card.parent) for card in folder.rglob(STUDENT_FILE) if card.is_file())):
        raise InputError(f"{folder} holds no adapter, but students. Name one of them: {', '.join(students[:5])}.")
    if not cards:
        raise InputError(
            f"{folder} holds no adapter with a {CARD_FILE}. Give an adapter's folder, or that of a finished run; the "
            "command that made a run finishes it where it was stopped."
        )
    # A run also trains an adapter on the shots alone, for comparison.
    likely = [path for path, card in cards.items() if card.synthetic_examples or card.unlabelled_examples]
    likely = likely or list(cards)
    if len(likely) == 1:
        return likely[0]
    listed = "\n".join(
        f"  {path} ({card.real_examples} real and {card.synthetic_examples} synthetic texts, training seed {card.seed})"
        for path, card in cards.items()
    )
    raise InputError(f"{folder} holds {len(cards)} adapters. Name one of them:\n{listed}")
