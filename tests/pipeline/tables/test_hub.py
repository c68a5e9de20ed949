"""Data sets from a hub on loopback, in processes of their own: what is read, what is kept, what is said."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.tables.hub import read_hub
from tests.hub.server import Hub, Repository, running_hub

ROOT = Path(__file__).parents[3]
READ = """
import json, os, sys
from fourshot.engine.errors import FourshotError
from fourshot.pipeline.tables.hub import read_hub

for asked in sys.argv[1:]:
    name, config, split, token = asked.split(":")
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        table = read_hub(name, config, split)
        told = {"columns": table.columns, "rows": list(table.rows.values()), "class_names": table.class_names}
    except FourshotError as error:
        told = {"error": str(error), "code": error.exit_code}
    print(json.dumps(told))
"""
TRAIN = [{"text": "Lava.", "label": 1}, {"text": "Snow.", "label": 0}]
LABELS = {"label": ["cold", "warm"]}


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """A table that carries the names of its classes, as the hub's do."""
    import pyarrow.parquet

    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": LABELS["label"], "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    out = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata), out)
    return out.getvalue()


def files(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    return {"data/train-00000-of-00001.parquet": parquet(rows), "data/test-00000-of-00001.parquet": parquet(rows[:1])}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.repositories["datasets/org/weather"] = Repository({"main": files(TRAIN)})
        yield hub


def read(hub: Hub, home: Path, *requests: str, **environment: str) -> list[dict[str, Any]]:
    """What a process that reads these, each "NAME:CONFIG:SPLIT:TOKEN", finds or is told."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", READ, *requests],
        env={**plain, **hub.environment(home), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_data_set_is_read_with_the_names_of_its_classes_and_kept(hub: Hub, tmp_path: Path) -> None:
    requests = ("org/weather::train:", "org/weather::test:")
    online = read(hub, tmp_path, *requests)
    assert [answer["rows"] for answer in online] == [TRAIN, TRAIN[:1]]
    assert all(answer["class_names"] == LABELS for answer in online)
    *offline, absent = read(hub, tmp_path, *requests, "org/other::train:", HF_HUB_OFFLINE="1")
    assert offline == online
    assert "HF_HUB_OFFLINE is set, and no copy is on this machine" in absent["error"]


def test_the_converted_copy_of_a_data_set_with_a_script_is_read(hub: Hub, tmp_path: Path) -> None:
    converted = {"default/train/0000.parquet": parquet(TRAIN)}
    script = {"script.py": b"import datasets"}
    hub.repositories["datasets/org/script"] = Repository({"main": script, "refs/convert/parquet": converted})
    assert read(hub, tmp_path, "org/script::train:")[0]["rows"] == TRAIN


def test_what_cannot_be_had_is_told_with_what_to_do(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/org/gated"] = Repository({"main": files(TRAIN)}, gated=True)
    requests = ("org/gated::train:", "org/gated::train:hf_stranger", "org/typo::train:", "org/weather::dev:")
    *refused, member = read(hub, tmp_path, *requests, "org/weather@v1::test:", "org/gated::train:hf_member")
    assert {answer["code"] for answer in refused} == {2} and all(
        "--data FOLDER" in answer["error"] for answer in refused
    )
    nobody, stranger, typo, split, revision = (answer["error"] for answer in refused)
    for message in (nobody, stranger):
        assert "gated" in message and f"Accept its terms on {hub.url}/datasets/org/gated, and set HF_TOKEN" in message
    assert "'org/typo' doesn't exist on the Hub" in typo and "Check the spelling of $.data.hub" in typo
    assert "Unknown split \"dev\". Should be one of ['train', 'test']" in split
    assert "Repo id must" in revision  # the data is what the main branch has
    assert member["rows"] == TRAIN


def test_what_the_hub_s_client_says_of_each_attempt_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six lines of a library would stand before the one that says what to do."""
    client, shown = logging.getLogger("huggingface_hub.utils._http"), []

    def load(*_: object, **__: object) -> NoReturn:
        shown.append(client.isEnabledFor(logging.WARNING))
        raise ConnectionError("not reached")

    monkeypatch.delenv("HF_HUB_VERBOSITY", raising=False)
    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(InputError, match="not reached\nTo work without the hub"):
        read_hub("org/weather", "", "train")
    assert shown == [False] and client.isEnabledFor(logging.WARNING)
