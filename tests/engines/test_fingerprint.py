"""An engine with stale or wrong weights is an error, one with the right ones is not."""

import re

import pytest
import torch
from engine_builders import PAD, TwinEngine, change_weights, write_model

from owpo.engines.fingerprint import Fingerprint, make_probe, weight_digest
from owpo.errors import RunFailed
from owpo.policy import copy_weights, load_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("engines") / "model")


@pytest.fixture
def policy(folder):
    return load_policy(str(folder))


def keep(_policy, _twin):
    """Takes nothing over."""


@pytest.mark.parametrize("shows_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_weights_pass_whatever_the_size_of_an_update(folder, dtype, shows_weights):
    policy = load_policy(str(folder), dtype=str(dtype).removeprefix("torch."))
    engine = TwinEngine(policy, shows_weights=shows_weights)
    for number, size in enumerate((0.0, 1.0, 1e-2, 1e-3)):
        change_weights(policy, size, seed=number)
        engine.sampler(policy, f"update {number}")
    assert engine.fingerprint.compares_digests == shows_weights


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-4])
def test_a_stale_engine_is_told_by_whose_scores_it_has(policy, size):
    engine = TwinEngine(policy)
    for number in range(3):
        engine.sampler(policy, f"update {number}")
        change_weights(policy, size, seed=number)
    engine.take = keep
    with pytest.raises(
        RunFailed, match="stale: .*policy's at update 3 by .* of the weights of update 2. Nothing was"
    ):
        engine.sampler(policy, "update 3")


def test_an_engine_that_falls_back_behind_several_updates(policy):
    engine = TwinEngine(policy)
    old = {name: value.clone() for name, value in policy.model.state_dict().items()}
    for number in range(4):
        engine.sampler(policy, f"update {number}")
        change_weights(policy, 1e-2, seed=number)
    engine.take = lambda _policy, twin: twin.model.load_state_dict(old)
    with pytest.raises(RunFailed, match="stale: .*of the weights of update 0"):
        engine.sampler(policy, "update 4")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_that_is_smaller_than_rounding_is_missed_by_no_stale_engine(folder, dtype):
    policy = load_policy(str(folder), dtype=str(dtype).removeprefix("torch."))
    size = {torch.float32: 1e-7, torch.bfloat16: 1e-4}[dtype]
    engine = TwinEngine(policy)
    engine.sampler(policy, "the base")
    change_weights(policy, size)
    engine.sampler(policy, "update 1")
    change_weights(policy, size, seed=1)
    engine.take = keep
    with pytest.raises(
        RunFailed, match="stale: .*given the weights of update 2.*last bit.*weights of update 1"
    ):
        engine.sampler(policy, "update 2")


def test_weights_of_which_some_were_not_taken_over(policy):
    def all_but_one(source, twin):
        own = twin.model.model.layers[1].self_attn.v_proj.weight.clone()
        copy_weights(source, twin)
        twin.model.model.layers[1].self_attn.v_proj.weight.data.copy_(own)

    engine = TwinEngine(policy)
    engine.sampler(policy, "the base")
    change_weights(policy, 1e-2)
    engine.take = all_but_one
    with pytest.raises(RunFailed, match="wrong weights: .*at update 1 by .*those of no earlier weights"):
        engine.sampler(policy, "update 1")


def test_a_row_that_no_probe_touches_is_told_by_the_digest_alone(policy):
    def all_but_a_row(source, twin):
        own = twin.model.model.embed_tokens.weight[PAD].clone()
        copy_weights(source, twin)
        twin.model.model.embed_tokens.weight.data[PAD] = own

    for shows_weights in (False, True):
        engine = TwinEngine(policy, shows_weights=shows_weights)
        engine.sampler(policy, "the base")
        change_weights(policy, 1e-2)
        engine.take = all_but_a_row
        if shows_weights:
            with pytest.raises(
                RunFailed, match="wrong weights: .*agree with the policy's at update 1, but the digest"
            ):
                engine.sampler(policy, "update 1")
        else:
            engine.sampler(policy, "update 1")


def test_an_engine_that_computes_something_else_is_refused_at_the_start(policy):
    engine = TwinEngine(policy)
    engine.twin.model.model.rotary_emb.inv_freq.mul_(0.9)
    with pytest.raises(
        RunFailed, match="does not compute what the policy does: .* rounding explains at most"
    ):
        engine.sampler(policy, "the base")


def test_weights_that_do_not_reach_it_are_refused_at_the_start(policy):
    with pytest.raises(RunFailed, match="does not compute what the policy does: .*under their names"):
        TwinEngine(policy, take=keep).sampler(policy, "the base")


def test_a_policy_that_broke_is_no_fault_of_the_engine(policy):
    engine = TwinEngine(policy)
    engine.sampler(policy, "the base")
    policy.model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="logits are NaN"):
        engine.sampler(policy, "update 1")


def test_an_engine_whose_scores_are_nan_holds_no_right_weights(policy):
    fingerprint = Fingerprint(make_probe(policy, 0, 48), torch.float32)
    nan_N = torch.full((int(fingerprint.probe.mask.sum()),), float("nan"))
    with pytest.raises(RunFailed, match="differ by nan nats"):
        fingerprint.check(policy, "the base", nan_N, 0, 0)


def test_the_tolerance_follows_the_rounding_as_the_policy_sharpens(folder):
    """Logits ten times as large round ten times as far; a tolerance fixed at the start would end the run."""
    policy = load_policy(str(folder), dtype="bfloat16")
    engine = TwinEngine(policy)
    engine.sampler(policy, "the base")
    _, rounding = engine.fingerprint._own_scores(policy)
    policy.model.model.norm.weight.data *= 10
    engine.sampler(policy, "a sharper one")
    own_N, later = engine.fingerprint._own_scores(policy)
    assert later["mean"] > 5 * rounding["mean"]
    off = (engine.scores() - own_N).abs().mean().item()
    assert off < 5 * later["mean"]
    # and a stale engine still stands out
    change_weights(policy, 3e-2)
    engine.take = keep
    with pytest.raises(RunFailed, match="stale: .*of the weights of a sharper one"):
        engine.sampler(policy, "update 2")


def test_a_few_tokens_far_off_do_not_hide_in_the_mean(folder):
    policy = load_policy(str(folder), dtype="bfloat16")
    fingerprint = Fingerprint(make_probe(policy, 0, 48), torch.bfloat16)
    own_N, rounding = fingerprint._own_scores(policy)
    fingerprint.check(policy, "the base", own_N, 0, 1)
    off_N = own_N + torch.randn(own_N.shape, generator=torch.Generator().manual_seed(0)) * rounding["mean"]
    fingerprint.check(policy, "update 1", off_N, 2, 3)
    off_N[5] += 6 * rounding["largest"]
    assert (off_N - own_N).abs().mean() < 2 * rounding["mean"]
    with pytest.raises(RunFailed, match="wrong weights: .*at update 2"):
        fingerprint.check(policy, "update 2", off_N, 4, 5)


def test_the_probe_is_ordinary_tokens_and_the_seeds(policy):
    probe, same, other = (make_probe(policy, seed, 33) for seed in (4, 4, 5))
    assert (list(probe.tokens.shape), len(probe.prompts), len(probe.prompts[0])) == ([8, 32], 8, 1)
    assert probe.tokens.min() >= 2 and probe.tokens.max() < policy.vocab_size
    assert torch.equal(probe.tokens, same.tokens) and probe.prompts == same.prompts
    assert not torch.equal(probe.tokens, other.tokens)
    assert make_probe(policy, 0, 1000).tokens.shape[1] == 63


def test_a_digest_looks_through_fusing_renaming_and_padding():
    generator = torch.Generator().manual_seed(0)
    q, k, embedding = (torch.randn(shape, generator=generator) for shape in ((8, 6), (4, 6), (5, 6)))
    for dtype in (torch.float32, torch.bfloat16):
        plain = weight_digest([q, k, embedding], dtype)
        padded = torch.cat([embedding, torch.zeros(3, 6)])
        assert weight_digest([padded.to(dtype), torch.cat([q, k]).T], dtype) == plain
        changed = k.clone()
        changed[2, 3] = torch.nextafter(k[2, 3].to(dtype), torch.tensor(9.0, dtype=dtype))
        assert weight_digest([q, changed, embedding], dtype) != plain
        assert weight_digest([q, -k, embedding], dtype) != plain


def test_a_digest_is_no_plain_sum():
    """One weight a step up and another a step down: the sum of their bits stays."""
    weights = torch.linspace(1.0, 2.0, 9)
    moved = weights.clone()
    moved[2] = torch.nextafter(weights[2], torch.tensor(9.0))
    moved[7] = torch.nextafter(weights[7], torch.tensor(0.0))
    assert moved.view(torch.int32).sum() == weights.view(torch.int32).sum()
    assert weight_digest([moved], torch.float32) != weight_digest([weights], torch.float32)


def test_a_digest_in_pieces_is_the_same(monkeypatch):
    weights = torch.randn(1000)
    whole = weight_digest([weights], torch.float32)
    monkeypatch.setattr("owpo.engines.fingerprint._CHUNK", 7)
    assert weight_digest([weights], torch.float32) == whole
    assert re.fullmatch("[0-9a-f]{16}", f"{whole % 2**64:016x}")
