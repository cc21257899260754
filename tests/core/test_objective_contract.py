"""What every registered objective must keep to; a new one is tested here by being registered."""

from dataclasses import fields, replace

import pytest
import torch
from core_batches import (
    GROUP,
    ROWS,
    TOKENS,
    VARIANT_IDS,
    VARIANTS,
    counts_of,
    loss_and_gradient,
    prepared,
    prompt_tokens_of,
    random_batch,
    rows_of,
)

from owpo.core import TokenLoss, objective, reduction_weights
from owpo.core.advantage import ESTIMATORS
from owpo.core.reduce import MODES
from owpo.core.registry import entries

every_variant = pytest.mark.parametrize(("name", "hyper_parameters"), VARIANTS, ids=VARIANT_IDS)
every_name = pytest.mark.parametrize("name", [entry.name for entry in entries()])


def step_gradient(chosen, batch, mode, feature_BTK, splits):
    """Loss and gradient of one step, over micro-batches, in parameters theta [K] that all rows share."""
    theta = torch.zeros(feature_BTK.shape[2], dtype=batch.logp.dtype, requires_grad=True)
    counts, prompt_tokens = counts_of(batch), prompt_tokens_of(batch)
    total = 0.0
    for rows in torch.arange(ROWS).chunk(splits):
        part = rows_of(batch, rows)
        part = replace(part, logp=part.logp + feature_BTK[rows] @ theta)
        weight = reduction_weights(part.mask, mode, counts, prompt_tokens[rows], batch.logp.dtype)
        loss = (chosen(part).loss * weight).sum()
        loss.backward()
        total += loss.item()
    return total, theta.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@every_variant
def test_splitting_a_step_changes_nothing(name, hyper_parameters, dtype):
    chosen, batch = prepared(name, hyper_parameters, random_batch(dtype))
    feature_BTK = torch.randn(ROWS, TOKENS, 3, generator=torch.Generator().manual_seed(2)).to(dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for mode in MODES:
        whole_loss, whole = step_gradient(chosen, batch, mode, feature_BTK, 1)
        assert whole.norm() > 0
        for splits in (2, 4, 8):
            loss, gradient = step_gradient(chosen, batch, mode, feature_BTK, splits)
            assert loss == pytest.approx(whole_loss, rel=tolerance, abs=tolerance)
            assert (gradient - whole).norm() <= tolerance * whole.norm(), (mode, splits)


def padded(batch, columns, garbage):
    """The batch with more padding on the right, and this value at every padded position, old and new."""

    def pad(value, filler):
        return torch.nn.functional.pad(value, (0, columns), value=filler)

    mask = pad(batch.mask, False)
    tensors = {"mask": mask}
    for name in ("logp", "old_logp", "ref_logp", "sampler_logp", "weight"):
        if (value := getattr(batch, name)) is not None:
            tensors[name] = pad(value, garbage).masked_fill(~mask, garbage)
    advantage_BT = pad(batch.advantage_BT, garbage).masked_fill(~mask, garbage)
    context = torch.nn.functional.pad(batch.context, (0, columns)).masked_fill(~mask, 0)
    return replace(batch, advantage=advantage_BT, context=context, **tensors)


@pytest.mark.parametrize("garbage", [123.0, float("nan"), float("inf"), float("-inf")])
@every_variant
def test_padding_is_never_read(name, hyper_parameters, garbage):
    chosen, batch = prepared(name, hyper_parameters, random_batch())
    _, gradient, result = loss_and_gradient(chosen, batch)
    _, padded_gradient, padded_result = loss_and_gradient(chosen, padded(batch, 3, garbage))
    torch.testing.assert_close(padded_result.loss[:, :TOKENS], result.loss)
    torch.testing.assert_close(padded_gradient[:, :TOKENS], gradient)
    assert not padded_result.loss[:, TOKENS:].any()
    assert not padded_gradient[:, TOKENS:].any()
    for stat, value in result.stats.items():
        torch.testing.assert_close(padded_result.stats[stat][:, :TOKENS], value)
        assert not padded_result.stats[stat][:, TOKENS:].any(), f"{stat} is not zero at padding"


@pytest.mark.parametrize("garbage", [123.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", [entry.name for entry in entries() if objective(entry.name).needs.prepared])
def test_padding_is_not_read_by_what_is_prepared(name, garbage):
    _, batch = prepared(name, {}, random_batch())
    _, padded_batch = prepared(name, {}, padded(random_batch(), 3, garbage))
    torch.testing.assert_close(padded_batch.weight[:, :TOKENS][batch.mask], batch.weight[batch.mask])


@every_variant
def test_loss_and_stats_are_zero_where_the_mask_is_false(name, hyper_parameters):
    chosen, batch = prepared(name, hyper_parameters, random_batch())
    result = chosen(batch)
    for value in [result.loss, *result.stats.values()]:
        assert not value[~batch.mask].any()
        assert not value.requires_grad


@every_variant
def test_rows_do_not_know_of_each_other(name, hyper_parameters):
    chosen, batch = prepared(name, hyper_parameters, random_batch())
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    result, permuted = chosen(batch), chosen(rows_of(batch, order))
    torch.testing.assert_close(permuted.loss, result.loss[order])
    for stat, value in result.stats.items():
        torch.testing.assert_close(permuted.stats[stat], value[order])
    for row in range(0, ROWS, 5):
        torch.testing.assert_close(chosen(rows_of(batch, [row])).loss, result.loss[[row]])


@every_variant
def test_a_batch_without_response_tokens_has_no_loss(name, hyper_parameters):
    chosen, batch = prepared(name, hyper_parameters, random_batch())
    empty = replace(batch, mask=torch.zeros_like(batch.mask))
    loss, gradient, _ = loss_and_gradient(chosen, empty)
    assert loss == 0
    assert not gradient.any()


@every_variant
def test_zero_advantage_has_a_gradient_exactly_where_declared(name, hyper_parameters):
    """A sample that an engine may skip must have none; one that it may not skip must have one."""
    chosen, batch = prepared(name, hyper_parameters, random_batch())
    _, gradient, _ = loss_and_gradient(chosen, replace(batch, advantage=torch.zeros(ROWS).double()))
    assert bool(gradient.any()) is chosen.needs.zero_advantage
    _, gradient, _ = loss_and_gradient(chosen, batch)
    assert bool(gradient[:GROUP].any()) is chosen.needs.zero_advantage
    assert gradient[GROUP:].any()


FIELD_OF_NEED = {"reference": "ref_logp", "old_logp": "old_logp", "prepared": "weight"}


@every_variant
def test_needed_fields_are_demanded_and_others_not_read(name, hyper_parameters):
    chosen, batch = prepared(name, hyper_parameters, random_batch())
    result = chosen(batch)
    unread = replace(batch, sampler_logp=None)
    for need, field in FIELD_OF_NEED.items():
        if getattr(chosen.needs, need):
            with pytest.raises(ValueError, match=f"{name!r} reads {field}"):
                chosen(replace(batch, **{field: None}))
        else:
            unread = replace(unread, **{field: None})
            not_a_number = torch.full_like(batch.logp, float("nan"))
            torch.testing.assert_close(chosen(replace(batch, **{field: not_a_number})).loss, result.loss)
    without = chosen(unread)
    torch.testing.assert_close(without.loss, result.loss)
    assert without.stats.keys() == result.stats.keys()
    for stat, value in result.stats.items():
        torch.testing.assert_close(without.stats[stat], value)


@every_variant
def test_what_is_not_declared_is_not_handed_over(name, hyper_parameters):
    chosen, batch = prepared(name, hyper_parameters, random_batch())
    seen = []

    def spy(batch, config):
        seen.append(batch)
        return TokenLoss(batch.logp)

    replace(chosen, entry=replace(chosen.entry, function=spy))(
        replace(batch, weight=torch.ones_like(batch.logp))
    )
    for need, field in FIELD_OF_NEED.items():
        assert (getattr(seen[0], field) is not None) is getattr(chosen.needs, need), field
    assert seen[0].context is None, "it looks across the batch, which a micro-batch has not whole"


@every_variant
def test_contexts_are_handed_to_who_declares_them_before_the_split(name, hyper_parameters):
    chosen, batch = objective(name, **hyper_parameters), random_batch()
    seen = []

    def spy(batch, config, generator):
        seen.append(batch)
        return torch.ones_like(batch.logp)

    spied = replace(chosen, entry=replace(chosen.entry, prepare=spy))
    spied.prepare(batch, torch.Generator())
    assert (seen[0].context is not None) is chosen.needs.contexts
    if chosen.needs.contexts:
        assert chosen.needs.prepared
        with pytest.raises(ValueError, match=f"{name!r} reads context"):
            chosen.prepare(replace(batch, context=None), torch.Generator())


def test_opd_does_not_read_the_verifier():
    batch = random_batch()
    blind = replace(batch, advantage=torch.full((ROWS,), float("nan"), dtype=torch.float64))
    torch.testing.assert_close(objective("opd")(blind).loss, objective("opd")(batch).loss)


# For every hyper-parameter of any objective, a value other than the default of any that has it. A new
# hyper-parameter must be added here.
OTHER_VALUE = {
    "clip_low": 0.05,
    "clip_high": 0.01,
    "dual_clip": 1.2,
    "w_low": 0.95,
    "w_high": 1.05,
    "weight_policy": "old",
    "kl_beta": 0.3,
    "kl_estimator": "k3",
    "beta_start": 0.5,
    "beta_end": 0.004,
    "beta_decay": 1e-4,
    "is_weight_min": 0.9,
    "is_weight_max": 1.1,
    "student_logp": "old",
    "alpha": 1.0,
    "ratio_min": 0.9,
    "ratio_max": 1.1,
    "half_life": 2.0,
    "f_clip": 0.05,
    "high_only": False,
    "safety_ratio": 1.2,
    "max_cancelled": 0.1,
    "distill_weight": 0.5,
    "distill_bound": 0.05,
}
HYPER_PARAMETERS = [(entry.name, f.name) for entry in entries() for f in fields(entry.config_class)]


@pytest.mark.parametrize(("name", "key"), HYPER_PARAMETERS)
def test_every_hyper_parameter_is_live(name, key):
    """It changes the loss (a stat alone would not train anything else) of some batch of a run."""
    assert getattr(objective(name).config, key) != OTHER_VALUE[key]
    changed = False
    for step in (0, 10, 200):
        batch = replace(random_batch(), step=step)
        usual, usual_batch = prepared(name, {}, batch)
        other, other_batch = prepared(name, {key: OTHER_VALUE[key]}, batch)
        changed |= not torch.equal(usual(usual_batch).loss, other(other_batch).loss)
    assert changed


@every_name
def test_the_scaffold_names_what_exists(name):
    scaffold = objective(name).scaffold
    assert scaffold.advantage in ESTIMATORS
    assert scaffold.reduction in MODES


@every_variant
def test_float32_agrees_with_float64(name, hyper_parameters):
    chosen, batch = prepared(name, hyper_parameters, random_batch())
    _, batch32 = prepared(name, hyper_parameters, random_batch(torch.float32))
    loss32 = chosen(batch32).loss
    assert loss32.dtype == torch.float32
    torch.testing.assert_close(loss32.double(), chosen(batch).loss, rtol=1e-4, atol=1e-5)


@every_variant
def test_enormous_log_ratios_stay_finite_in_float32(name, hyper_parameters):
    """A token that the policy has all but dropped, or has just discovered, must not poison a step."""
    chosen, batch = prepared(name, hyper_parameters, random_batch(torch.float32))
    for shift in (-300.0, 300.0):
        loss, gradient, _ = loss_and_gradient(chosen, replace(batch, logp=batch.logp + shift))
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_an_answer_of_the_wrong_shape_is_our_own_error(monkeypatch):
    chosen = objective("dapo")
    broken = replace(chosen.entry, function=lambda batch, config: TokenLoss(batch.logp.sum()))
    with pytest.raises(AssertionError, match="dapo returned a loss of shape"):
        replace(chosen, entry=broken)(random_batch())
