"""Structured logs: one JSON object per line. No text that somebody wants classified is ever in one."""

import logging
import time
from collections.abc import Mapping
from typing import TextIO

import msgspec

LOGGER = "fourshot.serving"


class JsonLines(logging.Formatter):
    """Time, level, message, and what was given as ``extra={"about": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        more = dict(getattr(record, "about", {}))
        if record.exc_info:
            more["error"] = self.formatException(record.exc_info)
        return json_line(record.levelname.lower(), record.getMessage(), record.created, more)


def json_line(level: str, event: str, at: float | None = None, more: Mapping[str, object] | None = None) -> str:
    """One line of the log; ``at`` is seconds since the epoch, now where it is left out."""
    at = time.time() if at is None else at
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03}Z"
    return msgspec.json.encode({"time": when, "level": level, "event": event, **(more or {})}).decode()


def log_to(stream: TextIO) -> None:
    """Send the service's log there, and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(LOGGER)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
