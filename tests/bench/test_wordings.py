"""What the instruction is worth is drawn from result files alone."""

from pathlib import Path

import msgspec
import pytest

from fourshot.bench.suites import tables, wordings
from fourshot.engine.errors import InputError
from fourshot.pipeline.report.data import method_row
from fourshot.pipeline.runs.run_folder import RunFolder
from tests.bench.test_tables import comparison, scores

METHODS = {
    "lora": (0.7, 0.8),
    "lora_bare": (0.7, 0.8),
    "fourshot": (0.8, 0.82),
    "fourshot_bare": (0.79, 0.79),
    "lora25": (0.9, 0.9),
    "lora25_bare": (0.9, 0.9),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of all tasks: 40 prompt tokens with the instruction, 25 without, 500 in context."""
    for task in tables.TASKS:
        both = comparison(task, METHODS)
        short = method_row("fourshot_bare", "bare", [scores(value, 25) for value in METHODS["fourshot_bare"]])
        rows = [short if row.method == "fourshot_bare" else row for row in both.rows]
        RunFolder(tmp_path).write(f"bare-{task}-cpu2.json", msgspec.structs.replace(both, rows=rows))
        RunFolder(tmp_path).write(f"compare-{task}-cpu2.json", comparison(task, {"icl": (0.6, 0.6)}))
    return tmp_path


def test_the_table_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wordings.main(["--results", str(folder)]) == 0
    rows = {line.split(" | ")[0].strip("| "): line for line in capsys.readouterr().out.splitlines()}
    # The draws lose 1 and 3 points: 2 on average, with a sample standard deviation of 1.4.
    assert rows["fourshot"] == f"| fourshot |{' 81.0, 79.0 (-2.0 ± 1.4) |' * 3} 81.0, 79.0 (-2.0) |"
    assert rows["prompt tokens per text"] == f"| prompt tokens per text |{' 40.0, 25.0 |' * 4}"
    assert rows["in context, times as many"] == f"| in context, times as many |{' 12.5, 20.0 |' * 4}"


def test_a_method_that_was_not_measured_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {method: values for method, values in METHODS.items() if method != "lora_bare"}
    RunFolder(folder).write("bare-trec-cpu2.json", comparison("trec", few))
    assert wordings.main(["--results", str(folder)]) == 2
    assert "lora_bare was not measured on trec" in capsys.readouterr().err


def test_the_documentation_has_its_place(folder: Path) -> None:
    page = Path(wordings.__file__).resolve().parents[2] / "docs" / "training.md"
    written = folder / "training.md"
    written.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    assert wordings.main(["--results", str(folder), "--write", str(written)]) == 0
    assert "12.5, 20.0" in written.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="wordings:start"):
        tables.fill("nothing", {"wordings": "table"})
