"""Whether a candidate may become the reference: a pure function of what was measured (docs/ratchet.md).

Shape legend: C checkpoints that the candidate was chosen among, N problems, S sampled responses.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from owpo.config import GateConfig


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a decision stands on, all of it from the selection set.

    checkpoint_CN                the accuracy by problem of every checkpoint that the stage could have proposed
    chosen                       the row that is the candidate
    reference_N                  the reference's, from responses of its own to this gate alone
    length_S, reference_length_S       [S] response lengths in tokens
    truncated_share, reference_truncated_share  of these responses
    kl                           KL(candidate || reference) in nats a token of the candidate's responses
    """

    checkpoint_CN: Tensor
    chosen: int
    reference_N: Tensor
    length_S: Tensor
    reference_length_S: Tensor
    truncated_share: float
    reference_truncated_share: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """
    refusals     a phrase for every bound that does not hold, with its figures; none: the candidate passes
    gain         the candidate's accuracy above the reference's
    p_value      of the test that the gain exceeds `min_gain`, corrected for the choice among C
    checkpoints  C
    tail, reference_tail  95th percentile of the lengths
    """

    refusals: list[str]
    gain: float
    p_value: float
    checkpoints: int
    tail: float
    reference_tail: float

    @property
    def accepted(self) -> bool:
        return not self.refusals


def decide(evidence: Evidence, config: GateConfig, seed: int = 0) -> Decision:
    """Hold a candidate against the reference in force."""
    raise NotImplementedError
