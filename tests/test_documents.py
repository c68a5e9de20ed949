"""What holds for every page: short sentences, the field's words, links that lead somewhere, tests that exist."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_WORDS = 30  # of a sentence
MOST_CHARACTERS = 120  # of a line, but for tables and what a program writes
# Words that this project once had for what the field has a name for.
BANNED = re.compile(
    r"\b(book|keeper|played|scene|nouns|told to come back|times what in context|what in context does)\b", re.IGNORECASE
)
FAULTS = ROOT / "docs" / "faults.md"
INPUTS = ROOT / "docs" / "inputs.md"


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """(first line, text) of each paragraph and list item. Code, tables, headings and generated parts are left out."""
    start, lines = 0, list[str]()
    is_code = is_generated = False
    for number, line in enumerate([*page.read_text(encoding="utf-8").splitlines(), ""], start=1):
        is_fence = line.lstrip().startswith("```")
        if re.match(r"<!-- [\w-]+:(start|end) -->", line):
            is_generated = line.endswith(":start -->")
        skipped = is_code or is_fence or is_generated or line.startswith(("    ", "|", "#", "<", "![", "[!["))
        begins = bool(re.match(r"\s*([-*]|\d+\.)\s", line))
        if lines and (skipped or begins or not line.strip()):
            yield start, " ".join(lines)
            lines = []
        if is_fence:
            is_code = not is_code
        if not skipped and line.strip():
            start = start if lines else number
            lines.append(re.sub(r"^\s*([-*]|\d+\.)\s+", "", line).strip())


def sentences(text: str) -> list[str]:
    plain = re.sub(r"`[^`]*`", "code", re.sub(r"\]\([^)]*\)", "]", text))
    return re.split(r"(?<=[.!?])[*_)\"']*\s+(?=[\[*_(\"']*[A-Z0-9c])", plain)


def long_sentences(page: Path) -> list[str]:
    return [
        f"{page.name}:{line}: {len(words)} words: {' '.join(words[:8])} ..."
        for line, text in prose(page)
        for sentence in sentences(text)
        if len(words := re.findall(r"[\w%][\w'.,/%-]*", sentence)) > MOST_WORDS
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short(page: Path) -> None:
    assert long_sentences(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page: Path) -> None:
    long = [
        f"{page.name}:{number}: {len(line)} characters"
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > MOST_CHARACTERS and not line.startswith(("|", "<", "**", "!["))
    ]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_field_s_words_are_used(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [f"{page.name}:{n}: {m[0]}" for n, line in enumerate(lines, 1) for m in BANNED.finditer(line)] == []


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"\s]+)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = page if not path else (page.parent / path)
        if not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = re.findall(
        r"`((?:engine|training|pipeline|serving|bench|tests|docs|scripts|fourshot)/[\w/.-]+)", page.read_text()
    )
    assert [name for name in named if not (ROOT / name.rstrip("/.")).exists()] == []


def promises(page: Path) -> list[tuple[str, list[str]]]:
    """(fault or kind, tests that hold what is promised for it) of each row of the tables of ``page``."""
    rows = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not set(cells[0]) <= set("- :") and cells[0] not in ("fault", "kind"):
            rows.append((cells[0], re.findall(r"`(tests/[\w/]+\.py::\w+)`", cells[-1])))
    return rows


@pytest.mark.parametrize("page", [FAULTS, INPUTS], ids=lambda page: page.stem)
def test_every_promise_about_faults_and_inputs_names_tests_that_exist(page: Path) -> None:
    rows = promises(page)
    assert len(rows) > 20
    missing = [f"{fault}: names no test" for fault, tests in rows if not tests]
    for fault, tests in rows:
        for test in tests:
            file, _, name = test.partition("::")
            if name not in _collected(ROOT / file):
                missing.append(f"{fault}: pytest collects no {test}")
    assert missing == []


def test_every_test_of_a_kind_of_input_stands_in_the_table() -> None:
    files = sorted((ROOT / "tests" / "cases").glob("test_*.py"))
    tests = {f"tests/cases/{file.name}::{name}" for file in files for name in _collected(file)}
    assert tests and tests - {test for _, named in promises(INPUTS) for test in named} == set()


def _collected(file: Path) -> set[str]:
    """The tests that pytest collects from ``file``: its own functions, and those that it imports."""
    if not file.is_file() or not file.name.startswith("test_"):
        return set()
    names = set[str]()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return {name for name in names if name.startswith("test_")}


def test_a_test_counts_only_where_pytest_collects_it(tmp_path: Path) -> None:
    shared, own = tmp_path / "attacks.py", tmp_path / "test_own.py"
    shared.write_text("def test_shared(): ...\n")
    own.write_text("from attacks import test_shared\n\n\ndef test_mine(): ...\n\n\ndef helper(): ...\n")
    assert (_collected(shared), _collected(own)) == (set(), {"test_shared", "test_mine"})


def test_a_long_sentence_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Head\n\nShort one. Now {'word ' * 30}end.\n\n| {'cell ' * 40} |\n\n```\n{'code ' * 40}\n```\n")
    assert [fault.split(": ")[1] for fault in long_sentences(page)] == ["32 words"]


def flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as JSON) of each setting."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", msgspec.json.encode(value).decode()


def of_preset(settings: RunSettings) -> dict[str, str]:
    return dict(flat(msgspec.to_builtins(settings)))


def test_every_setting_is_listed_with_its_default_and_what_presets_change() -> None:
    default, listed = of_preset(PRESETS["default"]), dict[str, tuple[str, str]]()
    for line in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\| `([\w.]+)` \| `(.*?)` \| (.*?) ?\| (.+) \|", line):
            listed[match[1]] = match[2], match[3]
    others = {
        name: "; ".join(f"{preset} `{of[name]}`" for preset, of in presets.items() if of[name] != value)
        for presets in [{preset: of_preset(settings) for preset, settings in PRESETS.items()}]
        for name, value in default.items()
    }
    assert listed == {name: (value, others[name]) for name, value in default.items()}
