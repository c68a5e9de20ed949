import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from markupsafe import Markup

import fourshot.pipeline.report
from fourshot.pipeline.report import varied
from fourshot.pipeline.report.candidates import pick_examples
from fourshot.pipeline.report.data import Certainty, MethodRow, ReportData, method_row
from fourshot.pipeline.report.text import REASON_NAMES, duration, flatten
from fourshot.pipeline.report.write import write_report
from fourshot.pipeline.selective import coverage_curve
from fourshot.pipeline.synthesis.types import Reason
from tests.pipeline.report.full_report import TASK, full_data, judged, scores

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """The elements of a page in order, with what was opened and not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_report(full_data(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(written: tuple[Path, Path]) -> str:
    return written[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def markdown(written: tuple[Path, Path]) -> str:
    return written[1].read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "image",
    }
    assert not [attrs for _, attrs in page.elements if attrs.keys() & {"src", "href", "srcset", "onload"}]
    used = [attrs for tag, attrs in page.elements if "xlink:href" in attrs or tag == "use"]
    assert all((attrs["xlink:href"] or "").startswith("#") for attrs in used), "a mark that the figure itself defines"
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    policy = next(
        attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'")
    assert len(html.encode()) < 1_500_000


def test_texts_of_a_model_are_shown_and_never_become_markup(html: str, markdown: str) -> None:
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    body = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert "\\<script\\>" in body and "<script" not in body.replace("\\<", "")


def test_a_text_with_pipes_and_line_breaks_stays_in_its_markdown_cell(markdown: str) -> None:
    rows = [line for line in markdown.splitlines() if line.startswith("| ") and "alert" in line and "too short" in line]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 5


def test_tables_have_headers_and_plots_have_words(html: str) -> None:
    elements = Page(html).elements
    assert all("scope" in attrs for tag, attrs in elements if tag == "th")
    pictures = [attrs for tag, attrs in elements if tag == "svg" or attrs.get("role") == "img"]
    assert len(pictures) > 6 and all(attrs.get("aria-label") for attrs in pictures)
    assert 'aria-label="fourshot: accuracy 83.9 %, 95 % interval' in html


def test_both_files_tell_the_same_numbers(html: str, markdown: str) -> None:
    for number in (
        "83.9",
        "56.5",
        "84.2, 83.6",
        "40.0 ms",
        "1 min 33 s",
        "1 h 02 min",
        "0.71",
        "sha256:ab12",
        "0.32.0",
    ):
        assert number in html and number in markdown, number
    assert "of 200 test texts classified correctly by fourshot, from 12 labelled examples and 3 synthetic ones" in html
    assert "In context: 56.5\u00a0%, 27.4 points lower" in html


def test_texts_without_labels_and_what_a_person_said_are_told(html: str, markdown: str) -> None:
    for words in (
        "Of 1,000 texts without labels, 930 were kept with labels from the annotators, and 20 with",
        "with labels from a person. Left out: 50 near duplicate.",
        "A person reviewed the shots and the texts: 5 dropped, 3 relabelled.",
    ):
        assert words in html and words in markdown.replace("\\", "")


def test_how_far_a_probability_is_to_be_trusted_is_told(html: str, markdown: str, tmp_path: Path) -> None:
    for page in (html, markdown):
        for wording in ("0.040", "(0.210)", "92.5", "12 shots that adapters were trained without", "from 4 texts"):
            assert wording in page, wording
        assert "22.5 % of 40 texts of other subjects" in page
    assert "| 75.0 | 0.700 | 100.0 |" in markdown
    estimate = Certainty(coverage=coverage_curve([0.9, 0.8], [0.9, 0.8], "held-out texts"))
    _, file = write_report(msgspec.structs.replace(full_data(), certainty=estimate), tmp_path)
    assert "Probabilities are not calibrated" in file.read_text()
    assert "from 2 texts (held-out texts, without labels: estimated from the probabilities)" in file.read_text()


def test_size_cost_and_what_the_teacher_was_unsure_of_are_told(html: str, markdown: str) -> None:
    assert "22,713,216" in html and "- parameters: 22,713,216" in markdown
    for page in (html, markdown):
        assert page.index("What the teacher was least sure of") < page.index("so so")
    assert "| good | 0.41 | bad |" in markdown and "| bad | 0.44 | mixed | so so |" in markdown


def test_how_much_of_long_texts_is_not_read_is_told(html: str, markdown: str) -> None:
    for report in (html, markdown):
        assert "test: 1 of 90 texts has more than 300 words." in report


def test_a_forecast_stands_beside_what_each_stage_took(html: str, markdown: str) -> None:
    assert "Forecast 67 min, took 83 min (25% more)" in html and "forecast 67 min, took 83 min (25% more)" in markdown
    assert "| generate | 640 | 50,000 | 1 min 40 s | 1 min 50 s |" in markdown


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    paths = write_report(ReportData(title="Nothing yet", task=TASK), tmp_path / "new" / "folder")
    for path in paths:
        content = path.read_text(encoding="utf-8")
        for part in (
            "Nothing was measured.",
            "No scores",
            "No synthetic texts",
            "No loss",
            "No times",
            "No settings",
        ):
            assert part in content, (path.name, part)


@pytest.mark.parametrize("part", [name for name in ReportData.__struct_fields__ if name not in ("title", "task")])
def test_any_single_part_may_be_missing(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not part.endswith("_texts"):  # drawing is what takes time, and these parts have no share in it
        monkeypatch.setattr(varied, "word_cloud", lambda *_: Markup("<svg></svg>"))
    default = getattr(ReportData(title="t", task=TASK), part)
    html_path, _ = write_report(msgspec.structs.replace(full_data(), **{part: default}), tmp_path)
    assert Page(html_path.read_text(encoding="utf-8")).open == []


def test_a_single_run_has_no_deviation_and_says_so(tmp_path: Path) -> None:
    row = MethodRow(method="lora", display_name="LoRA", accuracy=0.5)
    html_path, _ = write_report(ReportData(title="t", task=TASK, methods=(row,)), tmp_path)
    html = html_path.read_text(encoding="utf-8")
    assert "One seed per method" in html and "±" not in html and "50.0\u00a0%" in html


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_extreme_numbers_are_drawn(accuracy: float, tmp_path: Path) -> None:
    data = ReportData(
        title="t",
        task=TASK,
        methods=(method_row("lora", "LoRA", [scores(accuracy)]),),
        losses={"diverged": ((0, 2.0), (1, float("nan"))), "one step": ((0, 0.0),), "nothing": ()},
        real_texts={"good": ("?!", "")},
        stage_seconds={"load": 0.0},
    )
    html_path, _ = write_report(data, tmp_path)
    html = html_path.read_text(encoding="utf-8")
    assert f"{100 * accuracy:.1f}\u00a0%" in html and "diverged: nan" in html
    assert 'points="nan' not in html and ",nan" not in html


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    html_path, _ = write_report(ReportData(title="old", task=TASK), tmp_path)
    before = html_path.read_text(encoding="utf-8")
    broken = ReportData(title="new", task=TASK, reason_counts={"good": {"bored": 1}})
    with pytest.raises(ValueError, match=r"unknown reasons \['bored'\]; allowed are \['kept'"):
        write_report(broken, tmp_path)
    assert html_path.read_text(encoding="utf-8") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_a_headline_about_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="headline_method is 'lora'; the rows are"):
        write_report(msgspec.structs.replace(full_data(), headline_method="lora"), tmp_path)


def test_the_same_data_give_the_same_bytes(written: tuple[Path, Path], tmp_path: Path) -> None:
    for first, second in zip(written, write_report(full_data(), tmp_path), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_every_reason_has_a_name_and_a_colour() -> None:
    assert set(REASON_NAMES) == set(get_args(Reason))
    style = (Path(fourshot.pipeline.report.__file__).parent / "report.css").read_text(encoding="utf-8")
    assert not [reason for reason in REASON_NAMES if f".r-{reason} {{ --r: var(" not in style]


def test_examples_are_spread_over_classes_and_reasons_and_repeatable() -> None:
    pool = [judged(i, "good", "label_disagrees") for i in range(500)]
    pool += [
        judged(600, "bad", "too_short"),
        judged(601, "mixed", "copies_shot"),
        judged(602, "bad", "label_disagrees"),
    ]
    picked = pick_examples(pool, 12, seed=3)
    assert len(picked) == 12
    assert {verdict.reason for _, verdict in picked} == {"label_disagrees", "too_short", "copies_shot"}
    assert {candidate.label for candidate, _ in picked} == {"good", "bad", "mixed"}
    assert picked == pick_examples(pool, 12, seed=3)
    assert picked != pick_examples(pool, 12, seed=4)
    assert len(pick_examples(pool[:5], 12, seed=3)) == 5 and pick_examples([], 12, seed=3) == []


def test_seeds_are_summed_up_without_counting_the_test_set_twice() -> None:
    row = method_row("lora", "LoRA", [scores(0.8), scores(0.9)])
    assert row.accuracy == pytest.approx(0.85)
    assert row.accuracy_deviation == pytest.approx(0.0707, abs=1e-4)
    assert row.interval == pytest.approx(method_row("lora", "LoRA", [scores(0.85)]).interval)
    assert (row.seconds_per_example, row.prompt_tokens_per_example) == (0.04, 42.0)
    assert method_row("lora", "LoRA", [scores(0.8)]).accuracy_deviation is None
    with pytest.raises(ValueError, match="no scores"):
        method_row("lora", "LoRA", [])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0034, "3.4 ms"),
        (12, "12.0 s"),
        (245, "4 min 05 s"),
        (3599.9, "1 h 00 min"),
        (3721, "1 h 02 min"),
        (None, "\u2013"),
    ],
)
def test_times_are_told_in_a_unit_that_suits(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_nested_settings_become_dotted_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [2, 3]}, "e": {}}) == {"a.b.c": "1", "a.d": "2, 3", "e": "{}"}


def test_the_value_types_load_without_numpy_or_templates() -> None:
    code = "import sys, fourshot.pipeline.report\n"
    code += "print(sorted({'numpy', 'jinja2', 'matplotlib', 'torch'} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_example_of_the_document_makes_a_report(tmp_path: Path) -> None:
    document = (Path(__file__).parents[3] / "docs" / "report.md").read_text(encoding="utf-8")
    given = {"scores_per_seed": [scores(0.8)], "task": TASK, "run_folder": tmp_path}
    exec(document.split("```python\n")[1].split("```")[0], given)
    assert (tmp_path / "report.html").is_file() and (tmp_path / "report.md").is_file()
