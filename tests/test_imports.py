"""Imports between packages and subpackages point one way; no circle of files; one import name; no class name twice."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "fourshot"  # the one import name; `fourshot/<room>` leads to the room's folder at the top
ROOMS = ("engine", "training", "pipeline", "serving", "bench")  # each may import those before it
# Of each room the wings, and what each may import of its own room beside the modules at the room's root.
WINGS = {
    "engine": {"machine": (), "vllm_seams": ("machine",), "checkpoints": ("machine",)},
    "training": {"lora": (), "students": (), "jobs": ("lora",)},
    "pipeline": {
        "tables": (),
        "rows": ("tables",),
        "tasks": ("tables", "rows"),
        "synthesis": ("rows",),
        "settings": ("synthesis",),
        "loop": ("rows", "synthesis"),
        "forecasts": ("rows", "tasks", "synthesis", "loop"),
        "corpus": ("rows", "synthesis", "settings", "loop", "forecasts"),
        "report": ("rows", "synthesis", "forecasts"),
        "cells": ("rows", "synthesis", "loop"),
        "runs": ("rows", "tasks", "synthesis", "settings", "loop", "report", "cells", "forecasts"),
        "students": ("rows", "tasks", "cells", "runs", "forecasts"),
        "distillation": (
            *("tables", "rows", "tasks", "synthesis", "settings", "loop", "report"),
            *("cells", "runs", "students", "forecasts"),
        ),
        "text_distillation": (
            *("tasks", "rows", "synthesis", "settings", "report", "cells", "runs", "distillation", "forecasts"),
        ),
    },
    "serving": {
        "clients": (),
        "models": (),
        "app": ("models",),
        "fleet": ("models", "app"),
        "testing": ("models",),
        "review": (),
    },
    "bench": {"core": (), "suites": ("core",)},
}
RAY_SET_UP = ("training/jobs/cluster.py", "training/jobs/machines.py")  # the second: what machines are given
HEAVY = ("torch", "vllm", "ray", "transformers", "peft", "datasets", "sklearn", "matplotlib", "numpy")
VALUE_TYPES = (
    "fourshot",
    "fourshot.engine.core",
    "fourshot.engine.errors",
    "fourshot.training.lora.settings",
    "fourshot.training.students.settings",
    "fourshot.pipeline.task",
    "fourshot.pipeline.synthesis.types",
    "fourshot.pipeline.scores",
    "fourshot.serving.settings",
)


class Import(NamedTuple):
    """One import as written: ``file`` relative to the root, ``name`` the absolute dotted name that it asks for."""

    file: Path
    line: int
    name: str
    at_import: bool  # not in a function, and not for type checkers alone

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    @property
    def place(self) -> tuple[str, str]:
        """Room and wing of the file; the wing is "" for a module at the room's root."""
        parts = self.file.parts
        return parts[0], parts[1] if len(parts) > 2 else ""

    @property
    def target(self) -> tuple[str, str]:
        """Room and wing that are imported; the room is "" for other packages."""
        if self.top != PACKAGE:
            return "", ""
        _, room, wing, *_ = [*self.name.split("."), "", ""]
        return (room, wing if wing in WINGS.get(room, ()) else "") if room in ROOMS else (PACKAGE, "")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def imports_of(root: Path, file: Path) -> Iterator[Import]:
    """Every import of a module: at the top, in functions, for type checkers, relative, and by import_module."""
    relative = file.relative_to(root)
    package = relative.parent.parts
    package = package if package[:1] == (PACKAGE,) else (PACKAGE, *package)
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    at_import = set(_run_at_import(tree))
    for node in ast.walk(tree):
        names: list[str] = []
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0, module=str(module)):
                names = [f"{module}.{alias.name}" for alias in node.names]
            case ast.ImportFrom(level=level, module=module):
                base = package[: len(package) - level + 1]
                names = [".".join((*base, *([module] if module else []), alias.name)) for alias in node.names]
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names = [name]
        for name in names:
            yield Import(relative, node.lineno, name, node in at_import)  # type: ignore[attr-defined]


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_at_import(child)


def all_imports(root: Path) -> list[Import]:
    files = [file for folder in (*ROOMS, PACKAGE) for file in sorted((root / folder).rglob("*.py"))]  # follows no links
    return [imported for file in files for imported in imports_of(root, file)]


def arrow_faults(imports: list[Import]) -> list[str]:
    """Imports that point back, or that bring a library into a room where it may not be."""
    faults = []
    for imported in imports:
        (room, wing), (asked_room, asked_wing) = imported.place, imported.target
        if room in ROOMS:
            if asked_room in (*ROOMS[ROOMS.index(room) + 1 :], PACKAGE):
                faults.append(f"{imported}: an arrow that points back")
            other = wing and asked_wing and wing != asked_wing and room == asked_room
            if other and asked_wing not in WINGS[room].get(wing, ()):
                faults.append(f"{imported}: an arrow that points back, between wings")
        if imported.top in ROOMS:
            faults.append(f"{imported}: a room is imported as {PACKAGE}.{imported.top}")
        if imported.top == "vllm" and room not in ("engine", "serving", "bench"):
            faults.append(f"{imported}: vllm belongs to engine/ and serving/")
        elif imported.top == "vllm" and room != "bench" and wing != "vllm_seams" and not _is_public_vllm(imported.name):
            faults.append(f"{imported}: vLLM's insides belong to engine/vllm_seams/")
        in_reference_engine = imported.file == Path("engine/transformers_engine.py")
        if imported.top == "peft" and room not in ("training", "bench") and not in_reference_engine:
            faults.append(f"{imported}: peft belongs to training/ and the reference engine")
    for room in (*ROOMS, PACKAGE):
        users = sorted(
            {str(imported.file) for imported in imports if imported.place[0] == room and imported.top == "ray"}
        )
        users = [file for file in users if file not in RAY_SET_UP]
        if len(users) > 1:
            faults.append(f"{' and '.join(users)} import ray: one module of a room does")
    return faults


def _is_public_vllm(name: str) -> bool:
    """What vLLM's documentation tells users to import."""
    public = ("vllm.platforms.current_platform", "vllm.lora.request.", "vllm.sampling_params.")
    return name.count(".") < 2 or name.startswith(public)


def circles(root: Path, imports: list[Import]) -> list[str]:
    """Groups of files each of which needs all others of its group, imports in functions included."""
    module_of = {}
    for file in {imported.file for imported in imports}:
        parts = file.with_suffix("").parts
        parts = parts if parts[0] == PACKAGE else (PACKAGE, *parts)
        module_of[".".join(parts).removesuffix(".__init__")] = file
    needs: dict[Path, set[Path]] = {file: set() for file in module_of.values()}
    for imported in imports:
        name = imported.name if imported.name in module_of else imported.name.rpartition(".")[0]
        if name in module_of and module_of[name] != imported.file:
            needs[imported.file].add(module_of[name])
    reach: dict[Path, set[Path]] = {}
    for file in needs:
        seen: set[Path] = set()
        todo = [*needs[file]]
        while todo:
            if (other := todo.pop()) not in seen:
                seen.add(other)
                todo += needs[other]
        reach[file] = seen
    groups = {tuple(sorted(str(o) for o in reach[file] if file in reach[o])) for file in needs if file in reach[file]}
    return [" -> ".join(group) for group in sorted(groups)]


def test_imports_between_rooms_and_wings_point_one_way() -> None:
    imports = all_imports(ROOT)
    assert {imported.place[0] for imported in imports} >= {*ROOMS, PACKAGE}, (
        "the reader of imports found no house to read"
    )
    assert arrow_faults(imports) == []


def test_there_is_no_circle_of_files() -> None:
    assert circles(ROOT, all_imports(ROOT)) == []


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("engine/a.py", "import fourshot.pipeline.task", "points back"),
        ("engine/a.py", "from fourshot import pipeline", "points back"),
        ("training/a.py", "def lazy():\n    from fourshot.serving.app import App", "points back"),
        ("training/lora/a.py", "from fourshot.training.jobs.a import run", "between wings"),
        ("pipeline/tasks/a.py", "from ..synthesis import a", "between wings"),
        ("pipeline/report/a.py", "from importlib import import_module\nimport_module('fourshot.bench.rows')", "points"),
        ("serving/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fourshot", "points back"),
        ("serving/a.py", "import engine.core", "imported as fourshot.engine"),
        ("training/a.py", "import vllm", "vllm belongs"),
        ("fourshot/cli/a.py", "def main():\n    from vllm import LLM", "vllm belongs"),
        ("engine/vllm_engine.py", "from vllm.v1.engine.core import EngineCore", "insides belong"),
        ("serving/app/a.py", "def lazy():\n    import vllm.entrypoints.openai.api_server", "insides belong"),
        ("engine/vllm_engine.py", "import peft", "peft belongs"),
        ("pipeline/a.py", "from peft import LoraConfig", "peft belongs"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, file: str, source: str, fault: str) -> None:
    plant(tmp_path, file, source)
    (message,) = arrow_faults(all_imports(tmp_path))
    assert message.startswith(f"{file}:")
    assert fault in message


def test_ray_in_a_second_module_of_a_room_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "training/spread.py", "import ray")
    plant(tmp_path, "pipeline/spread.py", "import ray")
    assert arrow_faults(all_imports(tmp_path)) == []
    plant(tmp_path, "training/second.py", "def lazy():\n    import ray.util")
    (message,) = arrow_faults(all_imports(tmp_path))
    assert message.startswith("training/second.py and training/spread.py import ray")


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "engine/a.py", "from fourshot.engine import b")
    plant(tmp_path, "engine/b.py", "def lazy():\n    from fourshot.engine.c import run")
    plant(tmp_path, "engine/c.py", "import fourshot.engine.a")
    assert circles(tmp_path, all_imports(tmp_path)) == ["engine/a.py -> engine/b.py -> engine/c.py"]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("pipeline/a.py", "from fourshot.engine.core import Engine\nimport fourshot.training.jobs.job"),
        ("pipeline/synthesis/a.py", "from ..rows.fields import Fields\nfrom . import bench"),
        ("engine/transformers_engine.py", "def lazy():\n    from peft import PeftModel"),
        ("bench/a.py", "import fourshot.serving.app, vllm, peft, ray"),
        ("fourshot/cli/a.py", "def main():\n    import fourshot.bench.run, fourshot.serving.app"),
    ],
)
def test_what_is_allowed_is_not_called_a_fault(tmp_path: Path, file: str, source: str) -> None:
    plant(tmp_path, file, source)
    assert arrow_faults(all_imports(tmp_path)) == []


def plant(root: Path, file: str, source: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)


@pytest.mark.parametrize("module", VALUE_TYPES)
def test_value_types_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
