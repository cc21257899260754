"""Log-probs of responses under a policy or its reference.

Both go through the same function, dtype and kernels, so that equal weights give equal log-probs and a
deviation between the two is the weights' alone.

Shape legend: B rows, S prompt and response tokens, T response tokens, N response tokens of all rows, H hidden
width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from owpo.policy.attention import hidden_states
from owpo.policy.head import chunk_size
from owpo.policy.model import Policy
from owpo.policy.packing import pack
from owpo.policy.responses import Responses, distinct


def response_logprobs(
    policy: Policy,
    responses: Responses,
    temperature: float,
    *,
    with_entropy: bool = False,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of every response token at the sampling temperature, [B, T], and the entropies or None.

    float32 (float64 for a float64 model), zeros at padding; the entropy, in nats, carries no gradient. All
    rows go through the decoder at once: split them with `micro_batches`. The logits of `chunk_tokens` tokens
    exist at a time; None: those of `head.chunk_size`.

    Rows whose prompt is the same list object share its forward and backward pass (`owpo.policy.packing`).

    Raises:
        ValueError: temperature is not positive, or a prompt has no tokens.
    """
    if not all(responses.prompts):
        empty = next(row for row, prompt in enumerate(responses.prompts) if not prompt)
        raise ValueError(
            f"prompt {empty} has no tokens, so nothing predicts its response; add a BOS token or text"
        )
    with policy.autocast():
        if policy.takes_layouts:
            packed = pack(*distinct(responses.prompts), responses.tokens, responses.lengths)
            hidden_NH = hidden_states(policy.model, packed.tokens_N, packed.position_N, packed)
            hidden_NH = hidden_NH[packed.predictor]
        else:
            hidden_NH = padded_hidden_states(policy.model, responses, policy.pad_id)
    logp_N, entropy_N = policy.head.selected_logprobs(
        hidden_NH, responses.tokens[responses.mask], temperature,
        with_entropy=with_entropy, chunk_tokens=chunk_tokens or chunk_size(policy.vocab_size),
    )  # fmt: skip
    entropy_BT = None if entropy_N is None else _scattered(entropy_N, responses.mask)
    return _scattered(logp_N, responses.mask), entropy_BT


def padded_hidden_states(model: PreTrainedModel, responses: Responses, pad_id: int) -> Tensor:
    """What predicts each response token, [N, H], by the model's own attention.

    Rows are [prompt | response | padding] without an attention mask: a causal model never looks to the right,
    so nothing real sees the padding, and attention keeps its fast kernel.
    """
    device, mask_BT = responses.tokens.device, responses.mask
    prompt_length_B = torch.tensor([len(prompt) for prompt in responses.prompts], device=device)
    row_N, step_N = mask_BT.nonzero(as_tuple=True)
    width = int((prompt_length_B + responses.lengths).max())
    input_BS = torch.full((len(responses.prompts), width), pad_id, device=device)
    is_prompt_BS = torch.arange(width, device=device) < prompt_length_B.unsqueeze(1)
    input_BS[is_prompt_BS] = torch.tensor(
        [token for prompt in responses.prompts for token in prompt], device=device
    )
    place_N = prompt_length_B[row_N] + step_N
    input_BS[row_N, place_N] = responses.tokens[mask_BT]
    # The last column predicts nothing that was sampled.
    output = model.get_decoder()(input_ids=input_BS[:, :-1], use_cache=False)
    return output.last_hidden_state[row_N, place_N - 1]


def _scattered(value_N: Tensor, mask_BT: Tensor) -> Tensor:
    return value_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, value_N)


def micro_batches(responses: Responses, token_budget: int, *, shares_prompts: bool) -> list[Tensor]:
    """Row indices ([N] int64, on the CPU) of batches with at most `token_budget` tokens; the longest rows come first.

    A row that is longer than the budget gets a batch of its own. Ties go by index.

    Args:
        shares_prompts: rows of one prompt stay together, as far as they fit, and it counts once in a batch. Without, a
            batch counts its rows as long as its longest: what is padded is computed.

    Raises:
        ValueError: token_budget is not positive.
    """
    if token_budget < 1:
        raise ValueError(f"the token budget of a micro-batch must be at least 1, got {token_budget}")
    lengths = responses.row_lengths.tolist()
    _, prompt_of_row = distinct(responses.prompts)
    longest: dict[int, int] = {}
    for prompt, length in zip(prompt_of_row, lengths, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), length)
    if shares_prompts:
        order = sorted(
            range(len(lengths)),
            key=lambda row: (-longest[prompt_of_row[row]], prompt_of_row[row], -lengths[row]),
        )
    else:
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    tokens, prompt = token_budget, -1
    for row in order:
        if shares_prompts:
            new_tokens = lengths[row] - (len(responses.prompts[row]) if prompt_of_row[row] == prompt else 0)
        else:
            new_tokens = lengths[batches[-1][0]] if batches else lengths[row]
        if not batches or tokens + new_tokens > token_budget:
            batches.append([])
            tokens, new_tokens = 0, lengths[row]
        batches[-1].append(row)
        tokens, prompt = tokens + new_tokens, prompt_of_row[row]
    return [torch.tensor(batch) for batch in batches]


def reference_logprobs(
    policy: Policy, responses: Responses, temperature: float, micro_batch_tokens: int
) -> Tensor:
    """`response_logprobs` of all rows without gradient, [B, T] in the rows' own order, a micro-batch at a
    time.

    Args:
        micro_batch_tokens: of prompts and responses in a micro-batch, see `micro_batches`.
    """
    dtype = torch.promote_types(policy.compute_dtype, torch.float32)
    logp_BT = responses.sampler_logp.new_zeros(responses.tokens.shape, dtype=dtype)
    with torch.no_grad():
        for index_N in micro_batches(responses, micro_batch_tokens, shares_prompts=policy.takes_layouts):
            index_N = index_N.to(logp_BT.device)
            part_NT, _ = response_logprobs(policy, responses.rows(index_N), temperature)
            logp_BT[index_N, : part_NT.shape[1]] = part_NT
    return logp_BT


def check_logit_path(policy: Policy) -> None:
    """Compare our log-probs with the model's own logits on a few tokens, two rows of different lengths.

    Raises:
        ValueError: they disagree: the architecture does something to its logits that we do not know of, or
        lets
            padding on the right change what comes before it.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(policy.vocab_size, (2, 6), generator=generator).to(policy.device)
    mask = torch.tensor([[True] * 4, [True, True, False, False]], device=policy.device)
    responses = Responses(
        prompts=[tokens[0, :2].tolist(), tokens[1, :1].tolist()],
        tokens=tokens[:, 2:],
        mask=mask,
        sampler_logp=torch.zeros(mask.shape, device=policy.device),
        truncated=torch.zeros(2, dtype=torch.bool, device=policy.device),
    )
    # In the weights' own dtype, where only a difference of formula is larger than the tolerance.
    exact = replace(policy, compute_dtype=policy.model.dtype)
    with torch.no_grad(), exact.autocast():
        ours, _ = response_logprobs(exact, responses, 1.0)
        for row, prompt in enumerate(responses.prompts):
            response = responses.tokens[row][mask[row]]
            input_1S = torch.cat([torch.tensor(prompt, device=policy.device), response]).unsqueeze(0)
            logits_TV = policy.model(input_ids=input_1S, use_cache=False).logits[0, len(prompt) - 1 : -1]
            theirs = logits_TV.double().log_softmax(dim=-1).gather(1, response.unsqueeze(1)).squeeze(1)
            difference = (ours[row][mask[row]] - theirs).abs().max().item()
            tolerance = 1e-4 * max(1.0, logits_TV.abs().max().item())
            if not difference <= tolerance:
                raise ValueError(
                    f"{type(policy.model).__name__} computes its logits in a way the memory-saving log-prob "
                    f"path does not know: log-probs differ by {difference:.2g} (tolerance {tolerance:.2g}); "
                    "use another architecture, or add its logit transform to owpo.policy.model.Policy.head"
                )
