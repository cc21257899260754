"""owpo inside verl's PPO trainer: any objective by name, and a reference that moves and is part of every checkpoint.

    python -m verl.trainer.main_ppo trainer.v1.trainer_mode=owpo +actor_rollout_ref.owpo.objective=owpo ...

verl imports this module in each of its processes (entry point `verl.plugins`), and the trainer is there by name. verl
generates, scores, shards, distributes and logs. Here the groups are seen, while they still can be, and the reference is
kept; what a worker does is in `verl_worker`.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from owpo.core.deviation import top_active
from owpo.disk.sealed import read_sealed, write_sealed
from owpo.errors import InputError
from owpo.hosts.settings import HostSettings
from owpo.hosts.step_log import StepLog
from owpo.hosts.versions import check_host

check_host("verl")

import ray  # noqa: E402
import torch  # noqa: E402
import transfer_queue as tq  # noqa: E402
from omegaconf import DictConfig, OmegaConf, open_dict  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torch import Tensor  # noqa: E402
from verl.trainer.ppo.utils import Role  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import register_trainer  # noqa: E402
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync  # noqa: E402
from verl.workers.utils.padding import response_to_nested  # noqa: E402

from owpo.hosts.verl_worker import ACTIVE, STEP, OWPOWorker, mean_stats  # noqa: E402

TRAINER = "owpo"  # its name in trainer.v1.trainer_mode
_STATE = "owpo"  # folder in a checkpoint

# Fields of verl's configuration that would have no effect, their defaults, and what takes their place.
_INSTEAD = {
    "actor.policy_loss.loss_mode": ("vanilla", "owpo.objective"),
    "actor.loss_agg_mode": ("token-mean", "owpo.reduction"),
    "actor.loss_scale_factor": (None, "rollout.response_length"),
    "actor.clip_ratio": (0.2, "owpo.objective_args (clip_low, clip_high)"),
    "actor.clip_ratio_low": (0.2, "owpo.objective_args (clip_low)"),
    "actor.clip_ratio_high": (0.2, "owpo.objective_args (clip_high)"),
    "actor.clip_ratio_c": (3.0, "owpo.objective_args (dual_clip)"),
    "actor.entropy_coeff": (0, "owpo.objective"),
    "actor.use_kl_loss": (False, "owpo.objective, which says whether there is a reference"),
    "actor.kl_loss_coef": (0.001, "owpo.objective_args (its KL weight)"),
    "actor.kl_loss_type": ("low_var_kl", "owpo.objective_args"),
}


def settings_of(config: DictConfig) -> tuple[HostSettings, dict[str, Any]]:
    """What `actor_rollout_ref.owpo` sets, and of it what is the trainer's alone.

    Raises:
        InputError: it is not there, or sets something that is not known.
    """
    section = config.actor_rollout_ref.get("owpo")
    own = dict(OmegaConf.to_container(section)) if section is not None else {}
    trainer = {name: own.pop(name, None) for name in ("export_to", "export_steps", "record", "metrics")}
    unknown = own.keys() - HostSettings.__dataclass_fields__.keys()
    if unknown:
        raise InputError(
            f"actor_rollout_ref.owpo.{min(unknown)} is not known; known: "
            f"{', '.join([*HostSettings.__dataclass_fields__, *trainer])}"
        )
    return HostSettings(**own), trainer


@register_trainer(TRAINER)
class OWPOPPOTrainer(PPOTrainerSync):
    """verl's synchronous trainer with one of owpo's objectives and a reference that is state.

    lineage  every reference so far: the step it was taken at, and its weights' hash (None: see `reference_hash`)

    Raises:
        InputError: a setting is wrong or would have no effect.
    """

    def __init__(self, config: DictConfig) -> None:
        self.settings, self.own = settings_of(config)
        self.objective = self.settings.build_objective()
        self.lineage: list[dict[str, Any]] = []
        self.steps: StepLog | None = None
        _check(config, self.settings, needs_reference=self.objective.needs.reference)
        with open_dict(config):
            # To verl: it is the synchronous trainer, and there is a reference. Its own KL term is not used.
            config.trainer.v1.trainer_mode = "sync"
            config.actor_rollout_ref.actor.use_kl_loss = self.objective.needs.reference
            if "owpo" not in config.actor_rollout_ref:
                config.actor_rollout_ref.owpo = {}
        super().__init__(config)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in (Role.ActorRollout, Role.ActorRolloutRef):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(OWPOWorker)

    # ------------------------------------------------------------ the reference

    def _note(self, origin: str) -> None:
        hash = self.actor_rollout_wg.reference_hash()[0]
        self.lineage.append({"step": self.global_steps, "from": origin, "hash": hash})
        print(f"owpo: the reference is {origin}" + ("" if hash is None else f", {hash[:12]}"))

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.own["metrics"] is not None:
            self.steps = StepLog(Path(self.own["metrics"]).parent, self.global_steps)
        if not self.objective.needs.reference:
            return
        folder = self._checkpoint / _STATE
        if self.global_steps == 0 or self.settings.first_step == self.global_steps:
            self._note(self.settings.reference or "the policy as it started")
            return
        if not (folder / "lineage.json").is_file():
            raise InputError(f"{folder.parent} holds no reference: the owpo trainer did not write it")
        self.lineage = read_sealed(folder / "lineage.json")["lineage"]
        if len(self.lineage) > 1:
            self.actor_rollout_wg.load_reference(str(folder / "reference"))
        if self.actor_rollout_wg.reference_hash()[0] != self.lineage[-1]["hash"]:
            raise InputError(f"{folder} is not the reference of this checkpoint; restore it")

    @property
    def _checkpoint(self) -> Path:
        return Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}")

    def _save_checkpoint(self) -> None:
        if self.objective.needs.reference:
            # Before verl names the checkpoint as the latest one, so that what is named is whole.
            folder = self._checkpoint / _STATE
            folder.mkdir(parents=True, exist_ok=True)
            if len(self.lineage) > 1:
                self.actor_rollout_wg.export_reference(str(folder / "reference"))
            write_sealed(folder / "lineage.json", {"lineage": self.lineage})
        super()._save_checkpoint()
        for old in Path(self.config.trainer.default_local_dir).glob("global_step_*"):
            if not (old / "actor").exists():  # what verl leaves of a checkpoint that it no longer keeps
                shutil.rmtree(old)

    # ------------------------------------------------------------ a step

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        if self.own["record"] is not None:
            self.actor_rollout_wg.record_step(self.global_steps)
        batch = super().step(metrics, timing_raw)
        # Before verl writes its checkpoint, which then has what the next step begins with.
        every = self.settings.move_every
        if every is not None and (self.global_steps - self.settings.first_step) % every == 0:
            self.actor_rollout_wg.move_reference()
            self._note(f"the policy after step {self.global_steps}")
        if self.global_steps in (self.own["export_steps"] or []):
            self.actor_rollout_wg.export_policy(str(Path(self.own["export_to"], f"step-{self.global_steps}")))
        return batch

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        if self.steps is not None:
            self.steps.append(global_steps, in_our_names(metrics))

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)
        names = ["advantages", "response_mask", "responses", "rm_scores", "extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        mask = data["response_mask"]
        active = self._active(batch.keys, data["advantages"].to_padded_tensor(0))
        is_real = torch.tensor([not tag.get("is_padding", False) for tag in batch.tags])
        metrics.update(self._rollout_metrics(data, active, is_real))
        flags = active.unsqueeze(1).expand(-1, int(mask.offsets().diff().max())).float()
        fields = TensorDict({ACTIVE: response_to_nested(flags, mask)}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _rollout_metrics(self, data: TensorDict, active: Tensor, is_real: Tensor) -> dict[str, float]:
        """Of the responses that are trained on; without rows that only fill the batch up."""
        limit = self.config.actor_rollout_ref.rollout.response_length
        ended = {self.tokenizer.eos_token_id}
        truncated = torch.tensor(
            [len(row) == limit and int(row[-1]) not in ended for row in data["responses"].unbind()]
        )
        score = data["rm_scores"].to_padded_tensor(0).sum(dim=1).tolist()
        told = [getattr(each, "data", each) for each in data["extra_fields"]]
        right = torch.tensor(
            [each.get("reward_extra_info", {}).get("acc", own) for each, own in zip(told, score, strict=True)]
        )
        shares = {"accuracy": right, "truncated_share": truncated, "active_share": active}
        return {f"owpo/{name}": value[is_real].double().mean().item() for name, value in shares.items()}

    def _active(self, keys: list[str], advantage_BT: Tensor) -> Tensor:
        """[B] bool: decided here, for a worker does not see whole groups.

        Args:
            keys: of the rows, UID_SAMPLE_OUTPUT. verl has ordered the rows by length; ties go by sample all the same.
        """
        size = self.config.actor_rollout_ref.rollout.n
        keep = self.settings.num_active(self.global_steps - 1, self.total_training_steps, size)
        advantage = advantage_BT.gather(1, advantage_BT.abs().argmax(dim=1, keepdim=True)).squeeze(1)
        active = torch.zeros(len(keys), dtype=torch.bool)
        groups: dict[str, list[tuple[int, int, int]]] = {}
        for row, key in enumerate(keys):
            uid, sample, output = key.rsplit("_", 2)
            groups.setdefault(uid, []).append((int(sample), int(output), row))
        for group in groups.values():
            rows = [row for *_, row in sorted(group)]
            active[rows] = top_active(advantage[rows].unsqueeze(0), keep).squeeze(0)
        return active

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch.extra_info[STEP] = self.settings.step_of_stage(self.global_steps - 1)
        batch = super()._update_actor(batch, metrics)
        mean_stats(metrics)
        return batch


def _check(config: DictConfig, settings: HostSettings, *, needs_reference: bool) -> None:
    """
    Raises:
        InputError: a field of verl's configuration would have no effect, or does not go with a reference.
    """
    own = config.actor_rollout_ref
    for name, (default, instead) in _INSTEAD.items():
        value = OmegaConf.select(own, name)
        if value != default:
            raise InputError(
                f"actor_rollout_ref.{name} = {value!r} is not read by the owpo trainer; use {instead}"
            )
    if config.algorithm.use_kl_in_reward:
        raise InputError("algorithm.use_kl_in_reward changes the advantage's sign; use owpo.objective")
    has_lora = own.model.get("lora_rank", 0) > 0 or own.model.get("lora_adapter_path") is not None
    if has_lora and (settings.reference is not None or settings.move_every is not None):
        raise InputError(
            "with LoRA verl's reference is the base, the adapter turned off: leave out owpo.reference and "
            "owpo.move_every"
        )
    moves = settings.move_every is not None
    if moves and not (own.actor.strategy == own.ref.strategy == "fsdp2"):
        raise InputError(
            f"owpo.move_every copies weights that FSDP2 has sharded, and actor_rollout_ref.actor.strategy = "
            f"{own.actor.strategy!r}; set actor.strategy and ref.strategy to 'fsdp2'"
        )
    ref = own.ref
    if needs_reference and not (ref.log_prob_use_dynamic_bsz or ref.log_prob_micro_batch_size_per_gpu):
        raise InputError(
            "set actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu, or actor.use_dynamic_bsz=True"
        )


# Metrics that `metrics.jsonl` has under a name of its own.
_OUR_NAMES = {
    "owpo/accuracy": "accuracy",
    "owpo/truncated_share": "truncated_share",
    "owpo/active_share": "active_share",
    "response_length/mean": "response_length",
    "actor/loss": "loss",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/entropy": "entropy",
    "timing_s/step": "seconds",
}


def in_our_names(metrics: dict[str, Any]) -> dict[str, float]:
    """A step's numbers as owpo's own logs name them; those without a value are left out."""
    named = {ours: metrics[theirs] for theirs, ours in _OUR_NAMES.items() if theirs in metrics}
    stats = {
        key.removeprefix("actor/owpo/"): metrics[key] for key in metrics if key.startswith("actor/owpo/")
    }
    return {name: float(value) for name, value in {**named, **stats}.items() if math.isfinite(value)}
