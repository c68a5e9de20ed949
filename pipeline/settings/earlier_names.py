"""Settings with other names in earlier versions: hints for the user, and how to decode files that still have them.

Importing this module loads neither torch nor vllm.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from fourshot.engine.machine.files import as_decode_errors

T = TypeVar("T")

TRAIN_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "passes": "num_epochs"}  # then -> now
UNREAD = ("n", "stop", "seed", "max_tokens")  # of sampling: each call sets its own

EARLIER_NAMES = {  # dotted -> what to do now
    **{f"train.{then}": f"It is called 'train.{now}' now." for then, now in TRAIN_NAMES.items()},
    "train.epochs": "A training's length is 'train.num_epochs', between 'train.min_steps' and 'train.max_steps'.",
    "train.seed": "Trainings are seeded by 'seed'.",
    "annotate.fold_passes": "It is called 'annotate.fold_epochs' now.",
    "sampling.n": "It never had an effect; completions per candidate are 'generate.keep_likelier_of'.",
    "sampling.stop": "It never had an effect; a text ends with its line.",
    "sampling.seed": "It never had an effect; texts are seeded by 'seed'.",
    "sampling.max_tokens": "It never had an effect; the length of a text is bounded by 'generate.max_tokens'.",
}


@as_decode_errors()
def decode_stored(content: bytes, kind: type[T]) -> T:
    """Decode JSON that this version wrote, or an earlier one, whose settings had other names or were fewer.

    Raises msgspec.DecodeError.
    """
    is_whole = all(
        then not in content or now in content
        for then, now in ((b'"min_steps"', b'"min_warmup_steps"'), (b'"annotator"', b'"soft_temperature"'))
    )
    document = None if is_whole else msgspec.json.decode(content)
    try:
        if is_whole or not isinstance(document, dict):
            return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError:
        document = msgspec.json.decode(content)
        if not isinstance(document, dict):
            raise
    return msgspec.json.decode(msgspec.json.encode(_renamed(document)), type=kind)


def _renamed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card or a manifest with the present names."""
    renamed = dict(document)
    if isinstance(training := document.get("training"), dict):
        renamed["training"] = _renamed_training(training)
        renamed.setdefault("seed", training.get("seed", 0))
    if isinstance(settings := document.get("settings"), dict):
        groups = {name: dict(value) for name, value in settings.items() if isinstance(value, dict)}
        if train := groups.get("train"):
            groups["train"] = _renamed_training(train)
        for name in UNREAD:
            groups.get("sampling", {}).pop(name, None)
        if "fold_passes" in (annotate := groups.get("annotate", {})):
            annotate["fold_epochs"] = annotate.pop("fold_passes")
        if annotate and annotate.get("targets", "auto") == "auto":  # absent: labels were the only target
            annotate["targets"] = "agreement"  # auto: unless shots chose otherwise, see `run_folder.CHOICE_FILE`
        if annotate.get("targets") == "soft":  # they were trained on unchanged, in as many epochs as labels
            passes = groups.get("train", {}).get("num_epochs", 4.0)
            groups["annotate"] = {"soft_temperature": 1.0, "intended_odds": 1.0, "soft_epochs": passes, **annotate}
        renamed["settings"] = {**settings, **groups}
    return renamed


def _renamed_training(stored: Mapping[str, Any]) -> dict[str, Any]:
    training = {TRAIN_NAMES.get(name, name): value for name, value in stored.items() if name not in ("seed", "epochs")}
    if stored.get("epochs", math.inf) <= stored.get("passes", 0):  # an upper bound, also above `min_steps`
        training |= {"num_epochs": stored["epochs"], "min_steps": 1}
    return {"min_warmup_steps": 0, **training}  # earlier versions had no such bound
