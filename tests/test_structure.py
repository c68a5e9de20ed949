"""Folders of code stay small, and a public class name means one thing."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "training", "pipeline", "serving", "bench", "fourshot")
MOST_LINES = 2500  # of a folder, without the folders in it
# Public classes that several modules define, each with the only folder where they may and the reason.
SHARED_CLASSES = {
    "Options": ("bench/suites", "every suite is a module with `Options` and `SUITE` (bench/core/__init__.py)"),
}


def code_files(root: Path) -> Iterator[Path]:
    """The modules of the product; tests and scripts are none."""
    return (file for package in PACKAGES for file in sorted((root / package).rglob("*.py")))


def test_no_folder_of_code_is_larger_than_one_can_keep_in_mind() -> None:
    lines: dict[str, int] = {}
    for file in code_files(ROOT):
        folder = str(file.parent.relative_to(ROOT))
        lines[folder] = lines.get(folder, 0) + len(file.read_text(encoding="utf-8").splitlines())
    assert len(lines) > 20
    assert {folder: count for folder, count in lines.items() if count > MOST_LINES} == {}


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
