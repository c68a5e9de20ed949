"""Every suite is found, says what it is about, and understands what it is asked."""

import pkgutil
import re
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import Annotated, Any, Literal

import msgspec
import pytest

from fourshot.bench import suites as registry
from fourshot.bench.core.options import HIDDEN, POSITIONAL, REPEATED, Positive, read_options
from fourshot.bench.suites import SUITES, load_suite, run_suite
from fourshot.bench.suites.all import ALL, Options, command, run_all
from fourshot.cli import main as cli
from fourshot.engine.errors import InputError


@pytest.mark.parametrize("name", ALL)
def test_every_suite_understands_what_it_is_asked_by_all(name: str) -> None:
    """An unknown option would raise."""
    words = command(name, Options(data=Path("/nowhere"), out=Path("/nowhere/out"), model="a-model"))
    suite, _ = load_suite(name)
    options: Any = read_options(suite.options, words[words.index(name) + 1 :], name)
    assert (options.out, options.model) == (Path(f"/nowhere/out/{name}.json"), "a-model")


def test_all_runs_suites_in_its_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`breakeven` reads what `latency` writes."""
    ran: list[str] = []

    def run(words: list[str]) -> CompletedProcess[str]:
        ran.append(words[words.index("bench") + 1])
        return CompletedProcess(words, 0)

    monkeypatch.setattr("fourshot.bench.suites.all.subprocess.run", run)
    for task in ("sst2", "trec", "ag_news"):
        (tmp_path / task).mkdir()
    assert run_all(Options(data=tmp_path, out=tmp_path / "out", suites=("breakeven", "latency"))) == 0
    assert ran == ["latency", "breakeven"]


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_options_and_says_what_it_is_about(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_suite(name, ["--help"])
    assert end.value.code == 0
    assert "options:" in capsys.readouterr().out


def test_every_module_of_suites_is_listed() -> None:
    modules = {module.name.replace("_", "-") for module in pkgutil.iter_modules(registry.__path__)}
    assert modules == set(SUITES)


ARROWS = {"throughput": {"filter"}, "corpus_real": {"corpus_kills"}, "noise": {"compare"}}  # `docs` draws from all


def test_a_suite_stands_on_the_core_and_not_on_other_suites() -> None:
    """Each is a wing of its own, so that one can be read, and taken away, without the others."""
    (folder,) = map(Path, registry.__path__)
    needs: dict[str, set[str]] = {}
    for file in folder.glob("*/**/*.py"):
        needs.setdefault(file.relative_to(folder).parts[0], set()).update(imported_suites(file))
    for file in folder.glob("[!_]*.py"):
        needs[file.stem] = imported_suites(file)
    other_suites = {suite: used - {suite} for suite, used in needs.items() if suite != "docs"}
    assert {suite: used for suite, used in other_suites.items() if used} == ARROWS


def imported_suites(file: Path) -> set[str]:
    """Suites that a file imports from."""
    text = file.read_text(encoding="utf-8")
    from_package = re.findall(r"from fourshot\.bench\.suites import (.+)", text)
    return {*re.findall(r"fourshot\.bench\.suites\.(\w+)", text), *(name.split()[0] for name in from_package)}


def test_an_unknown_suite_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="latency"):
        load_suite("latencies")


class Given(msgspec.Struct, frozen=True, kw_only=True):
    task: Annotated[str, POSITIONAL, "a task"] = "trec"
    data: Annotated[Path, "a folder"]
    repeats: Annotated[Positive, "100 % of them"] = 3
    sizes: tuple[int, ...] = (1, 2)
    names: Annotated[tuple[str, ...] | None, "names"] = None
    kinds: tuple[Literal["annotate", "generate"], ...] = ()
    set: Annotated[tuple[str, ...], REPEATED, "KEY=VALUE"] = ()
    no_http: bool = False
    secret: Annotated[float, HIDDEN] = 0.0


def test_options_are_read_as_they_are_declared() -> None:
    words = "sst2 --data here --repeats 5 --sizes 3,4 5 --set a=1,2 --set b=3 --no-http --secret 0.5 --names x y"
    options = read_options(Given, words.split(), "bench")
    assert options == Given(
        task="sst2",
        data=Path("here"),
        repeats=5,
        sizes=(3, 4, 5),
        names=("x", "y"),
        set=("a=1,2", "b=3"),
        no_http=True,
        secret=0.5,
    )
    assert read_options(Given, ["--data", "here"], "bench") == Given(data=Path("here"))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "--data"),
        (["--data", "x", "--repeats", "0"], "--repeats 0: expected `int` >= 1"),
        (["--data", "x", "--sizes", "1", "b"], "--sizes 1 b: expected `int`"),
        (["--data", "x", "--kinds", "z"], "--kinds: got 'z'; allowed are annotate, generate.$"),
        (["--data", "x", "--kinds", "generate,anotate"], "allowed are annotate, generate. Did you mean 'annotate'?"),
        (["--data", "x", "--repeat-often"], "--repeat-often.*--help"),
    ],
)
def test_wrong_options_are_one_line_that_says_what_is_wrong(words: list[str], fault: str) -> None:
    with pytest.raises(InputError, match=fault) as error:
        read_options(Given, words, "fourshot bench x")
    assert "\n" not in str(error.value)


def test_help_hides_what_is_not_for_users(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(Given, ["--help"], "bench", "About it.")
    shown = capsys.readouterr().out
    assert "--repeats" in shown and "100 % of them (default: 3)" in shown and "--secret" not in shown


def test_a_suite_is_measured_written_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a new suite has to define, and what it gets for it."""
    from fourshot.bench.core.options import Out
    from fourshot.bench.core.parts import Page, Section, TablePart, at_least
    from fourshot.bench.core.results import FinishedPieces, read_result
    from fourshot.bench.core.suite import Suite

    class Toy(msgspec.Struct, frozen=True, kw_only=True):
        out: Out
        repeats: Positive = 2

    numbers = []

    def measure(options: Toy, done: FinishedPieces) -> dict[str, Any]:
        for number in range(options.repeats):
            if str(number) not in done.pieces:
                numbers.append(number)
                done.add(str(number), {"rate": 2.0 + number})
        rates = [done.pieces[str(number)]["rate"] for number in range(options.repeats)]
        return {"rates": rates, "targets": [at_least("rate", "times", max(rates), 5)]}

    def report(result: Any) -> list[Any]:
        return [TablePart(["repeat", "rate"], list(enumerate(result["rates"])))]

    module = ModuleType("toy", "A toy.")
    module.SUITE = Suite(  # type: ignore[attr-defined]
        options=Toy,
        settings=lambda options: {"repeats": options.repeats},
        measure=measure,
        report=report,
        page=lambda result: Page("A toy", [Section("Rates", report(result))]),
    )
    monkeypatch.setitem(registry.SUITES, "toy", "A toy")
    monkeypatch.setattr(registry, "import_module", lambda name: module)
    out = tmp_path / "new" / "toy.json"
    assert run_suite("toy", ["--out", str(out)]) == 0
    assert "| 1 | 3.0 |" in (shown := capsys.readouterr().out) and "rate: target 5, measured 3 times (missed)" in shown
    result = read_result(out, "toy")
    assert (result["settings"], result["schema"], result["rates"]) == ({"repeats": 2}, 1, [2.0, 3.0])
    assert result["hardware"]["cores"] and result["versions"]["python"]
    page = out.with_suffix(".html").read_text()
    assert "missed" in page and "Where the numbers come from" in page
    assert run_suite("toy", ["--out", str(out)]) == 0
    assert numbers == [0, 1], "what was measured is not measured again"
    with pytest.raises(InputError, match="repeats"):
        run_suite("toy", ["--out", str(out), "--repeats", "3"])
    with pytest.raises(InputError, match="--out is empty"):
        run_suite("toy", ["--out", ""])


def test_a_result_goes_on_with_the_data_it_was_begun_with_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else one file has numbers of two data sets."""
    from fourshot.bench.core.options import Out, TaskFolders
    from fourshot.bench.core.results import DATA
    from fourshot.bench.core.suite import Suite

    class Toy(msgspec.Struct, frozen=True, kw_only=True):
        out: Out
        data: TaskFolders | None = None
        tasks: tuple[str, ...] = ("trec",)

    module = ModuleType("toy", "A toy.")
    module.SUITE = Suite(  # type: ignore[attr-defined]
        options=Toy,
        settings=lambda options: {},
        measure=lambda options, done: {"first": done.add_once("first", dict)},
    )
    monkeypatch.setitem(registry.SUITES, "toy", "A toy")
    monkeypatch.setattr(registry, "import_module", lambda name: module)
    file = tmp_path / "data" / "trec" / "test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("here\n")
    words = ["--out", str(tmp_path / "toy.json"), "--data", str(tmp_path / "data")]
    assert run_suite("toy", words) == run_suite("toy", words) == 0
    for other_words, content in ((words, "gone\n"), (words[:2], "here\n")):
        file.write_text(content)
        with pytest.raises(InputError, match=r"with other settings \(content of --data\)"):
            run_suite("toy", other_words)
    assert run_suite("toy", words) == 0
    rows = tmp_path / "toy.rows.jsonl"
    first, *pieces = rows.read_text().splitlines(keepends=True)
    assert DATA in first and "does not say" not in capsys.readouterr().err
    rows.write_text("".join(['{"settings":{}}\n', *pieces]))  # of an earlier version
    assert run_suite("toy", words) == 0
    assert "does not say what data it was measured on" in capsys.readouterr().err


def test_the_command_ends_with_two_for_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "breakeven"]) == 2
    assert "--latency" in capsys.readouterr().err
