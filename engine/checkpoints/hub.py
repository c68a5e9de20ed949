"""Base models from the Hugging Face hub: which files and revision are fetched, and what to do if that fails."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from fourshot.engine.errors import FourshotError, ModelNotFoundError

# The files of a text model are at the root of its repository. Folders (onnx/, original/) contain the same in other
# formats, as do the files of Mistral's own library (consolidated*).
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors", "*.bin")
NOT_NEEDED = ("*/*", "consolidated*")
NOT_NEEDED_OF_ENCODERS = ("[!1]*/*",)  # 1_Pooling/config.json of sentence-transformers is needed

COMMIT = re.compile(r"[0-9a-f]{40}")


def split_revision(name: str) -> tuple[str, str | None]:
    """Split "owner/model@v1" into ("owner/model", "v1"). Without an @, the revision is None: the hub's main branch."""
    model, _, revision = name.partition("@")
    return model, revision or None


def is_path(name: str) -> bool:
    """Whether a name is a path on this machine, existing or not, and not a Hugging Face id."""
    return name.startswith(("/", "./", "../", "~")) or split_revision(name)[0].count("/") > 1


def at_revision(name: str, revision: str) -> str:
    """Return "name@revision" if ``revision`` is a commit of the hub; else ``name``."""
    return f"{name}@{revision}" if COMMIT.fullmatch(revision) else name


def download_model(
    model: str,
    revision: str | None,
    how_to_go_on: str,
    *,
    weights: bool = True,
    not_needed: Sequence[str] = NOT_NEEDED,
) -> Path:
    """Return the snapshot folder, named by its commit, of a hub model. Files missing from the cache are fetched.

    Weights are fetched as safetensors if there are any, else as pickles. The client resumes interrupted connections. If
    a download is given up, complete files are kept. With HF_HUB_OFFLINE, only the cache is used.
    Raises ModelNotFoundError with a message that ends in ``how_to_go_on``; FourshotError if the disk is the cause.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    def fetch(patterns: tuple[str, ...]) -> Path:
        return Path(
            snapshot_download(
                model, revision=revision, allow_patterns=[*SMALL_FILES, *patterns], ignore_patterns=list(not_needed)
            )
        )

    try:
        snapshot = fetch(WEIGHTS[:1] if weights else ())
        if weights and not any(snapshot.glob(WEIGHTS[0])):
            snapshot = fetch(WEIGHTS)
    except HFValidationError as error:
        raise ModelNotFoundError(f"{model!r} is neither a folder nor a Hugging Face id. {how_to_go_on}") from error
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:  # HTTPError includes all connection errors
        raise ModelNotFoundError(f"{_reason(error, model, revision)} {how_to_go_on}") from error
    return snapshot


def _reason(error: Exception, model: str, revision: str | None) -> str:
    """Say why a model could not be obtained, and what to do about it. Raises FourshotError if the disk is the cause."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        DisabledRepoError,
        GatedRepoError,
        HTTPError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    tried = f"Tried: a folder {model!r} (none), the local Hugging Face cache, the hub."
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    code = getattr(getattr(cause, "response", None), "status_code", None)
    absent = f"The model {model!r} is not on this machine"
    if isinstance(error, IncompleteSnapshotError):
        absent = f"Only a part of the model {model!r} is on this machine"
    if isinstance(cause, GatedRepoError):
        page = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{model}"
        if code == 403:
            return (
                f"The terms of the model {model!r} must be accepted, and your token's account has not done so. See "
                f"{page}."
            )
        return (
            f"The terms of the model {model!r} must be accepted. Accept them on {page} and set HF_TOKEN, or log in "
            "with hf auth login."
        )
    if isinstance(cause, RevisionNotFoundError):
        return (
            f"The model {model!r} has no revision {revision!r}. Give a branch, a tag or a full commit hash after the "
            "@. Without one, the main branch is used."
        )
    if isinstance(cause, RepositoryNotFoundError):
        return (
            f"The hub has no model {model!r}, or it is private and HF_TOKEN is not set. {tried} Check the spelling "
            "(owner/name), or log in."
        )
    if code in (401, 403) and not isinstance(cause, DisabledRepoError):
        return (
            f"The hub rejects your token for the model {model!r} ({code}). Set HF_TOKEN to a valid one with access to "
            "it, or log in again with hf auth login; for a public model, unset it."
        )
    if isinstance(cause, OfflineModeIsEnabled):
        return f"{absent}, and HF_HUB_OFFLINE is set. {tried} Unset it, or copy the checkpoint folder here."
    if isinstance(cause, OSError) and not isinstance(cause, HTTPError | LocalEntryNotFoundError):
        raise FourshotError(
            f"The model {model!r} could not be stored: {cause}. Make room, or set HF_HOME to another folder."
        ) from error
    reason = f"the hub responded with {code}" if code else " ".join(str(cause).split()) or type(cause).__name__
    return (
        f"{absent} and could not be fetched: {reason}. {tried} Connect and try again (complete files are kept), or "
        "copy the checkpoint folder here."
    )
