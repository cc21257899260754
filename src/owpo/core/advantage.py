"""From rewards to advantages: what a response is worth against its group or against the batch.

Computed once a step on all of its rewards, before anything is split. Sources: GRPO (arXiv 2402.03300),
Dr.GRPO (2503.20783), RLOO (2402.14740), ReST (2308.08998), DAPO's overlong punishment (2503.14476, eq. 13).

Shape legend: P prompts, G responses per prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from owpo.core.registry import did_you_mean

# Under it a spread of rewards is float noise (0.1 + 0.2 against 0.3) and not a verdict. Left alone, the
# noise's sign would be a direction, and GRPO's division by a std of 1e-8 would make it a large one.
NO_SPREAD = 1e-6
_STD_EPSILON = 1e-6

ESTIMATORS: dict[str, str] = {
    "group_std": "(R - group mean) / (group std + 1e-6), Bessel's std (GRPO, DAPO)",
    "group_mean": "R - group mean (Dr.GRPO)",
    "leave_one_out": "R - mean of the group's other responses (RLOO)",
    "batch_mean": "R - batch mean (REINFORCE)",
    "batch_std": "(R - batch mean) / (batch std + 1e-6), Bessel's std (PPO without a critic)",
    "above_threshold": "1 where R > threshold, else 0 (ReST)",
}


def estimate_advantage(reward_PG: Tensor, kind: str, *, threshold: float = 0.0) -> Tensor:
    """advantage_PG of every response.

    Exactly 0 in a group without spread (for `batch_*`: in a batch without spread), whatever rounding left
    there.

    Args:
        kind: a name of `ESTIMATORS`.
        threshold: read by `above_threshold` alone, in units of the reward.

    Raises:
        ValueError: unknown kind, a reward that is NaN or infinite, or too few responses to compare.
    """
    if kind not in ESTIMATORS:
        raise ValueError(
            f"unknown advantage estimator {kind!r}.{did_you_mean(kind, ESTIMATORS)} "
            f"Known: {', '.join(ESTIMATORS)}"
        )
    reward_PG = _checked(reward_PG)
    if kind == "above_threshold":
        return (reward_PG > threshold).to(reward_PG.dtype)
    if kind.startswith("batch_"):
        return _against_others(reward_PG.reshape(1, -1), kind, "the batch").reshape(reward_PG.shape)
    return _against_others(reward_PG, kind, "each group")


def _against_others(reward_NM: Tensor, kind: str, whose: str) -> Tensor:
    """Each reward [N, M] against the M of its row."""
    size = reward_NM.shape[1]
    if size < 2:
        raise ValueError(
            f"advantage estimator {kind!r} compares responses, but {whose} has {size}; "
            "sample at least 2 responses per prompt, or choose 'above_threshold'"
        )
    advantage_NM = reward_NM - reward_NM.mean(dim=1, keepdim=True)
    if kind.endswith("_std"):
        advantage_NM = advantage_NM / (reward_NM.std(dim=1, keepdim=True) + _STD_EPSILON)
    elif kind == "leave_one_out":
        # R - (sum - R) / (M - 1), written with the mean of all M.
        advantage_NM = advantage_NM * (size / (size - 1))
    return advantage_NM.masked_fill(zero_variance(reward_NM).unsqueeze(1), 0.0)


def zero_variance(reward_PG: Tensor) -> Tensor:
    """[P] bool: the groups whose responses all got the same reward, within 1e-6, and so teach nothing.

    For dynamic sampling pass the verifier's reward, before any shaping: a group that is wrong throughout, but
    of different lengths, has spread once an overlong penalty is added, and would pass as informative.
    """
    reward_PG = _checked(reward_PG)
    return reward_PG.amax(dim=1) - reward_PG.amin(dim=1) < NO_SPREAD


def overlong_penalty(length: Tensor, max_tokens: int, cache: int) -> Tensor:
    """DAPO's soft overlong punishment, in [-1, 0], to be added to the reward (arXiv 2503.14476, eq. 13).

    0 up to max_tokens - cache tokens, then falling linearly to -1 at max_tokens. It stays at -1 beyond: the
    paper counts on truncation there, we do not.

    Args:
        length: of the responses in tokens, any shape.

    Raises:
        ValueError: cache is not in [1, max_tokens].
    """
    if not 1 <= cache <= max_tokens:
        raise ValueError(
            f"cache, the tokens over which the penalty grows, must lie in [1, max_tokens = {max_tokens}], "
            f"got {cache}; DAPO's values are 4096 of 20480"
        )
    return ((max_tokens - cache - length) / cache).clamp(-1.0, 0.0)


def _checked(reward_PG: Tensor) -> Tensor:
    if reward_PG.ndim != 2:
        raise ValueError(
            f"rewards must be [prompts, responses per prompt], got shape {list(reward_PG.shape)}"
        )
    reward_PG = reward_PG if reward_PG.is_floating_point() else reward_PG.float()
    if not torch.isfinite(reward_PG).all():
        row, column = (~torch.isfinite(reward_PG)).nonzero()[0].tolist()
        raise ValueError(
            f"the reward of prompt {row}, response {column} is {reward_PG[row, column].item()}; "
            "a verifier must give every response a finite reward"
        )
    return reward_PG
