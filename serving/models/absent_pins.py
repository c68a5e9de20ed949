"""Pins of versions that are not there: another one answers instead, and whoever pinned is to know."""

from typing import TYPE_CHECKING

import msgspec

from fourshot.serving.api import Refused

if TYPE_CHECKING:
    from fourshot.serving.models.registry import FolderContents


def with_absent_pins(contents: "FolderContents", file: str) -> "FolderContents":
    """``contents`` with one refusal of ``file`` for all its pins of versions that cannot be served.

    A pin of a task that has no version at all changes no answer.
    """
    reasons = [
        f"{task} is pinned to {name}, which cannot be served from here. Add it (fourshot adapters add), pin another "
        "version, or unpin the task."
        for task, name in sorted(contents.pins.items())
        if (stored := contents.versions(task)) and name not in {adapter.name for adapter in stored}
    ]
    if not reasons or any(refusal.path == file for refusal in contents.refused):
        return contents
    refused = [*contents.refused, Refused(path=file, reason=" ".join(reasons))]
    return msgspec.structs.replace(contents, refused=refused)
