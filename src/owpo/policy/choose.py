"""One token a row from logits, by inverting the cumulative distribution at a number that belongs to row and position.

Shape legend: R rows, V vocabulary, C chunks of the vocabulary, W tokens of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The sum over a vocabulary is taken chunk by chunk, and only the chunk that is met is walked through token by token.
_CHUNK = 512
_MASK = (1 << 64) - 1


def uniform(seed: int, row_R: Tensor, position_R: Tensor) -> Tensor:
    """Numbers in [0, 1), [R] float64, each a function of seed, row and position alone (splitmix64, Steele et al. 2014).

    So a row's numbers depend neither on the rows decoded beside it nor on the device.
    """
    state_R = _mixed(row_R * _signed(0x9E3779B97F4A7C15) + _signed(seed & _MASK))
    state_R = _mixed(state_R + (position_R + 1) * _signed(0x9E3779B97F4A7C15))
    return _shifted(state_R, 11).double() * 2.0**-53


def _mixed(state_R: Tensor) -> Tensor:
    """splitmix64's finaliser; int64 wraps around as uint64 does."""
    state_R = (state_R ^ _shifted(state_R, 30)) * _signed(0xBF58476D1CE4E5B9)
    state_R = (state_R ^ _shifted(state_R, 27)) * _signed(0x94D049BB133111EB)
    return state_R ^ _shifted(state_R, 31)


def _shifted(state_R: Tensor, by: int) -> Tensor:
    """A shift to the right that brings in zeros."""
    return (state_R >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def choose(logits_RV: Tensor, temperature: float, top_p: float, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row at uniform_R in [0, 1), and its log-prob; overwrites the logits.

    The distribution is softmax(logits / temperature), cut to the smallest set of tokens with a mass of at least top_p
    (the most likely token always stays) and renormalised. Temperature 0 takes the most likely token, whose log-prob is
    then 0. Sums are float64: in float32 the tail of a large vocabulary would round away.
    """
    if temperature == 0:
        token_R = logits_RV.argmax(dim=-1)
        return token_R, torch.zeros_like(token_R, dtype=logits_RV.dtype)
    logits_RV.div_(temperature)
    if top_p < 1:
        return _from_nucleus(logits_RV, top_p, uniform_R)
    top_R1 = logits_RV.amax(dim=-1, keepdim=True)
    mass_RV = logits_RV.sub_(top_R1).exp_()
    width = min(_CHUNK, mass_RV.shape[1])
    cumulative_RC = _chunk_sums(mass_RV, width).cumsum(dim=1)
    total_R1 = cumulative_RC[:, -1:]
    target_R1 = uniform_R.unsqueeze(1) * total_R1
    # right=True steps over chunks and tokens of probability 0; the minimum guards against u * total rounding up to it.
    chunk_R1 = _first_above(cumulative_RC, target_R1)
    before_R1 = torch.where(chunk_R1 > 0, cumulative_RC.gather(1, (chunk_R1 - 1).clamp(min=0)), 0.0)
    index_RW = chunk_R1 * width + torch.arange(width, device=mass_RV.device)
    mass_RW = mass_RV.gather(1, index_RW.clamp(max=mass_RV.shape[1] - 1)) * (index_RW < mass_RV.shape[1])
    place_R1 = _first_above(mass_RW.double().cumsum(dim=1), target_R1 - before_R1)
    logp_R1 = mass_RW.gather(1, place_R1).log() - total_R1.log().to(mass_RW.dtype)
    return (chunk_R1 * width + place_R1).squeeze(1), logp_R1.squeeze(1)


def _chunk_sums(mass_RV: Tensor, width: int) -> Tensor:
    """[R, C] float64; the last chunk may be shorter."""
    rows, size = mass_RV.shape
    whole = size // width * width
    sums_RC = mass_RV[:, :whole].view(rows, -1, width).sum(dim=2, dtype=torch.float64)
    if whole == size:
        return sums_RC
    return torch.cat([sums_RC, mass_RV[:, whole:].sum(dim=1, keepdim=True, dtype=torch.float64)], dim=1)


def _first_above(cumulative: Tensor, target_R1: Tensor) -> Tensor:
    """Where a cumulative sum first exceeds the target, [R, 1]; never past the last place at which it rises."""
    last_R1 = (cumulative < cumulative[:, -1:]).sum(dim=1, keepdim=True)
    return torch.searchsorted(cumulative, target_R1, right=True).minimum(last_R1)


def _from_nucleus(logits_RV: Tensor, top_p: float, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    logp_RV, order_RV = logits_RV.log_softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    probability_RV = logp_RV.exp().double()
    cumulative_RV = probability_RV.cumsum(dim=-1)
    # A token stays while the mass before it is below top_p.
    last_R1 = (cumulative_RV - probability_RV < top_p).sum(dim=-1, keepdim=True) - 1
    mass_R1 = cumulative_RV.gather(1, last_R1)
    place_R1 = torch.searchsorted(cumulative_RV, uniform_R.unsqueeze(1) * mass_R1, right=True)
    place_R1 = place_R1.minimum(last_R1)
    logp_R1 = logp_RV.gather(1, place_R1) - mass_R1.log().to(logp_RV.dtype)
    return order_RV.gather(1, place_R1).squeeze(1), logp_R1.squeeze(1)
