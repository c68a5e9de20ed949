"""``python -m fourshot``."""

from fourshot.cli.main import program

program()
