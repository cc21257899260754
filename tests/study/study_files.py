"""Study files of the tiny recipe, and results made by hand."""

from pathlib import Path

from conftest import as_toml

from owpo.study.file import Study, read_study
from owpo.study.results import Result, Score

ARMS = {"dapo": {"objective": {"name": "dapo"}}, "owpo": {"ratchet": {"reference": "base"}}}


def study_data(tiny: dict, **changes) -> dict:
    """Two arms of the tiny recipe with two seeds; None takes an entry out."""
    data = {
        "title": "Which objective",
        "question": "Does the reference help?",
        "recipe": {**tiny, "ratchet": {"protocol": "fixed", "steps": 4}},
        "seeds": [0, 1],
        "baseline": "dapo",
        "arms": ARMS,
        **changes,
    }
    return {key: value for key, value in data.items() if value is not None}


def write_study(folder: Path, data: dict, name: str = "which") -> Path:
    file = folder / f"{name}.toml"
    file.write_text(as_toml(data), encoding="utf-8")
    return file


def study_of(folder: Path, tiny: dict, *, full: bool = False, **changes) -> Study:
    return read_study(write_study(folder, study_data(tiny, **changes)), full=full)


def result(arm: str, seed: int, correct: list[int], **changes) -> Result:
    """A run whose best weights have so many of 10 samples of each problem right."""
    fields = {
        "task": "", "setting": "", "asked": "", "problems": "set", "shared_problems": 0, "steps": 4, "seconds": 90.0,
        "selection": (0.4, 0.3, 0.5), "responses": 64, "updates": 8,
        "base": Score(version="base", samples=10, correct=[1] * len(correct)), "last": None,
        "curve": [(2, 0.2, 0.1, 0.3), (4, 0.4, 0.3, 0.5)], "finished": "2026-01-02T03:04:05+00:00",
        "code": {"commit": "0123456789abcdef", "modified": False}, "machine": {"platform": "a machine", "cpu_count": 2},
    }  # fmt: skip
    best = Score(version="stage1-step4", samples=10, correct=correct)
    return Result(**{**fields, "arm": arm, "seed": seed, "best": best, **changes})
