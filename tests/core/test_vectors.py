"""Objectives in numbers worked out by hand, token by token, and settings that are often got wrong."""

import math

import pytest
import torch
from core_batches import coefficients, tokens

from owpo.core import objective
from owpo.core.objectives.fipo import discounted_future_sum


def losses(chosen, batch):
    return chosen(batch).loss[0].tolist()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "coefficient"),
    [(1.5, 1.0, -1.28, 0.0), (1.5, -1.0, 1.5, -1.5), (0.5, 1.0, -0.5, 0.5), (0.5, -1.0, 0.8, 0.0)],
)
def test_clipped_surrogate(ratio, advantage, loss, coefficient):
    batch = tokens(ratio=ratio, advantage=advantage)
    for name in ("dapo", "owpo"):
        chosen = objective(name)
        assert losses(chosen, batch) == pytest.approx([loss])
        assert coefficients(chosen, batch) == pytest.approx([coefficient])
        assert chosen(batch).stats["clipped"].tolist() == [[coefficient == 0]]


def test_dual_clip_is_off_unless_asked_for():
    batch = tokens(ratio=4.0, advantage=-1.0)
    for name in ("ppo", "grpo", "dr_grpo", "dapo"):
        assert losses(objective(name), batch) == pytest.approx([4.0])
        assert coefficients(objective(name), batch) == pytest.approx([-4.0])
    dual = objective("dapo", dual_clip=3)
    assert losses(dual, batch) == pytest.approx([3.0])
    assert coefficients(dual, batch) == [0]
    assert dual(batch).stats["clipped"].item()
    # With A > 0 it has no part.
    assert losses(dual, tokens(ratio=4.0)) == pytest.approx([-1.28])


def test_each_clip_offset_is_its_own():
    """No third key stands behind the two: changing one moves one side."""
    batch = tokens(ratio=[1.5, 0.5], advantage=[1.0, -1.0])
    assert losses(objective("dapo", clip_high=0.4), batch) == pytest.approx([-1.4, 0.8])
    assert losses(objective("dapo", clip_low=0.4), batch) == pytest.approx([-1.28, 0.6])


def test_cispo_caps_the_weight_and_keeps_the_gradient():
    batch = tokens(ratio=[6.0, 0.01], logp=-2.0)
    assert losses(objective("cispo"), batch) == pytest.approx([10.0, 0.02])
    assert coefficients(objective("cispo"), batch) == pytest.approx([5.0, 0.01])
    assert objective("cispo")(batch).stats["clipped"].tolist() == [[True, False]]


def test_a_cispo_cap_given_as_an_offset_is_refused():
    """A cap of 0.2 would give an on-policy token the coefficient 0.2, a fivefold cut of its step."""
    assert coefficients(objective("cispo"), tokens(ratio=1.0)) == [1.0]
    with pytest.raises(ValueError, match=r"is_weight_max bounds the ratio itself.*got 0.2; .* write 1.2"):
        objective("cispo", is_weight_max=0.2)
    with pytest.raises(ValueError, match="is_weight_min"):
        objective("cispo", is_weight_min=1.5)


def test_gspo_sequence_ratio():
    ratios = [math.exp(value) for value in (0.02, -0.01, 0.03)]
    batch = tokens(ratio=ratios, advantage=-1.0)
    assert objective("gspo")(batch).stats["ratio"][0].tolist() == pytest.approx([1.0134226] * 3, rel=1e-7)
    assert coefficients(objective("gspo"), batch) == pytest.approx([-1.0134226] * 3, rel=1e-7)
    clipped = tokens(ratio=ratios, advantage=1.0)
    assert coefficients(objective("gspo"), clipped) == [0, 0, 0]
    assert losses(objective("gspo"), clipped) == pytest.approx([-1.0004] * 3)


def test_gspos_token_form_has_the_sequence_forms_gradient():
    """Under the mean over a response's tokens; differentiated here from the paper's sequence-level loss."""
    generator = torch.Generator().manual_seed(0)
    for advantage in (1.0, -2.0):
        ratios = (0.004 * torch.randn(5, generator=generator)).exp().tolist()
        batch = tokens(ratio=ratios, advantage=advantage)
        wide = objective("gspo", clip_low=0.01, clip_high=0.01)
        token_form = torch.tensor(coefficients(wide, batch)) / 5
        logp = batch.logp.clone().requires_grad_()
        sequence_ratio = (logp - batch.old_logp).mean().exp()
        loss = -torch.minimum(sequence_ratio * advantage, sequence_ratio.clamp(0.99, 1.01) * advantage)
        (gradient,) = torch.autograd.grad(loss, logp)
        torch.testing.assert_close(token_form, -gradient[0].float())


def test_fipo_future_kl_and_weights():
    batch = tokens(ratio=[math.exp(value) for value in (0.1, -0.2, 0.3)])
    stats = objective("fipo")(batch).stats
    assert stats["future_kl"][0].tolist() == pytest.approx([0.191567, 0.093572, 0.3], abs=1e-6)
    assert stats["weight"][0].tolist() == pytest.approx([1.2, 1.098089, 1.2], abs=1e-6)


@pytest.mark.parametrize("length", [1, 5, 127, 128, 129, 300])
def test_the_future_sum_across_chunks(length):
    value = torch.randn(2, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gamma, expected, running = 0.9, torch.empty_like(value), torch.zeros(2, dtype=torch.float64)
    for t in reversed(range(length)):
        running = value[:, t] + gamma * running
        expected[:, t] = running
    torch.testing.assert_close(discounted_future_sum(value, gamma), expected, rtol=1e-12, atol=1e-12)


def test_fipo_safety_holds_a_wrong_tokens_weight():
    """r > 4 on a token with A < 0: f may not exceed 1, however its future moved."""
    batch = tokens(ratio=[5.0, 5.0, 0.9], advantage=[-1.0, 1.0, -1.0])
    weight = objective("fipo")(batch).stats["weight"][0].tolist()
    assert weight[0] == 1.0
    assert weight[1] == pytest.approx(1.2)


def test_fipo_drops_a_response_with_two_dual_clipped_tokens():
    one, two = (tokens(ratio=[11.0, second, 1.0], advantage=-1.0) for second in (9.0, 12.0))
    assert not objective("fipo")(one).stats["dropped"].any()
    assert objective("fipo")(two).stats["dropped"].all()
    assert coefficients(objective("fipo"), two) == [0, 0, 0]
    assert coefficients(objective("fipo"), one)[1] < 0


def test_opd_and_mopd_by_hand():
    batch = tokens(ratio=[1.0, 2.0, 6.0], advantage=[1.0, -0.1, 1.0], x=[0.5, -1.0, 0.0])
    assert coefficients(objective("opd"), batch) == pytest.approx([-0.5, 2.0, 0.0])
    mopd = objective("mopd")
    assert coefficients(mopd, batch) == pytest.approx([4.5, 2 * (1.0 - 0.5), 0.0])
    stats = mopd(batch).stats
    assert stats["clipped"].tolist() == [[False, False, True]]
    assert stats["overruled"].tolist() == [[False, True, False]]


def test_opds_student_is_a_choice_that_matters_after_the_first_update():
    first, later = tokens(ratio=1.0, x=0.5), tokens(ratio=2.0, x=0.5)
    current, old = objective("opd"), objective("opd", student_logp="old")
    assert coefficients(current, first) == coefficients(old, first)
    assert coefficients(current, later) == pytest.approx([-2 * 0.5])
    assert coefficients(old, later) == pytest.approx([-2 * (0.5 - math.log(2))])


def test_mopd_without_verifier_or_mask_is_opd_on_policy():
    batch = tokens(x=[-2.0, 0.3, 4.0])
    bare = objective("mopd", alpha=0, ratio_min=0, ratio_max=1e9)
    assert coefficients(bare, batch) == pytest.approx(coefficients(objective("opd"), batch))


@pytest.mark.parametrize("name", ["ppo", "dr_grpo", "dapo", "gspo", "cispo", "fipo"])
def test_off_policy_corrections_do_nothing_at_the_first_update(name):
    """With one update per rollout these are all REINFORCE: a comparison of them needs several."""
    batch = tokens(ratio=1.0, advantage=[1.5, -0.5, 0.2], x=[1.0, -1.0, 0.0])
    reinforce = coefficients(objective("reinforce"), batch)
    assert reinforce == pytest.approx([1.5, -0.5, 0.2])
    assert coefficients(objective(name), batch) == pytest.approx(reinforce)


def test_rest_is_the_likelihood_of_what_passed():
    batch = tokens(advantage=[1.0, 0.0], logp=[-0.5, -3.0])
    assert losses(objective("rest"), batch) == [0.5, 0.0]
