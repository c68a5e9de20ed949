"""Finished pieces of a long measurement: a run that was killed goes on behind the last."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError

HEADER = "header"


class Rows:
    """Pieces by name in ``found``, one JSON line each in a file; the first line has the settings they belong to."""

    def __init__(
        self, path: Path | None, settings: dict[str, Any], describe: Callable[[], dict[str, Any]] = dict
    ) -> None:
        """Without a ``path`` nothing is kept. ``describe`` gives the result's header, which is kept with the first
        piece: whoever sums up later may sit at another machine.

        Raises InputError where the file holds pieces of another configuration. Writes nothing yet.
        """
        self.path = path
        self.found: dict[str, Any] = {}
        self._describe = describe
        self._settings = wanted = json.loads(json.dumps(settings))
        lines = list(_whole_lines(path)) if path and path.exists() else []
        if not path or len(lines) < 2:  # nothing that could be lost
            return
        before: dict[str, Any] = lines[0]["settings"]
        if before != wanted:
            changed = sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))
            few = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            what = "with other settings" if before.keys() == wanted.keys() else "of another suite, or another version"
            raise InputError(
                f"{path} holds a measurement {what} ({few}). Name another --out, delete "
                "that file, or give the settings it was begun with to go on with it."
            )
        self.found = {line["piece"]: line["value"] for line in lines[1:]}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def add(self, piece: str, value: Any) -> None:
        """Keep ``value``, a struct or what JSON has."""
        if not self.found and self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"settings": self._settings}) + "\n", encoding="utf-8")
        if HEADER not in self.found and piece != HEADER:
            self.add(HEADER, self._describe())
        self.found[piece] = value = msgspec.to_builtins(value)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"piece": piece, "value": value}) + "\n")

    def add_once(self, piece: str, make: Callable[[], Any]) -> Any:
        """The value of ``piece``, made and kept where it is not there yet."""
        if piece not in self.found:
            self.add(piece, make())
        return self.found[piece]

    @property
    def header(self) -> dict[str, Any]:
        """The result's header, as it was when the first piece was kept."""
        return dict(self.found.get(HEADER) or self._describe())


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # torn by a kill: it was the last one
            return
