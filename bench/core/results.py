"""Result files, finished pieces that survive a kill, and checks before a long measurement starts."""

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

RESULTS = Path(__file__).resolve().parents[1] / "results"  # the committed results
TITLES = {"sst2": "SST-2", "trec": "TREC", "ag_news": "AG News"}  # task -> its printed name
HEADER = "header"  # the piece of `FinishedPieces` with the result's `header`
CONTINUED = "continued"  # the piece that records on which machine and with what code later pieces were measured
DATA = "content of --data"  # the setting that is a hash of the data


def task_title(task: str) -> str:
    """Return the printed name of a task: its title in `TITLES`, or ``task`` itself."""
    return TITLES.get(task, task)


def short_name(model: str) -> str:
    """Return the printed name of a model: the last part of a folder's path, otherwise ``model`` itself."""
    return Path(model).name if model.startswith(("/", "./", "../", "~")) else model


def header(suite: str, settings: dict[str, Any], *, dummy_weights: bool = False) -> dict[str, Any]:
    """Return the first keys of a result, from its schema to its settings."""
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
    """Return the GPUs that this process would use, {} without any. Queries the driver, to create no CUDA context."""
    try:
        return {"gpus": ask_driver("name,memory.total")}
    except (OSError, subprocess.SubprocessError):
        return {}


def path_beside(out: Path, ending: str) -> Path:
    """Return the path of a file beside the result ``out``: its name with ``ending`` for ``.json``; "": a folder.

    Other names are kept complete, because the part after the last dot may be all that distinguishes two results.
    """
    if out.suffix == ".json":
        return out.with_name(out.stem + ending)
    return out.with_name(out.name + (ending or ".files"))


def to_json(result: Any) -> str:
    """Return the content of a result file."""
    return json.dumps(msgspec.to_builtins(result), indent=1) + "\n"


def write_result(path: Path, result: Any) -> None:
    """Write a result file atomically."""
    replace_file(path, to_json(result).encode())


def read_result(path: Path, suite: str = "") -> dict[str, Any]:
    """Read a result of `write_result`. Raises InputError if it is not one, or is of another suite than ``suite``."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Give a JSON file that `fourshot bench` wrote."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not a JSON file: {error}. Give one that `fourshot bench` wrote.") from error
    if not isinstance(result, dict) or not isinstance(result.get("suite"), str):
        raise InputError(
            f"{path} is not a result of a benchmark: it names no suite. Give a file that `fourshot bench` wrote."
        )
    if suite and result["suite"] != suite:
        raise InputError(f"{path} is a result of the suite {result['suite']!r}; one of {suite!r} is needed.")
    return dict(result)


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the file of `FinishedPieces`."""

    settings: dict[str, Any] | UnsetType = UNSET  # in the first line only
    piece: str | UnsetType = UNSET
    value: Any = UNSET


class FinishedPieces:
    """Finished pieces of a long measurement, from which a killed run continues.

    ``pieces`` has them by name, and the file as one JSON line each. Its first line has the settings they belong to.
    """

    def __init__(
        self, path: Path | None, settings: dict[str, Any], describe: Callable[[], dict[str, Any]] = dict
    ) -> None:
        """Read the pieces in ``path``, if it exists; None keeps pieces in memory only. Writes nothing yet.

        ``describe`` returns the result's header, which is stored with the first piece, because the result may be
        summarised on another machine. Raises InputError if the file has pieces of another configuration.
        """
        self.path = path
        self.pieces: dict[str, Any] = {}
        self._goes_on = False  # continues an earlier call's pieces, and has added none yet
        self._describe = cache(describe)  # once: the checkout may change during hours of measuring
        self._settings = current = msgspec.json.decode(msgspec.json.encode(settings))
        lines = read_lines(path, _Line) if path else []
        if not path or len(lines) < 2:  # no pieces to continue or to lose
            return
        earlier = lines[0].settings
        if earlier is UNSET or any(line.piece is UNSET or line.value is UNSET for line in lines[1:]):
            raise InputError(
                f"{path} was changed after it was written: its first line has the settings, each other one a piece and "
                "its value. Put it back, delete it, or name another --out."
            )
        if DATA not in earlier or DATA not in current:  # rows of an earlier version, or a summary without the data
            if DATA in current:
                show_progress(f"{path} does not say what data it was measured on. Make sure that --data is the same.")
            earlier, current = ({**known, DATA: None} for known in (earlier, current))
        if earlier != current:
            changed = sorted(key for key in {*earlier, *current} if earlier.get(key) != current.get(key))
            examples = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            difference = (
                "with other settings" if earlier.keys() == current.keys() else "of another suite, or another version"
            )
            raise InputError(
                f"{path} holds a measurement {difference} ({examples}). Name another --out, delete that file, or give "
                "the settings it was begun with to continue it."
            )
        self.pieces = {str(line.piece): line.value for line in lines[1:]}
        self._goes_on = True
        show_progress(
            f"{len(self.pieces.keys() - {HEADER, CONTINUED})} pieces of an earlier call are in {path} and not "
            "measured again. To measure them again, delete that file or name another --out."
        )

    def add(self, piece: str, value: Any) -> None:
        """Store ``value``, a struct or a JSON value, as ``piece``; the header is stored before the first piece."""
        if self._goes_on and piece != CONTINUED:
            self._goes_on = False
            self._record_changes()
        if not self.pieces and self.path:
            replace_file(self.path, msgspec.json.encode({"settings": self._settings}) + b"\n")
        if HEADER not in self.pieces and piece != HEADER:
            self.add(HEADER, self._describe())
        self.pieces[piece] = msgspec.to_builtins(value)
        if self.path:
            append_lines(self.path, [{"piece": piece, "value": value}])

    def _record_changes(self) -> None:
        """Record that new pieces come from other code, or another machine, than the stored ones, if they do."""
        continued = self.pieces.get(CONTINUED, [])
        earlier, now = [self.pieces.get(HEADER), *continued][-1], msgspec.to_builtins(self._describe())
        names = ("commit", "hardware", "versions")
        if not earlier or all(earlier.get(name) == now.get(name) for name in names):
            return
        num_pieces = len(self.pieces.keys() - {HEADER, CONTINUED})
        since = {"pieces": num_pieces, **{name: now.get(name) for name in ("date", *names)}}
        show_progress(
            f"The earlier pieces are of commit {earlier.get('commit')}, or of another machine. The result says so."
        )
        self.add(CONTINUED, [*continued, since])

    def add_once(self, piece: str, make: Callable[[], Any], progress: str = "") -> Any:
        """Return the value of ``piece``; if it is missing, store ``make()`` first.

        ``progress``: a format string of the value's keys, printed for a new piece.
        """
        if piece not in self.pieces:
            self.add(piece, make())
            if progress:
                show_progress(f"{piece}: {progress.format_map(self.pieces[piece])}")
        return self.pieces[piece]

    def add_cells(self, cells: Sequence[Any], measure: Callable[[Any], Any]) -> None:
        """Measure and store the ``cells`` that have no piece of their ``name`` yet, in order.

        ``measure`` returns an object with a ``rate``, which is printed.
        """
        for number, cell in enumerate(cells, start=1):
            if cell.name not in self.pieces:
                self.add(cell.name, measured := measure(cell))
                show_progress(f"{number}/{len(cells)}  {cell.name}: {measured.rate:.1f} requests/s")

    @property
    def header(self) -> dict[str, Any]:
        """The result's header from when the first piece was stored, with `CONTINUED` if that piece exists."""
        continued = {CONTINUED: self.pieces[CONTINUED]} if CONTINUED in self.pieces else {}
        return {**(self.pieces.get(HEADER) or self._describe()), **continued}


def check_out(path: Path, suite: str) -> None:
    """Raise InputError if ``path`` cannot be written, or is a file other than a result of ``suite``."""
    if path.is_dir():
        raise InputError(f"--out {path} is a folder. Name a file in it, such as {path / 'result.json'}.")
    if path.exists() and path.stat().st_size:
        try:
            read_result(path, suite)
        except InputError as error:
            raise InputError(f"--out would be overwritten: {error} Or name a new file.") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"nothing can be written to {path.parent}: {error.strerror}. Name another --out.") from error


@contextmanager
def locked(out: Path | None) -> Iterator[None]:
    """Lock ``out``, if it is given. Raises InputError if another process measures into it.

    Two measurements at once would disturb each other.
    """
    if out is None:
        yield
        return
    # One lock for all names with the same files beside them.
    file = out.with_name(f".{path_beside(out, '.json').name}.lock")
    with held_lock(file, f"another process measures into {out}. Wait for it, or name another --out."):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def check_data(folder: Path, tasks: Sequence[str]) -> None:
    """Raise InputError if ``folder`` lacks the folder of a task."""
    missing = [name for name in tasks if not (folder / name).is_dir()]
    if missing:
        raise InputError(
            f"--data {folder} has no folder {', '.join(missing)}. Each task's train and test files are in a folder "
            "that is named after the task."
        )


def data_hash(folder: Path, tasks: Sequence[str]) -> str:
    """Return a hash of the names and contents of all tables in the folders of the tasks."""
    tables = [file for name in tasks for file in sorted((folder / name).rglob("*")) if table_ending(file)]
    return value_hash([(str(file.relative_to(folder)), sha256(file)) for file in tables if file.is_file()])


def show_end(event: Event) -> None:
    """Print the message of ``event`` if its stage is finished."""
    if event.total == 0 or event.done == event.total:
        show_progress(f"{event.stage}: {event.message}")


def show_progress(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)
