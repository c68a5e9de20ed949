"""Free memory: the machine's, less where a container allows less; on a GPU with what torch has kept for itself."""

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fourshot.engine.machine import memory

GIB = 1 << 30


def test_without_a_container_it_is_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    assert memory.free_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize(
    ("limit", "free"), [(f"{4 * GIB}", 2 * GIB), ("max", 100 * GIB), (f"{2 * GIB}", 0), ("broken", 100 * GIB)]
)
def test_a_container_has_what_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("V", (), {"available": 100 * GIB}))
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {2 * GIB}\ninactive_file {GIB}\n")
    assert memory.free_bytes() == free


def test_what_torch_keeps_on_a_gpu_can_still_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        mem_get_info=lambda: (5 * GIB, 80 * GIB), memory_reserved=lambda: 10 * GIB, memory_allocated=lambda: 3 * GIB
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert memory.free_bytes("cuda") == 12 * GIB
