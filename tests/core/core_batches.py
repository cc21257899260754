"""Batches for the tests of the core: random ones for contracts, single tokens for numbers checked by hand.

Shape legend: P prompts, G responses per prompt, B = P * G sequences, T tokens.
"""

import math
from dataclasses import replace

import torch

from owpo.core import StepCounts, TokenBatch
from owpo.core.registry import entries, objective

PROMPTS, GROUP, TOKENS = 4, 4, 9
ROWS = PROMPTS * GROUP
MAX_TOKENS = 12

# Every objective with its defaults, and those settings of it that take another path through the code.
VARIANTS = [(entry.name, {}) for entry in entries()] + [
    ("ppo", {"dual_clip": 1.5}),
    ("grpo", {"kl_beta": 0.0}),
    ("sym_dapo", {"kl_estimator": "k3", "kl_beta": 0.5}),
    ("sym_dapo", {"kl_estimator": "k1+", "kl_beta": 0.5}),
    ("sym_dapo", {"kl_estimator": "k3+", "kl_beta": 0.5}),
    ("owpo", {"weight_policy": "old"}),
    ("opd", {"student_logp": "old"}),
    ("owpo_narrowed", {"max_cancelled": 0.2}),
    ("fipo", {"high_only": False, "half_life": 2.0}),
]
VARIANT_IDS = [f"{name}-{'-'.join(map(str, hp.values()))}".rstrip("-") for name, hp in VARIANTS]


def random_batch(dtype=torch.float64, seed=0):
    """A whole step: uneven lengths, ratios on both sides of every clip, one group without advantage."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    length_B = torch.randint(1, TOKENS + 1, (ROWS,), generator=generator)
    length_B[0], length_B[1] = TOKENS, 1
    old_logp_BT = -1 - normal(ROWS, TOKENS).abs()
    advantage_B = normal(ROWS)
    advantage_B[:GROUP] = 0
    fields = {
        "logp": old_logp_BT + 0.5 * normal(ROWS, TOKENS),
        "old_logp": old_logp_BT,
        "ref_logp": old_logp_BT + 0.3 * normal(ROWS, TOKENS),
        "sampler_logp": old_logp_BT + 0.01 * normal(ROWS, TOKENS),
        "advantage": advantage_B,
    }
    active_B = torch.rand(ROWS, generator=generator) < 0.7
    token_BT = torch.randint(2, (ROWS, TOKENS), generator=generator)
    return TokenBatch(
        **{name: value.to(dtype) for name, value in fields.items()},
        mask=torch.arange(TOKENS) < length_B.unsqueeze(1),
        active=active_B,
        context=contexts_of(token_BT),
        step=3,
    )


def contexts_of(token_BT):
    """The contexts of responses to PROMPTS prompts: the place of each beginning among all that there are."""
    rows = token_BT.tolist()
    beginnings = [
        [(row * PROMPTS // len(rows), *tokens[: t + 1]) for t in range(len(tokens))]
        for row, tokens in enumerate(rows)
    ]
    known = sorted({beginning for row in beginnings for beginning in row})
    return torch.tensor([[known.index(beginning) for beginning in row] for row in beginnings])


def prepared(name, hyper_parameters, batch):
    """The objective, and the batch as it stands before a split."""
    chosen = objective(name, **hyper_parameters)
    return chosen, chosen.prepare(batch, torch.Generator().manual_seed(1))


def rows_of(batch, rows):
    """The micro-batch of these rows."""
    names = (
        "logp",
        "old_logp",
        "ref_logp",
        "sampler_logp",
        "advantage",
        "mask",
        "active",
        "weight",
        "context",
    )
    sliced = {name: value[rows] for name in names if (value := getattr(batch, name)) is not None}
    return replace(batch, **sliced)


def counts_of(batch):
    return StepCounts(tokens=int(batch.mask.sum()), sequences=ROWS, prompts=PROMPTS, max_tokens=MAX_TOKENS)


def prompt_tokens_of(batch):
    return batch.mask.sum(dim=1).reshape(PROMPTS, GROUP).sum(dim=1).repeat_interleave(GROUP).double()


def loss_and_gradient(chosen, batch):
    """The masked sum of the loss, its gradient [B, T] in logp, and the whole answer."""
    logp = batch.logp.clone().requires_grad_()
    result = chosen(replace(batch, logp=logp))
    (gradient,) = torch.autograd.grad(result.loss.sum(), logp, materialize_grads=True)
    return result.loss.sum().detach(), gradient, result


def tokens(ratio=1.0, advantage=1.0, logp=-2.0, x=0.0, **others):
    """One float64 sequence by its ratios pi/pi_old and deviations x = log pi - log ref; numbers or lists."""
    values = [value if isinstance(value, list) else [value] for value in (ratio, advantage, logp, x)]
    width = max(map(len, values))
    ratio, advantage, logp, x = (
        torch.tensor(value * (width // len(value)), dtype=torch.float64).unsqueeze(0) for value in values
    )
    return TokenBatch(
        logp=logp,
        old_logp=logp - ratio.log(),
        ref_logp=logp - x,
        advantage=advantage,
        mask=torch.ones_like(logp, dtype=torch.bool),
        **others,
    )


def coefficients(chosen, batch):
    """c_t of dL = -c_t dlogp_t, as a list, for a batch of one sequence."""
    _, gradient, _ = loss_and_gradient(chosen, batch)
    assert gradient.shape[0] == 1
    return (-gradient[0]).tolist()


def sign(value):
    return math.copysign(1.0, value) if value else 0.0
