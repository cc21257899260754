"""The reference of a TRL trainer as state: taken from the policy, hashed, saved and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import use_adapter

from owpo.policy.weights import load_state, state_hash, unique_state

_ADAPTER = "ref"  # the name by which TRL looks for it
_FILE = "adapter.safetensors"


class TRLReference(Protocol):
    """What a policy is held against."""

    def move(self) -> None:
        """Become the policy as it stands."""

    def hash(self) -> str:
        """sha256 of its weights; of an adapter's alone, and of nothing for the base."""

    def scoring(self) -> Any:
        """Within it, the model that scores as the reference."""

    def save(self, folder: Path) -> None:
        """Write it to a new folder."""

    def load(self, folder: Path) -> None:
        """
        Raises:
            ValueError: what the folder holds does not fit.
        """


class WholeReference:
    """A second model, TRL's; the first weights are `start`'s."""

    def __init__(self, model: PreTrainedModel, policy: PreTrainedModel, start: PreTrainedModel) -> None:
        self.model, self.policy = model, policy
        load_state(unique_state(model), unique_state(start))

    def move(self) -> None:
        SyncRefModelCallback.sync_target_model(self.policy, self.model, 1.0)

    def hash(self) -> str:
        return state_hash(unique_state(self.model))

    @contextmanager
    def scoring(self) -> Iterator[Any]:
        yield self.model

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=self.model.dtype)
        load_state(unique_state(self.model), unique_state(saved))


class AdapterReference:
    """A PEFT policy's base or, once it has moved, a second adapter beside the policy's own."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def move(self) -> None:
        self._make()
        with torch.no_grad():
            for name, value in self._tensors().items():
                value.copy_(self.policy.get_parameter(name.replace(f".{_ADAPTER}.", ".default.")))

    def _make(self) -> None:
        if _ADAPTER not in self.policy.peft_config:
            self.policy.add_adapter(_ADAPTER, self.policy.peft_config["default"])
            self.policy.set_adapter("default")
            for value in self._tensors().values():
                value.requires_grad_(False)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.policy.named_parameters() if f".{_ADAPTER}." in name}

    def hash(self) -> str:
        return state_hash({name: value.detach() for name, value in self._tensors().items()})

    @contextmanager
    def scoring(self) -> Iterator[Any]:
        with use_adapter(self.policy, _ADAPTER if _ADAPTER in self.policy.peft_config else None):
            yield self.policy

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file(
            {name: value.detach().contiguous() for name, value in self._tensors().items()}, folder / _FILE
        )

    def load(self, folder: Path) -> None:
        saved = load_file(folder / _FILE)
        if saved:
            self._make()
        load_state({name: value.data for name, value in self._tensors().items()}, saved)
