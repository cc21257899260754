"""One fixed batch, and its gradients by the local engine: what every host's are held to."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from conftest import CHARACTERS

from owpo.core.deviation import top_active
from owpo.core.reduce import StepCounts
from owpo.policy.load import load_policy
from owpo.policy.logprobs import reference_logprobs
from owpo.policy.responses import Responses
from owpo.training.update import TrainingRows, accumulate_gradients

CASES = [("owpo", None), ("grpo", "prompt-mean"), ("dr_grpo", None), ("mopd", None)]
"""Objective and reduction that two processes share."""
GROUP, LONGEST = 4, 6
LENGTHS = [6, 2, 4, 1, 3, 3, 5, 2, 1, 6, 6, 4]  # three groups; the last is all right
RIGHT = [1, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1]
PROMPTS = ["5=", "12+3=", "7="]
"""Of different lengths, so that hosts which pad have to."""


def fixed_rows(model: Path, reference: Path, dtype: str = "float32") -> TrainingRows:
    """The batch for the local engine, its log-probs from the model and the reference but for some noise."""
    policy, other = load_policy(str(model), dtype=dtype), load_policy(str(reference), dtype=dtype)
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
        old_logp=old * mask,
        ref_logp=reference_logprobs(other, responses, 1.0, 10_000),
        step=0,
    )


def local_gradients(
    model: Path, rows: TrainingRows, objective, reduction: str | None, dtype: str = "float32"
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients by parameter."""
    policy = load_policy(str(model), dtype=dtype)
    lengths = rows.responses.lengths
    group_tokens = torch.zeros(3, dtype=lengths.dtype).index_add_(0, rows.group, lengths)
    counts = StepCounts(tokens=int(lengths.sum()), sequences=len(lengths), prompts=3, max_tokens=LONGEST)
    loss, *_ = accumulate_gradients(
        policy, objective, rows, [torch.arange(len(lengths))],
        reduction=reduction or objective.scaffold.reduction, counts=counts,
        prompt_tokens=group_tokens[rows.group], temperature=1.0,
    )  # fmt: skip
    return loss, {name: parameter.grad for name, parameter in policy.model.named_parameters()}


def in_two_processes(script: str, *arguments: object) -> None:
    """A script of this folder by torchrun, to its end."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0",
            "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", str(here / script), *map(str, arguments),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def assert_close(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    """Relative to the largest gradient."""
    scale = max(gradient.abs().max() for gradient in expected.values())
    assert scale > 1e-6
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= tolerance * scale, name
