"""Bounds that several objectives' hyper-parameters share. The message names the field and what it may be."""

from __future__ import annotations


def check_clip(clip_low: float, clip_high: float, dual_clip: float = 0.0) -> None:
    """PPO clip offsets: 0 < clip_low < 1, 0 < clip_high, and dual_clip 0 (off) or above 1."""
    if not 0 < clip_low < 1:
        raise ValueError(
            f"clip_low is an offset below 1 and must lie in (0, 1), got {clip_low}; 0.2 clips at 0.8"
        )
    if clip_high <= 0:
        raise ValueError(f"clip_high is an offset above 1 and must be positive, got {clip_high}; 0.28 clips at 1.28")
    if dual_clip != 0 and dual_clip <= 1:
        raise ValueError(f"dual_clip must be 0 (off) or above 1, got {dual_clip}; PPO's usual value is 3")


def check_band(w_low: float, w_high: float) -> None:
    """The one-way weight's bounds: 0 < w_low <= 1 <= w_high, so that no weight can turn an update."""
    if not 0 < w_low <= 1:
        raise ValueError(f"w_low must lie in (0, 1], got {w_low}; at 0 or below an update could vanish or turn")
    if w_high < 1:
        raise ValueError(f"w_high must be at least 1, got {w_high}; the paper's band is 0.8 to 1.2")
