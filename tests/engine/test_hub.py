"""Base models from a hub on loopback, in processes of their own: what is fetched, what is kept, what is said."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE
from safetensors.numpy import save

from fourshot.engine.checkpoints.hub import at_revision, split_revision
from tests.hub.server import Hub, Repository, running_hub
from tests.serving.fake_server import unused_url
from tests.waiting import wait_for

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
TOKENIZER = b'{"version": "1.0"}'
ROOT = Path(__file__).parents[2]
PATIENCE_S = 240  # of a machine that does other things too

RESOLVE = """
import json, os, sys
from fourshot.engine.errors import FourshotError
from fourshot.engine.checkpoints.models import resolve_model

for asked in sys.argv[1:]:
    name, _, token = asked.partition(" ")
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        found = resolve_model(name)
        told = {"path": found.path, "name": found.name, "revision": found.revision, "files": os.listdir(found.path)}
    except FourshotError as error:
        told = {"error": str(error), "code": error.exit_code}
    print(json.dumps(told))
"""


def weights(value: float, number: int = 1000) -> bytes:
    return save({"a": np.full(number, value, dtype=np.float32)})


def checkpoint(value: float = 1.0, **more: bytes) -> dict[str, bytes]:
    """The files of a model that is found and checked, not opened."""
    return {"config.json": CONFIG, "tokenizer.json": TOKENIZER, "model.safetensors": weights(value), **more}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.repositories["org/tiny"] = Repository({"main": checkpoint()})
        yield hub


def start(hub: Hub, home: Path, *names: str, **environment: str) -> "subprocess.Popen[str]":
    """A process that resolves these names, each "NAME" or "NAME TOKEN"."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-c", RESOLVE, *names],
        env={**plain, **hub.environment(home), **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def resolve(hub: Hub, home: Path, *names: str, **environment: str) -> list[dict[str, Any]]:
    """What such a process finds, or is told, for each of the names."""
    process = start(hub, home, *names, **environment)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err[-2000:]
    return [json.loads(line) for line in out.splitlines()]


def paths(hub: Hub, method: str, name: str) -> list[str]:
    """Of all requests for a file, the ranges."""
    return [request.range for request in hub.requests if request.method == method and request.path.endswith(f"/{name}")]


def test_what_a_model_is_read_from_is_fetched_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    unneeded = {
        name: weights(2.0)
        for name in ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "tiny.gguf", "tiny.h5")
    }
    unneeded |= {"README.md": b"A model.", "onnx/config.json": CONFIG, "original/params.json": b"{}"}
    hub.repositories["org/tiny"].revisions["main"] |= unneeded | {"chat_template.jinja": b"{{ messages }}"}
    (model,) = resolve(hub, tmp_path, "org/tiny")
    assert sorted(model["files"]) == ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert hub.fetched() == sorted(model["files"])
    assert (model["name"], model["revision"]) == ("org/tiny", hub.repositories["org/tiny"].commit("main"))


def test_pickled_weights_are_fetched_where_there_are_no_others(hub: Hub, tmp_path: Path) -> None:
    files = hub.repositories["org/tiny"].revisions["main"]
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    assert "pytorch_model.bin" in resolve(hub, tmp_path, "org/tiny")[0]["files"]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, tmp_path: Path) -> None:
    tiny = hub.repositories["org/tiny"]
    tiny.revisions |= {"v1": checkpoint(2.0), "refs/pr/3": checkpoint(3.0)}
    commits = {name: tiny.commit(name) for name in ("main", "v1", "refs/pr/3")}
    names = ("org/tiny", "org/tiny@v1", "org/tiny@refs/pr/3", f"org/tiny@{commits['v1']}", "org/tiny@v9")
    *models, unknown = resolve(hub, tmp_path, *names)
    assert [model["revision"] for model in models] == [*commits.values(), commits["v1"]]
    assert {model["name"] for model in models} == {"org/tiny"}
    assert (Path(models[1]["path"]) / "model.safetensors").read_bytes() == weights(2.0)
    assert "has no revision 'v9'. Give a branch, a tag" in unknown["error"]

    before = len(hub.requests)
    tiny.revisions["main"] = checkpoint(4.0)  # the name stands for another state now; a commit never does
    assert resolve(hub, tmp_path, f"org/tiny@{commits['main']}") == [models[0]]
    assert not [request for request in hub.requests[before:] if "org/tiny" in request.path]
    assert resolve(hub, tmp_path, "org/tiny")[0]["revision"] == tiny.commit("main") != commits["main"]


def test_a_connection_that_breaks_off_is_taken_up_where_it_was(hub: Hub, tmp_path: Path) -> None:
    large = hub.repositories["org/tiny"].revisions["main"]["model.safetensors"] = weights(1.0, 3_000_000)
    hub.cuts["model.safetensors"] = DOWNLOAD_CHUNK_SIZE + 99  # what is less than a chunk is lost
    (model,) = resolve(hub, tmp_path, "org/tiny")
    assert (Path(model["path"]) / "model.safetensors").read_bytes() == large
    assert paths(hub, "GET", "model.safetensors") == ["", f"bytes={DOWNLOAD_CHUNK_SIZE}-"]


def test_a_download_that_was_killed_keeps_what_is_whole(hub: Hub, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"], hub.waits_at_cuts = 100, True
    downloading = start(hub, tmp_path, "org/tiny")
    assert hub.is_waiting.wait(PATIENCE_S)
    wait_for(lambda: list(tmp_path.glob("hub/models--*/snapshots/*/config.json")), "a file to be whole", PATIENCE_S)
    downloading.kill()
    downloading.communicate()
    (offline,) = resolve(hub, tmp_path, "org/tiny", HF_HUB_OFFLINE="1")
    assert "Only a part of the model 'org/tiny' is on this machine, and HF_HUB_OFFLINE is set" in offline["error"]
    (model,) = resolve(hub, tmp_path, "org/tiny")
    assert (Path(model["path"]) / "model.safetensors").read_bytes() == weights(1.0)
    assert len(paths(hub, "GET", "config.json")) == 1


def test_who_may_not_read_a_model_is_told_what_to_do(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/gated"] = Repository({"main": checkpoint()}, gated=True)
    names = ("org/gated", "org/gated hf_stranger", "org/tiny hf_wrong", "org/typo")
    hub.refused["tokenizer.json"] = 451
    consent, stranger, wrong, typo, broken = resolve(hub, tmp_path, *names, "org/tiny")
    hub.refused.clear()
    assert "org/tiny' is not on this machine and could not be fetched: the hub responded with 451" in broken["error"]
    assert f"must be accepted. Accept them on {hub.url}/org/gated and set HF_TOKEN" in consent["error"]
    assert f"your token's account has not done so. See {hub.url}/org/gated" in stranger["error"]
    assert "The hub rejects your token for the model 'org/tiny' (401). Set HF_TOKEN to a valid one" in wrong["error"]
    assert "The hub has no model 'org/typo', or it is private and HF_TOKEN is not set" in typo["error"]
    assert "Check the spelling" in typo["error"]
    assert {refusal["code"] for refusal in (consent, stranger, wrong, typo, broken)} == {2}
    assert all("embedded" in refusal["error"] for refusal in (consent, stranger, wrong, typo, broken))
    (member,) = resolve(hub, tmp_path, "org/gated hf_member")
    assert "model.safetensors" in member["files"]


def test_without_the_hub_the_copy_on_this_machine_will_do(hub: Hub, tmp_path: Path) -> None:
    (model,) = resolve(hub, tmp_path, "org/tiny")
    offline, absent = resolve(hub, tmp_path, "org/tiny", "org/other", HF_HUB_OFFLINE="1")
    assert offline == model
    assert "'org/other' is not on this machine, and HF_HUB_OFFLINE is set" in absent["error"] and absent["code"] == 2
    away, absent = resolve(hub, tmp_path, "org/tiny", "org/other", HF_ENDPOINT=unused_url())
    assert away == model
    assert "'org/other' is not on this machine and could not be fetched: " in absent["error"]


def test_an_adapter_names_the_state_of_its_base() -> None:
    assert at_revision("org/tiny", "a" * 40) == f"org/tiny@{'a' * 40}"
    assert at_revision("/models/tiny", "a" * 12) == "/models/tiny"  # a folder, known by its content
    assert split_revision("org/tiny@v1") == ("org/tiny", "v1") and split_revision("org/tiny") == ("org/tiny", None)
