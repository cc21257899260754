"""Adapters: what tells apart policies that stand on one frozen base.

A model has one slot for an adapter's tensors. The learner's are in it at rest; a forward pass of another policy puts
its own there and gives the place back. That is done by pointing the slot's parameters at other tensors: nothing is
copied, an adapter costs its own bytes and no more, any number of them can be loaded at a time, and the parameters
stay the objects that the optimiser and autograd know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


class AdapterSlot:
    """The LoRA layers of a model by name, and their parameters by the name that PEFT saves them under."""

    def __init__(self, layers: dict[str, LoraLayer], parameters: dict[str, nn.Parameter]) -> None:
        self.layers = layers
        self.parameters = parameters
        self.at_rest = {name: parameter.data for name, parameter in parameters.items()}
        self._held: dict[str, Tensor] | None = self.at_rest

    @contextmanager
    def holding(self, tensors: dict[str, Tensor] | None) -> Iterator[None]:
        """These tensors in the slot, or with None the base alone; afterwards again what was there before."""
        before = self._held
        self._put(tensors)
        try:
            yield
        finally:
            self._put(before)

    def _put(self, tensors: dict[str, Tensor] | None) -> None:
        if tensors is self._held:
            return
        # Autocast keeps converted weights by parameter, and would take this adapter for the one before.
        torch.clear_autocast_cache()
        if (tensors is None) != (self._held is None):
            for layer in self.layers.values():
                layer.enable_adapters(tensors is not None)
        for name, tensor in (tensors or {}).items():
            self.parameters[name].data = tensor
        self._held = tensors


@dataclass(frozen=True, eq=False)
class Adapter:
    """
    slot       the place in the model that all policies on this base share
    tensors    A [rank, in] and B [out, rank] of every target, by PEFT's names; None: the base as it is
    rank, alpha, targets  a target's weight is W + alpha / rank * B A; `targets` are modules' names, or their ends
    base       folder or hub id of the base, and the content hash of its weights
    seed       of A at the start
    """

    slot: AdapterSlot
    tensors: dict[str, Tensor] | None
    rank: int
    alpha: int
    targets: tuple[str, ...]
    base: str
    base_hash: str
    seed: int
