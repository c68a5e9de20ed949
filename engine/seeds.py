"""Seeds of individual samples, derived from the seed of a call."""

import hashlib


def derive(seed: int, *indices: int) -> int:
    """Return a seed in 0 .. 2**63 - 1 that depends only on ``seed`` and ``indices``, not on other samples."""
    text = ":".join(str(number) for number in (seed, *indices))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
