"""A task and a model that both come from a hub on loopback, through the command."""

import os
import subprocess
import sys
from pathlib import Path

from tests.hub.server import Repository, running_hub

TASK = """
name = "weather"
instruction = "Classify the note as warm or cold."
noun = "note"
[data]
hub = "org/weather"
[[labels]]
name = "warm"
[[labels]]
name = "cold"
"""
ASK = """
import sys
from fourshot.cli.main import main
from fourshot.engine.core import EngineSettings
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.opening import open_engine

failed = main(["tasks", "check", sys.argv[1], "--model", "org/random@v1", "--shots", "1"])
model = resolve_model("org/random@v1")
engine = open_engine(EngineSettings(model=model.path, kind="transformers", max_model_len=64))
print(engine.score(["Sleet."], ["warm", "cold"]).shape, failed)
sys.exit(main(["tasks", "check", sys.argv[1], "--model", "org/random@v2"]))
"""


def test_a_task_and_a_model_of_the_hub_are_checked_and_the_model_answers(tmp_path: Path, tiny_model: str) -> None:
    """The model has random weights. All of it is under a tag."""
    (tmp_path / "weather.toml").write_text(TASK)
    rows = {"train": ("Lava.", "Snow."), "test": ("Steam.", "Sleet.")}
    data = {f"{split}.csv": f"text,label\n{warm},warm\n{cold},cold\n".encode() for split, (warm, cold) in rows.items()}
    model = {file.name: file.read_bytes() for file in Path(tiny_model).iterdir()}
    with running_hub() as hub:
        hub.repositories["org/random"] = Repository({"main": {"README.md": b"Soon."}, "v1": model})
        hub.repositories["datasets/org/weather"] = Repository({"main": data})
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(tmp_path / "weather.toml")],
            env={**os.environ, **hub.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (2, "(1, 2) 0"), done.stdout + done.stderr
    assert "0 errors" in done.stdout and "has no revision 'v2'" in done.stderr
