"""What a batch refuses: broadcasting, lossy log-probs, misplaced gradients, references that are none."""

from dataclasses import replace

import pytest
import torch
from core_batches import ROWS, TOKENS, random_batch

from owpo.core import objective
from owpo.core.checks import check_reference

LOG_PROBS = ["old_logp", "ref_logp", "sampler_logp", "weight"]


def refused(message, **fields):
    with pytest.raises(ValueError, match=message):
        replace(random_batch(), **fields)


@pytest.mark.parametrize("name", LOG_PROBS)
def test_log_probs_of_other_shapes_do_not_broadcast(name):
    refused(rf"{name} must be \[B, T\] = \[16, 9\], got shape \[1, 9\]", **{name: torch.zeros(1, TOKENS)})
    refused(name, **{name: torch.zeros(ROWS, 1)})
    refused(name, **{name: torch.zeros(ROWS)})


def test_shapes_of_the_rest():
    refused(r"logp must be a \[B, T\] tensor", logp=torch.zeros(ROWS))
    refused(r"advantage must be \[B\] = \[16\] or \[B, T\]", advantage=torch.zeros(TOKENS))
    refused("mask must be", mask=torch.ones(ROWS, TOKENS + 1, dtype=torch.bool))
    refused(r"active must be \[B\] = \[16\]", active=torch.ones(ROWS, TOKENS, dtype=torch.bool))


@pytest.mark.parametrize("name", ["logp", *LOG_PROBS, "advantage"])
def test_half_precision_is_refused(name):
    """bfloat16 has a step of 0.03 nat at -5, a sixth of the distance from 1 to the band's edge."""
    assert torch.tensor(-5.0).bfloat16() == torch.tensor(-5.01).bfloat16()
    refused(
        f"{name} must be float32 or float64, got bfloat16", **{name: torch.zeros(ROWS, TOKENS).bfloat16()}
    )


@pytest.mark.parametrize("name", ["mask", "active"])
def test_masks_are_bool(name):
    value = torch.ones(ROWS, TOKENS) if name == "mask" else torch.ones(ROWS)
    refused(f"{name} must be bool, got float32", **{name: value})


def test_contexts_are_ids_of_tokens():
    refused("context must be int64, got float32", context=torch.zeros(ROWS, TOKENS))
    refused(r"context must be \[B, T\]", context=torch.zeros(ROWS, dtype=torch.int64))


@pytest.mark.parametrize("name", [*LOG_PROBS, "advantage"])
def test_only_logp_carries_a_gradient(name):
    refused(rf"Pass {name}\.detach\(\)", **{name: torch.zeros(ROWS, TOKENS, requires_grad=True)})


def test_tensors_on_two_devices():
    refused(
        "mask is on meta, but logp is on cpu", mask=torch.ones(ROWS, TOKENS, dtype=torch.bool, device="meta")
    )


def test_an_advantage_per_token_and_per_sequence_mean_the_same():
    batch = random_batch()
    per_token = replace(batch, advantage=batch.advantage.unsqueeze(1).repeat(1, TOKENS))
    for name in ("owpo", "gspo", "mopd"):
        assert torch.equal(objective(name)(per_token).loss, objective(name)(batch).loss)


def test_a_reference_that_is_none():
    batch = random_batch()

    def check(ref_logp, may_equal_policy=False):
        check_reference(ref_logp, batch.old_logp, batch.mask, may_equal_policy=may_equal_policy)

    check(batch.ref_logp)
    nothing = torch.zeros_like(batch.ref_logp)
    nothing[~batch.mask] = -1.0
    with pytest.raises(ValueError, match="filled in zeros"):
        check(nothing)
    copied = batch.old_logp.clone()
    copied[~batch.mask] = 0.0
    with pytest.raises(ValueError, match="copied the policy's log-probs"):
        check(copied)
    check(copied, may_equal_policy=True)


def test_a_step_without_response_tokens_has_no_reference_to_check():
    nothing = torch.zeros(2, 3)
    check_reference(nothing, nothing, torch.zeros(2, 3, dtype=torch.bool), may_equal_policy=False)


def test_tensors_at_two_temperatures_show_as_a_deviation():
    """Identical models, one scored at temperature 1 and one at 0.6: delta is far from 0, so OWPO is not DAPO.

    This is what a test that runs the engines must look for; delta itself cannot tell a temperature from a
    policy.
    """
    logits = torch.randn(1, 8, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampled = logits.argmax(dim=2, keepdim=True)

    def logp(temperature):
        return (logits / temperature).log_softmax(dim=2).gather(2, sampled).squeeze(2)

    batch = type(random_batch())(
        logp=logp(0.6),
        old_logp=logp(0.6),
        ref_logp=logp(0.6),
        advantage=torch.ones(1).double(),
        mask=torch.ones(1, 8, dtype=torch.bool),
    )
    assert not objective("owpo")(batch).stats["delta"].any()
    assert objective("owpo")(replace(batch, ref_logp=logp(1.0))).stats["delta"].abs().mean() > 0.2
