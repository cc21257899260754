"""Where else a run's numbers go, if `run.trackers` says so: TensorBoard, Weights & Biases, trackio.

The run folder has everything without them. A tracker is sent each step's lines of metrics.jsonl and timing.jsonl, as
`metrics/NAME` and `timing/NAME`, and the accuracy of each evaluation as `selection/accuracy`, all at the whole run's
step. What a run does again after a kill it sends again; what a service had in hand at the kill may be missing there.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from owpo.config import RunConfig
from owpo.errors import InputError

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
_PROJECT = "owpo"
_CURES = {
    "wandb": "log in by `wandb login`, or set WANDB_MODE=offline, or WANDB_MODE=disabled to do without it",
    "trackio": "set TRACKIO_DIR to a folder that it can write, or unset TRACKIO_SPACE_ID and TRACKIO_SERVER_URL to "
    "keep its numbers here",
}


class TrackerFailed(InputError):
    """A service does not start; the message says what to do about that."""


class Tracker(Protocol):
    """Takes numbers until it is closed."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of rollout step `step` of the whole run."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """Events in <folder>/tensorboard; what a resumed run does again takes the place of what was there."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        self._writer = _module("tensorboard").SummaryWriter(
            str(folder / "tensorboard"), purge_step=steps_done + 1
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Service:
    """W&B or trackio, which share an interface. A resumed run goes on with the same record there.

    One that fails once the run is on its way is told of, and the run goes on without it.
    """

    def __init__(self, name: str, folder: Path, config: RunConfig, warn: Callable[[str], None]) -> None:
        self._name, self._warn, self._has_failed = name, warn, False
        self._module = _module(name)
        id = _tracker_id(folder)
        settings: dict[str, Any] = {"name": f"{folder.name}-{id}"}
        if name == "wandb":
            settings = {"name": folder.name, "id": id, "dir": str(folder)}
        try:
            with self._quiet():
                self._module.init(
                    project=_PROJECT, config=config.model_dump(mode="json"), resume="allow", **settings
                )
                if name == "wandb":  # else it counts calls, and drops a step that it has seen
                    self._module.define_metric("*", step_metric="total_step")
        except Exception as error:  # no account, no server: each has errors of its own
            raise TrackerFailed(
                f"run.trackers: {name} does not start ({_told(error)}); {_CURES[name]}"
            ) from error

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._has_failed:
            return
        with self._failure_is_told():
            if self._name == "wandb":
                self._module.log({**numbers, "total_step": step})
            else:
                self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        with self._failure_is_told():
            self._module.finish()

    @contextmanager
    def _failure_is_told(self) -> Iterator[None]:
        try:
            with self._quiet():
                yield
        except Exception as error:
            if not self._has_failed:
                self._warn(
                    f"{self._name} failed ({_told(error)}) and is sent nothing more; the run folder has every number"
                )
            self._has_failed = True

    def _quiet(self) -> Any:
        """Nothing of it on stdout, which may be read by a program. W&B keeps to stderr, and watches stdout itself."""
        return redirect_stdout(sys.stderr) if self._name == "trackio" else nullcontext()


def check_trackers(config: RunConfig) -> None:
    """
    Raises:
        InputError: a tracker of the recipe is not installed.
    """
    for name in config.run.trackers:
        _module(name)


@contextmanager
def open_trackers(
    config: RunConfig, folder: Path, steps_done: int, warn: Callable[[str], None]
) -> Iterator[list[Tracker]]:
    """The recipe's trackers, closed with the block.

    Args:
        steps_done: rollout steps that the run has behind it.
        warn: is told of a service that fails.

    Raises:
        TrackerFailed: a service does not start.
    """
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        for name in dict.fromkeys(config.run.trackers):
            is_file = name == "tensorboard"
            tracker: Tracker = (
                TensorBoard(folder, steps_done) if is_file else Service(name, folder, config, warn)
            )
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers


def _module(name: str) -> Any:
    try:
        return import_module(_MODULES[name])
    except ImportError as error:
        package = "'owpo[tensorboard]'" if name == "tensorboard" else name
        raise InputError(
            f"run.trackers names {name}, which cannot be imported ({error}): pip install {package}"
        ) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _tracker_id(folder: Path) -> str:
    """What the run is called at a service: kept in the folder, so that a resumed run is the same one."""
    file = folder / "tracker_id"
    id = file.read_text(encoding="utf-8") if file.is_file() else ""
    if not id:  # new, or killed before it was written
        id = uuid.uuid4().hex[:8]
        file.write_text(id, encoding="utf-8")
    return id
