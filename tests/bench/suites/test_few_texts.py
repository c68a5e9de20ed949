"""Test files that are too small for a suite: told before anything is made, with what would fit."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.bench.core.results import FinishedPieces
from fourshot.bench.suites.adapters import SUITE as ADAPTERS
from fourshot.bench.suites.against_vllm import SUITE as AGAINST_VLLM
from fourshot.bench.suites.latency import SUITE
from fourshot.bench.suites.latency.plan import LatencySettings, fewer_requests
from fourshot.engine.errors import InputError


@pytest.mark.parametrize(
    ("suite", "more", "needed", "fewer"),
    [
        (SUITE, {"shape": "tiny", "repeats": 5}, 483, '{"requests": {"1": 12, "0": 95}, "slow_requests": {}}, for '),
        (ADAPTERS, {"most": 8}, 120, "or measure fewer adapters: --most 7"),
        (AGAINST_VLLM, {"requests": 9}, 9, "or fewer --requests"),
    ],
)
def test_too_few_texts_are_told_before_anything_is_measured(
    suite: Any, more: dict[str, Any], needed: int, fewer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is sent twice would be in the cache as a whole."""
    monkeypatch.setattr("fourshot.serving.testing.adapters.make_adapter", None)  # which takes a minute
    monkeypatch.delattr("fourshot.bench.core.processes.ChildProcess")  # what measures has a process of its own
    (tmp_path / "sst2").mkdir()
    for split in ("train", "test"):
        lines = [json.dumps({"text": f"text {n}", "label": ("negative", "positive")[n % 2]}) for n in range(needed - 1)]
        (tmp_path / "sst2" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    tasks = {"tasks": ("sst2",)} if suite is SUITE else {}
    options = suite.options(data=tmp_path, out=tmp_path / "out.json", **tasks, **more)
    with pytest.raises(InputError, match=f"{needed - 1} different test texts; {needed} are needed") as error:
        suite.measure(options, FinishedPieces(None, {}))
    assert fewer in str(error.value)


def test_the_settings_named_for_few_texts_need_no_more_than_those() -> None:
    for repeats, num_texts in ((1, 40), (3, 40), (3, 6)):
        remedy = fewer_requests(LatencySettings(repeats=repeats), num_texts)
        named = msgspec.json.decode(remedy[remedy.index("{") : remedy.rindex("}") + 1], type=LatencySettings)
        assert msgspec.structs.replace(named, repeats=repeats).texts_needed <= num_texts
    assert fewer_requests(LatencySettings(), 5) == ""
