"""Prompts and responses in one row of tokens without padding; a prompt stands there once for all its responses.

    row:         [ prompt 0 | prompt 1 | ... | response 0 | response 1 | ... ]
    attention:   each response sees its own prompt and itself, each prompt itself

A response's last token predicts nothing that was sampled, so it is left out. Only attention needs texts as rows of a
matrix: there they are gathered, in buckets of similar length, and what comes out is put back into the row.

Shape legend: P distinct prompts, B responses, N tokens of the packed row, b texts of one bucket, S tokens of the
longest of them, Q their queries, h query heads, k key/value heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# A text shorter than this share of its bucket's longest begins a new bucket, where that has this many tokens already.
_BUCKET_SHARE = 0.75
_BUCKET_TOKENS = 1024


@dataclass(frozen=True)
class Bucket:
    """Texts of similar length, as places in the packed row.

    query_bQ   places of the queries; padding is place 0
    key_bS     places of keys and values
    bias_bQS   None: queries and keys are the same places, each sees itself and what is left of it. Else 0 or -inf,
               added to the scores, [b, 1, Q, S]
    """

    query_bQ: Tensor
    key_bS: Tensor
    bias_bQS: Tensor | None

    def to(self, device: torch.device) -> Bucket:
        bias_bQS = None if self.bias_bQS is None else self.bias_bQS.to(device)
        return Bucket(self.query_bQ.to(device), self.key_bS.to(device), bias_bQS)

    def attend(self, query_NhD: Tensor, key_NkD: Tensor, value_NkD: Tensor, scale: float) -> Tensor:
        """[b * Q, h * D]."""
        query, key, value = (
            _gathered(query_NhD, self.query_bQ),
            _gathered(key_NkD, self.key_bS),
            _gathered(value_NkD, self.key_bS),
        )
        output_bhQD = scaled_dot_product_attention(
            query, key, value, scale=scale,
            attn_mask=None if self.bias_bQS is None else self.bias_bQS.to(query.dtype),
            is_causal=self.bias_bQS is None,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        return output_bhQD.transpose(1, 2).reshape(self.query_bQ.numel(), -1)


def _gathered(states_NhD: Tensor, places_bS: Tensor) -> Tensor:
    """[b, h, S, D]."""
    rows = states_NhD.reshape(len(states_NhD), -1).index_select(0, places_bS.flatten())
    return rows.view(*places_bS.shape, *states_NhD.shape[1:]).transpose(1, 2)


@dataclass(frozen=True)
class Packed:
    """A packed row, and the layout of its attention (`owpo.policy.attention.Layout`).

    tokens_N, position_N   each token's id, and its position in its own text
    last_P                 place of each prompt's last token
    predictor              place of the token that predicts each response token, in the order of `mask.nonzero()`
    output_N               where each token's row is in the buckets' outputs, one after the other
    """

    tokens_N: Tensor
    position_N: Tensor
    last_P: Tensor
    predictor: Tensor
    buckets: tuple[Bucket, ...]
    output_N: Tensor

    def attend(
        self, _layer: int, query_NhD: Tensor, key_NkD: Tensor, value_NkD: Tensor, scale: float
    ) -> Tensor:
        outputs = [bucket.attend(query_NhD, key_NkD, value_NkD, scale) for bucket in self.buckets]
        return torch.cat(outputs).index_select(0, self.output_N).view(query_NhD.shape)


@dataclass(frozen=True)
class _Texts:
    """Some texts, each a prompt with or without a response; [b] int64 on the CPU, places in the packed row.

    owns_prompt   whether the prompt's outputs are taken from this text
    """

    prompt_start: Tensor
    prompt_length: Tensor
    response_start: Tensor
    response_length: Tensor
    owns_prompt: Tensor

    @property
    def length(self) -> Tensor:
        return self.prompt_length + self.response_length

    def rows(self, index: Tensor) -> _Texts:
        return _Texts(*(value[index] for value in vars(self).values()))

    def places(self) -> tuple[Tensor, Tensor]:
        """Places of each text's tokens, [b, S], 0 at padding, and which of them are tokens."""
        step_S = torch.arange(int(self.length.max()))
        in_prompt_bS = step_S < self.prompt_length.unsqueeze(1)
        prompt_bS = self.prompt_start.unsqueeze(1) + step_S
        response_bS = (self.response_start - self.prompt_length).unsqueeze(1) + step_S
        is_token_bS = step_S < self.length.unsqueeze(1)
        return torch.where(in_prompt_bS, prompt_bS, response_bS) * is_token_bS, is_token_bS

    def buckets(self) -> list[_Texts]:
        """The texts in buckets of similar length, the longest first."""
        lengths, order = self.length.sort(descending=True, stable=True)
        starts, longest, size = [0], int(lengths[0]), 0
        for place, length in enumerate(lengths.tolist()):
            if length < _BUCKET_SHARE * longest and size >= _BUCKET_TOKENS:
                starts.append(place)
                longest, size = length, 0
            size += length
        ends = [*starts[1:], len(lengths)]
        return [self.rows(order[start:end]) for start, end in zip(starts, ends, strict=True)]


def pack(
    prompts: Sequence[Sequence[int]],
    prompt_of_row: Sequence[int],
    tokens_BT: Tensor,
    length_B: Tensor,
) -> Packed:
    """
    Args:
        prompts: P distinct ones, none of them empty.
        prompt_of_row: B indices into them.
        tokens_BT: the responses' tokens at the left of each row.
        length_B: how many of them are tokens, at least 1 each, on any device.
    """
    device = tokens_BT.device
    prompt_length_P = torch.tensor([len(prompt) for prompt in prompts])
    prompt_start_P = prompt_length_P.cumsum(0) - prompt_length_P
    num_prompt_tokens = int(prompt_length_P.sum())
    row_B = torch.tensor(prompt_of_row, dtype=torch.int64)
    length_B = length_B.cpu()
    input_B = length_B - 1
    response_start_B = num_prompt_tokens + input_B.cumsum(0) - input_B
    responses = _Texts(
        prompt_start_P[row_B],
        prompt_length_P[row_B],
        response_start_B,
        input_B,
        torch.zeros_like(row_B, dtype=torch.bool),
    )
    alone = _Texts(
        prompt_start_P,
        prompt_length_P,
        torch.zeros_like(prompt_start_P),
        torch.zeros_like(prompt_start_P),
        torch.ones_like(prompt_start_P, dtype=torch.bool),
    )
    num_tokens = num_prompt_tokens + int(input_B.sum())
    buckets, output_N = _attention_plan(responses.rows(input_B > 0), alone, row_B[input_B > 0], num_tokens)

    is_input_BT = torch.arange(tokens_BT.shape[1]) < input_B.unsqueeze(1)
    prompt_tokens = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    prompt_positions = torch.cat([torch.arange(length) for length in prompt_length_P.tolist()])
    response_positions = (prompt_length_P[row_B].unsqueeze(1) + torch.arange(tokens_BT.shape[1]))[is_input_BT]
    last_P = prompt_start_P + prompt_length_P - 1
    is_token_BT = torch.arange(tokens_BT.shape[1]) < length_B.unsqueeze(1)
    predictor_BT = response_start_B.unsqueeze(1) + torch.arange(-1, tokens_BT.shape[1] - 1)
    predictor_BT[:, :1] = last_P[row_B].unsqueeze(1)
    return Packed(
        tokens_N=torch.cat([prompt_tokens, tokens_BT[is_input_BT.to(device)]]),
        position_N=torch.cat([prompt_positions, response_positions]).to(device),
        last_P=last_P.to(device),
        predictor=predictor_BT[is_token_BT].to(device),
        buckets=tuple(bucket.to(device) for bucket in buckets),
        output_N=output_N.to(device),
    )


def pack_prompts(prompts: Sequence[Sequence[int]], device: torch.device) -> Packed:
    """Prompts alone; the keys and values of prompt p stand where its tokens do, one prompt after the other."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return pack(prompts, [], none.view(0, 0), none)


def _attention_plan(
    responses: _Texts, prompts: _Texts, prompt_of_response: Tensor, num_tokens: int
) -> tuple[list[Bucket], Tensor]:
    """The cheaper of two ways, on the CPU, and `Packed.output_N`.

    Whole texts need no mask, whose kernel computes also the half that it hides; but each computes its prompt's
    attention again. Prompts apart from responses do not.
    """
    whole_cost = responses.length.square().sum() / 2
    apart_cost = (responses.response_length * responses.length).sum() + prompts.length.square().sum() / 2
    output_N = torch.zeros(num_tokens, dtype=torch.int64)
    buckets: list[Bucket] = []
    done = 0
    if whole_cost <= apart_cost:
        causal, masked = _with_owners(responses, prompts, prompt_of_response), None
    else:
        causal, masked = prompts, responses
    for texts in causal.buckets():
        places_bS, is_token_bS = texts.places()
        in_prompt_bS = torch.arange(places_bS.shape[1]) < texts.prompt_length.unsqueeze(1)
        is_own_bS = is_token_bS & (~in_prompt_bS | texts.owns_prompt.unsqueeze(1))
        output_N[places_bS[is_own_bS]] = done + is_own_bS.flatten().nonzero().squeeze(1)
        buckets.append(Bucket(places_bS, places_bS, None))
        done += places_bS.numel()
    for texts in masked.buckets() if masked is not None else ():
        places_bS, _ = texts.places()
        step_Q = torch.arange(int(texts.response_length.max()))
        is_query_bQ = step_Q < texts.response_length.unsqueeze(1)
        query_bQ = (texts.response_start.unsqueeze(1) + step_Q) * is_query_bQ
        sees_bQS = torch.arange(places_bS.shape[1]) <= (texts.prompt_length.unsqueeze(1) + step_Q).unsqueeze(
            2
        )
        output_N[query_bQ[is_query_bQ]] = done + is_query_bQ.flatten().nonzero().squeeze(1)
        bias_bQS = torch.zeros(sees_bQS.shape).masked_fill_(~sees_bQS, float("-inf"))
        buckets.append(Bucket(query_bQ, places_bS, bias_bQS.unsqueeze(1)))
        done += query_bQ.numel()
    return buckets, output_N


def _with_owners(responses: _Texts, prompts: _Texts, prompt_of_response: Tensor) -> _Texts:
    """Responses with their prompts, each prompt's outputs taken from its first response, and prompts that have none."""
    first_P = torch.full_like(prompts.prompt_start, len(prompt_of_response))
    first_P.scatter_reduce_(0, prompt_of_response, torch.arange(len(prompt_of_response)), "amin")
    has_response_P = first_P < len(prompt_of_response)
    owns = torch.zeros(len(prompt_of_response), dtype=torch.bool)
    owns[first_P[has_response_P]] = True
    rest = prompts.rows((~has_response_P).nonzero().squeeze(1))
    parts = zip(vars(replace(responses, owns_prompt=owns)).values(), vars(rest).values(), strict=True)
    return _Texts(*(torch.cat(pair) for pair in parts))
