"""What several objectives demand of their hyper-parameters, and what a reference must not be."""

from __future__ import annotations

from torch import Tensor


def check_clip(clip_low: float, clip_high: float, dual_clip: float = 0.0) -> None:
    """PPO clip offsets: 0 < clip_low < 1, 0 < clip_high, and dual_clip 0 (off) or above 1."""
    if not 0 < clip_low < 1:
        raise ValueError(
            f"clip_low is an offset below 1 and must lie in (0, 1), got {clip_low}; 0.2 clips at 0.8"
        )
    if clip_high <= 0:
        raise ValueError(
            f"clip_high is an offset above 1 and must be positive, got {clip_high}; 0.28 clips at 1.28"
        )
    if dual_clip != 0 and dual_clip <= 1:
        raise ValueError(f"dual_clip must be 0 (off) or above 1, got {dual_clip}; PPO's usual value is 3")


def check_band(w_low: float, w_high: float) -> None:
    """The one-way weight's bounds: 0 < w_low <= 1 <= w_high, so that no weight can turn an update."""
    if not 0 < w_low <= 1:
        raise ValueError(
            f"w_low must lie in (0, 1], got {w_low}; at 0 or below an update could vanish or turn"
        )
    if w_high < 1:
        raise ValueError(f"w_high must be at least 1, got {w_high}; the paper's band is 0.8 to 1.2")


def check_ratio_bounds(low_name: str, low: float, high_name: str, high: float) -> None:
    """Bounds of pi / pi_old in absolute units: 0 <= low <= 1 <= high, so that on-policy tokens are inside."""
    if not 0 <= low <= 1:
        raise ValueError(
            f"{low_name} bounds the ratio itself and must lie in [0, 1], got {low}; 0 is no lower bound"
        )
    if high < 1:
        raise ValueError(
            f"{high_name} bounds the ratio itself, not its distance from 1, so it is at least 1, got {high}; "
            f"for an offset of {high} write {1 + high}"
        )


def check_reference(ref_logp: Tensor, old_logp: Tensor, mask: Tensor, *, may_equal_policy: bool) -> None:
    """Refuse reference log-probs that a host filled in without a reference: all zero, or a copy of the
    policy's.

    Reads values, so on an accelerator it waits for them: once a step, not once a micro-batch.

    Args:
        ref_logp, old_logp, mask: [B, T].
        may_equal_policy: whether the reference has the policy's weights, as in a run's first step and right
            after `ref <- policy`.

    Raises:
        ValueError: the log-probs are not a reference's.
    """
    if not mask.any():
        return
    if not ref_logp[mask].any():
        raise ValueError(
            "ref_logp is 0 at every response token: the host has no reference and filled in zeros"
        )
    if not may_equal_policy and ref_logp[mask].equal(old_logp[mask]):
        raise ValueError(
            "ref_logp equals old_logp bit for bit, but the reference is not the policy: "
            "the host has no reference and copied the policy's log-probs"
        )
