"""Where else a run's numbers go, if `run.trackers` says so: TensorBoard, Weights & Biases, trackio.

The run folder has everything without them. A tracker is sent each step's lines of metrics.jsonl and timing.jsonl, as
`metrics/NAME` and `timing/NAME`, and the accuracy of each evaluation as `selection/accuracy`, all at the whole run's
step.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from owpo.config import RunConfig
from owpo.errors import InputError

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
_PROJECT = "owpo"


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
    """W&B or trackio, which share an interface. A resumed run goes on with the same record there."""

    def __init__(self, name: str, folder: Path, config: RunConfig) -> None:
        self._module = _module(name)
        id = _tracker_id(folder)
        settings: dict[str, Any] = {"name": f"{folder.name}-{id}"}
        if name == "wandb":
            settings = {"name": folder.name, "id": id, "dir": str(folder)}
        try:
            self._module.init(
                project=_PROJECT, config=config.model_dump(mode="json"), resume="allow", **settings
            )
        except Exception as error:  # no account, no server: each has errors of its own
            raise InputError(
                f"run.trackers: {name} does not start ({error}); set it up as it says (offline, W&B needs "
                f"WANDB_MODE=offline), or leave {name!r} out of run.trackers"
            ) from error

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        self._module.finish()


def check_trackers(config: RunConfig) -> None:
    """
    Raises:
        InputError: a tracker of the recipe is not installed.
    """
    for name in config.run.trackers:
        _module(name)


@contextmanager
def open_trackers(config: RunConfig, folder: Path, steps_done: int) -> Iterator[list[Tracker]]:
    """The recipe's trackers, closed with the block.

    Args:
        steps_done: rollout steps that the run has behind it.
    """
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        for name in config.run.trackers:
            is_file = name == "tensorboard"
            tracker: Tracker = TensorBoard(folder, steps_done) if is_file else Service(name, folder, config)
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers


def _module(name: str) -> Any:
    try:
        return import_module(_MODULES[name])
    except ImportError as error:
        package = "'owpo[tensorboard]'" if name == "tensorboard" else name
        raise InputError(
            f"run.trackers names {name}, which is not installed: pip install {package}"
        ) from error


def _tracker_id(folder: Path) -> str:
    """What the run is called at a service: kept in the folder, so that a resumed run is the same one."""
    file = folder / "tracker_id"
    if not file.is_file():
        file.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return file.read_text(encoding="utf-8")
