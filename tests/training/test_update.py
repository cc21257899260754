"""The optimiser update: one gradient however it is split, the one that plain torch computes, never a non-finite one."""

import shutil
from contextlib import nullcontext

import pytest
import torch
from conftest import write_tiny_model
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from owpo.core.reduce import MODES, StepCounts
from owpo.core.registry import entries, objective
from owpo.policy.load import load_policy
from owpo.policy.logprobs import response_logprobs
from owpo.policy.passes import compile_layers
from owpo.policy.sampler import sample_batches
from owpo.training.update import (
    TrainingRows,
    accumulate_gradients,
    add_old_logp,
    add_ref_logp,
    optimiser_update,
    rows_with_gradient,
    rows_with_reference,
)

NAMES = [entry.name for entry in entries()]
GROUP_SIZE = 4
TEMPERATURE = 0.9


@pytest.fixture(scope="module", autouse=True)
def exact_norms():
    """transformers' RMSNorm rounds to float32 also in a float64 model; one unit in its last place is 6e-8."""

    def forward(self, hidden):
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield


@pytest.fixture(scope="module", params=["float64", "float32"])
def policies(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    learner = load_policy(str(write_tiny_model(folder / "learner", seed=0)), dtype=request.param)
    reference = load_policy(str(write_tiny_model(folder / "reference", seed=1)), dtype=request.param)
    old = load_policy(str(folder / "learner"), dtype=request.param)
    with torch.no_grad():  # so that pi, pi_old and the reference all differ
        for weight in old.model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    return learner, old, reference


@pytest.fixture(scope="module")
def rows(policies):
    learner, old, reference = policies
    prompts = [learner.encode(text) for text in ("1+2=", "7=", "3+4+5=", "8=")]
    (responses,) = sample_batches(
        learner, prompts, group_size=GROUP_SIZE, max_new_tokens=7, temperature=1.0, top_p=1.0, seed=3
    )
    generator = torch.Generator().manual_seed(1)
    advantage = torch.randn(16, generator=generator, dtype=torch.float64)
    advantage[5] = advantage[11] = 0.0
    plain = TrainingRows(
        responses=responses,
        group=torch.arange(4).repeat_interleave(GROUP_SIZE),
        advantage=advantage,
        active=torch.rand(16, generator=generator) < 0.7,
        step=2,
    )
    every = torch.arange(16)
    scored = add_ref_logp(reference, add_old_logp(old, plain, every, TEMPERATURE, 64), every, TEMPERATURE, 64)
    weights = 0.8 + 0.4 * torch.rand(responses.tokens.shape, generator=generator, dtype=torch.float64)
    return TrainingRows(**{**vars(scored), "weight": weights.to(scored.old_logp.dtype)})


def counts_of(rows):
    lengths = rows.responses.lengths
    counts = StepCounts(tokens=int(lengths.sum()), sequences=16, prompts=4, max_tokens=7)
    group_tokens = torch.zeros(4, dtype=torch.int64).index_add_(0, rows.group, lengths)
    return counts, group_tokens[rows.group]


def gradient(policy, chosen, rows, split, reduction):
    counts, prompt_tokens = counts_of(rows)
    policy.model.zero_grad()
    loss, _, stats, _ = accumulate_gradients(
        policy, chosen, rows, split,
        reduction=reduction, counts=counts, prompt_tokens=prompt_tokens, temperature=TEMPERATURE,
    )  # fmt: skip
    means = {name: total.sum / total.count for name, total in stats.items()}
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()]), loss, means


@pytest.mark.parametrize("reduction", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_the_split_into_micro_batches_changes_nothing(policies, rows, name, reduction):
    learner = policies[0]
    tolerance = 1e-10 if learner.compute_dtype == torch.float64 else 1e-5
    chosen = objective(name)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    whole, loss, stats = gradient(learner, chosen, rows, [torch.arange(16)], reduction)
    assert whole.norm() > 0
    for parts in (2, 4, 8):
        split, split_loss, split_stats = gradient(
            learner, chosen, rows, list(order.tensor_split(parts)), reduction
        )
        assert (split - whole).norm() <= tolerance * whole.norm()
        assert split_loss == pytest.approx(loss, rel=tolerance * 10, abs=tolerance)
        assert split_stats == pytest.approx(stats, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_gradient_are_left_out_and_nothing_changes(policies, rows, name):
    """Skipping samples with advantage 0 gives the gradient of the whole step, denominators included."""
    learner = policies[0]
    chosen = objective(name)
    trained = rows_with_gradient(rows, chosen)
    assert len(trained) == (16 if chosen.needs.zero_advantage else 14)
    counts, prompt_tokens = counts_of(rows)
    whole, _, _ = gradient(learner, chosen, rows, [torch.arange(16)], "prompt-mean")
    learner.model.zero_grad()
    accumulate_gradients(
        learner, chosen, rows.rows(trained), [torch.arange(len(trained))],
        reduction="prompt-mean", counts=counts, prompt_tokens=prompt_tokens[trained], temperature=TEMPERATURE,
    )  # fmt: skip
    skipped = torch.cat([p.grad.flatten() for p in learner.model.parameters()])
    assert (skipped - whole).norm() <= 1e-5 * whole.norm()


def test_the_gradient_is_what_plain_torch_computes(policies, rows):
    """OWPO, token-mean, written out a second time on dense logits."""
    learner, old, reference = policies
    if learner.compute_dtype != torch.float64:
        pytest.skip("one dtype is enough")
    ours, loss, stats = gradient(
        learner, objective("owpo"), rows, list(torch.arange(16).split(3)), "token-mean"
    )

    def logps(policy, row):
        prompt, length = rows.responses.prompts[row], int(rows.responses.lengths[row])
        ids = torch.tensor([prompt + rows.responses.tokens[row, :length].tolist()])
        logits = policy.model(ids).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
        return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]

    learner.model.zero_grad()
    total, weights = torch.zeros((), dtype=torch.float64), []
    for row in range(16):
        advantage = rows.advantage[row]
        logp = logps(learner, row)
        with torch.no_grad():
            old_logp, ref_logp = logps(old, row), logps(reference, row)
            w = torch.exp(-torch.sign(advantage) * (logp - ref_logp)).clamp(0.8, 1.2)
            w = w if rows.active[row] else torch.ones_like(w)
        ratio = torch.exp(logp - old_logp)
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
        total = total - (w * surrogate).sum()
        weights.append(w)
    plain_loss = total / rows.responses.lengths.sum()
    plain_loss.backward()
    plain = torch.cat([p.grad.flatten() for p in learner.model.parameters()])
    assert loss == pytest.approx(plain_loss.item(), rel=1e-10)
    assert (ours - plain).norm() <= 1e-10 * plain.norm()
    assert stats["weight"] == pytest.approx(torch.cat(weights).mean().item(), rel=1e-10)
    assert stats["accelerated"] == pytest.approx((torch.cat(weights) > 1).double().mean().item())


def update(policy, rows, **changes):
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=1.0)
    settings = {
        "reduction": "token-mean", "max_tokens": 7, "temperature": TEMPERATURE,
        "micro_batch_tokens": 64, "grad_clip": 1e9, "seed": 0,
    } | changes  # fmt: skip
    return optimiser_update(policy, optimizer, objective("dapo"), rows, **settings)


@pytest.fixture
def fresh(tiny_model):
    return load_policy(str(tiny_model))


def weights_of(policy):
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])


def test_a_non_finite_loss_stops_before_the_step(policies, rows, fresh):
    before = weights_of(fresh)
    broken = TrainingRows(**{**vars(rows), "advantage": rows.advantage.clone().fill_(float("inf"))})
    result = update(fresh, broken)
    assert result.bad is not None and "loss is" in result.bad
    assert torch.equal(weights_of(fresh), before)


def test_a_non_finite_gradient_stops_before_the_step(policies, rows, fresh):
    before = weights_of(fresh)
    handle = fresh.model.get_input_embeddings().weight.register_hook(lambda grad: grad * float("nan"))
    result = update(fresh, rows)
    handle.remove()
    assert result.bad == "gradient norm is nan"
    assert torch.equal(weights_of(fresh), before)


def test_the_gradient_is_clipped_to_its_norm(policies, rows, fresh):
    before = weights_of(fresh)
    result = update(fresh, rows, grad_clip=1e-3)
    assert result.grad_norm > 1e-2
    assert (weights_of(fresh) - before).norm().item() == pytest.approx(1e-3, rel=1e-3)  # SGD with lr 1


def test_no_row_with_a_gradient_is_no_step(rows, fresh):
    before = weights_of(fresh)
    result = update(fresh, TrainingRows(**{**vars(rows), "advantage": torch.zeros(16)}))
    assert (result.bad, result.num_tokens) == (None, 0)
    assert torch.equal(weights_of(fresh), before)


@pytest.mark.parametrize("name", ["owpo", "no_asym", "inverted", "shuffled", "owpo_narrowed"])
def test_an_inactive_sample_needs_no_reference(policies, rows, name):
    """NaN in its place changes neither loss nor gradient, and no statistic that has a meaning there."""
    learner, _, reference = policies
    chosen = objective(name)
    assert chosen.needs.active_only
    index = rows_with_reference(rows, chosen)
    assert 0 < len(index) < len(rows_with_gradient(rows, chosen))
    part = add_ref_logp(reference, rows, index, TEMPERATURE, 64)
    assert part.ref_logp[~rows.active].isnan().all()
    trained = rows_with_gradient(rows, chosen)
    whole, loss, stats = gradient(learner, chosen, rows, [trained], "token-mean")
    partly, partly_loss, partly_stats = gradient(learner, chosen, part, [trained], "token-mean")
    assert torch.equal(partly, whole) and partly_loss == loss
    assert partly_stats.keys() == stats.keys()
    same = {"weight", "neutral", "accelerated", "locked", "saturated", "ratio", "clipped", "entropy"}
    assert {key: partly_stats[key] for key in same} == {key: stats[key] for key in same}
    known = rows.responses.mask & rows.active[:, None] & (rows.advantage != 0)[:, None]
    logp = part.old_logp if chosen.needs.prepared else None
    if logp is None:
        logp, _ = response_logprobs(learner, rows.responses, TEMPERATURE)
    delta = torch.sign(rows.advantage)[:, None] * (logp.detach() - part.ref_logp)
    if not chosen.needs.prepared:
        assert partly_stats["delta"] == pytest.approx(delta[known].double().mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["owpo_narrowed", "owpo_while_ahead"])
def test_what_is_prepared_is_of_the_whole_update(rows, tiny_model, name):
    """Responses that share a context may stand in different micro-batches."""
    context = rows.responses.contexts[rows.responses.mask]
    assert len(context.unique()) < len(context)
    stepped, stats = [], []
    for budget in (8, 1000):
        policy = load_policy(str(tiny_model), dtype="float64")
        optimizer = torch.optim.SGD(policy.model.parameters(), lr=1.0)
        result = optimiser_update(
            policy, optimizer, objective(name), rows, reduction="token-mean", max_tokens=7, temperature=TEMPERATURE,
            micro_batch_tokens=budget, grad_clip=1e9, seed=0,
        )  # fmt: skip
        assert result.bad is None
        stepped.append(weights_of(policy))
        stats.append({name: total.sum / total.count for name, total in result.stats.items()})
    torch.testing.assert_close(stepped[0], stepped[1], rtol=1e-9, atol=1e-9)
    assert stats[0] == pytest.approx(stats[1], rel=1e-6, abs=1e-9)
    if name == "owpo_narrowed":
        assert 0.5 < stats[0]["signal"] < 1


def test_an_active_sample_without_its_reference_is_an_error(policies, rows, fresh):
    rows = TrainingRows(**{**vars(rows), "ref_logp": rows.ref_logp.clone().fill_(float("nan"))})
    before = weights_of(fresh)
    optimizer = torch.optim.SGD(fresh.model.parameters(), lr=1.0)
    result = optimiser_update(
        fresh, optimizer, objective("owpo"), rows, reduction="token-mean", max_tokens=7, temperature=TEMPERATURE,
        micro_batch_tokens=64, grad_clip=1e9, seed=0,
    )  # fmt: skip
    assert result.bad == "loss is nan"
    assert torch.equal(weights_of(fresh), before)


def test_gradient_checkpointing_changes_memory_and_not_the_step(rows, tiny_model):
    """The same weights after a step, and less kept for the backward pass."""
    stepped, kept = [], []
    for is_on in (False, True):
        policy = load_policy(str(tiny_model), dtype="float64")
        storages = {}

        def note(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            result = update(policy, rows, gradient_checkpointing=is_on, micro_batch_tokens=1000)
        assert result.bad is None
        assert not policy.model.training
        stepped.append(weights_of(policy))
        kept.append(sum(storages.values()))
    torch.testing.assert_close(stepped[0], stepped[1], rtol=1e-10, atol=1e-12)
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: apt install g++")
def test_compiled_layers_compute_the_same(rows, tiny_model, monkeypatch):
    plain, compiled = load_policy(str(tiny_model)), load_policy(str(tiny_model))
    prompts = rows.responses.prompts[:1]
    settings = {"group_size": 4, "max_new_tokens": 5, "temperature": 1.0, "top_p": 1.0, "seed": 0}
    compile_layers(compiled.model)
    (ours,), (theirs,) = (list(sample_batches(policy, prompts, **settings)) for policy in (compiled, plain))
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.sampler_logp, theirs.sampler_logp), "a CPU decodes by the layers as written"
    logps = [response_logprobs(policy, rows.responses, 1.0)[0] for policy in (compiled, plain)]
    torch.testing.assert_close(logps[0], logps[1], rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr("owpo.policy.sampler.decoding", lambda model: nullcontext())  # as on an accelerator
    (ours,) = sample_batches(compiled, prompts, **settings)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.sampler_logp, theirs.sampler_logp, rtol=0, atol=1e-5)
    one, other = (
        torch.autograd.grad(logp.sum(), list(policy.model.parameters()))
        for logp, policy in zip(logps, (compiled, plain), strict=True)
    )
    for mine, plain_gradient in zip(one, other, strict=True):
        assert (mine - plain_gradient).norm() <= 1e-5 * plain_gradient.norm()
