"""What a run was made with: versions, machine, code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from owpo.disk.logs import JSONLLog
from owpo.errors import InputError


def describe_environment(
    threads: int,
    grader: dict[str, str],
    *,
    trust_remote_code: bool,
    with_peft: bool = False,
    vllm: str | None = None,
) -> dict[str, Any]:
    """Versions of everything that can change a number, the machine, the command, and the code's commit.

    Args:
        grader: what verdicts depend on (`verify.graders.fingerprint`).
        trust_remote_code: whether code that comes with a model may run.
        with_peft: whether layers of that package compute anything.
        vllm: its version, where it samples.
    """
    return {
        "owpo": version("owpo"),
        "code": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "tokenizers": version("tokenizers"),
        "peft": version("peft") if with_peft else None,
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "grader": grader,
        "vllm": vllm,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "model_code_may_run": trust_remote_code,
        "command": sys.argv,
    }


def earlier_starts(log: JSONLLog) -> tuple[list[dict[str, Any]], Path | None]:
    """What earlier starts wrote down, and where the file was put if it is damaged: no number of a run depends on it."""
    try:
        starts = log.records()
        if all(isinstance(start, dict) for start in starts):
            log.keep(len(starts))  # without a last line that a kill cut
            return starts, None
    except InputError:
        pass
    number = 1
    while (aside := log.path.with_name(f"{log.path.name}.damaged-{number}")).exists():
        number += 1
    log.path.rename(aside)
    return [], aside


def code_version() -> dict[str, Any] | None:
    """Commit of the checkout that this package runs from and whether it has local changes; None when installed."""
    here = Path(__file__).resolve().parent
    inside = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
    commit = _git(here, "rev-parse", "HEAD")
    if inside is None or commit is None:
        return None
    return {"commit": commit, "modified": bool(_git(here, "status", "--porcelain", "--", str(here.parent)))}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
