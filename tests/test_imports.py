"""The house has rooms, and imports between them point one way: engine <- training <- pipeline <- serving <- bench."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("engine", "training", "pipeline", "serving", "bench")  # each may import those before it
FRONT_DOOR = "fourshot"
HEAVY = ("torch", "vllm", "ray", "transformers", "peft", "datasets", "sklearn", "matplotlib", "numpy")
VALUE_TYPES = ("engine.core", "engine.errors", "training.settings", "pipeline.nouns", "serving.settings", "bench.rows")


class Import(NamedTuple):
    """One import as written: ``file`` relative to the root, ``name`` the absolute dotted name that it asks for."""

    file: Path
    line: int
    name: str

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    @property
    def room(self) -> str:
        return self.file.parts[0].removesuffix(".py")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def imports_of(root: Path, file: Path) -> Iterator[Import]:
    """Every import of a module: at the top, in functions, for type checkers, relative, and by import_module."""
    package = file.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        names: list[str] = []
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0, module=str(module)):
                names = [module]
            case ast.ImportFrom(level=level, module=module):
                base = package[: len(package) - level + 1]
                tails = [module] if module else [alias.name for alias in node.names]
                names = [".".join((*base, tail)) for tail in tails]
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names = [name]
        for name in names:
            yield Import(file.relative_to(root), node.lineno, name)  # type: ignore[attr-defined]


def all_imports(root: Path) -> list[Import]:
    files = [file for room in ROOMS for file in sorted((root / room).rglob("*.py"))]
    front_door = root / f"{FRONT_DOOR}.py"
    return [
        found for file in [*files, *([front_door] if front_door.exists() else [])] for found in imports_of(root, file)
    ]


def arrow_faults(imports: list[Import]) -> list[str]:
    """Imports that point back, or that bring a library into a room where it may not be."""
    faults = []
    for found in imports:
        if found.room in ROOMS:
            closed = (*ROOMS[ROOMS.index(found.room) + 1 :], FRONT_DOOR)
            if found.top in closed:
                faults.append(f"{found}: an arrow that points back")
        if found.top == "vllm" and found.room not in ("engine", "serving", "bench"):
            faults.append(f"{found}: vllm belongs to engine/ and serving/")
        in_reference_engine = found.file == Path("engine/transformers_engine.py")
        if found.top == "peft" and found.room not in ("training", "bench") and not in_reference_engine:
            faults.append(f"{found}: peft belongs to training/ and the reference engine")
    for room in (*ROOMS, FRONT_DOOR):
        users = sorted({str(found.file) for found in imports if found.room == room and found.top == "ray"})
        if len(users) > 1:
            faults.append(f"{' and '.join(users)} import ray: one module of a room does")
    return faults


def test_imports_between_rooms_point_one_way() -> None:
    imports = all_imports(ROOT)
    assert {found.room for found in imports} >= {"engine", "pipeline"}, "the reader of imports found no house to read"
    assert arrow_faults(imports) == []


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("engine/a.py", "import pipeline.nouns", "points back"),
        ("engine/a.py", "from pipeline import nouns", "points back"),
        ("training/a.py", "def lazy():\n    from serving.app import App", "points back"),
        ("pipeline/report/a.py", "from importlib import import_module\nimport_module('bench.rows')", "points back"),
        ("serving/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fourshot", "points back"),
        ("training/a.py", "import vllm", "vllm belongs"),
        ("fourshot.py", "def main():\n    from vllm import LLM", "vllm belongs"),
        ("engine/vllm_engine.py", "import peft", "peft belongs"),
        ("pipeline/a.py", "from peft import LoraConfig", "peft belongs"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, file: str, source: str, fault: str) -> None:
    plant(tmp_path, file, source)
    (found,) = arrow_faults(all_imports(tmp_path))
    assert found.startswith(f"{file}:")
    assert fault in found


def test_ray_in_a_second_module_of_a_room_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "training/spread.py", "import ray")
    plant(tmp_path, "pipeline/spread.py", "import ray")
    assert arrow_faults(all_imports(tmp_path)) == []
    plant(tmp_path, "training/second.py", "def lazy():\n    import ray.util")
    (found,) = arrow_faults(all_imports(tmp_path))
    assert found.startswith("training/second.py and training/spread.py import ray")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("pipeline/a.py", "from engine.core import Engine\nimport training.job"),
        ("pipeline/report/a.py", "from ..nouns import Task\nfrom . import bench"),
        ("engine/transformers_engine.py", "def lazy():\n    from peft import PeftModel"),
        ("bench/a.py", "import serving.app, vllm, peft, ray"),
        ("fourshot.py", "def main():\n    import bench.run, serving.app"),
    ],
)
def test_what_is_allowed_is_not_called_a_fault(tmp_path: Path, file: str, source: str) -> None:
    plant(tmp_path, file, source)
    assert arrow_faults(all_imports(tmp_path)) == []


def plant(root: Path, file: str, source: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


@pytest.mark.parametrize(
    "module", [name for name in VALUE_TYPES if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]
)
def test_value_types_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
