"""A model's weights as plain tensors: named, hashed, put back in place."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from transformers import PreTrainedModel


def unique_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state dict sorted by name, with tied weights once; the tensors are the model's own."""
    unique: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in sorted(model.state_dict().items()):
        storage = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and storage in seen:
            continue
        seen.add(storage)
        unique[name] = tensor
    return unique


def load_state(model: PreTrainedModel, saved: dict[str, Tensor]) -> None:
    """Put back, in place, what `unique_state` took.

    Raises:
        ValueError: the saved weights are not those of this architecture and size.
    """
    own = unique_state(model)
    if own.keys() != saved.keys() or any(own[name].shape != saved[name].shape for name in own):
        raise ValueError("the saved weights belong to a model of another architecture or size")
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(value)


def content_hash(model: PreTrainedModel) -> str:
    """sha256 in hex over (name, dtype, shape, bytes) of the model's weights; tied weights count once."""
    digest = hashlib.sha256()
    for name, tensor in unique_state(model).items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def copy_state(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Make target's weights equal to source's, in place.

    Raises:
        ValueError: they do not have the same weights by name, shape and dtype.
    """
    states = [model.state_dict() for model in (source, target)]
    kinds = [{name: (list(value.shape), value.dtype) for name, value in state.items()} for state in states]
    for name in sorted(kinds[0].keys() | kinds[1].keys()):
        ours, theirs = kinds[0].get(name), kinds[1].get(name)
        if ours != theirs:
            raise ValueError(
                f"weights cannot be copied: {name} is {_kind(ours)} in the source and {_kind(theirs)} in the "
                "target; both must be the same architecture, size and dtype"
            )
    with torch.no_grad():
        for name, value in states[1].items():
            value.copy_(states[0][name])


def _kind(kind: tuple[list[int], torch.dtype] | None) -> str:
    return "missing" if kind is None else f"{kind[1]} {kind[0]}".removeprefix("torch.")
