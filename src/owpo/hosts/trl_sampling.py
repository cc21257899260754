"""Dynamic sampling (DAPO) in TRL: groups that are all right or all wrong give way to groups of other prompts.

TRL generates and rewards inside one method. Here rounds of both come before it, and it is then handed what was kept:
nothing is sampled or rewarded twice, and everything behind it (advantages, log-probs, logs) stays TRL's.

Shape legend: B responses of a process, G responses per prompt, P = B / G its groups, F reward functions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from datasets import IterableDataset
from torch import Tensor
from trl import GRPOTrainer

from owpo.errors import InputError


@dataclass(frozen=True)
class Responses:
    """Some responses of this process, whole groups one after the other, with all that TRL knows of them.

    inputs     rows of the data set
    generated  what `_generate` returns: a list over the responses each, or what stands for none (None, {}, [])
    rewards    [B, F], NaN where a function gave None
    columns    what reward functions logged beside their rewards
    """

    inputs: list[dict[str, Any]]
    generated: tuple[Any, ...]
    rewards: Tensor
    columns: dict[str, list[Any]]

    def groups(self, chosen: list[int], size: int) -> Responses:
        rows = [group * size + place for group in chosen for place in range(size)]
        return Responses(
            inputs=[self.inputs[row] for row in rows],
            generated=tuple(part and [part[row] for row in rows] for part in self.generated),
            rewards=self.rewards[rows],
            columns={name: [values[row] for row in rows] for name, values in self.columns.items()},
        )

    def __add__(self, other: Responses) -> Responses:
        def column(of: Responses, name: str) -> list[Any]:
            return of.columns.get(name, [None] * len(of.inputs))

        return Responses(
            inputs=self.inputs + other.inputs,
            generated=tuple(
                a + b if isinstance(a, list) else a
                for a, b in zip(self.generated, other.generated, strict=True)
            ),
            rewards=torch.cat([self.rewards, other.rewards]),
            columns={
                name: column(self, name) + column(other, name) for name in {**self.columns, **other.columns}
            },
        )


def contrast(rewards: Tensor, size: int) -> Tensor:
    """[P] bool: groups that are neither all right nor all wrong.

    The first reward function decides, for a length penalty would tell any two responses apart; where it gave None for
    a response (NaN), the others of the group do.
    """
    first = rewards[:, 0].view(-1, size)
    return first.nan_to_num(-torch.inf).amax(dim=1) > first.nan_to_num(torch.inf).amin(dim=1)


def other_rows(dataset: Any, seed: int, step: int, prompts: list[Any]) -> Iterator[dict[str, Any]]:
    """Rows for the rounds of a step, without end: those of prompts that are not at hand, each prompt once, then any.

    Args:
        seed, step: which rows come, and nothing else, so that a resumed run draws the same ones.
        prompts: that the step has already.
    """
    generator = torch.Generator().manual_seed(random.Random(f"{seed} {step}").getrandbits(63))
    order = torch.randperm(len(dataset), generator=generator)
    seen = {repr(prompt) for prompt in prompts}
    for index in order:
        row = dataset[int(index)]
        if repr(row["prompt"]) not in seen:
            seen.add(repr(row["prompt"]))
            yield row
    while True:
        yield from (dataset[int(index)] for index in order)


class DynamicSampling(GRPOTrainer):
    """GRPOTrainer whose batches hold groups with contrast, as far as `max_rounds` rounds of sampling find them."""

    _samples_for_contrast = False
    _kept: Responses | None = None  # while TRL's method runs on it

    def sample_for_contrast(self) -> None:
        """Begin to.

        Raises:
            InputError: what responses hang on is not all in them.
        """
        obstacles = {
            "tools": self.tools,
            "an environment_factory": self.environment_factories,
            "a rollout_func": self.rollout_func,
            "an IterableDataset": isinstance(self.train_dataset, IterableDataset),
        }
        for name, is_there in obstacles.items():
            if is_there:
                raise InputError(f"dynamic sampling does not go with {name}; set dynamic_sampling=False")
        self._samples_for_contrast = True

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not (self._samples_for_contrast and self.model.training):  # an evaluation asks what it was given
            return super()._generate_and_score_completions(inputs)
        self._kept, num_filled = self._collect(inputs)
        self._pending_extra_logs.update(self._kept.columns)
        try:
            output = super()._generate_and_score_completions(self._kept.inputs)
        finally:
            self._kept = None
        # A shaped reward may see a contrast where the first reward function sees none.
        output["advantages"][len(inputs) - num_filled * self.num_generations :] = 0
        return output

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        return super()._generate(prompts) if self._kept is None else self._kept.generated

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Tensor:
        if self._kept is not None:
            return gather(self._kept.rewards)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids)

    def _collect(self, inputs: list[dict[str, Any]]) -> tuple[Responses, int]:
        """As many groups as `inputs` asks for, those without contrast at the end, and how many these are."""
        size = self.num_generations
        wanted = len(inputs) // size
        rows, all_rewards = self._other_rows(inputs), []
        parts: list[Responses] = []
        missing = wanted
        for round_ in range(self.args.max_rounds):
            if round_:
                inputs = [row for row in self._take(rows, wanted) for _ in range(size)]
            responses, rewards = self._respond(inputs)
            all_rewards.append(rewards)
            is_mixed = contrast(responses.rewards, size)
            if round_ == 0:
                spare, unmixed = responses, (~is_mixed).nonzero().flatten().tolist()
            chosen = is_mixed.nonzero().flatten().tolist()[:missing]
            parts.append(responses.groups(chosen, size))
            missing -= len(chosen)
            missing_anywhere = self._total(missing)
            if not missing_anywhere:  # one number for all processes: they generate together
                break
        parts.append(spare.groups(unmixed[:missing], size))
        self._log_sampling(torch.cat(all_rewards), missing_anywhere)
        return reduce(add, parts), missing

    def _other_rows(self, inputs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same in all processes; nothing happens before the first is asked for."""
        prompts = gather_object([row["prompt"] for row in inputs[:: self.num_generations]])
        yield from other_rows(self.train_dataset, self.args.seed, self.state.global_step, prompts)

    def _take(self, rows: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
        """This process's share of the next round's rows."""
        everywhere = [next(rows) for _ in range(count * self.accelerator.num_processes)]
        return everywhere[count * self.accelerator.process_index :][:count]

    def _respond(self, inputs: list[dict[str, Any]]) -> tuple[Responses, Tensor]:
        """One round: responses to these rows, and the rewards of all processes."""
        prompts = [row["prompt"] for row in inputs]
        generated = super()._generate(prompts)
        _, completion_ids, _, completions, *_, images, _ = generated
        if images is not None:
            raise InputError(
                "OWPOTrainer is made for text, and the prompts have images; use TRL's GRPOTrainer"
            )
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        own = rewards[len(inputs) * self.accelerator.process_index :][: len(inputs)]
        columns = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()
        return Responses(inputs=inputs, generated=generated, rewards=own, columns=columns), rewards

    def _total(self, count: int) -> int:
        """Over all processes."""
        own = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.reduce(own, reduction="sum"))

    def _log_sampling(self, rewards: Tensor, num_filled: int) -> None:
        """`rewards` [., F] of everything that was sampled, in all processes."""
        metrics = self._metrics["train"]
        metrics["accuracy"].append(rewards[:, 0].nanmean().item())
        metrics["groups_sampled"].append(len(rewards) // self.num_generations)
        metrics["groups_without_contrast"].append(num_filled)
