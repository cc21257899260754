"""Rows that are decoded together: their keys and values, and the attention that reads them.

Rows stand in slots 0 to R - 1 of buffers made beforehand. One that leaves is replaced by the last one, so nothing else
moves; new rows come in behind. A long prompt's keys and values stand once for all its rows: their queries meet them in
one matrix product, and what it gives is joined with what each row's own keys give.

Shape legend: R rows, P prompts, m rows of the prompt that has most, N tokens of a pass, S tokens kept, h query heads, k
key/value heads, q = h / k, D width of a head, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from owpo.policy.attention import hidden_states
from owpo.policy.model import Policy
from owpo.policy.packing import Packed, pack_prompts

# From this many tokens on a prompt is kept apart from its rows; below, joining two attentions costs more than it saves.
_SHARED_FROM = 64
_FIRST_CAPACITY = 64


class KeyValues:
    """Keys and values of all layers by slot, each [slots, k, capacity, D]; made when a first layer brings some."""

    def __init__(self, num_slots: int, longest: int) -> None:
        self.num_slots = num_slots
        self.longest = longest
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, length: int) -> None:
        """Room for `length` tokens a slot; capacity doubles, so that a token is copied about once."""
        for layer, pair in self._layers.items():
            capacity = pair[0].shape[2]
            if length > capacity:
                more = min(max(2 * capacity, length), self.longest) - capacity
                keys, values = (pad(states, (0, 0, 0, more)) for states in pair)
                self._layers[layer] = keys, values

    def of(self, layer: int, like_NkD: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """A layer's buffers, with room for `length` tokens."""
        if layer not in self._layers:
            capacity = min(max(length, _FIRST_CAPACITY), self.longest)
            shape = (self.num_slots, like_NkD.shape[1], capacity, like_NkD.shape[2])
            # Zeros, for what is hidden from a query is multiplied by 0, and 0 * NaN is NaN.
            self._layers[layer] = like_NkD.new_zeros(shape), like_NkD.new_zeros(shape)
        return self._layers[layer]

    def move(self, source: Tensor, target: Tensor, length: int) -> None:
        """The first `length` tokens of some slots to others."""
        for pair in self._layers.values():
            for states in pair:
                states[target, :, :length] = states[source, :, :length]


def cache_bytes(
    num_slots: int,
    rows_per_prompt: int,
    prompt_tokens: int,
    response_tokens: int,
    *,
    layers: int,
    token_bytes: int,
) -> int:
    """What a `Decoder`'s buffers grow to where responses reach their full length.

    Args:
        rows_per_prompt: that come in with it.
        token_bytes: of one token's key and value in one layer.
    """
    shares = shares_prompts(rows_per_prompt, prompt_tokens)
    own = num_slots * (response_tokens + (0 if shares else prompt_tokens))
    prompts = num_prompt_slots(num_slots, rows_per_prompt) * prompt_tokens if shares else 0
    return layers * (own + prompts) * token_bytes


def shares_prompts(rows_per_prompt: int, longest_prompt: int) -> bool:
    """Whether a prompt's keys and values are kept once for its rows."""
    return rows_per_prompt > 1 and longest_prompt >= _SHARED_FROM


def num_prompt_slots(num_slots: int, rows_per_prompt: int) -> int:
    """Rows of a prompt end at different times, and its keys and values stay until the last one has."""
    return -(-2 * num_slots // rows_per_prompt)


class Decoder:
    """Decodes rows by layouts of our own (`Policy.takes_layouts`). Everything in it is by slot.

    leaving_share   rows that have finished leave when they are this share of all: leaving costs some calls, not a copy
    """

    leaving_share = 1 / 16

    def __init__(
        self, policy: Policy, num_slots: int, rows_per_prompt: int, longest_prompt: int, max_new_tokens: int
    ) -> None:
        self.policy = policy
        self.num_slots = num_slots
        self._shares = shares_prompts(rows_per_prompt, longest_prompt)
        self._num_prompt_slots = num_prompt_slots(num_slots, rows_per_prompt) if self._shares else num_slots
        self._own = KeyValues(num_slots, max_new_tokens + (0 if self._shares else longest_prompt))
        self._prompts = KeyValues(self._num_prompt_slots, longest_prompt)
        self._position_R = torch.zeros(0, dtype=torch.int64, device=policy.device)
        self._kept_R = torch.zeros_like(self._position_R)  # tokens of its own that a row has kept
        self._most_kept = 0
        self._is_level = True  # whether all rows have kept as many
        self._prompt_R = torch.zeros_like(self._position_R)
        self._length_P = torch.zeros_like(self._position_R)

    @property
    def num_rows(self) -> int:
        return len(self._position_R)

    def has_room(self, num_rows: int, num_prompts: int) -> bool:
        has_prompts = not self._shares or len(self._length_P) + num_prompts <= self._num_prompt_slots
        return has_prompts and self.num_rows + num_rows <= self.num_slots

    def admit(self, prompts: list[list[int]], sizes: list[int]) -> Tensor:
        """Take in `sizes[p]` rows for prompts[p], computed once; what predicts their first tokens, [rows, H]."""
        device = self.policy.device
        packed = pack_prompts(prompts, device)
        length_P = torch.tensor([len(prompt) for prompt in prompts], device=device)
        of_row = torch.repeat_interleave(torch.tensor(sizes)).to(device)
        rows = slice(self.num_rows, self.num_rows + len(of_row))
        slots = slice(len(self._length_P), len(self._length_P) + len(prompts)) if self._shares else rows
        kept = self._prompts if self._shares else self._own
        width = int(length_P.max())
        kept.reserve(width)
        places_PS, is_token_PS = _left_aligned(length_P)

        def keep(layer: int, *states: Tensor) -> None:
            for buffer, states_NkD in zip(kept.of(layer, states[0], width), states, strict=True):
                states_PSkD = states_NkD[places_PS] * is_token_PS[:, :, None, None]
                buffer[slots, :, :width] = (states_PSkD if self._shares else states_PSkD[of_row]).transpose(
                    1, 2
                )

        hidden_NH = hidden_states(
            self.policy.model, packed.tokens_N, packed.position_N, _Prefill(packed, keep)
        )
        own_R = torch.zeros_like(of_row) if self._shares else length_P[of_row]
        self._is_level = self.num_rows == 0 and (self._shares or len({*map(len, prompts)}) == 1)
        self._most_kept = max(self._most_kept, 0 if self._shares else width)
        self._position_R = torch.cat([self._position_R, length_P[of_row]])
        self._kept_R = torch.cat([self._kept_R, own_R])
        self._prompt_R = torch.cat([self._prompt_R, len(self._length_P) + of_row])
        self._length_P = torch.cat([self._length_P, length_P])
        return hidden_NH[packed.last_P][of_row]

    def step(self, token_R: Tensor) -> Tensor:
        """Take one more token of every row; what predicts the next, [R, H]."""
        self._own.reserve(self._most_kept + 1)
        layout = Step(
            own=self._own,
            prompts=self._prompts if self._shares else None,
            kept_R=self._kept_R,
            most_kept=self._most_kept,
            is_level=self._is_level,
            prompt_R=self._prompt_R,
            length_P=self._length_P,
        )
        hidden_RH = hidden_states(self.policy.model, token_R, self._position_R, layout)
        self._position_R = self._position_R + 1
        self._kept_R = self._kept_R + 1
        self._most_kept += 1
        return hidden_RH

    def leave(self, finished_R: Tensor) -> Tensor:
        """Let rows go; which of the old slots each slot holds now, [R] int64."""
        order_R = _without_holes(finished_R)
        self._move(self._own, order_R, self._most_kept)
        self._position_R, self._kept_R, self._prompt_R = (
            value[order_R] for value in (self._position_R, self._kept_R, self._prompt_R)
        )
        self._most_kept = int(self._kept_R.max()) if len(order_R) else 0
        if self._shares:
            is_idle_P = torch.ones_like(self._length_P, dtype=torch.bool)
            is_idle_P[self._prompt_R] = False
            order_P = _without_holes(is_idle_P)
            self._move(self._prompts, order_P, int(self._length_P.max()))
            place_P = torch.zeros_like(self._length_P)
            place_P[order_P] = torch.arange(len(order_P), device=order_P.device)
            self._prompt_R, self._length_P = place_P[self._prompt_R], self._length_P[order_P]
        return order_R

    @staticmethod
    def _move(kept: KeyValues, order: Tensor, length: int) -> None:
        target = (order != torch.arange(len(order), device=order.device)).nonzero().squeeze(1)
        if len(target):
            kept.move(order[target], target, length)


def _without_holes(is_free: Tensor) -> Tensor:
    """The slots in use, the last of them in the places of free ones before them; nothing else moves."""
    used = (~is_free).nonzero().squeeze(1)
    order = torch.arange(len(used), device=used.device)
    holes = is_free[: len(used)].nonzero().squeeze(1)
    order[holes] = used[len(used) - len(holes) :]
    return order


def _left_aligned(length_P: Tensor) -> tuple[Tensor, Tensor]:
    """Places of each text's tokens in a row of all of them, [P, S], 0 at padding, and which of them are tokens."""
    step_S = torch.arange(int(length_P.max()), device=length_P.device)
    is_token_PS = step_S < length_P.unsqueeze(1)
    return ((length_P.cumsum(0) - length_P).unsqueeze(1) + step_S) * is_token_PS, is_token_PS


class _Prefill:
    """The layout of packed prompts, whose keys and values are handed to `keep` as they pass."""

    def __init__(self, packed: Packed, keep: Callable[[int, Tensor, Tensor], None]) -> None:
        self._packed, self._keep = packed, keep

    def attend(
        self, layer: int, query_NhD: Tensor, key_NkD: Tensor, value_NkD: Tensor, scale: float
    ) -> Tensor:
        self._keep(layer, key_NkD, value_NkD)
        return self._packed.attend(layer, query_NhD, key_NkD, value_NkD, scale)


class Step:
    """The layout of one token of every row: it sees its prompt, its row's tokens so far, and itself."""

    def __init__(
        self,
        *,
        own: KeyValues,
        prompts: KeyValues | None,
        kept_R: Tensor,
        most_kept: int,
        is_level: bool,
        prompt_R: Tensor,
        length_P: Tensor,
    ) -> None:
        self.own, self.prompts = own, prompts
        self.kept_R, self.most_kept, self.is_level = kept_R, most_kept, is_level
        self.row_R = torch.arange(len(kept_R), device=kept_R.device)
        is_hidden_RS = torch.arange(most_kept + 1, device=kept_R.device) > kept_R.unsqueeze(1)
        self.own_bias = None if is_level else _bias(is_hidden_RS)
        if prompts is not None:
            self._group(prompt_R, length_P)

    def _group(self, prompt_R: Tensor, length_P: Tensor) -> None:
        """Where each prompt's rows are, [P, m], and where each row is among them."""
        order_R = prompt_R.argsort(stable=True)
        count_P = torch.bincount(prompt_R, minlength=len(length_P))
        rank_R = self.row_R - (count_P.cumsum(0) - count_P)[prompt_R[order_R]]
        most = int(count_P.max())
        self.row_Pm = prompt_R.new_zeros(len(length_P), most)
        self.row_Pm[prompt_R[order_R], rank_R] = order_R
        self.place_R = torch.empty_like(prompt_R)
        self.place_R[order_R] = prompt_R[order_R] * most + rank_R
        self.width = int(length_P.max())
        is_hidden_PS = torch.arange(self.width, device=length_P.device) >= length_P.unsqueeze(1)
        self.prompt_bias = _bias(is_hidden_PS) if bool(is_hidden_PS.any()) else None

    def attend(
        self, layer: int, query_RhD: Tensor, key_RkD: Tensor, value_RkD: Tensor, scale: float
    ) -> Tensor:
        num_rows, num_heads, width = key_RkD.shape
        keys, values = self.own.of(layer, key_RkD, self.most_kept + 1)
        for buffer, new_RkD in ((keys, key_RkD), (values, value_RkD)):
            if self.is_level:
                buffer[:num_rows, :, self.most_kept] = new_RkD
            else:
                buffer[self.row_R, :, self.kept_R] = new_RkD
        seen = (slice(num_rows), slice(None), slice(self.most_kept + 1))
        query_RkqD = query_RhD.reshape(num_rows, num_heads, -1, width)
        output_RkqD, log_sum_Rkq = _attention(query_RkqD, keys[seen], values[seen], self.own_bias, scale)
        if self.prompts is not None:
            output_RkqD = self._joined(layer, query_RkqD, output_RkqD, log_sum_Rkq, scale)
        return output_RkqD.reshape(query_RhD.shape)

    def _joined(
        self, layer: int, query_RkqD: Tensor, output_RkqD: Tensor, log_sum_Rkq: Tensor, scale: float
    ) -> Tensor:
        """With the attention to the prompt, whose keys and values are read once for all its rows."""
        assert self.prompts is not None
        num_prompts = len(self.row_Pm)
        keys, values = self.prompts.of(layer, query_RkqD[:, :, 0], self.width)
        seen = (slice(num_prompts), slice(None), slice(self.width))
        query_PkmqD = query_RkqD[self.row_Pm].transpose(1, 2)
        shape = query_PkmqD.shape
        output, log_sum = _attention(
            query_PkmqD.flatten(2, 3), keys[seen], values[seen], self.prompt_bias, scale
        )
        theirs_RkqD = output.view(shape).transpose(1, 2).flatten(0, 1)[self.place_R]
        their_sum_Rkq = log_sum.view(shape[:-1]).transpose(1, 2).flatten(0, 1)[self.place_R]
        share = (log_sum_Rkq - their_sum_Rkq).sigmoid().unsqueeze(-1).to(output_RkqD.dtype)
        return torch.lerp(theirs_RkqD, output_RkqD, share)


def _bias(is_hidden: Tensor) -> Tensor:
    """[rows, 1, 1, S] float32, -inf where hidden."""
    return torch.zeros(is_hidden.shape, device=is_hidden.device).masked_fill_(is_hidden, float("-inf"))[
        :, None, None
    ]


def _attention(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention, and the log of the sum of exponentials of the scores, by which two of them can be joined.

    Args:
        query: [b, k, queries, D]; keys and values [b, k, S, D]; bias [b, 1, 1, S] or None.
    """
    if query.device.type == "cpu":
        bias = None if bias is None else bias.to(query.dtype)
        output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, False, attn_mask=bias, scale=scale
        )
        return output, log_sum
    scores = (query * scale) @ keys.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias
    log_sum = scores.logsumexp(dim=-1)
    return (scores - log_sum.unsqueeze(-1)).exp().to(values.dtype) @ values, log_sum
