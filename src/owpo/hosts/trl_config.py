"""TRL's settings with owpo's among them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from trl import GRPOConfig

from owpo.core.registry import Objective
from owpo.errors import InputError
from owpo.hosts.settings import HostSettings

# Fields of GRPOConfig that would have no effect, and what takes their place.
_INSTEAD = {
    "loss_type": "objective",
    "beta": "objective_args (its KL weight)",
    "epsilon": "objective_args (clip_low)",
    "epsilon_high": "objective_args (clip_high)",
    "delta": "objective_args",
    "importance_sampling_level": "objective, such as 'gspo'",
    "sync_ref_model": "move_every",
    "ref_model_mixup_alpha": "move_every",
    "ref_model_sync_steps": "move_every",
    "use_bias_correction_kl": "objective_args",
    "top_entropy_quantile": "objective",
    "entropy_coef": "objective",
    "use_adaptive_entropy": "objective",
    "off_policy_mask_threshold": "objective",
    "use_liger_kernel": "False: it brings losses of its own",
}


@dataclass
class OWPOConfig(GRPOConfig):
    """GRPOConfig, with the objective in the place of the loss.

    Raises:
        InputError: a field that would have no effect is set, or the objective cannot be had here.
    """

    objective: str = field(
        default="owpo", metadata={"help": "What is optimised: `owpo objectives` lists them."}
    )
    objective_args: dict[str, Any] = field(default_factory=dict, metadata={"help": "Its settings."})
    reference: str | None = field(
        default=None,
        metadata={"help": "Model folder or hub id of the first reference; None: the policy as it starts."},
    )
    move_every: int | None = field(
        default=None,
        metadata={"help": "Optimiser steps after which the policy becomes the reference; None: never."},
    )
    active_samples: Literal["curriculum", "all"] = field(
        default="curriculum",
        metadata={
            "help": "Samples that get the one-way weight: the top |A| of a group, G down to 1 between moves."
        },
    )
    reduction: str | None = field(default=None, metadata={"help": "None: the objective's paper's."})
    first_step: int = field(
        default=0, metadata={"help": "Optimiser steps that were done before the reference in force came."}
    )
    dynamic_sampling: bool | None = field(
        default=None,
        metadata={
            "help": "Whether groups that are all right or all wrong by the first reward function are replaced by "
            "groups of other prompts; None: as in the objective's paper."
        },
    )
    max_rounds: int = field(default=4, metadata={"help": "Rounds of sampling a batch, at most."})

    @property
    def host(self) -> HostSettings:
        """What is owpo's among the settings; its steps are optimiser steps, TRL's own."""
        return HostSettings(**{each.name: getattr(self, each.name) for each in fields(HostSettings)})

    @property
    def samples_for_contrast(self) -> bool:
        if self.dynamic_sampling is None:
            return self.build_objective().scaffold.dynamic_sampling
        return self.dynamic_sampling

    def build_objective(self) -> Objective:
        return self.host.build_objective()

    def __post_init__(self) -> None:
        defaults = {each.name: each.default for each in fields(GRPOConfig)}
        for name, instead in _INSTEAD.items():
            if name in defaults and getattr(self, name) != defaults[name]:
                raise InputError(
                    f"{name} = {getattr(self, name)!r} is not read by OWPOTrainer; use {instead}"
                )
        chosen = self.build_objective()
        if self.first_step < 0:
            raise InputError(f"first_step = {self.first_step} must be at least 0")
        if self.max_rounds < 1:
            raise InputError(f"max_rounds = {self.max_rounds} must be at least 1")
        self.beta = 1.0 if chosen.needs.reference else 0.0  # to TRL: whether there is a reference
        super().__post_init__()
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise InputError(
                f"steps_per_generation = {self.steps_per_generation} must be a multiple of "
                f"gradient_accumulation_steps = {self.gradient_accumulation_steps}: an update's tokens are counted "
                "before it begins"
            )
