"""Structured logs: one JSON object per line. They never contain a text to classify."""

import logging
import time
from typing import TextIO

import msgspec

LOGGER = "fourshot.serving"
MOST_CHARS = 16_000  # of a message, and of a traceback: a message may repeat a card's name, which may have millions


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object: time, level, message, and the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        error = self.formatException(record.exc_info)[-MOST_CHARS:] if record.exc_info else ""
        return json_line(record.levelname.lower(), record.getMessage()[:MOST_CHARS], record.created, error)


def json_line(level: str, event: str, at: float | None = None, error: str = "") -> str:
    """Return one line of the log. ``at``: seconds since the epoch; None: now."""
    at = time.time() if at is None else at
    timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03}Z"
    fields = {"time": timestamp, "level": level, "event": event, **({"error": error} if error else {})}
    return msgspec.json.encode(fields).decode()


def log_to(stream: TextIO, name: str = LOGGER) -> None:
    """Send the service's log, or that of the library ``name``, to ``stream`` and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
