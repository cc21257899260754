"""Checkpoints: weights, optimiser and progress, complete or not there at all.

    checkpoints/000007/{model.safetensors, optimizer.safetensors, state.json}
    checkpoints/manifest.json     which of them count, oldest first, with the sha256 of every file; sealed

state.json holds the progress and, for every log, its size and the sha256 of what it held.

A checkpoint is written under a temporary name, flushed, renamed, and then listed: one that the manifest does not
list does not exist. Names only count up, so none that counts is ever written over. A damaged one is passed over
for the one before it, and struck off the list, lest it take a good one's place among those that are kept.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from owpo.disk.files import atomic_folder, damage, file_hashes, fsync, read_json, write_json
from owpo.disk.logs import LogMark
from owpo.disk.sealed import read_sealed, write_sealed
from owpo.disk.trouble import writing
from owpo.errors import InputError, input_errors
from owpo.runs.progress import Progress

_log = logging.getLogger(__name__)

FORMAT = 3


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, in memory."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    progress: Progress
    log_marks: dict[str, LogMark]


class CheckpointStore:
    """The folder `checkpoints` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.json"

    @classmethod
    def create(cls, folder: Path) -> CheckpointStore:
        """A store without checkpoints: it has its manifest from the start, so that one which is gone is noticed."""
        folder.mkdir()
        store = cls(folder)
        store._list([])
        return store

    def listed(self) -> list[dict[str, Any]]:
        """The manifest's entries, oldest first.

        Raises:
            InputError: the manifest is gone or damaged.
        """
        return read_sealed(self.manifest)["checkpoints"]

    def _list(self, entries: list[dict[str, Any]]) -> None:
        write_sealed(self.manifest, {"checkpoints": entries})

    def save(self, checkpoint: Checkpoint, keep: int) -> None:
        """Write one, list it, and remove what falls out of the last `keep`."""
        entries = self.listed()
        name = f"{int(entries[-1]['name']) + 1 if entries else 1:06d}"
        with atomic_folder(self.folder / name) as folder:
            save_file(checkpoint.weights, folder / "model.safetensors")
            save_file(checkpoint.optimizer, folder / "optimizer.safetensors")
            state = {
                "format": FORMAT,
                "progress": checkpoint.progress.to_json(),
                "log_marks": checkpoint.log_marks,
            }
            write_json(folder / "state.json", state)
            hashes = file_hashes(folder)
        entry = {"name": name, "progress": checkpoint.progress.to_json(), "sha256": hashes}
        kept = [*entries, entry][-keep:]
        self._list(kept)
        names = {e["name"] for e in kept}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in names:
                with writing(path):
                    shutil.rmtree(path)
        fsync(self.folder)

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint whose every byte is as written; None if the run has none yet.

        Raises:
            InputError: checkpoints are listed, but none of them is intact.
        """
        entries = self.listed()
        for index in reversed(range(len(entries))):
            entry = entries[index]
            found = damage(self.folder / entry["name"], entry["sha256"])
            if found is None:
                if index + 1 < len(entries):
                    self._list(entries[: index + 1])
                return self._read(self.folder / entry["name"])
            _log.warning("checkpoint %s is damaged (%s); using the one before it", entry["name"], found)
        if entries:
            raise InputError(
                f"no checkpoint in {self.folder} is intact; restore one from a backup, or start over in a new folder"
            )
        return None

    def _read(self, folder: Path) -> Checkpoint:
        state = read_json(folder / "state.json")
        if state["format"] != FORMAT:
            raise InputError(
                f"{folder} has checkpoint format {state['format']}; this version of owpo reads {FORMAT}"
            )
        return Checkpoint(
            weights=_tensors(folder / "model.safetensors"),
            optimizer=_tensors(folder / "optimizer.safetensors"),
            progress=_progress(state["progress"], folder),
            log_marks={name: LogMark(*mark) for name, mark in state["log_marks"].items()},
        )


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} is no safetensors file ({error}); restore it from a backup") from error


def _progress(data: dict[str, Any], folder: Path) -> Progress:
    with input_errors(str(folder)):
        return Progress.from_json(data)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: '<parameter index>.<name>'."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value.contiguous()
        for index, values in state.items()
        for name, value in values.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took; the hyper-parameters stay those of `optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
