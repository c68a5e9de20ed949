"""What a machine of a cluster needs before it can work: the base model's files, and the shared folders.

A machine with the same checkpoint under the driver's path uses it. Any other machine fetches the files through Ray, in
pieces, from an actor on the driver's machine. They are fetched once per machine, into `engine.machine.home`.
"""

import hashlib
import os
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fourshot.engine.checkpoints.made_once import made_once
from fourshot.engine.checkpoints.models import content_files, content_hash
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.fake_engine import is_fake
from fourshot.engine.machine.files import settle, staged_folder
from fourshot.engine.machine.home import HOME_VARIABLE, home
from fourshot.training.jobs.cluster import on_node

PROBE = ".shared-"  # prefix of the file names that show whether a folder is shared by all machines
PIECE_BYTES = 16 << 20
ANSWER_S = 120.0  # timeout for a first task on a machine


class MachineNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What every machine needs, under the driver's paths."""

    model: str = ""  # checkpoint folder; "" for none
    content: str = ""  # its `content_hash`
    store: str = ""  # a folder that all machines share, and can read and write; "" for none
    probe: str = ""  # name of the file in ``store`` that must be visible
    folders: tuple[str, ...] = ()  # folders that are only read, such as adapters


class MachineSupplies(NamedTuple):
    """What is sent to a machine: its needs, and the actor that serves the model's files."""

    needs: MachineNeeds
    giver: Any  # handle of a `CheckpointServer` actor; None if no model is needed


@contextmanager
def supplies(
    model: str, store: Path | None = None, folders: Sequence[str] = (), giver: "type[CheckpointServer] | None" = None
) -> Iterator[MachineSupplies]:
    """For the duration of the block, keep a probe file in ``store`` and serve the checkpoint ``model`` to machines.

    ``giver``: a subclass with further methods that workers call on the driver's machine, which saves the process of a
    second actor. A cluster must be connected, and the driver must see the model, the store and all folders.
    """
    import ray

    fake = is_fake(model) or not model
    probe = f"{PROBE}{secrets.token_hex(8)}"
    needs = MachineNeeds(
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
    actor = _beside_the_driver(giver or CheckpointServer, model) if needs.model else None
    try:
        yield MachineSupplies(needs, actor)
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


def check_machines(supplied: MachineSupplies, nodes: Collection[str]) -> None:
    """Have all ``nodes`` provide what they need, in parallel. Raises InputError that names each machine that cannot."""
    folders = msgspec.structs.replace(supplied.needs, model="")
    faults = _faults(MachineSupplies(folders, None), nodes, ANSWER_S)
    if not faults and supplied.needs.model:
        faults = _faults(supplied, nodes, None)  # no timeout: the time to fetch depends on the model's size
    if faults:
        raise InputError(
            f"{len(faults)} of {len(nodes)} machines of the Ray cluster cannot take part:\n" + "\n".join(faults)
        )


def _faults(supplied: MachineSupplies, nodes: Collection[str], timeout_s: float | None) -> list[str]:
    import ray

    needs = supplied.needs
    task = ray.remote(num_cpus=0, max_retries=0)(_check)
    calls = [task.options(scheduling_strategy=on_node(node)).remote(supplied) for node in nodes]
    names = {node["NodeID"]: f"{node['NodeManagerHostname']}-{node['NodeManagerAddress']}" for node in ray.nodes()}
    faults = []
    for node, call in zip(nodes, calls, strict=True):
        name = names[node]
        try:
            name, fault = ray.get(call, timeout=timeout_s)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError):
            continue  # the machine has left the cluster, so it needs nothing
        except ray.exceptions.GetTimeoutError:
            fault = (
                f"no task began there within {ANSWER_S:.0f} s. Is its disk full, or its network down (`ray status`)?"
            )
        except ray.exceptions.RayError as error:  # such as fourshot missing there, or in another version
            fault = str(error).strip().splitlines()[-1]
        if not fault and needs.store and not (Path(needs.store) / f"{needs.probe}-{name}").exists():
            fault = (
                f"files that it writes into {needs.store} are not visible here: one folder must be mounted on all "
                "machines"
            )
        if fault:
            faults.append(f"  - {name}: {fault}")
    return faults


def _check(supplied: MachineSupplies) -> tuple[str, str]:
    """Run on a machine: provide what it needs, and return its name and what failed ("" if nothing)."""
    try:
        provide(supplied)
        if store := supplied.needs.store:
            (Path(store) / f"{supplied.needs.probe}-{machine_name()}").touch()
    except (FourshotError, OSError) as error:
        return machine_name(), str(error)
    return machine_name(), ""


def machine_name() -> str:
    """Return the host name and the cluster address of this machine, as NAME-ADDRESS."""
    import ray

    return f"{os.uname().nodename}-{ray.util.get_node_ip_address()}"


def provide(supplied: MachineSupplies) -> str:
    """Run on a machine: provide what it needs, and return the model's folder there ("" if no model is needed).

    Raises InputError if a folder is not shared or does not exist, and FourshotError if the model cannot be fetched.
    """
    needs = supplied.needs
    if needs.store and not (Path(needs.store) / needs.probe).exists():
        raise InputError(
            f"the folder {needs.store} is not that of the command's machine. Mount one folder on all machines, under "
            "one path, and give it or one in it (--out)."
        )
    if missing := [folder for folder in needs.folders if not Path(folder).exists()]:
        raise InputError(
            f"there is no {missing[0]}. Adapters are read by every machine: put them into a folder that all mount "
            "under the same path."
        )
    if not needs.model:
        return ""
    if needs.content not in _models:
        _models[needs.content] = str(_fetched(needs, supplied.giver))
    return _models[needs.content]


_models: dict[str, str] = {}  # content hash -> folder, so that a worker looks for each model once


def _fetched(needs: MachineNeeds, giver: Any) -> Path:
    """Return the checkpoint's folder on this machine: the driver's path, else the copy, fetched if necessary."""

    def is_whole(folder: Path) -> bool:
        return folder.is_dir() and content_hash(folder) == needs.content

    original = Path(needs.model)
    if is_whole(original):
        return original
    copy = home() / "models" / f"{original.name}-{needs.content}"
    try:
        return made_once(copy, is_whole, lambda folder: _fetch(folder, giver))
    except OSError as error:
        raise FourshotError(
            f"the base model {original} is not on this machine, and could not be fetched into {copy.parent}: {error}. "
            f"Put a copy at {original}, make room, or set {HOME_VARIABLE} to another folder where this machine's "
            "`ray start` runs."
        ) from error


def _fetch(folder: Path, giver: Any) -> None:
    """Fetch the files of the giver's checkpoint into ``folder``, and verify their SHA-256. Raises OSError."""
    import ray

    try:
        with staged_folder(folder.parent, folder.name) as staged:
            for name, size, digest in ray.get(giver.files.remote()):
                received = hashlib.sha256()
                with (staged / name).open("wb") as file:
                    for start in range(0, size, PIECE_BYTES):
                        piece = ray.get(giver.piece.remote(name, start))
                        received.update(piece)
                        file.write(piece)
                if received.hexdigest() != digest:
                    raise OSError(f"{name} does not have the content that was sent")
            settle(staged, folder, sync=True)
    except ray.exceptions.RayError as error:
        raise OSError(f"no machine could send it ({str(error).strip().splitlines()[-1]})") from error


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
