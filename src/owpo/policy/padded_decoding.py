"""Decoding by a model's own attention and cache, for architectures that take no layout (`Policy.takes_layouts`).

Prompts are padded on the left, and rows come in together: new ones only when all have left.

Shape legend: R rows, P prompts, S tokens of the longest prompt, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from owpo.policy.model import Policy


class PaddedDecoder:
    """What `owpo.policy.decoding.Decoder` does, by the model's own means; leaving copies the whole cache."""

    leaving_share = 1 / 2

    def __init__(self, policy: Policy, num_slots: int) -> None:
        self.policy = policy
        self.num_slots = num_slots
        self._cache = DynamicCache()
        self._mask_RS = torch.zeros(0, 0, dtype=torch.int64, device=policy.device)
        self._is_padded = False

    @property
    def num_rows(self) -> int:
        return len(self._mask_RS)

    def has_room(self, num_rows: int, num_prompts: int) -> bool:
        return self.num_rows == 0 and num_rows <= self.num_slots

    def admit(self, prompts: list[list[int]], sizes: list[int]) -> Tensor:
        """Take in `sizes[p]` rows for prompts[p], computed once; what predicts their first tokens, [rows, H]."""
        device = self.policy.device
        width = max(map(len, prompts))
        padding = [[self.policy.pad_id] * (width - len(prompt)) for prompt in prompts]
        input_PS = torch.tensor(
            [pad + prompt for pad, prompt in zip(padding, prompts, strict=True)], device=device
        )
        length_P1 = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
        mask_PS = (torch.arange(width, device=device) >= width - length_P1).long()
        of_row = torch.repeat_interleave(torch.tensor(sizes)).to(device)
        # Without padding the model's own positions and causal mask are right, and faster.
        self._is_padded = len({*map(len, prompts)}) > 1
        self._cache = DynamicCache(config=self.policy.model.get_decoder().config)
        hidden_PH = self._forward(input_PS, mask_PS)
        self._cache.batch_select_indices(of_row)
        self._mask_RS = mask_PS[of_row]
        return hidden_PH[of_row]

    def step(self, token_R: Tensor) -> Tensor:
        """Take one more token of every row; what predicts the next, [R, H]."""
        self._mask_RS = torch.nn.functional.pad(self._mask_RS, (0, 1), value=1)
        return self._forward(token_R.unsqueeze(1), self._mask_RS)

    def leave(self, finished_R: Tensor) -> Tensor:
        """Let rows go; which of the old slots each slot holds now, [R] int64."""
        order_R = (~finished_R).nonzero().squeeze(1)
        self._cache.batch_select_indices(order_R)
        self._mask_RS = self._mask_RS[order_R]
        return order_R

    def _forward(self, input_RS: Tensor, mask_RS: Tensor) -> Tensor:
        """The last hidden state of every row, [R, H]."""
        position_RS = (mask_RS.cumsum(dim=1) - 1).clamp(min=0)[:, -input_RS.shape[1] :]
        padding = {"attention_mask": mask_RS, "position_ids": position_RS} if self._is_padded else {}
        output = self.policy.model.get_decoder()(
            input_ids=input_RS, past_key_values=self._cache, use_cache=True, **padding
        )
        return output.last_hidden_state[:, -1]
