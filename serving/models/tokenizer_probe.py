"""Loads a tokenizer, in a process that may end of it: ``python -m fourshot.serving.models.tokenizer_probe FILE``.

Importing this module loads the standard library alone: each student that is new to a service waits for such a process.
"""

import resource
import sys

WARM_UP_TEXTS = ("N/A", "One text that is longer than the other.")


def probe(file: str) -> None:
    """Load it, use it, and give it back: each of these has ended processes. Raises what the library does."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_batch(list(WARM_UP_TEXTS))
    del tokenizer


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no file is left of a crash
    probe(sys.argv[1])
