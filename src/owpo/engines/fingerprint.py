"""Whether an engine holds a policy's weights: by its log-probs on a probe, and by its weights where it shows them.

An engine with stale or wrong weights samples fluently; nothing in its text says so. So after every change of
weights it scores a few fixed sequences, and its scores are held against the policy's own.

1. They must agree within the rounding of the two programs, which is measured and not guessed. Where they do not,
   scores of earlier weights tell a stale engine from a wrong one.
2. Where the engine keeps plain weights their digest must be the policy's: exact, and what no probe touches counts.
3. Where it does not, its scores must not be those of the weights before to the last bit: an engine that took nothing
   over repeats itself, also where the change is smaller than the rounding.

Shape legend: R probe rows, N scored tokens of all rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from owpo.errors import RunFailed
from owpo.policy.logprobs import reference_logprobs
from owpo.policy.model import Policy
from owpo.policy.responses import Responses

_ROWS, _LENGTH = 8, 64
_FACTOR = 5.0  # of the difference that rounding explains
_REMEMBERED = 64  # earlier weights whose scores a stale engine is looked for among
_CHUNK = 1 << 22  # elements of a digest at a time: they are widened to 8 bytes
_INTEGER = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class Limits:
    """For one dtype, in nats: the least rounding that is assumed, and how many times the policy's own rounding the
    engine may be away from the policy at the start, when both were given the same weights."""

    least: float
    start: float


# float32: 1e-6 on CPU; 1e-3 allows for TF32. bfloat16: an engine rounds weights and residuals too, the policy only
# products.
LIMITS = {torch.float32: Limits(1e-6, 1000.0), torch.bfloat16: Limits(1e-3, 10.0)}


def make_probe(policy: Policy, seed: int, longest: int) -> Responses:
    """R rows of random ordinary tokens, a prompt of one and up to 63 to score.

    Args:
        longest: tokens that a row may have at most, 2 or more.
    """
    special = {*policy.tokenizer.all_special_ids, *policy.eos_ids}
    ordinary = sorted(
        id for id in policy.tokenizer.get_vocab().values() if id < policy.vocab_size and id not in special
    )
    generator = torch.Generator().manual_seed(seed)
    place_RL = torch.randint(len(ordinary), (_ROWS, min(_LENGTH, longest)), generator=generator)
    token_RL = torch.tensor(ordinary)[place_RL].to(policy.device)
    token_RT = token_RL[:, 1:]
    return Responses(
        prompts=token_RL[:, :1].tolist(),
        tokens=token_RT,
        mask=torch.ones_like(token_RT, dtype=torch.bool),
        sampler_logp=torch.zeros(token_RT.shape, device=policy.device),
        truncated=torch.ones(_ROWS, dtype=torch.bool, device=policy.device),
    )


def weight_digest(tensors: Iterable[Tensor], dtype: torch.dtype) -> int:
    """A hash of all elements, rounded to `dtype`, as a multiset: 64 bits.

    It is a sum over elements of a mixing of each one's bits, in which 0 counts nothing. So it does not change where
    an engine fuses tensors, cuts or renames them, or pads them with zeros, and one element of another value changes
    it. Tensors in another floating dtype are rounded too, so both sides must be given the same `dtype`.
    """
    total: Tensor | int = 0
    for tensor in tensors:
        elements = tensor.detach().to(dtype).contiguous().flatten()
        for chunk in elements.view(_INTEGER[dtype.itemsize]).split(_CHUNK):
            mixed = chunk.to(torch.int64) * -7046029254386353131  # products and sums are modulo 2**64
            mixed ^= mixed >> 29
            mixed *= -4658895280553007687
            mixed ^= mixed >> 32
            total = total + mixed.sum()
    return int(total)


@dataclass(frozen=True)
class _Known:
    """Weights that the engine was given before, and found to hold.

    score_N   the policy's scores under them
    engine_N  the engine's own
    """

    name: str
    digest: int
    score_N: Tensor
    engine_N: Tensor


class Fingerprint:
    """The checks of one engine. The first one measures the rounding, with weights that both were just given."""

    def __init__(self, probe: Responses, dtype: torch.dtype) -> None:
        """
        Args:
            dtype: what the engine keeps its weights and computes in.
        """
        self.probe = probe
        self.dtype = dtype
        self._known: deque[_Known] = deque(maxlen=_REMEMBERED)
        self._ratio: dict[str, float] = {}
        self.compares_digests = False
        self.holds: int | None = None  # digest of the weights that the engine was found to hold

    def check(self, policy: Policy, name: str, engine_N: Tensor, digest: int, engine_digest: int) -> None:
        """
        Args:
            name: of the weights that the engine has just been given; they are not those that it `holds`.
            engine_N: its scores of the probe, row by row: log-probs at temperature 1.
            digest, engine_digest: `weight_digest` of the policy's weights and of the engine's; the two are compared
                only if they agree at the first check, since an engine may keep its weights in another form.

        Raises:
            RunFailed: the engine holds other weights, or computes something else.
            FloatingPointError: the policy's own scores are not finite.
        """
        self.holds = None
        own_N, rounding = self._own_scores(policy)
        engine_N = engine_N.to(own_N)
        found = _difference(engine_N, own_N)
        if not self._known:
            self._begin(found, rounding)
            self.compares_digests = digest == engine_digest
        allowed = {kind: _FACTOR * self._ratio[kind] * rounding[kind] for kind in found}
        if not all(found[kind] <= allowed[kind] for kind in found):  # NaN is no agreement
            raise RunFailed(self._explain(name, engine_N, found, allowed))
        repeats = (
            self._known
            and self._known[-1].digest != digest
            and torch.equal(engine_N, self._known[-1].engine_N)
        )
        if self.compares_digests and digest != engine_digest:
            raise RunFailed(
                f"the sampling engine holds {'stale' if repeats else 'wrong'} weights: its log-probs on the probe "
                f"batch agree with the policy's at {name}, but the digest of its weights is "
                f"{engine_digest % 2**64:016x} and that of the policy's {digest % 2**64:016x}, so some of them were "
                f"not taken over. {_STANDS}"
            )
        if repeats and not self.compares_digests:
            raise RunFailed(
                f"the sampling engine is stale: it was given the weights of {name}, and its log-probs on the probe "
                f"batch are to the last bit those that it had with the weights of {self._known[-1].name}. {_STANDS}"
            )
        self._known.append(_Known(name, digest, own_N, engine_N))
        self.holds = digest

    def _own_scores(self, policy: Policy) -> tuple[Tensor, dict[str, float]]:
        """The policy's scores [N], and how far rounding to the engine's dtype moves them.

        Measured in bfloat16, where it is far above everything else; in float32 it is smaller in proportion. It grows
        as the policy becomes surer, so it is measured each time.
        """
        own_N = _scores(policy, self.probe)
        if not own_N.isfinite().all():
            raise FloatingPointError(
                "the policy's logits are NaN or infinite, so nothing can be sampled from it; "
                "go back to a checkpoint from before its weights broke"
            )
        coarse_N, fine_N = (
            _scores(replace(policy, compute_dtype=dtype), self.probe)
            for dtype in (torch.bfloat16, policy.model.dtype)
        )
        share = torch.finfo(self.dtype).eps / torch.finfo(torch.bfloat16).eps
        measured = _difference(coarse_N, fine_N)
        least = LIMITS[self.dtype].least
        rounding = {
            "mean": max(least, share * measured["mean"]),
            "largest": max(10 * least, share * measured["largest"]),
        }
        return own_N, rounding

    def _begin(self, found: dict[str, float], rounding: dict[str, float]) -> None:
        """Measure how many times the policy's rounding the engine is away from it."""
        most = LIMITS[self.dtype].start
        for kind, value in found.items():
            if not value <= most * rounding[kind]:
                raise RunFailed(
                    f"the sampling engine does not compute what the policy does: with the same weights their log-probs "
                    f"on the probe batch differ by {value:.2g} nats ({kind} of {self.probe.mask.sum()} tokens), where "
                    f"rounding explains at most {most * rounding[kind]:.2g}. Either not all weights reach it under "
                    "their names, or it computes this architecture in another way; use rollout.engine = 'local'"
                )
        self._ratio = {kind: max(1.0, value / rounding[kind]) for kind, value in found.items()}

    def _explain(
        self, name: str, engine_N: Tensor, found: dict[str, float], allowed: dict[str, float]
    ) -> str:
        told = (
            f"its log-probs on the probe batch differ from the policy's at {name} by {found['mean']:.2g} nats on "
            f"average and {found['largest']:.2g} at most, where rounding explains {allowed['mean']:.2g} and "
            f"{allowed['largest']:.2g}"
        )
        for known in reversed(self._known):
            then = _difference(engine_N, known.score_N)
            if all(then[kind] <= allowed[kind] for kind in then):
                return f"the sampling engine is stale: {told}; they are those of the weights of {known.name}. {_STANDS}"
        return f"the sampling engine holds wrong weights: {told}; they are those of no earlier weights. {_STANDS}"


_STANDS = (
    "Nothing was sampled from them; the last checkpoint is untouched, and owpo resume starts the engine anew"
)


def _scores(policy: Policy, probe: Responses) -> Tensor:
    """Log-probs at temperature 1, [N]."""
    return reference_logprobs(policy, probe, 1.0, probe.mask.shape[1] * _ROWS)[probe.mask]


def _difference(one_N: Tensor, other_N: Tensor) -> dict[str, float]:
    """|difference| in nats: its mean tells whether all is a little off, its largest whether a little is far off."""
    difference_N = (one_N - other_N).double().abs()
    return {"mean": difference_N.mean().item(), "largest": difference_N.max().item()}
