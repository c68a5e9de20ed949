"""Every seam relies on what this vLLM has; what another vLLM lacks leaves the seam out, or stops, with one line."""

import ast
import inspect
import logging
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fourshot.engine.vllm_seams
from fourshot.engine.errors import FourshotError
from fourshot.engine.vllm_seams import contract, in_process, lora_kernels, lora_loads, lora_pins
from fourshot.engine.vllm_seams.contract import Seam, faults

pytest.importorskip("vllm")

WITHOUT_A_SEAM = {
    "contract": "defines what a seam is",
    "grouped_lora": "its contract is that of lora_kernels, which puts it in",
    "imports": "leaves out what is not there; nothing is replaced",
    "plugin": "applies four of the others",
}


def seam_modules() -> list[ModuleType]:
    package = fourshot.engine.vllm_seams
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    assert set(WITHOUT_A_SEAM) <= set(names)
    return [import_module(f"{package.__name__}.{name}") for name in names if name not in WITHOUT_A_SEAM]


SEAMS = {module.__name__.rpartition(".")[2]: module.SEAM for module in seam_modules()}  # fails where one has none


def seam(*relies_on: str) -> Seam:
    return Seam(name="a seam", written_for=("0.26", "0.32"), relies_on=relies_on, without="Something is lost.")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """By us, not by the libraries that a contract imports."""
    return [record for record in caplog.records if record.name == "fourshot.engine"]


@pytest.fixture(autouse=True)
def nothing_said_yet() -> Iterator[None]:
    contract._holds.cache_clear()
    yield
    contract._holds.cache_clear()  # what a test renamed is there for the next ones


@pytest.mark.parametrize("name", SEAMS)
def test_this_vllm_keeps_the_contract(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert faults(SEAMS[name]) == []
    assert SEAMS[name].holds()
    assert not warnings_of(caplog), "every seam is written for the version that is tested"


def rename(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make vLLM one in which what ``reference`` names is called something else."""
    function, _, attribute = reference.partition(" sets ")
    module, _, path = function.partition("(")[0].partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    if attribute:
        monkeypatch.setattr(owner, name, lambda *_: None)
        return
    for place in getattr(owner, "__mro__", (owner,)):
        if name in vars(place):
            monkeypatch.delattr(place, name)


@pytest.mark.parametrize(("name", "reference"), [(name, part) for name in SEAMS for part in SEAMS[name].relies_on])
def test_whatever_is_renamed_is_noticed_and_the_log_says_what_is_lost(
    name: str, reference: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rename(reference, monkeypatch)
    assert any(fault.startswith(reference.partition(" sets ")[0].partition("(")[0]) for fault in faults(SEAMS[name]))
    assert not SEAMS[name].holds()
    (record,) = warnings_of(caplog)
    assert f"{SEAMS[name].name} is left out: " in record.getMessage()
    assert record.getMessage().endswith(SEAMS[name].without)


def test_attributes_of_vllms_objects_are_read_in_seams_alone() -> None:
    names = {part.partition(" sets ")[2] for seam in SEAMS.values() for part in seam.relies_on} - {""}
    assert {"vllm_config", "pinned_items"} <= names
    root = Path(contract.__file__).resolve().parents[2]
    reads = [
        f"{file.relative_to(root)}:{node.lineno} {node.attr}"
        for room in ("engine", "serving")
        for file in (root / room).rglob("*.py")
        if "vllm_seams" not in file.parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in names
    ]
    assert reads == []


def test_pins_are_left_alone_where_an_attribute_of_the_slots_is_renamed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

    apply_adapters = inspect.unwrap(LRUCacheWorkerLoRAManager._apply_adapters)
    monkeypatch.setattr(LRUCacheWorkerLoRAManager, "_apply_adapters", apply_adapters)
    rename("vllm.utils.cache:LRUCache.__init__ sets pinned_items", monkeypatch)
    assert not lora_pins.register()
    assert LRUCacheWorkerLoRAManager._apply_adapters is apply_adapters
    (record,) = warnings_of(caplog)
    assert "vllm.utils.cache:LRUCache.__init__ sets no pinned_items" in record.getMessage()
    assert "With --hot, a step with as many other adapters" in record.getMessage()


def test_a_vllm_that_lacks_something_goes_without_the_seam_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    changed = seam(
        "json:dumps(obj, indent)",
        "json:JSONEncoder.no_such",
        "no.such.module:f",
        "json:JSONEncoder.__init__ sets no_such",
        "json:JSONEncoder.__init__ sets skipkeys",
        "json:loads",
    )
    missing = faults(changed)
    assert missing[0].startswith("json:dumps takes (obj, skipkeys,") and missing[0].endswith("expected (obj, indent)")
    assert missing[1:] == [
        "json:JSONEncoder.no_such is missing",
        "no.such.module:f is missing",
        "json:JSONEncoder.__init__ sets no no_such",
    ]
    assert not changed.holds() and not changed.holds()
    (record,) = warnings_of(caplog)
    assert "a seam is left out" in record.getMessage() and "Something is lost." in record.getMessage()
    with pytest.raises(
        FourshotError, match=r"vLLM \S+ is not supported .*no_such is missing.*Install vLLM 0\.26 or 0\.32"
    ):
        changed.require()


def test_another_version_is_said_and_used_where_all_is_there(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "vllm_version", lambda: "0.99.0")
    assert seam("json:loads").holds() and seam("json:loads").holds()
    (record,) = warnings_of(caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("vLLM 0.99.0: a seam was tested with 0.26 and 0.32 only")


def test_a_seam_claims_only_the_releases_that_it_was_written_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "vllm_version", lambda: "0.26.0")
    assert SEAMS["lora_pins"].holds() and not warnings_of(caplog)
    assert SEAMS["cpu_eager"].holds()
    (record,) = warnings_of(caplog)
    assert "was tested with 0.32 only" in record.getMessage()


def test_an_engine_ends_without_what_its_vllm_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may stay taken then; whoever closes it does not fail."""
    monkeypatch.setattr(in_process, "SEAM", seam("json:no_such"))
    monkeypatch.setattr(in_process, "_open_engines", [2])
    engines: list[Any] = [object()]  # it has no engine core
    in_process.stop(engines)
    assert not engines


def test_without_the_count_of_loads_our_arithmetic_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("replaced on the CPU build only")
    before = current_platform.get_punica_wrapper()
    monkeypatch.setattr(lora_loads, "SEAM", seam("json:no_such"))
    try:
        assert not lora_kernels.apply(enabled=True)
        assert current_platform.get_punica_wrapper() != lora_kernels.WRAPPER
    finally:
        monkeypatch.undo()
        lora_kernels.apply(enabled=before == lora_kernels.WRAPPER)
