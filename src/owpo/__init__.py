"""Self-evolving language models with One-Way Policy Optimization (arXiv 2605.22156).

import owpo
run = owpo.train("recipes/demo.toml")
scores = owpo.evaluate(run.version_folder("base"), like=run.folder)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from owpo.errors import InputError, Interrupted, RunFailed

if TYPE_CHECKING:
    from owpo.expectation.measure import Expectation, measure_expectation
    from owpo.exporting import Exported, export
    from owpo.run import Run, resume, train
    from owpo.scores import Scores, compare, evaluate

__all__ = [
    "Expectation",
    "Exported",
    "InputError",
    "Interrupted",
    "Run",
    "RunFailed",
    "Scores",
    "compare",
    "evaluate",
    "export",
    "measure_expectation",
    "resume",
    "train",
]

_HOME = {
    "Expectation": "expectation.measure",
    "measure_expectation": "expectation.measure",
    "Exported": "exporting",
    "export": "exporting",
    "Run": "run",
    "resume": "run",
    "train": "run",
    "Scores": "scores",
    "compare": "scores",
    "evaluate": "scores",
}


def __getattr__(name: str) -> Any:
    """Import the engine on first use: `owpo.core` alone needs nothing but torch."""
    if name in _HOME:
        return getattr(import_module(f"owpo.{_HOME[name]}"), name)
    raise AttributeError(f"module 'owpo' has no attribute {name!r}")
