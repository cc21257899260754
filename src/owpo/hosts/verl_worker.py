"""verl's worker with one of owpo's objectives for a loss, and a reference that has weights of its own.

verl shards, batches and steps. An optimiser step is counted before it is split; its micro-batches become
TokenBatches, the objective's TokenLoss a loss.

Shape legend: B sequences of a micro-batch, T response tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tensordict import NonTensorData, TensorDict
from torch import Tensor
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.metric import AggregationType, Metric
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.utils.padding import no_padding_2_padding

from owpo.core.batch import TokenBatch
from owpo.core.reduce import StepCounts, reduction_weights
from owpo.core.registry import Objective
from owpo.hosts.settings import HostSettings
from owpo.hosts.verl_weights import copy_weights, export, load_weights, sharded_hash

ACTIVE, STEP = "owpo_active", "owpo_step"  # what the trainer adds to a batch
_COUNTS, _GROUP_TOKENS = "owpo_counts", "owpo_group_tokens"  # and what the actor does


def count_step(data: TensorDict, dp_group: Any, max_tokens: int) -> None:
    """Note with the rows of an optimiser step what it holds over all processes. Padding rows count for nothing."""
    tokens = _padded(data["response_mask"]).bool().sum(dim=1)
    uids = as_texts(data["uid"])
    mine: list[tuple[str, int]] = [(uid, n) for uid, n in zip(uids, tokens.tolist(), strict=True) if n]
    everyone: list[Any] = [None] * dist.get_world_size(dp_group)
    dist.all_gather_object(everyone, mine, group=dp_group)
    of_group: Counter[str] = Counter()
    for uid, count in (row for rows in everyone for row in rows):
        of_group[uid] += count
    counts = StepCounts(
        tokens=of_group.total(),
        sequences=sum(len(rows) for rows in everyone),
        prompts=len(of_group),
        max_tokens=max_tokens,
    )
    data[_COUNTS] = NonTensorData(counts)
    data[_GROUP_TOKENS] = torch.tensor([of_group[uid] for uid in uids], device=tokens.device)


def owpo_loss(
    model_output: Mapping[str, Tensor],
    data: TensorDict,
    dp_group: Any = None,
    *,
    objective: Objective,
    reduction: str,
    record: Path | None = None,
) -> tuple[Tensor, dict[str, Metric]]:
    """The loss of a micro-batch, in the place of verl's `ppo_loss`; gradients are averaged over processes."""
    logp = _float(no_padding_2_padding(model_output["log_probs"], data))
    given = {
        name: _padded(data[name])
        for name in (
            "response_mask", "advantages", "old_log_probs", "ref_log_prob", "rollout_log_probs", "rollout_is_weights",
            ACTIVE,
        )
        if name in data
    }  # fmt: skip
    mask = given["response_mask"].bool()
    advantage = given["advantages"].to(logp.dtype)
    batch = TokenBatch(
        logp=logp,
        old_logp=_float(given["old_log_probs"]),
        ref_logp=_float(given["ref_log_prob"]) if "ref_log_prob" in given else None,
        sampler_logp=_float(given["rollout_log_probs"]) if "rollout_log_probs" in given else None,
        advantage=advantage,
        mask=mask,
        active=given[ACTIVE].bool().any(dim=1),
        step=data[STEP],
    )
    result = objective(batch)
    loss = result.loss
    if "rollout_is_weights" in given:
        loss = loss * given["rollout_is_weights"]
    weight = reduction_weights(mask, reduction, data[_COUNTS], data[_GROUP_TOKENS], dtype=logp.dtype)
    total = (loss * weight).sum() * data["dp_size"]
    stats = dict(result.stats)
    if "entropy" in model_output:
        stats["entropy"] = no_padding_2_padding(model_output["entropy"], data).detach()
    if record is not None and not record.exists():
        _write_record(record, data, batch, result.stats)
    is_trained = mask if objective.needs.zero_advantage else mask & (advantage != 0)
    return total, _sums(stats, is_trained)


def _sums(stats: Mapping[str, Tensor], mask: Tensor) -> dict[str, Metric]:
    """Sum and count of every statistic over the trained tokens that have it, by which `mean_stats` divides."""
    metrics = {}
    for name, value in stats.items():
        known = value[mask].double()
        metrics[f"owpo/{name}.sum"] = Metric(AggregationType.SUM, known.nansum())
        metrics[f"owpo/{name}.count"] = Metric(AggregationType.SUM, (~known.isnan()).sum())
    return metrics


def mean_stats(metrics: dict[str, Any], prefix: str = "actor/owpo/") -> None:
    """Divide the sums of a step's statistics by their counts, in place."""
    for key in [key for key in metrics if key.startswith(prefix) and key.endswith(".sum")]:
        name = key.removesuffix(".sum")
        total, count = metrics.pop(key), metrics.pop(f"{name}.count")
        metrics[name] = total / count if count else float("nan")


def _write_record(file: Path, data: TensorDict, batch: TokenBatch, stats: Mapping[str, Tensor]) -> None:
    """A micro-batch's tokens and tensors as the loss saw them, for whoever wants to compute them again."""
    tensors = {
        "input_ids": _padded(data["input_ids"]),
        "prompt_tokens": data["prompts"].offsets().diff(),
        "response_tokens": data["responses"].offsets().diff(),
        "logp": batch.logp.detach(),
        "old_logp": batch.old_logp,
        "advantage": batch.advantage,
        "mask": batch.mask,
        "active": batch.active,
        **({"ref_logp": batch.ref_logp} if batch.ref_logp is not None else {}),
        **{f"stats.{name}": value for name, value in stats.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.cpu().contiguous() for name, value in tensors.items() if value is not None}, file)


class ActorWorker(TrainingWorker):
    """verl's, but for the counts of an optimiser step."""

    max_tokens: int

    def train_batch(self, data: TensorDict) -> TensorDict:
        count_step(data, self.engine.get_data_parallel_group(), self.max_tokens)
        return super().train_batch(data)


class OWPOWorker(ActorRolloutRefWorker):
    """verl's actor, rollout and reference in one process. `actor_rollout_ref.owpo` has its settings."""

    actor_worker_cls = ActorWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        own = OmegaConf.to_container(self.config.owpo)
        self.record = own.pop("record", None)
        settings = HostSettings(**{k: v for k, v in own.items() if k in HostSettings.__dataclass_fields__})
        self.ref_worker_cls = partial(self._reference_worker, settings.reference)
        super().init_model()
        objective = settings.build_objective()
        self.loss = partial(
            owpo_loss, objective=objective, reduction=settings.reduction or objective.scaffold.reduction
        )
        self.actor.max_tokens = self.config.rollout.response_length
        self.actor.set_loss_fn(self.loss)

    def _reference_worker(self, path: str | None, config: Any) -> TrainingWorker:
        if path is not None:
            model = omega_conf_to_dataclass(OmegaConf.merge(self.config.model, {"path": path}))
            config = replace(config, model_config=model)
        return TrainingWorker(config=config)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def record_step(self, step: int) -> None:
        """Write what the loss sees of the first micro-batch of this step, where a folder is set for it."""
        if self.record is not None and self.rank == 0:
            file = Path(self.record) / f"step-{step:06d}.safetensors"
            self.actor.set_loss_fn(partial(self.loss, record=file))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def move_reference(self) -> None:
        """The policy as it stands becomes the reference."""
        copy_weights(self.actor.engine, self.ref.engine)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def reference_hash(self) -> str | None:
        """sha256 of the reference's weights, in the dtype that it is kept in.

        None: it has none of its own (LoRA: the base), or they are sharded otherwise than by FSDP2, and do not move.
        """
        if self.ref is None or self.config.ref.strategy != "fsdp2":
            return None
        return sharded_hash(self.ref.engine)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def export_reference(self, folder: str) -> None:
        export(self.ref.engine, Path(folder))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_reference(self, folder: str) -> None:
        load_weights(self.ref.engine, Path(folder))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def export_policy(self, folder: str) -> None:
        export(self.actor.engine, Path(folder))


def as_texts(values: Any) -> list[str]:
    """A column of texts in any of the forms that verl's queue gives back."""
    return [str(getattr(value, "data", value)) for value in values]


def _padded(value: Tensor) -> Tensor:
    """[B, T] of a nested tensor, zeros after the end."""
    return value.to_padded_tensor(0) if value.is_nested else value


def _float(logp: Tensor) -> Tensor:
    """Deviations are read at a scale that bfloat16 does not resolve."""
    return logp if logp.dtype == torch.float64 else logp.float()
