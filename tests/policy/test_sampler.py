from __future__ import annotations

from collections import Counter

import pytest
import torch
from policy_builders import CHARACTERS, EOS, PAD, sample, tiny_policy
from torch import Tensor

from owpo.policy import Policy, Responses, response_logprobs, sample_batches
from owpo.policy.choose import _mixed, choose, uniform
from owpo.policy.decoding import Decoder

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]


def draw(policy: Policy, prompts: list[list[int]] = PROMPTS, **changes: object) -> Responses:
    settings = {"group_size": 4, "max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0, "seed": 0}
    return sample(policy, prompts, **(settings | changes))


def likely_eos(policy: Policy, bonus: float = 3.0) -> Policy:
    """The policy with `bonus` nats more for EOS, so that responses end at all lengths."""
    layer = policy.model.get_output_embeddings()
    layer.bias = torch.nn.Parameter(bonus * (torch.arange(layer.out_features) == EOS).float())
    return policy


def next_distribution(policy: Policy, tokens: list[int], temperature: float) -> Tensor:
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([tokens])).logits[0, -1]
    return (logits.double() / temperature).softmax(dim=-1)


def chi_square_is_plausible(counts: Tensor, probability: Tensor) -> bool:
    """Pearson's statistic within 4 standard deviations of its mean; rare tokens are pooled."""
    expected = probability * counts.sum()
    is_common = expected >= 5
    observed = torch.cat([counts[is_common], counts[~is_common].sum().unsqueeze(0)]).double()
    expected = torch.cat([expected[is_common], expected[~is_common].sum().unsqueeze(0)])
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    statistic = ((observed - expected).square() / expected).sum().item()
    return abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8)])
def test_samples_follow_the_distribution(temperature: float, top_p: float) -> None:
    policy = tiny_policy(initializer_range=0.15)
    responses = draw(
        policy, [[5, 6, 7]], group_size=20_000, max_new_tokens=1, temperature=temperature, top_p=top_p,
        batch_size=20_000,
    )  # fmt: skip
    probability = next_distribution(policy, [5, 6, 7], temperature)
    if top_p < 1:
        kept, mass = [], 0.0
        for token in probability.argsort(descending=True).tolist():
            if mass >= top_p:
                break
            kept.append(token)
            mass += probability[token].item()
        inside = torch.zeros_like(probability).index_fill(0, torch.tensor(kept), 1.0)
        probability = probability * inside / mass
    counts = torch.bincount(responses.tokens[:, 0], minlength=policy.vocab_size)
    assert not counts[probability == 0].any()
    assert chi_square_is_plausible(counts, probability)
    assert not chi_square_is_plausible(counts, torch.full_like(probability, 1 / len(probability)))
    torch.testing.assert_close(
        responses.sampler_logp[:, 0].double(), probability[responses.tokens[:, 0]].log(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("top_p", "kept"),
    # Of the two tokens with 0.125 the first comes first.
    [(0.4, {2}), (0.5, {2}), (0.501, {2, 0}), (0.75, {2, 0}), (0.76, {2, 0, 1}), (0.9, {2, 0, 1, 3})],
)
def test_top_p_keeps_the_smallest_set_with_that_mass(top_p: float, kept: set[int]) -> None:
    # Powers of two, so that every partial sum is exact.
    probability = torch.tensor([0.25, 0.125, 0.5, 0.125]).log()
    uniform = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    token, logp = choose(probability.expand(4096, 4).clone(), 1.0, top_p, uniform)
    assert set(token.tolist()) == kept
    mass = probability.exp()[sorted(kept)].sum()
    for index in kept:
        share = (probability[index].exp() / mass).item()
        assert (token == index).double().mean().item() == pytest.approx(share, abs=1 / 2048)
        assert logp[token == index][0].exp().item() == pytest.approx(share, rel=1e-5)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")])
    uniform = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    for top_p in (1.0, 0.9):
        token, _ = choose(logits.expand(5, 5).clone(), 1.0, top_p, uniform)
        assert token.tolist() == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_logp_equals_response_logprobs(kind: str, temperature: float) -> None:
    """Prompts of different lengths: padding on the left (here) and on the right (there) must not matter."""
    policy = tiny_policy(kind)
    responses = draw(policy, temperature=temperature)
    logp, _ = response_logprobs(policy, responses, temperature)
    torch.testing.assert_close(responses.sampler_logp, logp.detach(), rtol=0, atol=1e-4)


def test_greedy_is_the_argmax_of_full_forward_passes() -> None:
    policy = tiny_policy("qwen3")
    responses = draw(policy, group_size=1, temperature=0.0)
    for row, prompt in enumerate(PROMPTS):
        tokens = list(prompt)
        for token in responses.tokens[row][responses.mask[row]].tolist():
            assert token == next_distribution(policy, tokens, 1.0).argmax().item()
            tokens.append(token)
    assert not responses.sampler_logp.any()


def test_rows_are_prompt_major_and_groups_may_cross_batches() -> None:
    policy = tiny_policy()
    responses = draw(policy, group_size=3, batch_size=5)
    assert responses.prompts == [prompt for prompt in PROMPTS for _ in range(3)]
    logp, _ = response_logprobs(policy, responses, 1.0)
    torch.testing.assert_close(responses.sampler_logp, logp.detach(), rtol=0, atol=1e-4)
    assert len({tuple(row) for row in responses.tokens[:3].tolist()}) > 1


def test_responses_end_at_the_first_eos() -> None:
    policy = likely_eos(tiny_policy())
    responses = draw(policy, group_size=16)
    lengths = responses.lengths.tolist()
    assert len(set(lengths)) > 4
    for row, length in enumerate(lengths):
        tokens = responses.tokens[row].tolist()
        ends = EOS in tokens
        assert responses.truncated[row].item() is not ends
        assert length == (tokens.index(EOS) + 1 if ends else 12)
        assert set(tokens[length:]) <= {PAD}
        assert not responses.sampler_logp[row, length:].any()
    assert responses.truncated.any()
    assert not responses.truncated.all()


def test_every_eos_ends_a_response_also_where_padding_is_one() -> None:
    policy = likely_eos(tiny_policy())
    policy.tokenizer.pad_token = None
    policy.model.generation_config.eos_token_id = [EOS, 2]  # <unk> is a special token of the tokenizer
    assert policy.eos_ids == (EOS, 2)
    assert policy.pad_id == EOS
    responses = draw(policy, group_size=16)
    last = responses.tokens[torch.arange(64), responses.lengths - 1]
    is_end = torch.isin(last, torch.tensor(policy.eos_ids))
    assert torch.equal(is_end, ~responses.truncated)
    before_last = torch.arange(responses.tokens.shape[1]) < (responses.lengths - 1).unsqueeze(1)
    assert not torch.isin(responses.tokens[before_last], torch.tensor(policy.eos_ids)).any()


def test_batches_that_are_known_can_be_skipped() -> None:
    policy = likely_eos(tiny_policy())
    settings = {
        "group_size": 3,
        "max_new_tokens": 12,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 0,
        "batch_size": 5,
    }
    batches = list(sample_batches(policy, PROMPTS, **settings))
    assert [len(batch.prompts) for batch in batches] == [5, 5, 2]
    later = list(sample_batches(policy, PROMPTS, skip=1, **settings))
    assert len(later) == 2
    for whole, alone in zip(batches[1:], later, strict=True):
        assert torch.equal(whole.tokens, alone.tokens)
        assert torch.equal(whole.sampler_logp, alone.sampler_logp)


def test_a_stop_string_ends_a_response_with_the_token_that_completes_it() -> None:
    """Against a search from the left, token by token, in the responses that were sampled without it."""
    policy = tiny_policy(initializer_range=0.2)
    settings = {"group_size": 24, "max_new_tokens": 40, "batch_size": 96}
    free = draw(policy, **settings)
    texts = policy.decode_all(free)
    pairs = Counter(text[i : i + 2] for text in texts for i in range(5, len(text) - 1))
    stop = tuple(pair for pair, _ in pairs.most_common(8))  # what it does write, sooner or later
    stopped = draw(policy, stop=stop, **settings)
    ended_early = 0
    for row in range(96):
        tokens = free.tokens[row][: int(free.lengths[row])].tolist()
        wanted = next(
            (
                length
                for length in range(1, len(tokens) + 1)
                if any(text in policy.decode(tokens[:length]) for text in stop)
            ),
            None,
        )
        length = int(stopped.lengths[row])
        assert length == (len(tokens) if wanted is None else wanted)
        assert stopped.tokens[row][:length].tolist() == tokens[:length]
        assert bool(stopped.truncated[row]) is (bool(free.truncated[row]) and wanted is None)
        ended_early += wanted is not None and wanted < len(tokens)
    assert 10 < ended_early < 96
    assert len(stopped.tokens[0]) <= 40


def test_stopped_rows_are_not_decoded_on(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(initializer_range=0.2)
    stop = tuple(CHARACTERS)  # the first token that is a character ends a response
    calls = []
    decoder = type(policy.model.get_decoder())
    forward = decoder.forward
    monkeypatch.setattr(
        decoder, "forward", lambda self, *a, **k: (calls.append(1), forward(self, *a, **k))[1]
    )
    responses = draw(policy, max_new_tokens=100, stop=stop)
    assert responses.lengths.max() <= 10
    assert len(calls) < 40, "the loop must notice, not run to max_new_tokens"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop string is empty"):
        draw(tiny_policy(), stop=("",))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_leave_do_not_change_the_others(temperature: float) -> None:
    """A batch shrinks as rows finish; one row a batch never does. Both must give the same responses."""
    policy = likely_eos(tiny_policy("qwen2", initializer_range=0.2), bonus=2.0)
    prompts = [[3 + index, 40 - index] for index in range(16)]
    settings = {"group_size": 1, "max_new_tokens": 24, "temperature": temperature}
    together = draw(policy, prompts, batch_size=16, **settings)
    lengths = together.lengths.sort().values
    assert lengths[7] < 12 < lengths[-1], "half of the rows must leave for this test to say anything"
    alone = draw(policy, prompts, batch_size=1, **settings)
    assert torch.equal(together.tokens, alone.tokens)
    torch.testing.assert_close(together.sampler_logp, alone.sampler_logp, rtol=0, atol=1e-4)


def test_a_seed_is_a_result() -> None:
    policy = tiny_policy()
    first, again, other = draw(policy), draw(policy), draw(policy, seed=1)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.sampler_logp, again.sampler_logp)
    assert first.tokens.tolist() != other.tokens.tolist()


def test_samples_can_stand_in_a_loss() -> None:
    """Tensors made in inference mode may not be saved for a backward pass."""
    policy = tiny_policy()
    responses = draw(policy)
    logp, _ = response_logprobs(policy, responses, 1.0)
    (logp * responses.sampler_logp).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    policy = tiny_policy(dtype=dtype)
    responses = draw(policy)
    logp, _ = response_logprobs(policy, responses, 1.0)
    assert responses.sampler_logp.dtype == logp.dtype
    gap = (responses.sampler_logp - logp.detach()).abs().max().item()
    assert gap < (0.3 if dtype == torch.bfloat16 else 1e-10)


def test_broken_weights_are_not_sampled_from() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[7, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="logits are NaN or infinite"):
        draw(policy)


def test_errors_name_the_offender_and_the_fix() -> None:
    policy = tiny_policy(max_position_embeddings=16)
    with pytest.raises(
        ValueError, match=r"prompt 2 has 6 tokens; .*12 .*context of 16; lower max_new_tokens to 10"
    ):
        draw(policy)
    with pytest.raises(ValueError, match=r"prompt 0 has 20 tokens; .* context of 16; shorten the prompt"):
        draw(policy, [[5] * 20])
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        draw(policy, [[5], []])
    with pytest.raises(ValueError, match="no prompt"):
        draw(policy, [])
    for changes, sentence in [
        ({"group_size": 0}, "group_size must be at least 1"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            draw(policy, [[5]], **changes)


def test_random_numbers_go_by_seed_row_and_position() -> None:
    row, position = (index.flatten() for index in torch.meshgrid(torch.arange(300), torch.arange(300)))
    number = uniform(7, row, position)
    assert number.dtype == torch.float64 and number.min() >= 0 and number.max() < 1
    counts = torch.histc(number, 50, 0, 1)
    assert chi_square_is_plausible(counts, torch.full((50,), 0.02, dtype=torch.float64))
    grid = number.view(300, 300) - 0.5
    for other in (grid[1:], grid[:, 1:], uniform(8, row, position).view(300, 300) - 0.5):
        same = grid[: len(other), : other.shape[1]]
        correlation = (same * other).mean().item() * 12
        assert abs(correlation) < 4 / 300  # standard error 1/300
    some = torch.tensor([5, 70_000, 3])
    assert torch.equal(uniform(7, some[2:], some[:1]), uniform(7, torch.tensor([3]), torch.tensor([5])))
    assert uniform(7, some, some)[0] == number.view(300, 300)[5, 5]


def test_splitmix64_as_published() -> None:
    """Its first output from state 0 is 0xE220A8397B1DCDAF (Vigna's reference implementation)."""
    state = torch.tensor([0x9E3779B97F4A7C15 - 2**64])
    assert _mixed(state).item() % 2**64 == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("vocabulary", [4, 511, 512, 513, 1500, 2048])
def test_a_large_vocabulary_is_drawn_from_as_a_small_one(vocabulary: int) -> None:
    """Chunk by chunk, against the plain cumulative sum in float64."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn(64, vocabulary, generator=generator)
    logits[:, ::7] = float("-inf")
    number = torch.rand(64, generator=generator, dtype=torch.float64)
    number[:2] = torch.tensor([0.0, 1 - 2**-53])
    probability = (logits.double() / 0.8).softmax(dim=1)
    wanted = (probability.cumsum(1) <= number[:, None]).sum(dim=1)
    token, logp = choose(logits.clone(), 0.8, 1.0, number)
    assert (token == wanted).double().mean() > 0.95  # float32 exponentials may turn a draw on a boundary
    assert (probability.gather(1, token[:, None]) > 0).all()
    torch.testing.assert_close(
        logp.double(), probability.gather(1, token[:, None])[:, 0].log(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2"])
@pytest.mark.parametrize("prompt_length", [3, 70])
def test_rows_that_come_in_later_are_sampled_as_if_alone(kind: str, prompt_length: int) -> None:
    """Few slots, ragged prompts and responses; long prompts are kept once for their rows.

    gemma2 decodes by its own attention, which gives NaN for padded prompts in float64.
    """
    dtype = torch.float32 if kind == "gemma2" else torch.float64
    policy = likely_eos(tiny_policy(kind, dtype, initializer_range=0.2), bonus=2.0)
    generator = torch.Generator().manual_seed(0)
    lengths = [prompt_length, prompt_length - 1, 2, prompt_length, prompt_length - 2, 1, prompt_length, 5]
    prompts = [torch.randint(3, 50, (n,), generator=generator).tolist() for n in lengths]
    settings = {"group_size": 3, "max_new_tokens": 24}
    alone = draw(policy, prompts, batch_size=1, **settings)
    assert len(set(alone.lengths.tolist())) > 6
    for batch_size in (4, 7, 24):
        together = draw(policy, prompts, batch_size=batch_size, **settings)
        assert torch.equal(together.tokens, alone.tokens)
        torch.testing.assert_close(together.sampler_logp, alone.sampler_logp, rtol=0, atol=1e-5)
    logp, _ = response_logprobs(policy, alone, 1.0)
    torch.testing.assert_close(alone.sampler_logp, logp.detach(), rtol=0, atol=1e-5)


def test_slots_do_not_stand_idle_while_prompts_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = likely_eos(tiny_policy("qwen3", initializer_range=0.2), bonus=2.0)
    prompts = [[3 + index % 40, 40 - index % 30] for index in range(64)]
    settings = {"group_size": 2, "max_new_tokens": 40, "batch_size": 16}
    steps: list[int] = []
    real_step = Decoder.step
    monkeypatch.setattr(
        Decoder, "step", lambda self, token_R: (steps.append(len(token_R)), real_step(self, token_R))[1]
    )
    responses = draw(policy, prompts, **settings)
    refilled = len(steps)
    assert torch.tensor(steps[: refilled // 2]).double().mean() > 12  # of 16 slots
    steps.clear()
    alone = draw(policy, prompts, pool_batches=1, **settings)
    assert refilled < 0.6 * len(steps)
    assert torch.equal(responses.tokens, alone.tokens)


def test_a_sampling_that_skips_gives_the_same_bits() -> None:
    policy = likely_eos(tiny_policy(initializer_range=0.2), bonus=2.0)
    prompts = [[3 + index, 40 - index] for index in range(10)]
    settings = {
        "group_size": 3, "max_new_tokens": 24, "temperature": 1.0, "top_p": 1.0, "seed": 0, "batch_size": 4,
        "pool_batches": 3,
    }  # fmt: skip
    batches = list(sample_batches(policy, prompts, **settings))
    assert [len(batch.prompts) for batch in batches] == [4] * 7 + [2]
    for skip in range(9):
        later = list(sample_batches(policy, prompts, skip=skip, **settings))
        assert len(later) == 8 - skip
        for whole, alone in zip(batches[skip:], later, strict=True):
            assert torch.equal(whole.tokens, alone.tokens)
            assert torch.equal(whole.sampler_logp, alone.sampler_logp)
