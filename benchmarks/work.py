"""What a training pass and a decoded batch have to do: operations, bytes, and the rows to do it on.

Operations are a model's own, two for each multiplication: the matrix products of its layers, attention over the tokens
that a token may look at, and the output layer. A pass with gradient is three passes without. A prompt is counted once
for all its responses and the output layer for response tokens alone: what an implementation computes beyond that
(padding, a prompt again for every response, logits a second time) does not count for it.

Shape legend: P prompts, G responses per prompt, B = P * G sequences, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from models import Shape, random_prompts

from owpo.core import objective
from owpo.policy import Policy, Responses
from owpo.training.update import TrainingRows, UpdateResult, optimiser_update


def layer_parameters(shape: Shape) -> int:
    """Weights of the matrices of all layers."""
    head = shape.hidden // shape.heads
    attention = shape.hidden * head * (2 * shape.heads + 2 * shape.kv_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.intermediate)


def forward_operations(shape: Shape, prompt: int, lengths: Sequence[int], group_size: int) -> float:
    """Of one pass without gradient over len(lengths) responses to len(lengths) / group_size prompts."""
    groups = len(lengths) / group_size
    tokens = groups * prompt + sum(lengths)
    # A token at position i looks at i + 1 tokens: two products of that many times the width each.
    seen = groups * prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in lengths)
    return (
        2 * layer_parameters(shape) * tokens
        + 4 * shape.layers * shape.hidden * seen
        + 2 * shape.hidden * shape.vocab * sum(lengths)
    )


def decode_bytes(shape: Shape, batch: int, prompt: int, new: int, element: int) -> float:
    """Least traffic of decoding `new` tokens in each of `batch` rows: every weight and each row's keys and values once
    for each step.

    Args:
        element: bytes of a number.
    """
    weights = layer_parameters(shape) + shape.hidden * shape.vocab
    head = shape.hidden // shape.heads
    cached = sum(prompt + step for step in range(new))
    return element * (new * weights + 2 * batch * shape.layers * shape.kv_heads * head * cached)


def training_rows(
    prompts: int, group_size: int, prompt: int, lengths: Sequence[int], vocab: int, device: str = "cpu"
) -> TrainingRows:
    """B rows of random tokens with these lengths; none has the advantage 0."""
    generator = torch.Generator().manual_seed(0)
    lengths_B = torch.tensor(lengths, device=device)
    longest = int(lengths_B.max())
    mask_BT = torch.arange(longest, device=device) < lengths_B.unsqueeze(1)
    tokens_BT = torch.randint(3, vocab, (len(lengths), longest), generator=generator).to(device)
    of_row = [row for row in random_prompts(prompts, prompt, vocab) for _ in range(group_size)]
    responses = Responses(
        prompts=of_row,
        tokens=tokens_BT.masked_fill(~mask_BT, 0),
        mask=mask_BT,
        sampler_logp=torch.zeros(mask_BT.shape, device=device),
        truncated=torch.zeros(len(lengths), dtype=torch.bool, device=device),
    )
    sign_B = 1.0 - 2.0 * (torch.arange(len(lengths), device=device) % 2)
    return TrainingRows(
        responses=responses,
        group=torch.arange(prompts, device=device).repeat_interleave(group_size),
        advantage=sign_B.double(),
        active=torch.ones(len(lengths), dtype=torch.bool, device=device),
    )


def ragged_lengths(count: int, longest: int, rate: float) -> list[int]:
    """`count` lengths as models.py's responses have them: geometric, cut at the longest."""
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = (uniform.log() / torch.log1p(torch.tensor(-rate, dtype=torch.float64))).ceil().clamp(1, longest)
    return [int(length) for length in drawn]


def updater(
    policy: Policy, rows: TrainingRows, longest: int, budget: int = 16384
) -> Callable[[], UpdateResult]:
    """A call of it is one update of the weights by `dapo`, which reads no reference: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-6, fused=True)
    chosen = objective("dapo")

    def update() -> UpdateResult:
        result = optimiser_update(
            policy, optimizer, chosen, rows, reduction="token-mean", max_tokens=longest, temperature=1.0,
            micro_batch_tokens=budget, grad_clip=1.0, seed=0,
        )  # fmt: skip
        assert result.bad is None, result.bad
        return result

    return update
