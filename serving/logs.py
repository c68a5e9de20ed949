"""Structured logs: one JSON object per line. No text that somebody wants classified is ever in one."""

import logging
import time
from typing import TextIO

import msgspec

LOGGER = "fourshot.serving"


class JsonLines(logging.Formatter):
    """Time, level, message, and what was given as ``extra={"about": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(told).decode()


def log_to(stream: TextIO) -> None:
    """Send the service's log there, and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(LOGGER)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
