"""Random numbers that depend on the place in the run and on nothing that happened before."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *place: str | int) -> int:
    """A 63-bit seed for one random choice, named by its place: `derive_seed(0, "rollout", stage, step, round)`."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
