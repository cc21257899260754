"""One fixed batch, and its gradients by the local engine: what every host's are held to."""

from pathlib import Path

import torch
from conftest import CHARACTERS

from owpo.core.deviation import top_active
from owpo.core.reduce import StepCounts
from owpo.policy.load import load_policy
from owpo.policy.logprobs import reference_logprobs
from owpo.policy.responses import Responses
from owpo.training.update import TrainingRows, accumulate_gradients

GROUP, LONGEST = 4, 6
LENGTHS = [6, 2, 4, 1, 3, 3, 5, 2, 1, 6, 6, 4]  # three groups; the last is all right
RIGHT = [1, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1]
PROMPTS = ["5=", "12+3=", "7="]
"""Of different lengths, so that hosts which pad have to."""


def fixed_rows(model: Path, reference: Path, with_old: bool = True) -> TrainingRows:
    """The batch for the local engine, its log-probs from the model and the reference but for some noise."""
    policy, other = load_policy(str(model)), load_policy(str(reference))
    generator = torch.Generator().manual_seed(0)
    prompts = [policy.encode(text) for text in PROMPTS]
    lengths = torch.tensor(LENGTHS)
    mask = torch.arange(LONGEST) < lengths.unsqueeze(1)
    tokens = torch.randint(1, len(CHARACTERS) + 2, mask.shape, generator=generator) * mask
    responses = Responses(
        prompts=[prompts[row // GROUP] for row in range(len(LENGTHS))], tokens=tokens, mask=mask,
        sampler_logp=torch.zeros(mask.shape), truncated=lengths == LONGEST,
    )  # fmt: skip
    right = torch.tensor(RIGHT, dtype=torch.float32).view(-1, GROUP)
    advantage = right - right.mean(dim=1, keepdim=True)
    old = reference_logprobs(policy, responses, 1.0, 10_000)
    old = old + 0.3 * torch.randn(old.shape, generator=generator)
    return TrainingRows(
        responses=responses,
        group=torch.arange(len(LENGTHS)) // GROUP,
        advantage=advantage.flatten(),
        active=top_active(advantage, 2).flatten(),
        old_logp=old * mask if with_old else None,
        ref_logp=reference_logprobs(other, responses, 1.0, 10_000),
        step=0,
    )


def local_gradients(
    model: Path, rows: TrainingRows, objective, reduction: str | None
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients by parameter."""
    policy = load_policy(str(model))
    lengths = rows.responses.lengths
    group_tokens = torch.zeros(3, dtype=lengths.dtype).index_add_(0, rows.group, lengths)
    counts = StepCounts(tokens=int(lengths.sum()), sequences=len(lengths), prompts=3, max_tokens=LONGEST)
    loss, *_ = accumulate_gradients(
        policy, objective, rows, [torch.arange(len(lengths))],
        reduction=reduction or objective.scaffold.reduction, counts=counts,
        prompt_tokens=group_tokens[rows.group], temperature=1.0,
    )  # fmt: skip
    return loss, {name: parameter.grad for name, parameter in policy.model.named_parameters()}


def assert_close(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    """Relative to the largest gradient."""
    scale = max(gradient.abs().max() for gradient in expected.values())
    assert scale > 1e-6
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= tolerance * scale, name
