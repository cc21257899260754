"""A model's weights as plain tensors: named, hashed, put back in place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from owpo.policy.model import Policy


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


def policy_state(policy: Policy) -> dict[str, Tensor]:
    """What training changes of a policy: its adapter's tensors, or all of its model's. They are the policy's own."""
    if policy.adapter is None:
        return unique_state(policy.model)
    assert policy.adapter.tensors is not None, "the base itself is not trained"
    return policy.adapter.tensors


def load_state(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Put saved values into a state, in place.

    Raises:
        ValueError: they are not those of this architecture and size.
    """
    check_fit(own, saved)
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(value)


def check_fit(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """
    Raises:
        ValueError: the saved values are not those of this architecture and size.
    """
    if own.keys() != saved.keys() or any(own[name].shape != saved[name].shape for name in own):
        raise ValueError("the saved weights belong to a model of another architecture or size")


def content_hash(model: PreTrainedModel) -> str:
    """sha256 in hex over (name, dtype, shape, bytes) of the model's weights; tied weights count once."""
    return state_hash(unique_state(model))


def policy_hash(policy: Policy) -> str:
    """`content_hash` of a whole model or, for an adapter, the same of its tensors, its scale and its base's hash."""
    adapter = policy.adapter
    if adapter is None:
        return content_hash(policy.model)
    if adapter.tensors is None:
        return adapter.base_hash
    return state_hash(
        adapter.tensors, f"adapter on {adapter.base_hash} scaled by {adapter.alpha / adapter.rank}\n"
    )


def state_hash(state: dict[str, Tensor], head: str = "") -> str:
    """sha256 in hex over `head` and the (name, dtype, shape, bytes) of tensors, in their order."""
    digest = hashlib.sha256(head.encode())
    for name, tensor in state.items():
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
