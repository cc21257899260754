"""Weights that FSDP2 has sharded over verl's processes: copied, hashed, exported, loaded. Every process must call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM

from owpo.disk.files import atomic_folder


def _state(engine: Any) -> dict[str, Tensor]:
    """Every tensor by its name, as this process holds it; tied ones under each of their names."""
    return dict(sorted(engine.module.state_dict().items()))


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _put(target: Tensor, value: Tensor) -> None:
    """Write a whole tensor, or one that is sharded in the same way, where `target` has its own."""
    with torch.no_grad():
        if not isinstance(target, DTensor):
            target.copy_(_whole(value))
            return
        alike = (
            isinstance(value, DTensor)
            and value.device_mesh == target.device_mesh
            and value.placements == target.placements
        )
        if not alike:
            whole = _whole(value).to(target.device_mesh.device_type, target.dtype)
            value = distribute_tensor(whole, target.device_mesh, target.placements)
        assert isinstance(value, DTensor)
        target.to_local().copy_(value.to_local())


def copy_weights(source: Any, target: Any) -> None:
    """`source`'s weights, in place of `target`'s. Where both are sharded alike nothing is sent."""
    given = _state(source)
    for name, value in _state(target).items():
        _put(value, given[name])


def load_weights(engine: Any, folder: Path) -> None:
    """A Hugging Face folder's weights, in place of the engine's."""
    files = {name: file for file in sorted(folder.glob("*.safetensors")) for name in _names(file)}
    for name, value in _state(engine).items():
        if name not in files:  # a tied tensor is saved under one of its names
            continue
        with safe_open(files[name], framework="pt") as opened:
            _put(value, opened.get_tensor(name))


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def _gathered(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors on the CPU, one at a time."""
    device = engine.device_mesh.device_type
    for name, value in _state(engine).items():
        yield name, _whole(value.to(device)).cpu()


def sharded_hash(engine: Any) -> str:
    """sha256 of names and bytes."""
    digest = hashlib.sha256()
    for name, value in _gathered(engine):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def export(engine: Any, folder: Path) -> None:
    """Write a Hugging Face folder, with the tokenizer; it appears whole or not at all."""
    is_writer = dist.get_rank() == 0
    state = {name: value for name, value in _gathered(engine) if is_writer}
    if is_writer:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(engine.module.config)
        model.config.dtype = next(iter(state.values())).dtype
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary, state_dict=state)
            engine.model_config.get_processor().save_pretrained(temporary)
    dist.barrier()
