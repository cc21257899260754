"""The reductions by hand: two prompts of two responses, with 1, 3, 2 and 0 tokens."""

import pytest
import torch

from owpo.core import StepCounts, reduction_weights
from owpo.core.reduce import MODES

LENGTH_B = torch.tensor([1, 3, 2, 0])
MASK_BT = torch.arange(4) < LENGTH_B.unsqueeze(1)
LOSS_BT = torch.arange(16, dtype=torch.float64).reshape(4, 4)  # rows 0, 4 5 6, 8 9, none
COUNTS = StepCounts(tokens=6, sequences=4, prompts=2, max_tokens=10)
PROMPT_TOKENS_B = torch.tensor([4, 4, 2, 2])


def reduced(mode, mask=MASK_BT, loss=LOSS_BT):
    return (loss * reduction_weights(mask, mode, COUNTS, PROMPT_TOKENS_B, torch.float64)).sum().item()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 32 / 6),
        ("seq-mean-token-mean", (0 + 5 + 8.5 + 0) / 4),
        ("seq-mean-token-sum", 32 / 4),
        ("seq-mean-token-sum-norm", 32 / 40),
        ("token-sum", 32),
        ("prompt-mean", (15 / 4 + 17 / 2) / 2),
    ],
)
def test_by_hand(mode, expected):
    assert reduced(mode) == pytest.approx(expected, rel=1e-12)


def test_every_mode_is_tested_by_hand():
    (marker,) = (mark for mark in test_by_hand.pytestmark if mark.name == "parametrize")
    assert {mode for mode, _ in marker.args[1]} == set(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_the_width_of_the_padding_is_no_denominator(mode):
    """Dividing by the padded width is the usual way to get Dr.GRPO's constant wrong."""
    wide_mask = torch.nn.functional.pad(MASK_BT, (0, 5))
    wide_loss = torch.nn.functional.pad(LOSS_BT, (0, 5), value=7.0)
    assert reduced(mode, wide_mask, wide_loss) == reduced(mode)


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_step_is_zero(mode):
    empty = StepCounts(tokens=0, sequences=0, prompts=0, max_tokens=1)
    weight = reduction_weights(torch.zeros(2, 3, dtype=torch.bool), mode, empty, torch.zeros(2))
    assert not weight.any()


def test_rejected_tokens_shrink_the_step_unless_the_counts_are_those_kept():
    """The counts say what the denominator counts: every sampled token, or those that were kept."""
    kept_BT = MASK_BT.clone()
    kept_BT[1] = False
    over_all = reduction_weights(kept_BT, "token-mean", COUNTS).sum()
    kept_counts = StepCounts(tokens=3, sequences=3, prompts=2, max_tokens=10)
    assert over_all.item() == pytest.approx(0.5)
    assert reduction_weights(kept_BT, "token-mean", kept_counts).sum().item() == pytest.approx(1)


def test_bad_input():
    with pytest.raises(ValueError, match=r"unknown reduction 'token_mean'\. Did you mean 'token-mean'"):
        reduced("token_mean")
    with pytest.raises(ValueError, match="needs prompt_tokens"):
        reduction_weights(MASK_BT, "prompt-mean", COUNTS)
    with pytest.raises(ValueError, match="max_tokens"):
        StepCounts(tokens=1, sequences=1, prompts=1, max_tokens=0)
    with pytest.raises(ValueError, match=r"StepCounts\.tokens"):
        StepCounts(tokens=-1, sequences=1, prompts=1, max_tokens=1)
