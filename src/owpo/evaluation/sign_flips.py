"""Paired tests that flip signs: were the differences as likely to come out the other way round?

Shape legend: C checkpoints, N problems, M of them with a difference, R draws.
"""

from __future__ import annotations

import torch
from torch import Tensor

ENUMERATED = 16  # up to as many problems with a difference all 2^M signs are tried
DRAWS = 20_000  # beyond it: the standard error of a p-value of 0.05 is 0.0015


def sign_flip_test(difference_N: Tensor, seed: int = 0) -> float:
    """Two-sided p-value of "on each problem the difference d was as likely to come out as -d".

    That is so where both models answer alike, with as many samples each; with unequal numbers it is an
    approximation. The p-value is the share of all 2^M choices of signs whose sum is at least as far from 0 as
    the one seen, M being the number of non-zero differences. All are tried for M <= 16; beyond it 20,000 are
    drawn and the one seen is counted in, (1 + hits) / (1 + draws), so that p is never 0 and the test keeps its
    level. No difference at all gives 1.

    Raises:
        ValueError: a difference that is NaN or infinite.
    """
    difference_N = difference_N.double()
    both_sides_2N = torch.stack([difference_N, -difference_N])
    return _share_of_flips(both_sides_2N, int(difference_N.sum() < 0), seed)


def max_t_test(difference_CN: Tensor, chosen: int, seed: int = 0) -> float:
    """One-sided p-value of row `chosen`, corrected for its having been chosen among the C rows by these very values.

    The statistic of a row is t_c = sum_n d_cn / sqrt(sum_n d_cn^2). A draw flips a problem's sign in all rows at
    once, so that rows stay as alike as they are, and p is the share of draws whose largest t is at least the
    chosen row's (the joint resampling of Westfall & Young, Resampling-Based Multiple Testing, 1993, single-step
    max-T). The luck of the samples and that of the problems are both in it. All signs are tried, or drawn, as in
    `sign_flip_test`; for C = 1 this is its one-sided half.

    Flips leave the root unchanged: it only brings the rows to one scale, without which a checkpoint that lies far
    below the others has the widest sums and hides a better one. No t is above the largest, so p is valid whichever
    row was chosen.

    Raises:
        ValueError: a difference that is NaN or infinite.
    """
    difference_CN = difference_CN.double()
    norm_C = difference_CN.square().sum(dim=1).sqrt()
    return _share_of_flips(difference_CN / torch.where(norm_C > 0, norm_C, 1.0).unsqueeze(1), chosen, seed)


def _share_of_flips(value_CN: Tensor, seen_row: int, seed: int) -> float:
    """Share of signs, common to the rows, under which the largest row sum is at least the one seen in `seen_row`."""
    if not bool(value_CN.isfinite().all()):
        raise ValueError("the differences hold NaN or infinity; leave out the problems that were not graded")
    value_MC = value_CN[:, (value_CN != 0).any(dim=0)].T
    num_signs = len(value_MC)
    if num_signs == 0:
        return 1.0
    # Sums that are equal but for rounding are equal.
    seen = value_MC[:, seen_row].sum().item() - 1e-9 * value_MC[:, seen_row].abs().sum().item()
    if num_signs <= ENUMERATED:
        bits_RM = torch.arange(2**num_signs).unsqueeze(1) >> torch.arange(num_signs) & 1
        return _count_flips(value_MC, bits_RM, seen) / 2**num_signs
    generator = torch.Generator().manual_seed(seed)
    hits, done, block = 0, 0, max(1, 2**22 // num_signs)
    while done < DRAWS:
        rows = min(block, DRAWS - done)
        bits_RM = torch.randint(2, (rows, num_signs), generator=generator, dtype=torch.int8)
        hits += _count_flips(value_MC, bits_RM, seen)
        done += rows
    return (1 + hits) / (1 + DRAWS)


def _count_flips(value_MC: Tensor, bits_RM: Tensor, seen: float) -> int:
    largest_R = ((1 - 2 * bits_RM.double()) @ value_MC).amax(dim=1)
    return int(largest_R.ge(seen).sum())
