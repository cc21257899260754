"""Every way to turn a [B, T] loss into a number: `loss = (loss_BT * weight_BT).sum()`.

The denominators count the whole optimiser step and are passed in. A micro-batch is then a slice of a sum, and
splitting a step differently cannot change its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from owpo.core.registry import did_you_mean

MODES: dict[str, str] = {
    "token-mean": "sum / tokens of the step (DAPO)",
    "seq-mean-token-mean": "mean over sequences of each one's token mean (GRPO, GSPO)",
    "seq-mean-token-sum": "mean over sequences of each one's token sum (REINFORCE, RLOO)",
    "seq-mean-token-sum-norm": "sum / (sequences * max_tokens), a constant length (Dr.GRPO)",
    "token-sum": "the plain sum",
    "prompt-mean": "mean over prompts of the token mean inside each prompt's group",
}


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """What one optimiser step holds in all, over every micro-batch and process.

    tokens      response tokens
    sequences   responses
    prompts     groups
    max_tokens  the constant length of `seq-mean-token-sum-norm`: the longest response that sampling allows.
                The width of a padded batch is no substitute, for it differs from one micro-batch to the next.

    Raises:
        ValueError: a count is negative, or max_tokens is below 1.
    """

    tokens: int
    sequences: int
    prompts: int
    max_tokens: int

    def __post_init__(self) -> None:
        for name in ("tokens", "sequences", "prompts"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"StepCounts.{name} counts a whole optimiser step, got {getattr(self, name)}"
                )
        if self.max_tokens < 1:
            raise ValueError(
                f"StepCounts.max_tokens must be the longest allowed response, got {self.max_tokens}"
            )


def reduction_weights(
    mask: Tensor,
    mode: str,
    counts: StepCounts,
    prompt_tokens: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The weight of every token, [B, T], zero where the mask is False.

    Args:
        mask: [B, T] bool, any rows of the step.
        mode: a name of `MODES`.
        counts: of the whole optimiser step.
        prompt_tokens: [B] float, the response tokens of each row's whole group; read by `prompt-mean` alone.

    Raises:
        ValueError: unknown mode, or `prompt-mean` without prompt_tokens.
    """
    ones = mask.to(dtype)
    if mode == "token-mean":
        return ones / max(counts.tokens, 1)
    if mode == "seq-mean-token-mean":
        return ones / ones.sum(dim=1, keepdim=True).clamp(min=1) / max(counts.sequences, 1)
    if mode == "seq-mean-token-sum":
        return ones / max(counts.sequences, 1)
    if mode == "seq-mean-token-sum-norm":
        return ones / (max(counts.sequences, 1) * counts.max_tokens)
    if mode == "token-sum":
        return ones
    if mode == "prompt-mean":
        if prompt_tokens is None:
            raise ValueError(
                "reduction 'prompt-mean' needs prompt_tokens, the token count of each row's group"
            )
        return ones / prompt_tokens.to(dtype).clamp(min=1).unsqueeze(1) / max(counts.prompts, 1)
    raise ValueError(f"unknown reduction {mode!r}.{did_you_mean(mode, MODES)} Known: {', '.join(MODES)}")
