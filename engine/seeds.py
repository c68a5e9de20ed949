"""Seeds of single draws, made from the seed of a whole call."""

import hashlib


def derive(seed: int, *indices: int) -> int:
    """A seed for the draw at ``indices``, in 0 .. 2**63 - 1, whatever else is drawn and in whatever order."""
    text = ":".join(str(number) for number in (seed, *indices))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
