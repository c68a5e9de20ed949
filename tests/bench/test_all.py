"""`fourshot bench all` asks every suite for what its command line takes."""

from importlib import import_module
from pathlib import Path

import pytest

from fourshot.bench.core.options import read_options
from fourshot.bench.suites import SUITES as BENCH_SUITES
from fourshot.bench.suites.all import SUITES, command


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_understands_what_it_is_asked(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options are parsed by the suite's own parser; an unknown one would end it with code 2."""
    given = command(suite, Path("/nowhere"), Path("/nowhere/out"), None)
    words = given[given.index(suite) + 1 :]
    module = import_module(f"fourshot.bench.suites.{suite}")
    if hasattr(module, "SUITE"):
        assert read_options(module.SUITE.options, words, suite).out == Path(f"/nowhere/out/{suite}.json")
        return
    monkeypatch.setattr("sys.argv", [suite, *words, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0


@pytest.mark.parametrize("suite", BENCH_SUITES)
def test_every_suite_that_is_offered_is_there(suite: str) -> None:
    module = import_module(f"fourshot.bench.suites.{suite.replace('-', '_')}")
    assert hasattr(module, "SUITE") or callable(module.main)
