"""Result files, written whole and read back; finished pieces that outlive a kill; checks before an hour is spent."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import append_lines, read_lines, replace_file
from fourshot.engine.machine.gpus import ask_driver
from fourshot.engine.machine.locks import held_lock
from fourshot.pipeline.events import Event
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.student_card import sha256
from fourshot.pipeline.tables.file_bytes import table_ending

RESULTS = Path(__file__).resolve().parents[1] / "results"  # those that are committed
TITLES = {"sst2": "SST-2", "trec": "TREC", "ag_news": "AG News"}  # task -> as it is printed
HEADER = "header"  # of `ResultRows`: the piece that holds a result's first keys
CONTINUED = "continued"  # and the one that says where and with what code later pieces were measured
DATA = "content of --data"  # of its settings: a hash


def task_title(task: str) -> str:
    """A task as tables name it: one of the three by its title, another by its own name."""
    return TITLES.get(task, task)


def short_name(model: str) -> str:
    """A model as tables name it: of a folder the last part."""
    return Path(model).name if model.startswith(("/", "./", "../", "~")) else model


def header(suite: str, settings: dict[str, Any], *, dummy_weights: bool = False) -> dict[str, Any]:
    """The first keys of a result."""
    from fourshot.pipeline.provenance import describe_hardware, installed_versions, source_commit

    return {
        "schema": 1,
        "suite": suite,
        "commit": source_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {**describe_hardware(), **_gpus()},
        "versions": installed_versions(),
        "settings": settings,
        "dummy_weights": dummy_weights,
    }


def _gpus() -> dict[str, Any]:
    """GPUs that this process would use. Asks the driver, so that no CUDA context is made here."""
    try:
        return {"gpus": ask_driver("name,memory.total")}
    except (OSError, subprocess.SubprocessError):
        return {}


def beside(out: Path, ending: str) -> Path:
    """What a measurement writes beside its result, with this ending; "": a folder.

    Only ``.json`` is taken off: behind the last dot of another name may be all that tells it from its neighbour's.
    """
    if out.suffix == ".json":
        return out.with_name(out.stem + ending)
    return out.with_name(out.name + (ending or ".files"))


def to_json(result: Any) -> str:
    """As a result file has it."""
    return json.dumps(msgspec.to_builtins(result), indent=1) + "\n"


def write_result(path: Path, result: Any) -> None:
    """Whole or not at all."""
    replace_file(path, to_json(result).encode())


def read_result(path: Path, suite: str = "") -> dict[str, Any]:
    """A result that `write_result` wrote. Raises InputError for a file that is none, or another suite's."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Give a JSON file that `fourshot bench` wrote."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON file: {error}. Give one that `fourshot bench` wrote.") from error
    if not isinstance(result, dict) or not isinstance(result.get("suite"), str):
        raise InputError(
            f"{path} is no result of a benchmark: it names no suite. Give a file that `fourshot bench` wrote."
        )
    if suite and result["suite"] != suite:
        raise InputError(f"{path} is a result of the suite {result['suite']!r}; one of {suite!r} is needed.")
    return dict(result)


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """One of `ResultRows`."""

    settings: dict[str, Any] | UnsetType = UNSET  # of the first line alone
    piece: str | UnsetType = UNSET
    value: Any = UNSET


class ResultRows:
    """Finished pieces of a long measurement: a run that was killed goes on behind the last.

    They are by name in ``pieces``, one JSON line each in a file; the first line has the settings they belong to.
    """

    def __init__(
        self, path: Path | None, settings: dict[str, Any], describe: Callable[[], dict[str, Any]] = dict
    ) -> None:
        """Without a ``path`` nothing is kept. ``describe`` gives the result's header, which is kept with the first
        piece: whoever sums up later may sit at another machine.

        Raises InputError where the file holds pieces of another configuration. Writes nothing yet.
        """
        self.path = path
        self.pieces: dict[str, Any] = {}
        self._goes_on = False  # behind an earlier call's pieces, and has added none
        self._describe = cache(describe)  # once: what is measured for hours may be checked out anew meanwhile
        self._settings = current = msgspec.json.decode(msgspec.json.encode(settings))
        lines = read_lines(path, _Line) if path else []
        if not path or len(lines) < 2:  # nothing that could be lost
            return
        earlier = lines[0].settings
        if earlier is UNSET or any(line.piece is UNSET or line.value is UNSET for line in lines[1:]):
            raise InputError(
                f"{path} was changed after it was written: its first line has the settings, each other one a piece and "
                "its value. Put it back, delete it, or name another --out."
            )
        if DATA not in earlier or DATA not in current:  # of an earlier version; summed up without the data
            if DATA in current:
                tell(f"{path} does not say what data it was measured on. Make sure that --data is the same.")
            earlier, current = ({**known, DATA: None} for known in (earlier, current))
        if earlier != current:
            changed = sorted(key for key in {*earlier, *current} if earlier.get(key) != current.get(key))
            examples = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            difference = (
                "with other settings" if earlier.keys() == current.keys() else "of another suite, or another version"
            )
            raise InputError(
                f"{path} holds a measurement {difference} ({examples}). Name another --out, delete "
                "that file, or give the settings it was begun with to go on with it."
            )
        self.pieces = {str(line.piece): line.value for line in lines[1:]}
        self._goes_on = True
        tell(
            f"{len(self.pieces.keys() - {HEADER, CONTINUED})} pieces of an earlier call are in {path} and not measured "
            "again. To measure them anew, delete that file or name another --out."
        )

    def add(self, piece: str, value: Any) -> None:
        """Keep ``value``, a struct or what JSON has."""
        if self._goes_on and piece != CONTINUED:
            self._goes_on = False
            self._tell_changes()
        if not self.pieces and self.path:
            replace_file(self.path, msgspec.json.encode({"settings": self._settings}) + b"\n")
        if HEADER not in self.pieces and piece != HEADER:
            self.add(HEADER, self._describe())
        self.pieces[piece] = msgspec.to_builtins(value)
        if self.path:
            append_lines(self.path, [{"piece": piece, "value": value}])

    def _tell_changes(self) -> None:
        """Note it where pieces are added by other code, or on another machine, than those that are there."""
        continued = self.pieces.get(CONTINUED, [])
        earlier, now = [self.pieces.get(HEADER), *continued][-1], msgspec.to_builtins(self._describe())
        names = ("commit", "hardware", "versions")
        if not earlier or all(earlier.get(name) == now.get(name) for name in names):
            return
        num_pieces = len(self.pieces.keys() - {HEADER, CONTINUED})
        since = {"pieces": num_pieces, **{name: now.get(name) for name in ("date", *names)}}
        tell(f"The pieces before are of commit {earlier.get('commit')}, or of another machine. The result says so.")
        self.add(CONTINUED, [*continued, since])

    def add_once(self, piece: str, make: Callable[[], Any], progress: str = "") -> Any:
        """The value of ``piece``, made where it is not there yet. ``progress``: a format of the value's keys."""
        if piece not in self.pieces:
            self.add(piece, make())
            if progress:
                tell(f"{piece}: {progress.format_map(self.pieces[piece])}")
        return self.pieces[piece]

    def add_cells(self, cells: Sequence[Any], measure: Callable[[Any], Any]) -> None:
        """What ``measure`` says of the cells, each with a ``name``, that are not there yet, in their order."""
        for number, cell in enumerate(cells, start=1):
            if cell.name not in self.pieces:
                self.add(cell.name, measured := measure(cell))
                tell(f"{number}/{len(cells)}  {cell.name}: {measured.rate:.1f} requests/s")

    @property
    def header(self) -> dict[str, Any]:
        """The result's header, as it was when the first piece was kept."""
        continued = {CONTINUED: self.pieces[CONTINUED]} if CONTINUED in self.pieces else {}
        return {**(self.pieces.get(HEADER) or self._describe()), **continued}


def check_out(path: Path, suite: str) -> None:
    """Raise InputError where ``path`` cannot become a file, or is one that is no result of ``suite``."""
    if path.is_dir():
        raise InputError(f"--out {path} is a folder. Name a file in it, such as {path / 'result.json'}.")
    if path.exists() and path.stat().st_size:
        try:
            read_result(path, suite)
        except InputError as error:
            raise InputError(f"--out would be written over: {error} Or name a file that is not there.") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"nothing can be written to {path.parent}: {error.strerror}. Name another --out.") from error


@contextmanager
def locked(out: Path | None) -> Iterator[None]:
    """Hold ``out``. Raises InputError where another process measures into it: both would measure each other."""
    if out is None:
        yield
        return
    file = out.with_name(f".{beside(out, '.json').name}.lock")  # the same for all that write the same beside it
    with held_lock(file, f"another process measures into {out}. Wait for it, or name another --out."):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def check_data(folder: Path, tasks: Sequence[str]) -> None:
    """Raise InputError where ``folder`` lacks the folder of a task."""
    missing = [name for name in tasks if not (folder / name).is_dir()]
    if missing:
        raise InputError(
            f"--data {folder} has no folder {', '.join(missing)}. Each task's train and test files are in a folder "
            "that is named as the task."
        )


def data_hash(folder: Path, tasks: Sequence[str]) -> str:
    """Of all tables in the folders of the tasks, by name and content."""
    tables = [file for name in tasks for file in sorted((folder / name).rglob("*")) if table_ending(file)]
    return value_hash([(str(file.relative_to(folder)), sha256(file)) for file in tables if file.is_file()])


def tell_end(event: Event) -> None:
    """What a stage that is done says."""
    if event.total == 0 or event.done == event.total:
        tell(f"{event.stage}: {event.message}")


def tell(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
