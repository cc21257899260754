"""Self-evolving language models with One-Way Policy Optimization (arXiv 2605.22156).

import owpo
run = owpo.train("recipes/demo.toml")
print(run.rows)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from owpo.errors import InputError, Interrupted, RunFailed

if TYPE_CHECKING:
    from owpo.run import Run, resume, train

__all__ = ["InputError", "Interrupted", "Run", "RunFailed", "resume", "train"]


def __getattr__(name: str) -> Any:
    """Import the engine on first use: `owpo.core` alone needs nothing but torch."""
    if name in ("Run", "resume", "train"):
        from owpo import run

        return getattr(run, name)
    raise AttributeError(f"module 'owpo' has no attribute {name!r}")
