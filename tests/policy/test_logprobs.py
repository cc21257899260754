from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from policy_builders import random_responses, tiny_policy
from torch import Tensor

from owpo.policy import (
    Policy,
    Responses,
    copy_weights,
    micro_batches,
    packing,
    reference_logprobs,
    response_logprobs,
    selected_logprobs,
)
from owpo.policy.head import LogitTransform
from owpo.policy.logprobs import check_logit_path
from owpo.policy.packing import pack
from owpo.policy.responses import distinct

LENGTHS = ([5, 2, 7, 3], [4, 9, 1, 6])


def dense_logprobs(policy: Policy, responses: Responses, temperature: float) -> tuple[Tensor, Tensor]:
    """Row by row, without padding, from the model's own full logits."""
    logp_BT = torch.zeros(responses.tokens.shape, dtype=policy.model.dtype)
    entropy_BT = torch.zeros_like(logp_BT)
    for row, prompt in enumerate(responses.prompts):
        response = responses.tokens[row][responses.mask[row]]
        logits = policy.model(input_ids=torch.tensor([prompt + response.tolist()])).logits[0]
        all_logp = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(dim=-1)
        steps = torch.arange(len(response))
        logp_BT[row, steps] = all_logp[steps, response]
        entropy_BT[row, steps] = -(all_logp.exp() * all_logp).sum(dim=-1)
    return logp_BT, entropy_BT


def gradients(policy: Policy, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(policy.model.parameters())))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_values_and_gradients_equal_dense_log_softmax(
    tied: bool, dtype: torch.dtype, tolerance: float
) -> None:
    policy = tiny_policy("qwen3", dtype, tie_word_embeddings=tied)
    responses = random_responses(*LENGTHS, policy.vocab_size)
    weight_BT = torch.randn(responses.tokens.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    # 20 response tokens: with 7 a chunk the last one is short.
    logp, entropy = response_logprobs(policy, responses, 0.7, with_entropy=True, chunk_tokens=7)
    dense_logp, dense_entropy = dense_logprobs(policy, responses, 0.7)
    torch.testing.assert_close(logp, dense_logp, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(entropy, dense_entropy, rtol=tolerance, atol=tolerance)
    assert entropy is not None
    assert not entropy.requires_grad
    ours = gradients(policy, (logp * weight_BT).sum())
    theirs = gradients(policy, (dense_logp * weight_BT).sum())
    for mine, dense in zip(ours, theirs, strict=True):
        assert (mine - dense).norm() <= tolerance * dense.norm()


def test_hand_computed_value_and_temperature() -> None:
    # Logits (0, ln 3): probabilities 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10.
    weight_VH = torch.tensor([[0.0], [torch.tensor(3.0).log()]])
    hidden_NH, target_N = torch.ones(2, 1), torch.tensor([0, 1])
    logp, _ = selected_logprobs(hidden_NH, weight_VH, None, target_N, 1.0)
    torch.testing.assert_close(logp.exp(), torch.tensor([0.25, 0.75]))
    logp, entropy = selected_logprobs(hidden_NH, weight_VH, None, target_N, 0.5, with_entropy=True)
    torch.testing.assert_close(logp.exp(), torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(entropy, torch.full((2,), 0.3250830))  # -(0.1 ln 0.1 + 0.9 ln 0.9)


def test_bias_scale_and_cap_against_autograd() -> None:
    generator = torch.Generator().manual_seed(3)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    hidden, weight, bias, upstream = leaf(11, 6), leaf(13, 6), leaf(13), leaf(11).detach()
    target = torch.randint(13, (11,), generator=generator)
    transform = LogitTransform(scale=1.7, softcap=2.5)
    logp, _ = selected_logprobs(hidden, weight, bias, target, 0.8, transform=transform, chunk_tokens=4)
    logits = 2.5 * torch.tanh(1.7 * (hidden @ weight.T + bias) / 2.5)
    dense = (logits / 0.8).log_softmax(dim=-1)[torch.arange(11), target]
    torch.testing.assert_close(logp, dense, rtol=1e-12, atol=1e-12)
    leaves = (hidden, weight, bias)
    for ours, theirs in zip(
        torch.autograd.grad(logp, leaves, upstream),
        torch.autograd.grad(dense, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_frozen_output_layer_still_passes_a_gradient_to_the_hidden_states() -> None:
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4)
    target = torch.tensor([0, 3, 8, 1, 1])
    logp, _ = selected_logprobs(hidden, weight, None, target, 1.0, chunk_tokens=2)
    dense = (hidden @ weight.T).log_softmax(dim=-1)[torch.arange(5), target]
    torch.testing.assert_close(
        torch.autograd.grad(logp.sum(), hidden)[0], torch.autograd.grad(dense.sum(), hidden)[0]
    )


@pytest.mark.parametrize("chunk_tokens", [1, 6, 1024])
def test_chunk_size_does_not_matter(chunk_tokens: int) -> None:
    policy = tiny_policy(dtype=torch.float64)
    responses = random_responses(*LENGTHS, policy.vocab_size)
    logp, _ = response_logprobs(policy, responses, 1.0, chunk_tokens=chunk_tokens)
    expected, _ = response_logprobs(policy, responses, 1.0, chunk_tokens=20)
    torch.testing.assert_close(logp, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = gradients(policy, logp.sum()), gradients(policy, expected.sum())
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_padding_is_never_read() -> None:
    policy = tiny_policy(dtype=torch.float64)
    responses = random_responses(*LENGTHS, policy.vocab_size)
    logp, _ = response_logprobs(policy, responses, 1.0)
    other_tokens = responses.tokens.masked_fill(~responses.mask, 17)
    changed, _ = response_logprobs(policy, replace(responses, tokens=other_tokens), 1.0)
    assert torch.equal(logp, changed)
    assert not logp[~responses.mask].any()
    alone = responses.rows(torch.tensor([2]))
    torch.testing.assert_close(
        response_logprobs(policy, alone, 1.0)[0][0, :1], logp[2, :1], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere"])
def test_architectures_that_transform_their_logits(kind: str) -> None:
    # Values far from 1, so that leaving the transform out would show.
    changes = {"gemma2": {"final_logit_softcapping": 2.0}, "granite": {"logits_scaling": 4.0}}.get(
        kind, {"logit_scale": 0.25}
    )
    policy = tiny_policy(kind, torch.float64, **changes)
    responses = random_responses(*LENGTHS, policy.vocab_size)
    dense, _ = dense_logprobs(policy, responses, 1.0)
    torch.testing.assert_close(response_logprobs(policy, responses, 1.0)[0], dense, rtol=1e-9, atol=1e-9)


def test_self_check_finds_an_unknown_transform() -> None:
    policy = tiny_policy("llama")
    check_logit_path(policy)
    layer = policy.model.get_output_embeddings()
    layer.register_forward_hook(lambda _module, _inputs, logits: logits * 1.5)
    with pytest.raises(ValueError, match="LlamaForCausalLM computes its logits in a way"):
        check_logit_path(policy)


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_equal_weights_give_bitwise_equal_logprobs(compute_dtype: torch.dtype) -> None:
    policy, reference = tiny_policy("qwen2", compute_dtype), tiny_policy("qwen2", compute_dtype, seed=1)
    responses = random_responses(*LENGTHS, policy.vocab_size)
    assert not torch.equal(
        reference_logprobs(reference, responses, 0.7, 24), reference_logprobs(policy, responses, 0.7, 24)
    )
    copy_weights(policy, reference)
    ref_logp = reference_logprobs(reference, responses, 0.7, 24)
    batches = micro_batches(responses, 24, shares_prompts=True)
    assert len(batches) > 1
    for index in batches:
        part = responses.rows(index)
        logp, _ = response_logprobs(policy, part, 0.7)  # with a gradient, unlike the reference's
        assert logp.requires_grad
        assert torch.equal(logp.detach()[part.mask], ref_logp[index][responses.mask[index]])


def test_log_softmax_is_float32_under_bfloat16() -> None:
    """Probabilities of a whole vocabulary sum to 1 far closer than bfloat16 could say."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(1, 16, generator=generator), torch.randn(500, 16, generator=generator)
    logp, _ = selected_logprobs(
        hidden.expand(500, 16), weight, None, torch.arange(500), 1.0, compute_dtype=torch.bfloat16
    )
    assert logp.dtype == torch.float32
    assert logp.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_bfloat16_gradients_are_near_float32s() -> None:
    exact, mixed = tiny_policy(), tiny_policy(dtype=torch.bfloat16)
    responses = random_responses(*LENGTHS, exact.vocab_size)
    for ours, theirs in zip(
        gradients(mixed, response_logprobs(mixed, responses, 1.0)[0].sum()),
        gradients(exact, response_logprobs(exact, responses, 1.0)[0].sum()),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.1 * theirs.norm()


def test_reference_logprobs_keep_the_rows_order() -> None:
    policy = tiny_policy(dtype=torch.float64)
    responses = random_responses(*LENGTHS, policy.vocab_size)
    dense, _ = dense_logprobs(policy, responses, 1.3)
    for budget in (1, 15, 1000):
        logp = reference_logprobs(policy, responses, 1.3, budget)
        assert not logp.requires_grad
        torch.testing.assert_close(logp, dense.detach(), rtol=1e-10, atol=1e-10)


def responses_of_groups(lengths: list[list[int]], prompt_lengths: list[int]) -> Responses:
    """A group for each prompt, its rows with these response lengths."""
    sizes = [len(group) for group in lengths]
    flat = [length for group in lengths for length in group]
    of_row = [p for p, size in enumerate(sizes) for _ in range(size)]
    responses = random_responses([prompt_lengths[p] for p in of_row], flat, 40)
    prompts = [responses.prompts[of_row.index(p)] for p in range(len(sizes))]
    return replace(responses, prompts=[prompts[p] for p in of_row])


def test_micro_batches_by_hand() -> None:
    responses = responses_of_groups(
        [[2], [9], [3], [2], [24], [3]], [1] * 6
    )  # rows of 3, 10, 4, 3, 25, 4 tokens
    # 25 alone (above the budget); 10 + one of 4 padded to 10 would be 20 > 12; 4, 4 and 3 padded to 4 are 12.
    batches = micro_batches(responses, 12, shares_prompts=False)
    assert [batch.tolist() for batch in batches] == [[4], [1], [2, 5, 0], [3]]
    assert [batch.tolist() for batch in micro_batches(responses, 1000, shares_prompts=False)] == [
        [4, 1, 2, 5, 0, 3]
    ]
    # Nothing is padded: 10, then 4 + 4 + 3, then 3.
    batches = micro_batches(responses, 12, shares_prompts=True)
    assert [batch.tolist() for batch in batches] == [[4], [1], [2, 5, 0], [3]]
    assert [batch.tolist() for batch in micro_batches(responses, 14, shares_prompts=True)] == [
        [4], [1, 2], [5, 0, 3]
    ]  # fmt: skip


def test_a_prompt_counts_once_in_a_micro_batch_and_its_rows_stay_together() -> None:
    responses = responses_of_groups([[1, 2], [5, 1, 3]], [10, 10])
    # Group 1 first, its rows by length: 10 + 5 + 3 + 1 tokens; group 0: 10 + 2 + 1.
    assert [b.tolist() for b in micro_batches(responses, 19, shares_prompts=True)] == [[2, 4, 3], [1, 0]]
    assert [b.tolist() for b in micro_batches(responses, 32, shares_prompts=True)] == [[2, 4, 3, 1, 0]]
    # 10 + 5 + 3, then the same prompt again with its last row.
    assert [b.tolist() for b in micro_batches(responses, 18, shares_prompts=True)] == [[2, 4], [3], [1, 0]]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "granite", "cohere"])
@pytest.mark.parametrize("prompt_length", [3, 40])
def test_rows_that_share_a_prompt_have_the_values_and_gradients_of_rows_alone(
    kind: str, prompt_length: int
) -> None:
    """Short prompts are attended to in whole texts, long ones apart from their responses: both ways are tried."""
    policy = tiny_policy(kind, torch.float64)
    assert policy.takes_layouts
    lengths = [[4, 9, 1, 6], [1, 1, 1], [20, 2, 5, 5], [1]]
    responses = responses_of_groups(lengths, [prompt_length, 7, prompt_length - 1, 2])
    packed = pack(*distinct(responses.prompts), responses.tokens, responses.lengths)
    num_apart = sum(bucket.bias_bQS is not None for bucket in packed.buckets)
    assert (num_apart > 0) is (prompt_length == 40)
    assert len(packed.tokens_N) == 2 * prompt_length + 8 + sum(n - 1 for group in lengths for n in group)
    logp, _ = response_logprobs(policy, responses, 0.7)
    dense, _ = dense_logprobs(policy, responses, 0.7)
    torch.testing.assert_close(logp, dense, rtol=1e-6, atol=1e-6)  # the models' norms are float32
    weight = torch.randn(logp.shape, generator=torch.Generator().manual_seed(1), dtype=logp.dtype)
    pairs = zip(
        gradients(policy, (logp * weight).sum()), gradients(policy, (dense * weight).sum()), strict=True
    )
    for ours, theirs in pairs:
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_buckets_of_similar_length_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy("qwen3", torch.float64)
    responses = responses_of_groups([[4, 19, 1, 6], [1, 12, 1]], [3, 7])
    whole, _ = response_logprobs(policy, responses, 1.0)
    monkeypatch.setattr(packing, "_BUCKET_TOKENS", 1)
    packed = pack(*distinct(responses.prompts), responses.tokens, responses.lengths)
    assert len(packed.buckets) > 1
    split, _ = response_logprobs(policy, responses, 1.0)
    torch.testing.assert_close(split, whole, rtol=1e-6, atol=1e-6)
    pairs = zip(gradients(policy, split.sum()), gradients(policy, whole.sum()), strict=True)
    for ours, theirs in pairs:
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("kind", ["gemma2"])
def test_an_architecture_with_an_attention_of_its_own_takes_no_layout(kind: str) -> None:
    policy = tiny_policy(kind, torch.float64)
    assert not policy.takes_layouts
    responses = responses_of_groups([[4, 9], [1, 6]], [3, 5])
    dense, _ = dense_logprobs(policy, responses, 1.0)
    torch.testing.assert_close(response_logprobs(policy, responses, 1.0)[0], dense, rtol=1e-6, atol=1e-6)


def test_a_layout_that_gives_other_hidden_states_is_not_taken() -> None:
    policy = tiny_policy("llama")
    attention = policy.model.model.layers[1].self_attn
    attention.register_forward_hook(
        lambda _module, _inputs, outputs: (outputs[0] + outputs[0].cumsum(1), None)
    )
    assert not policy.takes_layouts


def test_errors_say_what_to_do() -> None:
    policy = tiny_policy()
    responses = random_responses([2, 0], [3, 3], policy.vocab_size)
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        response_logprobs(policy, responses, 1.0)
    with pytest.raises(ValueError, match="positive temperature, got 0"):
        response_logprobs(policy, random_responses([2], [3], policy.vocab_size), 0.0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        micro_batches(responses, 0, shares_prompts=True)
