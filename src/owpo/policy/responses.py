"""What the policy answered.

Shape legend: P prompts, G responses per prompt, B = P * G rows, T response tokens (padded on the right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


def distinct(prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The prompts that are different objects, in their order, and which of them each one is."""
    index: dict[int, int] = {}
    of_row = [index.setdefault(id(prompt), len(index)) for prompt in prompts]
    first = {number: row for row, number in reversed(list(enumerate(of_row)))}
    return [prompts[first[number]] for number in range(len(index))], of_row


@dataclass(frozen=True)
class Responses:
    """B sampled responses, prompt-major: row p * G + g is response g of prompt p.

        prompts       B token lists, repeated inside a group
        tokens        [B, T] int64, padded on the right, EOS included
        mask          [B, T] bool, True on the response's tokens, which stand at the left of every row
        sampler_logp  [B, T] float, of the distribution the token was drawn from, in nats; 0 at padding
        truncated     [B] bool, True where no EOS came within the allowed length

    Raises:
        ValueError: the shapes disagree, or a mask has a hole.
    """

    prompts: list[list[int]]
    tokens: Tensor
    mask: Tensor
    sampler_logp: Tensor
    truncated: Tensor

    def __post_init__(self) -> None:
        rows, shape = len(self.prompts), self.tokens.shape
        if self.tokens.ndim != 2 or shape[0] != rows:
            raise ValueError(f"tokens must be [B, T] with B = {rows} prompts, got {list(shape)}")
        for name in ("mask", "sampler_logp"):
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} must have tokens' shape {list(shape)}, got {list(getattr(self, name).shape)}"
                )
        if self.truncated.shape != (rows,):
            raise ValueError(f"truncated must be [B] = {[rows]}, got {list(self.truncated.shape)}")
        if self.mask.dtype != torch.bool or (self.mask[:, 1:] & ~self.mask[:, :-1]).any():
            raise ValueError(
                "mask must be bool with a response's tokens at the left of its row and padding to the right; "
                "to leave a response out of the loss, weight it there"
            )

    @property
    def lengths(self) -> Tensor:
        """Response tokens of every row, EOS included, [B] int64."""
        return self.mask.sum(dim=1)

    @property
    def row_lengths(self) -> Tensor:
        """Prompt and response tokens of every row, [B] int64: what a forward pass of it costs."""
        prompt_length_B = torch.tensor([len(prompt) for prompt in self.prompts], device=self.mask.device)
        return prompt_length_B + self.lengths

    @property
    def contexts(self) -> Tensor:
        """[B, T] int64: equal exactly where prompt and response tokens up to and including this one are.

        What stands at padding has no meaning.
        """
        numbers: dict[tuple[int, ...], int] = {}
        prompt_B = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in self.prompts]
        path = torch.cat([self.tokens.new_tensor(prompt_B).unsqueeze(1), self.tokens], dim=1)
        # In lexicographic order the rows that share a beginning are neighbours.
        ordered, place_B = path.unique(dim=0, return_inverse=True)
        parted = (ordered.diff(dim=0) != 0).cumsum(dim=1) > 0
        first = torch.cat([torch.zeros_like(parted[:1]), parted])
        length = ordered.shape[1]
        context = first.cumsum(dim=0) * length + torch.arange(length, device=self.tokens.device)
        return context[place_B, 1:]

    def rows(self, index: Tensor) -> Responses:
        """The rows `index` ([N] int64), in that order, T trimmed to the longest of them."""
        mask = self.mask[index]
        longest = int(mask.sum(dim=1).max()) if mask.numel() else 0
        return Responses(
            prompts=[self.prompts[row] for row in index.tolist()],
            tokens=self.tokens[index, :longest],
            mask=mask[:, :longest],
            sampler_logp=self.sampler_logp[index, :longest],
            truncated=self.truncated[index],
        )

    @staticmethod
    def concatenate(parts: list[Responses], pad_id: int) -> Responses:
        """The rows of all parts, in order, padded to the longest.

        Raises:
            ValueError: there are no parts.
        """
        if not parts:
            raise ValueError("Responses.concatenate needs at least one part, got an empty list")
        longest = max(part.tokens.shape[1] for part in parts)

        def joined(name: str, value: float) -> Tensor:
            tensors = [getattr(part, name) for part in parts]
            return torch.cat([pad(tensor, (0, longest - tensor.shape[1]), value=value) for tensor in tensors])

        return Responses(
            prompts=[prompt for part in parts for prompt in part.prompts],
            tokens=joined("tokens", pad_id),
            mask=joined("mask", False),
            sampler_logp=joined("sampler_logp", 0.0),
            truncated=torch.cat([part.truncated for part in parts]),
        )
