"""The wheel: one import name, everything that is read at run time, and nothing that a user's own folders can hide."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import fourshot

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("engine", "training", "pipeline", "serving", "bench")
SCRIPT = """
from importlib.metadata import entry_points
from pathlib import Path

import fourshot
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings

where = Path(fourshot.__file__).parent
assert where == Path("{site}") / "fourshot", where
assert fourshot.load_task("support_tickets").label_names
settings = fourshot.RunSettings(
    generate=GenerateSettings(per_class=2), annotate=AnnotateSettings(annotator="none"), allow_short=True
)
summary = fourshot.corpus(["support_tickets"], "corpus", model="fake", settings=settings)  # the engine: a child process
assert summary.rows > 0, summary
for group in ("vllm.general_plugins", "vllm.endpoint_plugins"):
    (entry,) = entry_points(group=group, name="fourshot")
    assert entry.load().__module__.startswith("fourshot.")
for room in ("engine", "training", "pipeline", "serving", "bench"):
    __import__(f"fourshot.{{room}}")
print("done")
"""


def run(*words: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, into: Path, source: Path) -> Path:
    """What `pip wheel` and `python -m build` ask setuptools for, offline."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(into)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as a clone has it, links as links: building leaves folders behind."""
    copy = tmp_path_factory.mktemp("above") / "fourshot"
    copy.mkdir()
    for entry in (*ROOMS, "fourshot", "src", "README.md", "LICENSE", "pyproject.toml"):
        if (ROOT / entry).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / entry, copy / entry, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / entry, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"), source)


def test_it_has_one_import_name_and_all_that_is_in_the_folders(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fourshot"}
    wanted = {
        f"{path.relative_to(ROOT)}" if room == "fourshot" else f"fourshot/{path.relative_to(ROOT)}"
        for room in (*ROOMS, "fourshot")
        for kind in ("py.typed", "*.py", "*.toml", "*.jsonl", "*.html", "*.css", "*.j2", "grafana.json")
        for path in (ROOT / room).rglob(kind)  # does not follow links
        if "results" not in path.parts
    }
    assert len(wanted) > 200
    assert wanted - names == set()
    assert [name for name in names if "/results/" in name] == []


def test_a_source_distribution_holds_files_where_the_clone_has_links(source: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path, source)) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if not (member.isfile() or member.isdir())] == []
    assert any(member.name.endswith("fourshot/pipeline/tasks/shipped/sst2.toml") for member in members)


def test_it_runs_beside_folders_named_like_its_own(wheel: Path, tmp_path: Path) -> None:
    python, site = own_environment(tmp_path / "env")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    run(*pip, "--target", site, wheel, cwd=tmp_path)
    project = tmp_path / "project"
    for name in (*ROOMS, "tests"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"raise RuntimeError('this is the {name} of the user')\n")
    (project / "mine.py").write_text(SCRIPT.format(site=site))
    assert run(python, "mine.py", cwd=project).splitlines()[-1] == "done"
    assert "support_tickets" in run(python, "-m", "fourshot", "tasks", "list", cwd=project)


def test_an_editable_install_is_found_from_the_folder_above_the_clone(source: Path, tmp_path: Path) -> None:
    python, site = own_environment(tmp_path / "env")
    (tmp_path / "editable").mkdir()
    zipfile.ZipFile(build("editable", tmp_path / "editable", source)).extractall(site)
    code = "import fourshot, sys; print(fourshot.__version__, *fourshot.__path__)"
    assert run(python, "-c", code, cwd=source.parent).split() == [fourshot.__version__, f"{source}/src/fourshot"]
    with pytest.raises(AssertionError, match="No module named 'bench'"):
        run(python, "-c", "import bench", cwd=tmp_path)


def own_environment(folder: Path) -> tuple[Path, Path]:
    """Its Python and its site-packages. It has the libraries of the environment that tests run in, by their folder,
    so that no ``.pth`` file there counts: an editable install is not seen.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    libraries = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    return folder / "bin" / "python", site
