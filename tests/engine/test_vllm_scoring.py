"""A build of vLLM that cannot read label probabilities is refused before any work, with what to do instead."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import msgspec
import pytest

from fourshot.engine import vllm_scoring, vllm_start
from fourshot.engine.core import EngineSettings
from fourshot.engine.doctor import examine
from fourshot.engine.errors import FourshotError
from fourshot.engine.vllm_scoring import check_scoring
from fourshot.engine.vllm_seams import in_process


class OldSamplingParams(msgspec.Struct):
    """As vLLM 0.19 has it, as far as label probabilities go."""

    max_tokens: int = 16
    logprobs: int | None = None


def test_a_vllm_without_the_log_probabilities_of_given_tokens_is_refused() -> None:
    from vllm import SamplingParams

    check_scoring(SamplingParams)
    with pytest.raises(FourshotError, match=r"cannot return label probabilities.*BUILD=gpu.*install\.md, V100"):
        check_scoring(OldSamplingParams)


def test_an_engine_stops_before_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.SamplingParams", OldSamplingParams)
    monkeypatch.setattr(in_process, "opened", lambda *_: pytest.fail("an engine was opened"))
    with pytest.raises(FourshotError, match="Only training works here"):
        vllm_start.start(EngineSettings(model="m"))


def test_the_doctor_says_so_without_loading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sampling_params.py").write_text("class SamplingParams:\n    logprobs: int | None = None\n")
    old = ModuleSpec("vllm", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(vllm_scoring, "find_spec", lambda _: old)
    (finding,) = (finding for finding in examine() if finding.name == "label scores")
    assert finding.state == "fail" and "make env BUILD=cpu" in finding.remedy
    monkeypatch.undo()
    (finding,) = (finding for finding in examine() if finding.name == "label scores")
    assert finding.state == "ok"
