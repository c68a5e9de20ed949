"""Finished pieces of a long measurement: a run that was killed goes on behind the last."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import append_lines, read_lines, replace_file

HEADER = "header"


class ResultRows:
    """Pieces by name in ``pieces``, one JSON line each in a file; the first line has the settings they belong to."""

    def __init__(
        self, path: Path | None, settings: dict[str, Any], describe: Callable[[], dict[str, Any]] = dict
    ) -> None:
        """Without a ``path`` nothing is kept. ``describe`` gives the result's header, which is kept with the first
        piece: whoever sums up later may sit at another machine.

        Raises InputError where the file holds pieces of another configuration. Writes nothing yet.
        """
        self.path = path
        self.pieces: dict[str, Any] = {}
        self._describe = describe
        self._settings = current = msgspec.json.decode(msgspec.json.encode(settings))
        lines: list[Any] = read_lines(path, dict) if path else []
        if not path or len(lines) < 2:  # nothing that could be lost
            return
        earlier: dict[str, Any] = lines[0]["settings"]
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
        self.pieces = {line["piece"]: line["value"] for line in lines[1:]}

    def add(self, piece: str, value: Any) -> None:
        """Keep ``value``, a struct or what JSON has."""
        if not self.pieces and self.path:
            replace_file(self.path, msgspec.json.encode({"settings": self._settings}) + b"\n")
        if HEADER not in self.pieces and piece != HEADER:
            self.add(HEADER, self._describe())
        self.pieces[piece] = msgspec.to_builtins(value)
        if self.path:
            append_lines(self.path, [{"piece": piece, "value": value}])

    def add_once(self, piece: str, make: Callable[[], Any]) -> Any:
        """The value of ``piece``, made and kept where it is not there yet."""
        if piece not in self.pieces:
            self.add(piece, make())
        return self.pieces[piece]

    @property
    def header(self) -> dict[str, Any]:
        """The result's header, as it was when the first piece was kept."""
        return dict(self.pieces.get(HEADER) or self._describe())
