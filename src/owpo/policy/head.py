"""Log-probs of chosen tokens from hidden states, without the logits of all of them at once.

With a vocabulary of 152,000 the float32 logits of 4,096 tokens take 2.5 GB, and a plain log_softmax with its
backward pass holds about four tensors of that size. Here the output layer is walked over in chunks of tokens:
the forward pass keeps the hidden states and one log-sum-exp per token, the backward pass computes each
chunk's logits again. One more matrix product buys back nearly all of the memory.

Shape legend: N tokens, C tokens of one chunk, H hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


@dataclass(frozen=True)
class LogitTransform:
    """What an architecture does to the output of its last linear layer.

    logits = cap(scale * x), with cap(x) = softcap * tanh(x / softcap), or x where softcap is None.
    """

    scale: float = 1.0
    softcap: float | None = None

    def apply_(self, logits_NV: Tensor) -> Tensor:
        """In place."""
        if self.scale != 1.0:
            logits_NV *= self.scale
        if self.softcap is not None:
            logits_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_NV

    def slope(self, logits_NV: Tensor) -> Tensor | float:
        """d logits / dx, from the logits themselves."""
        if self.softcap is None:
            return self.scale
        return (logits_NV / self.softcap).square_().neg_().add_(1).mul_(self.scale)


_IDENTITY = LogitTransform()
_ENTROPY_PART = 16384  # of a vocabulary


@dataclass(frozen=True)
class LogitHead:
    """A causal LM's way from the last hidden states to logits; the product alone is in `compute_dtype`."""

    weight_VH: Tensor
    bias_V: Tensor | None
    transform: LogitTransform
    compute_dtype: torch.dtype

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """[N, V] in float32 (float64 for a float64 model)."""
        with torch.autocast(hidden_NH.device.type, enabled=False):
            weight_VH = self.weight_VH.to(self.compute_dtype)
            return _logits(hidden_NH, weight_VH, self.bias_V, self.transform)

    def selected_logprobs(
        self,
        hidden_NH: Tensor,
        target_N: Tensor,
        temperature: float,
        *,
        with_entropy: bool,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor | None]:
        """`selected_logprobs` with this head's weights."""
        return selected_logprobs(
            hidden_NH, self.weight_VH, self.bias_V, target_N, temperature,
            transform=self.transform, compute_dtype=self.compute_dtype,
            with_entropy=with_entropy, chunk_tokens=chunk_tokens,
        )  # fmt: skip


def chunk_size(vocab_size: int) -> int:
    """Tokens whose float32 logits take 64 MiB: few enough for memory, enough for a matrix product to be efficient."""
    return min(max((1 << 24) // vocab_size, 64), 4096)


def selected_logprobs(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    temperature: float,
    *,
    transform: LogitTransform = _IDENTITY,
    compute_dtype: torch.dtype | None = None,
    with_entropy: bool = False,
    chunk_tokens: int = 1024,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(logits / temperature)[target], [N], and the entropy in nats, [N] without gradient, or None.

    Both in float32, or float64 where everything is. `compute_dtype` (the weight's, unless given) is that of
    the matrix products alone; the log-softmax is never in less than float32. Peak memory above the inputs and
    gradients is about `chunk_tokens` * V floats, twice that with a cap.

    Raises:
        ValueError: temperature or chunk_tokens is not positive.
    """
    if not temperature > 0:
        raise ValueError(
            f"log-probs need a positive temperature, got {temperature}; greedy sampling has none"
        )
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    with torch.autocast(hidden_NH.device.type, enabled=False):
        logp_N, entropy_N = _SelectedLogProbs.apply(
            hidden_NH, weight_VH, bias_V, target_N,
            temperature, transform, compute_dtype or weight_VH.dtype, with_entropy, chunk_tokens,
        )  # fmt: skip
    return logp_N, entropy_N if with_entropy else None


def _logits(
    hidden_NH: Tensor, compute_weight_VH: Tensor, bias_V: Tensor | None, transform: LogitTransform
) -> Tensor:
    product_NV = linear(hidden_NH.to(compute_weight_VH.dtype), compute_weight_VH)
    logits_NV = product_NV.to(torch.promote_types(product_NV.dtype, torch.float32))
    if bias_V is not None:
        logits_NV += bias_V
    return transform.apply_(logits_NV)


def _from_logits(
    logits_CV: Tensor, target_C: Tensor, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-prob of the target, log-sum-exp and entropy, [C] each; overwrites the logits."""
    top_C = logits_CV.amax(dim=1)
    shifted_CV = logits_CV.sub_(top_C.unsqueeze(1))
    chosen_C = shifted_CV.gather(1, target_C.unsqueeze(1)).squeeze(1)
    if not with_entropy:
        log_sum_C = shifted_CV.exp_().sum(dim=1).log()
        return chosen_C - log_sum_C, log_sum_C + top_C, None
    # H = log sum_v e^x - sum_v p x for any shift of x; part by part, so that no second buffer of C * V is made.
    sum_C, dot_C = torch.zeros_like(top_C), torch.zeros_like(top_C)
    for part_CW in shifted_CV.split(_ENTROPY_PART, dim=1):
        exp_CW = part_CW.exp()
        sum_C += exp_CW.sum(dim=1)
        dot_C += torch.einsum("cw,cw->c", exp_CW, part_CW)
    log_sum_C = sum_C.log()
    return chosen_C - log_sum_C, log_sum_C + top_C, log_sum_C - dot_C / sum_C


def _product_gradient(
    logits_CV: Tensor,
    target_C: Tensor,
    log_sum_C: Tensor,
    grad_C: Tensor,
    transform: LogitTransform,
    temperature: float,
) -> Tensor:
    """The loss's gradient at the linear layer's output, [C, V]; overwrites the logits.

    d logp / d logits = (onehot(target) - softmax) / temperature, times the transform's slope.
    """
    slope = transform.slope(logits_CV)
    softmax_CV = logits_CV.div_(temperature).sub_(log_sum_C.unsqueeze(1)).exp_()
    scaled_C1 = grad_C.unsqueeze(1) / temperature
    return softmax_CV.mul_(-scaled_C1).scatter_add_(1, target_C.unsqueeze(1), scaled_C1).mul_(slope)


class _SelectedLogProbs(torch.autograd.Function):
    """The forward pass saves a log-sum-exp per token, the backward pass recomputes each chunk's logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        temperature: float,
        transform: LogitTransform,
        compute_dtype: torch.dtype,
        with_entropy: bool,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        compute_weight_VH = weight_VH.to(compute_dtype)
        dtype = torch.promote_types(compute_dtype, torch.float32)
        logp_N = hidden_NH.new_empty(hidden_NH.shape[0], dtype=dtype)
        log_sum_N = torch.empty_like(logp_N)
        entropy_N = torch.empty_like(logp_N) if with_entropy else logp_N.new_empty(0)
        for start in range(0, hidden_NH.shape[0], chunk_tokens):
            at = slice(start, start + chunk_tokens)
            # A name for the logits here would keep one chunk's alive while the next one's are made.
            logp_N[at], log_sum_N[at], entropy_C = _from_logits(
                _logits(hidden_NH[at], compute_weight_VH, bias_V, transform).div_(temperature),
                target_N[at],
                with_entropy,
            )
            if entropy_C is not None:
                entropy_N[at] = entropy_C
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, target_N, log_sum_N)
        ctx.temperature, ctx.transform = temperature, transform
        ctx.compute_dtype, ctx.chunk_tokens = compute_dtype, chunk_tokens
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _grad_entropy_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, target_N, log_sum_N = ctx.saved_tensors
        transform, temperature = ctx.transform, ctx.temperature
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        compute_weight_VH = weight_VH.to(ctx.compute_dtype)
        grad_hidden_NH = torch.empty_like(hidden_NH) if needs_hidden else None
        # The sum over chunks stays in the weights' float32 also where the products are bfloat16.
        grad_weight_VH = torch.zeros_like(weight_VH) if needs_weight else None
        grad_bias_V = torch.zeros_like(bias_V) if needs_bias else None
        for start in range(0, hidden_NH.shape[0], ctx.chunk_tokens):
            at = slice(start, start + ctx.chunk_tokens)
            hidden_CH = hidden_NH[at].to(ctx.compute_dtype)
            grad_CV = _product_gradient(
                _logits(hidden_CH, compute_weight_VH, bias_V, transform),
                target_N[at], log_sum_N[at], grad_N[at], transform, temperature,
            )  # fmt: skip
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(dim=0)
            grad_CV = grad_CV.to(ctx.compute_dtype)
            if grad_hidden_NH is not None:
                grad_hidden_NH[at] = grad_CV @ compute_weight_VH
            if grad_weight_VH is not None and grad_weight_VH.dtype == ctx.compute_dtype:
                grad_weight_VH.addmm_(grad_CV.T, hidden_CH)
            elif grad_weight_VH is not None:
                grad_weight_VH += grad_CV.T @ hidden_CH
            del grad_CV  # before the next chunk's logits are made
        return grad_hidden_NH, grad_weight_VH, grad_bias_V, None, None, None, None, None, None
