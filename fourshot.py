"""The front door: the `fourshot` command."""

import argparse
from collections.abc import Sequence

__version__ = "0.1.0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (``sys.argv`` without the program where None). Returns the exit code."""
    parser = argparse.ArgumentParser(prog="fourshot", description="Four examples per class in, a LoRA classifier out.")
    parser.add_argument("--version", action="version", version=f"fourshot {__version__}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
