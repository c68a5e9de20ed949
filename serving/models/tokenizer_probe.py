"""Load a tokenizer in a process that it may crash: ``python -m fourshot.serving.models.tokenizer_probe FILE``.

Importing this module loads only the standard library: each student that is new to a service waits for such a process.
"""

import resource
import sys

WARM_UP_TEXTS = ("N/A", "One text that is longer than the other.")


def probe(file: str) -> None:
    """Load, use and free the tokenizer: each of these has crashed processes. Raises what the library raises."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_batch(list(WARM_UP_TEXTS))
    del tokenizer


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no core file
    probe(sys.argv[1])
