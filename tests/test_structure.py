"""Files, folders and subpackages of code stay small, and names mean one thing."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "training", "pipeline", "serving", "bench", "fourshot")
MOST_LINES = 2500  # of a folder, without the folders in it; and of a subpackage with all of them
LONGEST_FILE = 300  # lines; a file with more of them says "more than 300 lines" and why in its docstring
# Subpackages that are larger, and how large they may be. These numbers only go down; one that fits goes away.
LARGE_SUBPACKAGES = {"bench/suites": 7600, "pipeline/runs": 3150, "serving/clients": 3200, "pipeline/rows": 2750}
VAGUE_NAMES = {"found", "one", "told", "said", "asked"}  # of what? A name says what a value is, not that it is there
VAGUE_STILL = {
    "engine/doctor.py found": "a key of what `doctor --json` prints",
    "pipeline/cells/review.py said": "a key of what `review --json` prints",
    "pipeline/remote_teacher.py asked": "a key of remote_teacher.json",
    "serving/review/desk.py said": "a key of what the page of a review gets",
}
# Public classes that several modules define, each with the only folder where they may and the reason.
SHARED_CLASSES = {
    "Options": ("bench/suites", "every suite is a module with `Options` and `SUITE` (bench/core/__init__.py)"),
}


def code_files(root: Path) -> Iterator[Path]:
    """The modules of the product; tests and scripts are none."""
    return (file for package in PACKAGES for file in sorted((root / package).rglob("*.py")))


def lines_of(root: Path, depth: int | None = None) -> dict[str, int]:
    """Of each folder with code; with ``depth``, folders that lie deeper are counted with the one of that depth."""
    lines: dict[str, int] = {}
    for file in code_files(root):
        folder = "/".join(file.parent.relative_to(root).parts[:depth])
        lines[folder] = lines.get(folder, 0) + len(file.read_text(encoding="utf-8").splitlines())
    return lines


def test_no_folder_of_code_is_larger_than_one_can_keep_in_mind() -> None:
    lines = lines_of(ROOT)
    assert len(lines) > 20
    assert {folder: count for folder, count in lines.items() if count > MOST_LINES} == {}


def test_no_subpackage_is_larger_with_its_folders_but_for_some_that_only_shrink() -> None:
    lines = lines_of(ROOT, depth=2)
    assert {name: count for name, count in lines.items() if count > LARGE_SUBPACKAGES.get(name, MOST_LINES)} == {}
    assert [name for name in LARGE_SUBPACKAGES if lines[name] <= MOST_LINES] == [], "these need no exception"


def long_files(root: Path) -> list[str]:
    """Files of more than `LONGEST_FILE` lines, of the product, the tests and the scripts, that do not say why."""
    unexplained = []
    for file in (*code_files(root), *sorted((root / "tests").rglob("*.py")), *sorted((root / "scripts").rglob("*.py"))):
        source = file.read_text(encoding="utf-8")
        reason = f"more than {LONGEST_FILE} lines"
        if source.count("\n") > LONGEST_FILE and reason not in (ast.get_docstring(ast.parse(source)) or "").lower():
            unexplained.append(str(file.relative_to(root)))
    return unexplained


def test_no_file_is_long_without_a_reason() -> None:
    assert long_files(ROOT) == []


def test_folders_and_files_that_are_too_large_are_found(tmp_path: Path) -> None:
    plant(tmp_path, "engine/a/b/c.py", "\n" * 300)
    plant(tmp_path, "engine/a/d.py", '"""More than 300 lines: one table."""' + "\n" * 400)
    plant(tmp_path, "engine/e.py", "\n" * 9)
    assert lines_of(tmp_path) == {"engine": 9, "engine/a": 400, "engine/a/b": 300}
    assert lines_of(tmp_path, depth=2) == {"engine": 9, "engine/a": 700}
    assert long_files(tmp_path) == []
    plant(tmp_path, "tests/t.py", "\n" * 301)
    assert long_files(tmp_path) == ["tests/t.py"]


def class_faults(root: Path) -> list[str]:
    """Public classes of the product that are defined more than once, but for `SHARED_CLASSES`."""
    places: dict[str, list[str]] = {}
    for file in code_files(root):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                path = file.relative_to(root)
                folder, _ = SHARED_CLASSES.get(node.name, ("", ""))
                if not folder or not path.is_relative_to(folder):
                    places.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    return [f"{name}: {' and '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]


def test_a_public_class_name_means_one_thing() -> None:
    assert class_faults(ROOT) == []


def test_a_class_name_that_is_defined_twice_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "bench/suites/a.py", "class Options: ...\nclass _Own: ...\nclass Request: ...")
    plant(tmp_path, "bench/suites/b.py", "class Options: ...\nclass _Own: ...")
    assert class_faults(tmp_path) == []
    plant(tmp_path, "serving/c.py", "def lazy():\n    class Request: ...")
    plant(tmp_path, "fourshot/cli/a.py", "class Options: ...\nclass Options: ...")
    assert class_faults(tmp_path) == [
        "Options: fourshot/cli/a.py:1 and fourshot/cli/a.py:2",
        "Request: serving/c.py:2 and bench/suites/a.py:3",
    ]


def plant(root: Path, file: str, source: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


def vague_names(root: Path) -> set[str]:
    """File and name of each binding of the product that is called one of `VAGUE_NAMES`."""
    names = set()
    for file in code_files(root):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            is_bound = not isinstance(node, ast.Name | ast.Attribute) or isinstance(node.ctx, ast.Store)
            # Of names and functions; arguments; attributes; what is imported or caught, and whole cases.
            bound = (
                [getattr(node, field, None) for field in ("id", "arg", "attr", "asname", "name")] if is_bound else []
            )
            if isinstance(node, ast.alias | ast.keyword):  # an imported or a called one is named elsewhere
                bound = [getattr(node, "asname", None)]
            names |= {f"{file.relative_to(root)} {name}" for name in bound if name in VAGUE_NAMES}
    return names


def test_names_say_what_a_value_is() -> None:
    assert vague_names(ROOT) == set(VAGUE_STILL), "what is renamed goes from the list"


def test_vague_names_are_found(tmp_path: Path) -> None:
    plant(tmp_path, "engine/a.py", "from b import told\ncall(one=told.found)")
    assert vague_names(tmp_path) == set()
    plant(tmp_path, "engine/b.py", "def found(one, *said): ...\nfor told in c: ...\nself.asked = 1")
    plant(tmp_path, "engine/c.py", "import d as one\n[said for said in d]\ntry: ...\nexcept E as told: ...")
    assert {name.partition("/")[2] for name in vague_names(tmp_path)} == {
        *(f"b.py {name}" for name in VAGUE_NAMES),
        *(f"c.py {name}" for name in ("one", "said", "told")),
    }


def code_that_a_checkpoint_may_bring(root: Path) -> list[str]:
    """Calls of transformers' Auto classes that would ask at the terminal whether to run a checkpoint's own code."""
    calls = []
    for file in code_files(root):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                owner = ast.unparse(node.func.value).rpartition(".")[2]
                if owner.startswith("Auto") and "trust_remote_code=False" not in ast.unparse(node):
                    calls.append(f"{file.relative_to(root)}:{node.lineno}")
    return calls


def test_no_code_of_a_checkpoint_is_run() -> None:
    assert code_that_a_checkpoint_may_bring(ROOT) == []


def test_a_call_that_would_ask_is_found(tmp_path: Path) -> None:
    plant(
        tmp_path, "engine/a.py", "AutoModel.from_pretrained(x, trust_remote_code=False)\nPeftModel.from_pretrained(x)"
    )
    assert code_that_a_checkpoint_may_bring(tmp_path) == []
    plant(tmp_path, "engine/b.py", "transformers.AutoTokenizer.from_pretrained(x)")
    assert code_that_a_checkpoint_may_bring(tmp_path) == ["engine/b.py:1"]
