"""What a run asks of whatever draws its responses, and the plain answer: the policy itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from owpo.policy.model import Policy
from owpo.policy.responses import Responses
from owpo.policy.sampler import sample_batches


class Sampler(Protocol):
    """Draws responses from the weights of `policy`."""

    @property
    def policy(self) -> Policy: ...

    def batches(
        self,
        prompts: list[list[int]],
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        batch_size: int,
        stop: tuple[str, ...] = (),
        skip: int = 0,
        pool_batches: int | None = None,
    ) -> Iterator[Responses]:
        """As `policy.sampler.sample_batches`, which says what each entry means."""
        ...


class Engine(Protocol):
    """What makes samplers. One at a time: asking for the next one ends the one before."""

    def sampler(self, policy: Policy, name: str) -> Sampler:
        """A sampler that holds the policy's weights as they stand now.

        Args:
            name: of these weights, for the sentence that says which others an engine holds instead.

        Raises:
            RunFailed: the engine holds other weights. Nothing has been sampled from them.
            FloatingPointError: the policy's logits are not finite.
        """
        ...


@dataclass(frozen=True)
class LocalSampler:
    """Our own decoding loop."""

    policy: Policy

    def batches(
        self,
        prompts: list[list[int]],
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        batch_size: int,
        stop: tuple[str, ...] = (),
        skip: int = 0,
        pool_batches: int | None = None,
    ) -> Iterator[Responses]:
        return sample_batches(
            self.policy,
            prompts,
            group_size=group_size,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            batch_size=batch_size,
            stop=stop,
            skip=skip,
            pool_batches=pool_batches,
        )


class LocalEngine:
    """It samples from the policy's own tensors, so there is nothing to hand over."""

    def sampler(self, policy: Policy, name: str) -> LocalSampler:
        return LocalSampler(policy)
