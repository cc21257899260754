"""What an objective reads and what it returns.

Shape legend: B sequences, T response tokens (padded on the right), P prompts, G responses per
prompt, B = P * G.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """One slice of an optimiser step: any rows of it, with everything that needed the group already decided.

    Every log-prob is of the sampled token, at the sampling temperature, and its name says whose it is:

        logp          [B, T] float   the current policy; the only tensor that carries a gradient
        old_logp      [B, T] float   the policy at the start of the rollout's first update
        ref_logp      [B, T] float   the reference
        sampler_logp  [B, T] float   the engine that sampled the tokens
        advantage     [B] or [B, T]  from the verifier; its sign is the direction of every update
        mask          [B, T] bool    True on response tokens; what stands elsewhere is never read
        active        [B] bool       samples whose tokens get the one-way weight; None means all
        weight        [B, T] float   what `Objective.prepare` decided before the split: a weight, or what one
                                     is made of (read by objectives with `needs.prepared`)
        context       [B, T] int64   equal exactly where the prompt and the response's tokens up to and
                                     including this one are (read by the `prepare` of objectives with
                                     `needs.contexts`)
        step          int            rollout steps done in this stage; read by schedules

    "float" is float32 or float64. Deviations are differences of log-probs and are read at a scale of 0.01
    nat, where bfloat16 resolves 0.03 at a log-prob of -5. A field that an objective needs and does not get is
    an error, never a zero.

    Raises:
        ValueError: a shape, dtype or device disagrees with `logp`'s, or a field other than `logp` carries a
            gradient.
    """

    logp: Tensor
    advantage: Tensor
    mask: Tensor
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    sampler_logp: Tensor | None = None
    active: Tensor | None = None
    weight: Tensor | None = None
    context: Tensor | None = None
    step: int = 0

    def __post_init__(self) -> None:
        if self.logp.ndim != 2:
            raise ValueError(f"logp must be a [B, T] tensor, got shape {list(self.logp.shape)}")
        rows, tokens = self.logp.shape
        per_row, per_token = ((rows,), f"[B] = {[rows]}"), ((rows, tokens), f"[B, T] = {[rows, tokens]}")
        self._check("logp", _FLOATS, per_token)
        for name in ("old_logp", "ref_logp", "sampler_logp", "weight"):
            self._check(name, _FLOATS, per_token)
        self._check("advantage", _FLOATS, per_row, per_token)
        self._check("mask", (torch.bool,), per_token)
        self._check("active", (torch.bool,), per_row)
        self._check("context", (torch.int64,), per_token)

    def _check(
        self, name: str, dtypes: tuple[torch.dtype, ...], *shapes: tuple[tuple[int, ...], str]
    ) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if value.shape not in [shape for shape, _ in shapes]:
            allowed = " or ".join(text for _, text in shapes)
            raise ValueError(f"{name} must be {allowed}, got shape {list(value.shape)}")
        if value.dtype not in dtypes:
            allowed = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ValueError(f"{name} must be {allowed}, got {str(value.dtype).removeprefix('torch.')}")
        if value.device != self.logp.device:
            raise ValueError(
                f"{name} is on {value.device}, but logp is on {self.logp.device}; move one of them"
            )
        if value.requires_grad and name != "logp":
            raise ValueError(f"{name} carries a gradient; only logp may. Pass {name}.detach()")

    @property
    def advantage_BT(self) -> Tensor:
        """The advantage of every token, [B, T]."""
        advantage = self.advantage
        return advantage if advantage.ndim == 2 else advantage.unsqueeze(1).expand_as(self.logp)

    def without_padding_values(self) -> TokenBatch:
        """The same batch with zeros where the mask is False.

        `torch.where` (and not a product with the mask) keeps a NaN or inf at a padded position out of both
        the value and the gradient: 0 * inf is NaN.
        """

        def clean(value: Tensor) -> Tensor:
            return torch.where(self.mask, value, torch.zeros((), dtype=value.dtype, device=value.device))

        optional: dict[str, Any] = {
            name: clean(value)
            for name in ("old_logp", "ref_logp", "sampler_logp", "weight", "context")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, logp=clean(self.logp), advantage=clean(self.advantage_BT), **optional)


@dataclass(frozen=True)
class TokenLoss:
    """An objective's answer: `loss` [B, T], not yet reduced, and `stats`, name -> [B, T] without gradient.

    From `Objective.__call__` both are zero (False) where the mask is.
    """

    loss: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
