"""What a machine of a cluster needs before it can work: the base model's files, and the shared folders.

A machine with the same checkpoint under the driver's path uses it. Any other machine fetches the files through Ray, in
pieces, from an actor on the driver's machine. They are fetched once per machine, into `engine.machine.home`.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fourshot.engine.checkpoints.create_once import create_once
from fourshot.engine.checkpoints.models import content_files, content_hash
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.fake_engine import is_fake
from fourshot.engine.machine.files import settle, staged_folder
from fourshot.engine.machine.home import HOME_VARIABLE, home
from fourshot.training.jobs.cluster import on_node, reason_of

PROBE = ".shared-"  # prefix of the file names that show whether a folder is shared by all machines
PIECE_BYTES = 16 << 20
ANSWER_S = 120.0  # timeout for a first task on a machine


class MachineRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """What every machine needs, under the driver's paths."""

    model: str = ""  # checkpoint folder; "" for none
    content: str = ""  # its `content_hash`
    store: str = ""  # a folder that all machines share, and can read and write; "" for none
    probe: str = ""  # name of the file in ``store`` that must be visible
    folders: tuple[str, ...] = ()  # folders that are only read, such as adapters


class MachineSetup(NamedTuple):
    """What is sent to a machine: its requirements, and the actor that serves the model's files."""

    requirements: MachineRequirements
    file_server: Any  # handle of a `CheckpointServer` actor; None if no model is needed


@contextmanager
def machine_setup(
    model: str,
    store: Path | None = None,
    folders: Sequence[str] = (),
    file_server: "type[CheckpointServer] | None" = None,
) -> Iterator[MachineSetup]:
    """For the duration of the block, keep a probe file in ``store`` and serve the checkpoint ``model`` to machines.

    ``file_server``: a subclass with further methods that workers call on the driver's machine, which saves the process
    of a second actor. A cluster must be connected, and the driver must see the model, the store and all folders.
    """
    import ray

    fake = is_fake(model) or not model
    probe = f"{PROBE}{secrets.token_hex(8)}"
    required = MachineRequirements(
        model="" if fake else model,
        content="" if fake else content_hash(Path(model)),
        store=str(store.resolve()) if store else "",
        probe=probe,
        folders=tuple(sorted(set(folders))),
    )
    if store:
        store.mkdir(parents=True, exist_ok=True)
        for leftover in store.glob(f"{PROBE}*"):  # left by a killed driver
            leftover.unlink(missing_ok=True)
        (store / probe).write_text(probe, encoding="utf-8")
    actor = _beside_the_driver(file_server or CheckpointServer, model) if required.model else None
    try:
        yield MachineSetup(required, actor)
    finally:
        if actor:
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)
        if store:
            for file in store.glob(f"{probe}*"):
                file.unlink(missing_ok=True)


def _beside_the_driver(kind: "type[CheckpointServer]", model: str) -> Any:
    """Return an actor on the driver's machine that lives as long as the driver.

    It requests a byte of memory. Ray first forwards an actor without resource requests to an arbitrary machine, which
    may not know the driver's machine yet. It forwards an actor with requests to the machine of its creator.
    Source: Ray, gcs_actor_scheduler.cc, SelectForwardingNode.
    """
    import ray

    here = on_node(ray.get_runtime_context().get_node_id())
    return ray.remote(num_cpus=0, memory=1, scheduling_strategy=here)(kind).remote(model)


def check_machines(setup: MachineSetup, nodes: Collection[str]) -> None:
    """Prepare all ``nodes`` in parallel. Raises InputError that names each machine that lacks something."""
    folders = msgspec.structs.replace(setup.requirements, model="")
    faults = _faults(MachineSetup(folders, None), nodes, ANSWER_S)
    if not faults and setup.requirements.model:
        faults = _faults(setup, nodes, None)  # no timeout: the time to fetch depends on the model's size
    if faults:
        raise InputError(
            f"{len(faults)} of {len(nodes)} machines of the Ray cluster cannot take part:\n" + "\n".join(faults)
        )


def _faults(setup: MachineSetup, nodes: Collection[str], timeout_s: float | None) -> list[str]:
    import ray

    required = setup.requirements
    task = ray.remote(num_cpus=0, max_retries=0)(_check)
    calls = [task.options(scheduling_strategy=on_node(node)).remote(setup) for node in nodes]
    deadline_s = time.monotonic() + timeout_s if timeout_s else None  # of all together
    names = {node["NodeID"]: f"{node['NodeManagerHostname']}-{node['NodeManagerAddress']}" for node in ray.nodes()}
    faults = []
    for node, call in zip(nodes, calls, strict=True):
        name = names[node]
        try:
            name, fault = ray.get(call, timeout=max(0.0, deadline_s - time.monotonic()) if deadline_s else None)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError):
            continue  # the machine has left the cluster, so it needs nothing
        except ray.exceptions.GetTimeoutError:
            fault = (
                f"no task began there within {ANSWER_S:.0f} s. Is its disk full, or its network down (`ray status`)?"
            )
        except ray.exceptions.RayError as error:  # such as fourshot missing there, or in another version
            fault = reason_of(error)
        if not fault and required.store and not (Path(required.store) / f"{required.probe}-{name}").exists():
            fault = (
                f"files that it writes into {required.store} are not visible here: one folder must be mounted on all "
                "machines"
            )
        if fault:
            faults.append(f"  - {name}: {fault}")
    return faults


def _check(setup: MachineSetup) -> tuple[str, str]:
    """Run on a machine: prepare it, and return its name and what failed ("" if nothing)."""
    try:
        prepare_machine(setup)
        if store := setup.requirements.store:
            (Path(store) / f"{setup.requirements.probe}-{machine_name()}").touch()
    except (FourshotError, OSError) as error:
        return machine_name(), str(error)
    return machine_name(), ""


def machine_name() -> str:
    """Return the host name and the cluster address of this machine, as NAME-ADDRESS."""
    import ray

    return f"{os.uname().nodename}-{ray.util.get_node_ip_address()}"


def prepare_machine(setup: MachineSetup) -> str:
    """Run on a machine: check its folders, fetch a missing model, and return the model's folder ("" if none).

    Raises InputError if a folder is not shared or does not exist, and FourshotError if the model cannot be fetched.
    """
    required = setup.requirements
    if required.store and not (Path(required.store) / required.probe).exists():
        raise InputError(
            f"the folder {required.store} is not that of the command's machine. Mount one folder on all machines, "
            "under one path, and give it or one in it (--out)."
        )
    if missing := [folder for folder in required.folders if not Path(folder).exists()]:
        raise InputError(
            f"there is no {missing[0]}. Adapters are read by every machine: put them into a folder that all mount "
            "under the same path."
        )
    if not required.model:
        return ""
    if required.content not in _models:
        _models[required.content] = str(_fetched(required, setup.file_server))
    return _models[required.content]


_models: dict[str, str] = {}  # content hash -> folder, so that a worker looks for each model once


def _fetched(required: MachineRequirements, file_server: Any) -> Path:
    """Return the checkpoint's folder on this machine: the driver's path, else the copy, fetched if necessary."""

    def is_whole(folder: Path) -> bool:
        return folder.is_dir() and content_hash(folder) == required.content

    original = Path(required.model)
    if is_whole(original):
        return original
    copy = home() / "models" / f"{original.name}-{required.content}"
    try:
        return create_once(copy, is_whole, lambda folder: _fetch(folder, file_server))
    except OSError as error:
        raise FourshotError(
            f"the base model {original} is not on this machine, and could not be fetched into {copy.parent}: {error}. "
            f"Put a copy at {original}, make room, or set {HOME_VARIABLE} to another folder where this machine's "
            "`ray start` runs."
        ) from error


def _fetch(folder: Path, file_server: Any) -> None:
    """Fetch the files of the served checkpoint into ``folder``, and verify their SHA-256. Raises OSError."""
    import ray

    try:
        with staged_folder(folder.parent, folder.name) as staged:
            for name, size, digest in ray.get(file_server.files.remote()):
                received = hashlib.sha256()
                with (staged / name).open("wb") as file:
                    for start in range(0, size, PIECE_BYTES):
                        piece = ray.get(file_server.piece.remote(name, start))
                        received.update(piece)
                        file.write(piece)
                if received.hexdigest() != digest:
                    raise OSError(f"{name} does not have the content that was sent")
            settle(staged, folder, sync=True)
    except ray.exceptions.RayError as error:
        raise OSError(f"no machine could send it ({reason_of(error)})") from error


class CheckpointServer:
    """Serves the files of a checkpoint, as an actor on the driver's machine."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._files: list[tuple[str, int, str]] = []

    def files(self) -> list[tuple[str, int, str]]:
        """Return (name, size in bytes, SHA-256) of each file; computed on the first call."""
        for path in () if self._files else content_files(self._folder):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._files.append((path.name, path.stat().st_size, digest))
        return self._files

    def piece(self, name: str, start: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            file.seek(start)
            return file.read(PIECE_BYTES)
