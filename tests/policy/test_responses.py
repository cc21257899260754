from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from policy_builders import random_responses

from owpo.policy import Responses


def two_rows() -> Responses:
    return Responses(
        prompts=[[7], [8, 9]],
        tokens=torch.tensor([[11, 12, 1], [13, 1, 0]]),
        mask=torch.tensor([[True, True, True], [True, True, False]]),
        sampler_logp=torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, 0.0]]),
        truncated=torch.tensor([False, False]),
    )


def test_rows_are_trimmed_to_the_longest() -> None:
    rows = two_rows().rows(torch.tensor([1, 1]))
    assert rows.prompts == [[8, 9], [8, 9]]
    assert rows.tokens.tolist() == [[13, 1], [13, 1]]
    assert rows.sampler_logp.tolist() == [[-4, -5], [-4, -5]]
    assert rows.lengths.tolist() == [2, 2]
    assert two_rows().rows(torch.tensor([], dtype=torch.int64)).tokens.shape == (0, 0)


def test_concatenate_pads_and_inverts_rows() -> None:
    whole = two_rows()
    parts = [whole.rows(torch.tensor([row])) for row in range(2)]
    joined = Responses.concatenate(parts, pad_id=0)
    assert joined.prompts == whole.prompts
    for name in ("tokens", "mask", "sampler_logp", "truncated"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert Responses.concatenate(parts, pad_id=42).tokens[1].tolist() == [13, 1, 42]


def test_a_mask_with_a_hole_is_refused() -> None:
    responses = random_responses([1], [3], vocab_size=10)
    with pytest.raises(ValueError, match="weight it there"):
        replace(responses, mask=torch.tensor([[True, False, True]]))
    with pytest.raises(ValueError, match=r"sampler_logp must have tokens' shape \[1, 3\], got \[1, 2\]"):
        replace(responses, sampler_logp=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="empty list"):
        Responses.concatenate([], pad_id=0)


@pytest.mark.parametrize("seed", range(5))
def test_contexts_are_equal_exactly_where_prompt_and_beginning_are(seed: int) -> None:
    """Over all pairs of tokens; two of the prompts are equal without being one object, and padding is a token too."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [[1, 2], [1], [1, 2], [1, 2, 0]]
    tokens = torch.randint(2, (24, 5), generator=generator)
    lengths = torch.randint(1, 6, (24, 1), generator=generator)
    mask = torch.arange(5) < lengths
    responses = Responses(
        prompts=[prompts[row % 4] for row in range(24)],
        tokens=tokens * mask,
        mask=mask,
        sampler_logp=torch.zeros(24, 5),
        truncated=torch.zeros(24, dtype=torch.bool),
    )
    beginning = {
        (row, t): (tuple(prompts[row % 4]), tuple(tokens[row, : t + 1].tolist()))
        for row, t in mask.nonzero().tolist()
    }
    context = responses.contexts
    assert context.shape == tokens.shape
    for one, of_one in beginning.items():
        for other, of_other in beginning.items():
            assert (context[one] == context[other]).item() is (of_one == of_other)
    assert len(set(beginning.values())) < len(beginning)
