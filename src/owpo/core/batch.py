"""What an objective reads and what it returns.

Shape legend: B sequences, T response tokens (padded on the right), P prompts, G responses per prompt, B = P * G.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


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
        weight        [B, T] float   weights decided before the split (read by objectives with `needs.prepared`)
        step          int            rollout steps done in this stage; read by schedules

    A field that an objective needs and does not get is an error, never a zero.

    Raises:
        ValueError: a shape, dtype or device disagrees with `logp`'s.
    """

    logp: Tensor
    advantage: Tensor
    mask: Tensor
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    sampler_logp: Tensor | None = None
    active: Tensor | None = None
    weight: Tensor | None = None
    step: int = 0

    def __post_init__(self) -> None:
        if self.logp.ndim != 2 or not self.logp.is_floating_point():
            raise ValueError(
                f"logp must be a floating-point [B, T] tensor, got {self.logp.dtype} {list(self.logp.shape)}"
            )
        rows, tokens = self.logp.shape
        for name in ("old_logp", "ref_logp", "sampler_logp", "weight"):
            value = getattr(self, name)
            if value is None:
                continue
            if value.shape != self.logp.shape:
                raise ValueError(f"{name} must have logp's shape {[rows, tokens]}, got {list(value.shape)}")
            if value.requires_grad:
                raise ValueError(f"{name} carries a gradient; only logp may. Pass {name}.detach()")
        if self.advantage.shape not in ((rows,), (rows, tokens)):
            raise ValueError(
                f"advantage must be [B] = {[rows]} or [B, T] = {[rows, tokens]}, got {list(self.advantage.shape)}"
            )
        if self.mask.shape != self.logp.shape or self.mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be a bool tensor of logp's shape {[rows, tokens]}, "
                f"got {self.mask.dtype} {list(self.mask.shape)}"
            )
        if self.active is not None and (self.active.shape != (rows,) or self.active.dtype != torch.bool):
            raise ValueError(
                f"active must be a bool [B] = {[rows]} tensor, got {self.active.dtype} {list(self.active.shape)}"
            )

    @property
    def advantage_BT(self) -> Tensor:
        """The advantage of every token, [B, T]."""
        advantage = self.advantage
        return advantage if advantage.ndim == 2 else advantage.unsqueeze(1).expand_as(self.logp)

    def without_padding_values(self) -> TokenBatch:
        """The same batch with zeros where the mask is False.

        `torch.where` (and not a product with the mask) keeps a NaN or inf at a padded position out of both the
        value and the gradient: 0 * inf is NaN.
        """

        def clean(value: Tensor) -> Tensor:
            return torch.where(self.mask, value, torch.zeros((), dtype=value.dtype, device=value.device))

        optional = {
            name: clean(value)
            for name in ("old_logp", "ref_logp", "sampler_logp", "weight")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, logp=clean(self.logp), advantage=clean(self.advantage_BT), **optional)


@dataclass(frozen=True)
class TokenLoss:
    """An objective's answer: `loss` [B, T], not yet reduced, and `stats`, name -> [B, T] without gradient."""

    loss: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
