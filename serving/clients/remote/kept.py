"""Answers of a remote teacher, stored permanently, so that no request is paid for twice, even after a kill.

All commands share one SQLite file for each endpoint and model, to which rows are only added. An answer and its cost are
one row, in one transaction. So the rows of a piece of work add up to what it has paid, whenever it was stopped.
"""

import errno
import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.home import home
from fourshot.serving.clients.remote.completions import CompletionResponse

BUSY_S = 60.0  # how long another process may be writing
PROBE_BYTES = 1 << 16  # of a file that tests whether files can be written
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, said BLOB NOT NULL, prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    paid_by TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS paid ON answers (paid_by);
CREATE TABLE IF NOT EXISTS uses (work TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (work, key)) WITHOUT ROWID;
"""


def answers_file(endpoint: str, model: str) -> Path:
    """Return the file that stores the answers of a model."""
    name = hashlib.sha256(f"{endpoint} {model}".encode()).hexdigest()[:16]
    return home() / "answers" / f"{name}.sqlite"


class TokensSpent(NamedTuple):
    """Requests and tokens of one piece of work, over all its calls."""

    requests: int = 0  # that were answered
    prompt_tokens: int = 0
    output_tokens: int = 0

    def plus(self, completion: CompletionResponse) -> "TokensSpent":
        return TokensSpent(
            self.requests + 1,
            self.prompt_tokens + completion.prompt_tokens,
            self.output_tokens + completion.output_tokens,
        )


class KeptAnswers:
    """Stored answers of one model at one endpoint, for one piece of work. For one thread at a time."""

    def __init__(self, endpoint: str, model: str, work: str) -> None:
        """``work``: the piece of work that is charged.

        Raises InputError if the file is none of ours, FourshotError or OSError if it cannot be created or used.
        """
        self.path, self._model, self._work = answers_file(endpoint, model), (endpoint, model), work
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained():
            self._rows = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._rows.executescript(SCHEMA)

    def key_of(self, request: Any) -> str:
        """Return the key of the answer to ``request``, which must be encodable as JSON."""
        return hashlib.sha256(msgspec.json.encode((*self._model, request), order="sorted")).hexdigest()

    def find(self, key: str) -> CompletionResponse | None:
        with self._explained():
            row = self._rows.execute("SELECT said FROM answers WHERE key = ?", (key,)).fetchone()
        return msgspec.json.decode(row[0], type=CompletionResponse) if row else None

    def keep(self, key: str, completion: CompletionResponse) -> None:
        """Store an answer. It is on disk when this returns."""
        tokens = completion.prompt_tokens, completion.output_tokens
        row = (key, msgspec.json.encode(completion), *tokens, self._work)
        with self._explained():
            self._rows.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", row)

    def use(self, keys: Sequence[str]) -> None:
        """Record that this work is based on these answers, whichever work paid for them."""
        with self._explained():
            self._rows.execute("BEGIN")
            self._rows.executemany("INSERT OR IGNORE INTO uses VALUES (?, ?)", [(self._work, key) for key in keys])
            self._rows.execute("COMMIT")

    @property
    def spent(self) -> TokensSpent:
        """What this work has paid for."""
        return self._sum("FROM answers WHERE paid_by = ?")

    @property
    def used(self) -> TokensSpent:
        """What this work is based on, whichever work paid for it."""
        return self._sum("FROM uses JOIN answers USING (key) WHERE work = ?")

    def _sum(self, rows: str) -> TokensSpent:
        sums = "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(output_tokens), 0)"
        with self._explained():
            return TokensSpent(*self._rows.execute(f"{sums} {rows}", (self._work,)).fetchone())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise OSError(errno.ENOSPC, str(error), str(self.path)) from error
            raise FourshotError(
                f"{self.path} keeps the teacher's answers, and cannot be used: {self._reason(error)}. Fix this, or "
                "set FOURSHOT_HOME to a folder on another disk; answers kept here are then requested again."
            ) from error
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self.path} should hold the teacher's answers, but cannot be read: {error}. Put it back from a "
                "copy, or move it away to request all answers again."
            ) from error

    def _reason(self, error: sqlite3.OperationalError) -> str:
        """Return the system's reason if another file cannot be written there either; it is clearer than SQLite's."""
        try:
            with tempfile.TemporaryFile(dir=self.path.parent) as probe:
                probe.write(bytes(PROBE_BYTES))
        except OSError as cause:
            return cause.strerror or str(cause)
        return str(error)

    def close(self) -> None:
        self._rows.close()
