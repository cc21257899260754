"""What trains: our own loop, or another trainer that runs over several devices; and what of a recipe each honours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from owpo.config.section import Section

if TYPE_CHECKING:
    from owpo.config.run import RunConfig

Engine = Literal["local", "trl", "verl"]


class TRLConfig(Section):
    """Read where TRL trains (docs/trl.md)."""

    processes: Annotated[int, Field(ge=1)] = 1
    """Processes on this machine that share a step, one a GPU."""
    micro_batch: Annotated[int, Field(ge=1)] = 8
    """Sequences of one forward-backward pass of a process (`per_device_train_batch_size`)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Other fields of TRL's GRPOConfig, such as { use_vllm = true, vllm_mode = "colocate" }."""


class VerlConfig(Section):
    """Read where verl trains (docs/verl.md)."""

    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines of the Ray cluster that train."""
    gpus_per_node: Annotated[int, Field(ge=1)] = 8
    """GPUs of each."""
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """GPUs that share one copy of the sampling model."""
    tokens_per_gpu: Annotated[int, Field(ge=1)] = 16384
    """Tokens of one forward-backward pass of a GPU; at least the longest prompt and response together."""
    overrides: list[str] = Field(default_factory=list)
    """More of verl's configuration, in the words of its command line: "actor_rollout_ref.rollout.name=sglang"."""


def check_engine(config: RunConfig) -> None:
    """
    Raises:
        ValueError: the recipe asks for something that the engine cannot honour; names it.
    """
    engine = config.run.engine
    if engine == "local":
        return
    own = _trl(config) if engine == "trl" else _verl(config)
    for entry, told in (*_host(config), *own):
        raise ValueError(f"{entry} {told} with run.engine = {engine!r}; change it, or train with 'local'")


def _host(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Entries that no host honours, each with why not."""
    objective = config.objective.build()
    if objective.needs.prepared:
        yield (
            f"objective {objective.name!r}",
            "prepares weights over a whole step, which the host has shuffled,",
        )
    if config.model.lora is not None:
        yield "model.lora", "is not passed on"
    if config.stop:
        yield (
            "rollout.stop (the texts that end a response; a base model's template brings some)",
            "is not passed on: set it to [], use a chat template,",
        )
    if config.alarms.action == "end_stage":
        yield "alarms.action = 'end_stage'", "cannot end a stage that a host is training"
    if config.verifier.flip_correct or config.verifier.flip_wrong:
        yield "the verifier's noise (flip_correct, flip_wrong)", "is not passed on"
    for section, names in {
        "training": ("compile", "max_bad_updates"),
        "run": ("rollouts_per_step", "token_rollouts", "token_every"),
    }.items():
        table = getattr(config, section)
        for name in names:
            if getattr(table, name) != type(table).model_fields[name].default:
                yield f"{section}.{name}", "has no effect"


def _trl(config: RunConfig) -> Iterator[tuple[str, str]]:
    rows = config.rollout.prompts * config.rollout.group_size
    share = config.training.updates_per_batch * config.trl.processes * config.trl.micro_batch
    estimator = config.training.advantage or config.objective.build().scaffold.advantage
    if rows % share:
        yield (
            f"rollout.prompts * rollout.group_size = {rows}",
            f"is no multiple of training.updates_per_batch * trl.processes * trl.micro_batch = {share}",
        )
    if config.rollout.prompts % config.trl.processes:
        yield f"rollout.prompts = {config.rollout.prompts}", "does not give every process whole groups"
    if config.rollout.overlong_cache:
        yield "rollout.overlong_cache", "is not passed on"
    if estimator not in ("group_std", "group_mean"):
        yield f"advantage {estimator!r}", "is not one of TRL's (group_std, group_mean)"


def _verl(config: RunConfig) -> Iterator[tuple[str, str]]:
    prompts, updates = config.rollout.prompts, config.training.updates_per_batch
    processes = config.verl.nodes * config.verl.gpus_per_node
    estimator = config.training.advantage or config.objective.build().scaffold.advantage
    if prompts % updates:
        yield (
            f"rollout.prompts = {prompts}",
            f"is no multiple of training.updates_per_batch = {updates}",
        )
    if prompts // updates * config.rollout.group_size % processes:
        yield (
            f"an update's {prompts // updates * config.rollout.group_size} responses (rollout.prompts / "
            "training.updates_per_batch * rollout.group_size)",
            f"are no multiple of verl.nodes * verl.gpus_per_node = {processes}",
        )
    if config.rollout.max_rounds != type(config.rollout).model_fields["max_rounds"].default:
        yield "rollout.max_rounds", "has no effect: verl draws until the batch is full"
    if estimator not in ("group_std", "group_mean", "leave_one_out"):
        yield f"advantage {estimator!r}", "is not one of verl's (group_std, group_mean, leave_one_out)"
