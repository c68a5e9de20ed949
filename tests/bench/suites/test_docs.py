"""The numbers and the picture in README.md and docs/ are those of the results that lie in bench/results."""

import shutil
from pathlib import Path

import pytest

from fourshot.bench.core.comparisons import load_comparisons
from fourshot.bench.core.parts import fill
from fourshot.bench.core.results import RESULTS
from fourshot.bench.suites import docs
from fourshot.bench.suites.docs.accuracy_picture import THEMES, accuracy_bars, description, draw_pictures, picture
from fourshot.engine.errors import InputError

ROOT = Path(__file__).parents[3]
MEASURED = docs.ResultFolder(RESULTS, "*")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [path for path in PAGES if ":start -->" in path.read_text("utf-8")]
REDRAW = "run: fourshot bench docs --write README.md docs/*.md"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_says_what_was_measured(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert fill(text, docs.draw_blocks(MEASURED, docs.marked_blocks(text), required=True)) == text, REDRAW


def test_every_block_stands_in_a_document() -> None:
    assert {name for path in DOCUMENTS for name in docs.marked_blocks(path.read_text("utf-8"))} == set(docs.BLOCKS)


def test_the_readme_begins_with_the_number() -> None:
    readme = fill((ROOT / "README.md").read_text("utf-8"), {"number": "THE NUMBER", "accuracy": "THE TABLE"})
    assert readme.index("THE NUMBER") < readme.index("make demo") < readme.index("THE TABLE")


def test_the_picture_shows_the_numbers_of_today() -> None:
    words = description(accuracy_bars(load_comparisons(RESULTS)))
    for theme in THEMES:
        drawn = (ROOT / "docs" / f"accuracy-{theme}.svg").read_text("utf-8")
        assert words in drawn, REDRAW
        assert len(drawn) < 60_000


def test_the_picture_has_its_numbers_and_is_the_same_each_time(tmp_path: Path) -> None:
    bars = accuracy_bars(load_comparisons(RESULTS))
    fourshot_bars = {bar.group: bar for bar in bars if bar.method == "fourshot"}
    assert list(fourshot_bars) == ["SST-2", "TREC", "AG News", "Mean"] and len(bars) == 4 * 5
    # Means over tasks of the three draws: 76.2, 77.8 and 80.5.
    assert fourshot_bars["Mean"].accuracy == pytest.approx(78.2, abs=0.1)
    assert fourshot_bars["Mean"].deviation == pytest.approx(2.2, abs=0.1)
    assert next(bar for bar in bars if bar.method == "Zero-shot, bias-corrected").deviation is None, (
        "nothing is drawn there"
    )
    light, dark = (path.read_bytes() for path in draw_pictures(load_comparisons(RESULTS), tmp_path))
    assert light == picture(bars, "light") and dark != light
    for word in (b">SST-2<", b">Mean<", b">LoRA on 25 real<", b">test texts classified correctly, %<"):
        assert word in light


def test_a_document_is_filled_between_its_markers_and_filling_again_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "README.md"
    document.write_text(
        "# name\n\n<!-- number:start -->\nnone yet\n<!-- number:end -->\n\ntext\n\n"
        "<!-- picture:start -->\nnone yet\n<!-- picture:end -->\n\n"
        "<!-- noise:start -->\nkept\n<!-- noise:end -->\nend\n"
    )
    for file in RESULTS.glob("compare-*-*.json"):
        shutil.copy(file, tmp_path)
    options = docs.Options(results=tmp_path, write=(document,))
    docs.run(options)
    filled = document.read_text()
    assert (
        "none yet" not in filled
        and filled.startswith("# name\n")
        and filled.endswith("\nkept\n<!-- noise:end -->\nend\n")
    )
    assert "on the test texts of SST-2, TREC and AG" in filled and "docs/accuracy-light.svg" in filled
    assert (tmp_path / "docs" / "accuracy-dark.svg").is_file()
    assert "noise was not measured" in capsys.readouterr().err
    docs.run(options)
    assert document.read_text() == filled
    with pytest.raises(InputError, match="no result noise"):
        docs.run(docs.Options(results=tmp_path, write=(document,), only=("noise",)))


def test_blocks_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    docs.run(docs.Options(only=("wordings",)))
    assert capsys.readouterr().out.startswith("|  | SST-2 | TREC | AG News | mean |")
    with pytest.raises(InputError, match="no block weather"):
        docs.run(docs.Options(only=("weather",)))
    with pytest.raises(InputError, match="no block weather"):
        docs.marked_blocks("<!-- weather:start -->")


@pytest.mark.parametrize("document", ["", "<!-- results:end -->", "<!-- results:end --> <!-- results:start -->"])
def test_a_document_without_markers_is_left_alone(document: str) -> None:
    with pytest.raises(InputError, match="results:start"):
        fill(document, {"results": "table"})
