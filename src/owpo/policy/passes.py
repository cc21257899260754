"""How the layers of a model run in a training pass: kept or computed again, compiled or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from owpo.policy.attention import NAME, layout_attention


def check_recomputes(model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: the architecture has no gradient checkpointing.
    """
    if not model.supports_gradient_checkpointing:
        raise ValueError(
            f"{type(model).__name__} has no gradient checkpointing; set training.gradient_checkpointing to false, and "
            "training.micro_batch_tokens lower instead"
        )


@contextmanager
def recomputing(model: PreTrainedModel, is_on: bool) -> Iterator[None]:
    """Within it a layer keeps its input alone, and what its backward pass needs is computed again.

    transformers does so in `train` mode only; without dropout (`load_policy`) that computes what `eval` does.
    """
    if not is_on:
        yield
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    try:
        yield
    finally:
        model.eval()
        model.gradient_checkpointing_disable()


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer, for passes over many tokens."""
    # The attention gathers by indices of ever new sizes, which is not worth compiling.
    AttentionInterface.register(NAME, torch.compiler.disable(layout_attention))
    for layer in model.get_decoder().layers:
        if layer._compiled_call_impl is None:
            layer.compile(dynamic=True)


def eagerly(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Within it compiled layers run as they are written."""
    is_compiled = any(module._compiled_call_impl is not None for module in model.modules())
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()


def decoding(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Around passes of one token a row, which are many and small.

    On a CPU calling compiled layers costs more than it saves; an accelerator's kernels have to be few.
    """
    return eagerly(model) if model.device.type == "cpu" else nullcontext()
