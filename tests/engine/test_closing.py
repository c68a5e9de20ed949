"""A closed engine gives its memory back, and others can follow in the same process."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourshot.engine.core import EngineSettings
from fourshot.engine.transformers_engine import TransformersEngine

REPOSITORY = Path(__file__).parents[2]
KV_CACHE_BYTES = 256 << 20

SCRIPT = f"""
import json, multiprocessing, os, random, sys
import psutil
from fourshot.engine.core import EngineSettings
from fourshot.engine.opening import open_engine

assert not {{"vllm", "torch"}} & set(sys.modules), "opening's import must stay light"
import numpy, torch, torch._dynamo  # which itself sets a variable

def host():
    drawn = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    method = multiprocessing.get_start_method(allow_none=True)
    return drawn, sys.excepthook, method, os.environ.get("LD_PRELOAD"), sys.path[:num_places]

num_places = len(sys.path)
before_any, variables = host(), dict(os.environ)
settings = EngineSettings(model=sys.argv[1], max_model_len=256, max_loras=1, kv_cache_bytes={KV_CACHE_BYTES})
used, open_used = [], []
for _ in range(3):
    engine = open_engine(settings)
    assert host() == before_any, "what belongs to the program that opens it"
    engine.score(["Label:"] * 4, ["yes", "no"])
    open_used.append(psutil.Process().memory_info().rss)
    engine.close()
    engine.close()
    assert host() == before_any
    assert dict(os.environ) == variables
    used.append(psutil.Process().memory_info().rss)
try:
    engine.score(["Label:"], ["yes", "no"])
except Exception as error:
    message = str(error)
one, other = (open_engine(settings) for _ in range(2))
before = one.score(["Label:"], ["yes", "no"]).tolist()
other.close()
after = one.score(["Label:"], ["yes", "no"]).tolist()
one.close()
print(json.dumps([open_used, used, message, before, after]))
"""


def test_memory_comes_back_and_other_engines_follow(model: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, model],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    while_open, after, message, alone, beside_a_closed_one = json.loads(done.stdout.splitlines()[-1])
    assert "closed" in message
    assert [*tmp_path.glob("vllm*")] == []
    assert alone == beside_a_closed_one
    weights_bytes = (Path(model) / "model.safetensors").stat().st_size
    assert while_open[0] - after[0] > weights_bytes / 2
    # What an engine leaves behind grows with each; that the kernel takes pages of an idle process back happens once.
    growth = [later - earlier for earlier, later in itertools.pairwise(after)]
    assert min(growth) < weights_bytes / 2, f"each engine left {growth} bytes more behind than the one before"


def test_the_reference_gives_a_gpus_memory_back_too(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    engine = TransformersEngine(EngineSettings(model=tiny_model))
    assert not emptied
    engine.close()
    assert emptied


DROPPED = f"""
import json, os, sys
import psutil
from fourshot.engine.core import EngineSettings
from fourshot.engine.machine.engine_lock import engine_lock
from fourshot.engine.opening import open_engine

def is_open():
    return "VLLM_ENABLE_V1_MULTIPROCESSING" in os.environ

settings = EngineSettings(model=sys.argv[1], max_model_len=256, compile=False, kv_cache_bytes={KV_CACHE_BYTES})
engine = open_engine(settings)
engine.score(["Label:"] * 4, ["yes", "no"])
if not (child := os.fork()):
    del engine
    os._exit(0 if is_open() else 1)
assert os.waitpid(child, 0)[1] == 0, "a fork gives nothing back"
used = [psutil.Process().memory_info().rss]
with engine_lock():
    del engine
    assert is_open(), "whoever is at it is not disturbed"
assert not is_open()
used.append(psutil.Process().memory_info().rss)
kept_to_the_end = open_engine(settings)
print(json.dumps(used))
"""


def test_an_engine_that_nobody_has_any_more_gives_its_memory_back_too(model: str) -> None:
    # An engine of another test may be open in this process: what it has set is not what the script's own one sets.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, model],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    while_open, after = json.loads(done.stdout.splitlines()[-1])
    assert while_open - after > (Path(model) / "model.safetensors").stat().st_size / 2
