"""The real vLLM, where it is installed (`make test-vllm`): it samples what it should, from the weights it should."""

import math

import pytest

pytest.importorskip("vllm")

import torch
from engine_builders import EOS, PROMPTS, SETTINGS, change_weights, largest_gap, open_tiny_vllm, write_model

from owpo.engines.vllm_engine import VLLMEngine
from owpo.errors import InputError, RunFailed
from owpo.evaluation.answers import Sampling, answer_problems
from owpo.policy import Responses, load_policy, sample_batches
from owpo.policy.weights import load_state, policy_state, unique_state
from owpo.problems.problem import Problem
from owpo.verify.exact import exact_grader
from owpo.verify.verifier import InPlaceVerifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("engines") / "model")


@pytest.fixture(scope="module")
def running(folder):
    policy = load_policy(str(folder))
    with open_tiny_vllm(policy, folder) as engine:
        yield engine, policy, {name: value.clone() for name, value in unique_state(policy.model).items()}


@pytest.fixture
def engine(running):
    """The engine and the policy, which has its first weights."""
    engine, policy, weights = running
    load_state(policy_state(policy), weights)
    return engine, policy


def exact_pairs(policy, prompt, temperature: float, top_p: float) -> dict[tuple[int, ...], float]:
    """The probability of every first two tokens (one, where that is EOS), from the model's own logits."""

    def step(tokens):
        with torch.no_grad():
            logits = policy.model(torch.tensor([tokens])).logits[0, -1].double() / temperature
        values, order = logits.softmax(dim=0).sort(descending=True)
        kept = values.cumsum(dim=0) - values < top_p
        return dict(zip(order[kept].tolist(), (values[kept] / values[kept].sum()).tolist(), strict=True))

    pairs = {}
    for first, probability in step(prompt).items():
        if first == EOS:
            pairs[first,] = probability
        else:
            for second, conditional in step([*prompt, first]).items():
                pairs[first, second] = probability * conditional
    return pairs


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_it_samples_the_exact_distribution(engine, temperature, top_p):
    sampler = engine[0].sampler(engine[1], "the base")
    expected = exact_pairs(engine[1], PROMPTS[0], temperature, top_p)
    count = 6000
    settings = {
        "group_size": count, "max_new_tokens": 2, "temperature": temperature, "top_p": top_p, "seed": 11,
        "batch_size": count,
    }  # fmt: skip
    (responses,) = sampler.batches([PROMPTS[0]], **settings)
    seen = dict.fromkeys(expected, 0)
    for row, length, logp in zip(
        responses.tokens.tolist(), responses.lengths.tolist(), responses.sampler_logp.sum(dim=1), strict=True
    ):
        pair = tuple(row[:length])
        seen[pair] += 1  # a KeyError: outside the nucleus
        assert logp.item() == pytest.approx(math.log(expected[pair]), abs=1e-4)
    common = [pair for pair, probability in expected.items() if probability * count >= 5]
    rare = 1 - sum(expected[pair] for pair in common)
    chi = sum((seen[pair] - expected[pair] * count) ** 2 / (expected[pair] * count) for pair in common)
    if rare * count >= 5:
        num_rare = count - sum(seen[pair] for pair in common)
        chi += (num_rare - rare * count) ** 2 / (rare * count)
    freedom = len(common) - (rare * count < 5)
    assert len(common) > 20
    assert chi < freedom + 4 * math.sqrt(2 * freedom)


def test_the_same_seed_gives_the_same_responses_in_any_batches(engine):
    sampler = engine[0].sampler(engine[1], "the base")
    pad = engine[1].pad_id
    whole = Responses.concatenate(list(sampler.batches(PROMPTS, **SETTINGS)), pad)
    one = Responses.concatenate(list(sampler.batches(PROMPTS, **(SETTINGS | {"batch_size": 60}))), pad)
    later = Responses.concatenate(list(sampler.batches(PROMPTS, **SETTINGS, skip=1)), pad)
    other = Responses.concatenate(list(sampler.batches(PROMPTS, **(SETTINGS | {"seed": 2}))), pad)
    assert torch.equal(one.tokens, whole.tokens)
    assert later.tokens.tolist() == [row[: later.tokens.shape[1]] for row in whole.tokens[25:].tolist()]
    assert whole.prompts == [prompt for prompt in PROMPTS for _ in range(20)]
    assert not torch.equal(other.tokens, whole.tokens)
    assert len({tuple(row) for row in whole.tokens.tolist()}) > 50  # every row has a seed of its own


def test_greedy_is_the_policys_choice_and_certain(engine):
    sampler = engine[0].sampler(engine[1], "the base")
    settings = SETTINGS | {"temperature": 0.0, "group_size": 1}
    (ours,), (theirs,) = sample_batches(engine[1], PROMPTS, **settings), sampler.batches(PROMPTS, **settings)
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.mask, theirs.mask) and torch.equal(ours.truncated, theirs.truncated)
    assert (theirs.sampler_logp == 0).all()


def test_responses_end_where_the_policy_says(engine):
    """EOS ids are the policy's; a stop string ends a response at the token that completes it; the rest is truncated."""
    engine, policy = engine
    sampler = engine.sampler(policy, "the base")
    settings = SETTINGS | {"max_new_tokens": 40, "batch_size": 60}
    (free,) = sampler.batches(PROMPTS, **settings)
    (stopped,) = sampler.batches(PROMPTS, **settings, stop=("2", "13", "4="))
    assert torch.equal(free.truncated, (free.tokens != EOS).all(dim=1) & (free.lengths == 40))
    assert 5 < free.truncated.sum() < 55
    num_stopped = 0
    for row in range(60):
        text = policy.decode(free.tokens[row][free.mask[row]])
        ends = [text.index(stop) + len(stop) for stop in ("2", "13", "4=") if stop in text]
        length = min(ends, default=len(text))
        assert policy.decode(stopped.tokens[row][stopped.mask[row]]) == text[:length]
        assert stopped.truncated[row] == (free.truncated[row] and not ends)
        num_stopped += bool(ends)
    assert num_stopped > 10
    assert largest_gap(policy, stopped) < 1e-5


def test_a_prompt_that_leaves_too_little_room_is_refused(engine):
    sampler = engine[0].sampler(engine[1], "the base")
    with pytest.raises(ValueError, match="a prompt has 240 tokens.* context of 250"):
        next(sampler.batches([[2] * 240], **SETTINGS))


def test_what_was_not_finished_is_given_up(engine):
    """An interrupted round leaves nothing behind that the next one would wait for or be mixed with."""
    sampler = engine[0].sampler(engine[1], "the base")
    whole = [batch.tokens for batch in sampler.batches(PROMPTS, **SETTINGS)]
    batches = sampler.batches(PROMPTS, **SETTINGS)
    assert torch.equal(next(batches).tokens, whole[0])
    batches.close()
    assert not sampler._llm.llm_engine.has_unfinished_requests()
    assert all(
        torch.equal(new.tokens, old)
        for new, old in zip(sampler.batches(PROMPTS, **SETTINGS), whole, strict=True)
    )


def test_a_stale_engine_is_an_error(engine, monkeypatch):
    engine, policy = engine
    engine.sampler(policy, "the base")
    change_weights(policy, 1e-2)
    monkeypatch.setattr(VLLMEngine, "_hand_over", lambda *_: None)
    with pytest.raises(RunFailed, match="stale: .*policy's at update 1 .*weights of the base"):
        engine.sampler(policy, "update 1")
    change_weights(policy, -1e-2)  # back, but for a rounding
    change_weights(policy, 1e-7, seed=1)
    with pytest.raises(RunFailed, match=r"stale: it was given the weights of update 2.* to the last bit"):
        engine.sampler(policy, "update 2")
    monkeypatch.undo()
    (responses,) = engine.sampler(policy, "update 2").batches(PROMPTS, **(SETTINGS | {"batch_size": 60}))
    assert largest_gap(policy, responses) < 1e-5


def test_a_policy_that_has_become_sure_is_no_false_alarm(engine):
    """Logits 30 times as large: float32 rounds 30 times as far."""
    engine, policy = engine
    engine.sampler(policy, "the base")
    policy.model.model.norm.weight.data *= 30
    sampler = engine.sampler(policy, "a sharper one")
    own_N, _ = engine.fingerprint._own_scores(policy)
    assert (engine._probe_scores() - own_N).abs().mean() > 2e-6
    (responses,) = sampler.batches(PROMPTS, **(SETTINGS | {"batch_size": 60}))
    assert largest_gap(policy, responses) < 1e-3
    change_weights(policy, 1e-4)
    engine.sampler(policy, "update 1")


def test_wrong_weights_are_an_error(engine, monkeypatch):
    """One tensor of all keeps its old values: vLLM says nothing, the fingerprint does."""
    engine, policy = engine
    engine.sampler(policy, "the base")
    name = "model.layers.1.mlp.down_proj.weight"
    old = policy.model.state_dict()[name].clone()
    change_weights(policy, 1e-2)
    real, right = VLLMEngine._hand_over, policy.model.state_dict()[name].clone()

    def all_but_one(self, policy):
        policy.model.state_dict()[name].copy_(old)
        real(self, policy)
        policy.model.state_dict()[name].copy_(right)

    monkeypatch.setattr(VLLMEngine, "_hand_over", all_but_one)
    with pytest.raises(RunFailed, match="wrong weights: .*policy's at update 1 .*no earlier weights"):
        engine.sampler(policy, "update 1")
    monkeypatch.undo()
    engine.sampler(policy, "update 1")


def test_a_sampler_ends_with_the_next_one(engine):
    engine, policy = engine
    batches = engine.sampler(policy, "the base").batches(PROMPTS, **(SETTINGS | {"batch_size": 1}))
    next(batches)
    change_weights(policy, 1e-2)
    batches.close()
    old = engine.sampler(policy, "update 1").batches(PROMPTS, **SETTINGS)
    change_weights(policy, 1e-2)
    engine.sampler(policy, "update 2")
    with pytest.raises(AssertionError, match="other weights"):
        next(old)


def test_prefixes_of_old_weights_are_forgotten(engine, monkeypatch):
    """A prompt longer than a block of the cache: its keys of before an update would serve after it."""
    engine, policy = engine
    prompt = [2 + place % 12 for place in range(200)]
    settings = SETTINGS | {"batch_size": 60}

    def gap_after_update(name):
        change_weights(policy, 3e-2)
        (responses,) = engine.sampler(policy, name).batches([prompt], **settings)
        return largest_gap(policy, responses)

    (first,) = engine.sampler(policy, "the base").batches([prompt], **settings)
    assert largest_gap(policy, first) < 1e-5
    assert gap_after_update("update 1") < 1e-5
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: True)
    assert gap_after_update("update 2") > 1e-2  # what this test is about does happen
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: False)
    change_weights(policy, 3e-2)
    with pytest.raises(RunFailed, match="would not forget the prefixes"):
        engine.sampler(policy, "update 3")


def test_verified_answers_come_through_it(engine):
    problems = [Problem(id=f"p{digit}", prompt=f"{digit}=", answer=str(digit)) for digit in range(5)]
    sampling = Sampling(
        group_size=6, max_new_tokens=5, temperature=1.0, top_p=1.0, seed=3, batch_size=8, stop=("+",)
    )
    sampler = engine[0].sampler(engine[1], "the base")
    groups = answer_problems(sampler, problems, InPlaceVerifier(exact_grader("last_number")), sampling)
    assert groups.correct_PG.shape == (5, 6)
    assert not any("+" in text for text in groups.texts)


def test_a_process_has_one_vllm(engine, folder):
    with pytest.raises(InputError, match="one vLLM in a process"), open_tiny_vllm(engine[1], folder):
        pass
