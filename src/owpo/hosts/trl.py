"""owpo inside TRL's GRPOTrainer: any objective by name, and a reference that moves and is part of every checkpoint.

    from owpo.hosts.trl import OWPOConfig, OWPOTrainer

TRL generates, scores, batches, distributes and logs. Here its batch becomes a TokenBatch, the objective's TokenLoss a
loss, and the reference is kept. What needs the group (which samples are active) is decided before TRL shuffles; the
reduction counts the whole optimiser step over all processes.

Shape legend: B sequences of a micro-batch, T response tokens, G responses per prompt.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback

from owpo.core.batch import TokenBatch
from owpo.core.deviation import top_active
from owpo.core.reduce import StepCounts, reduction_weights
from owpo.disk.sealed import read_sealed, write_sealed
from owpo.errors import InputError, input_errors
from owpo.hosts.versions import check_host

check_host("trl")

from trl import GRPOTrainer  # noqa: E402

from owpo.hosts.trl_config import OWPOConfig  # noqa: E402
from owpo.hosts.trl_reference import AdapterReference, TRLReference, WholeReference  # noqa: E402
from owpo.hosts.trl_sampling import DynamicSampling  # noqa: E402

_STATE = "owpo"  # folder in a checkpoint
_LAST_FILE = "trainer_state.json"  # that a checkpoint is written with


def last_whole_checkpoint(folder: str | Path) -> str | None:
    """What to resume from: the newest checkpoint that no kill has cut short; None: there is none.

    transformers' `get_last_checkpoint` also returns one that is half written.
    """
    found = [path for path in Path(folder).glob("checkpoint-*") if _is_whole(path)]
    return str(max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if found else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _LAST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


class OWPOTrainer(DynamicSampling, GRPOTrainer):
    """GRPOTrainer with one of owpo's objectives and a reference that is state.

    reference  None where the objective reads none
    lineage    every reference so far: the optimiser step it was taken at, and its weights' hash
    logged_stats  names of the per-token statistics among the logs

    Raises:
        InputError: the reference does not fit the policy, the policy is sharded, or dynamic sampling cannot go with
            what generates.
    """

    args: OWPOConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.objective = self.args.build_objective()
        self.reference: TRLReference | None = None
        self.lineage: list[dict[str, Any]] = []
        self.logged_stats: set[str] = set()
        self._counted: object = None
        if self.args.samples_for_contrast:
            self.sample_for_contrast()
        if self.objective.needs.reference:
            self._take_first_reference()
            self.add_callback(_Moves(self))

    # ------------------------------------------------------------ the reference

    def _take_first_reference(self) -> None:
        """The weights that it begins with. TRL has loaded the policy's hub id, which need not be the policy."""
        path, policy = self.args.reference, self.accelerator.unwrap_model(self.model)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise InputError(
                "OWPOTrainer's reference is tried on whole models alone: launch it without DeepSpeed and FSDP"
            )
        if self.ref_model is None:
            if path is not None:
                raise InputError("a PEFT policy begins with its base for a reference: leave out reference")
            self.reference = AdapterReference(policy)
            self._note("the base")
            return
        start = policy
        if path is not None:
            start = AutoModelForCausalLM.from_pretrained(path, dtype=self.ref_model.dtype)
        with input_errors("reference"):
            self.reference = WholeReference(self.ref_model, policy, start)
        self._note(path or "the policy as it started")

    def _note(self, origin: str) -> None:
        assert self.reference is not None
        self.lineage.append({"step": self.state.global_step, "from": origin, "hash": self.reference.hash()})

    def move_reference(self) -> None:
        """The policy as it stands becomes the reference, for responses at hand too."""
        assert self.reference is not None
        self.reference.move()
        self._note(f"the policy after step {self.state.global_step}")
        is_used_up = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        if not is_used_up:
            with torch.no_grad(), self.reference.scoring() as model:
                for inputs in self._buffered_inputs:
                    inputs["ref_per_token_logps"], _ = self._score(model, inputs, with_entropy=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Before TRL's own, whose last file makes the checkpoint whole.
        if self.reference is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}", _STATE)
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
            self.reference.save(folder / "reference")
            write_sealed(folder / "lineage.json", {"lineage": self.lineage})
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.reference is not None:
            self._restore_reference(Path(resume_from_checkpoint, _STATE))

    def _restore_reference(self, folder: Path) -> None:
        assert self.reference is not None
        if not (folder / "lineage.json").is_file():
            raise InputError(f"{folder.parent} holds no reference: OWPOTrainer did not write it")
        with input_errors(str(folder)):
            self.reference.load(folder / "reference")
        self.lineage = read_sealed(folder / "lineage.json")["lineage"]
        if self.reference.hash() != self.lineage[-1]["hash"]:
            raise InputError(f"{folder / 'reference'} is not the reference of this checkpoint; restore it")

    # ------------------------------------------------------------ the batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        size = self.num_generations if self.model.training else self.num_generations_eval
        if len(inputs) % size:
            raise InputError(
                f"{len(inputs)} responses a process are no whole groups of {size}: make "
                "per_device_train_batch_size * steps_per_generation a multiple of num_generations"
            )
        output = super()._generate_and_score_completions(inputs)
        if "pixel_values" in output:
            raise InputError("OWPOTrainer is made for text, and the batch has images; use TRL's GRPOTrainer")
        advantage = output["advantages"]
        output["group"] = torch.arange(len(advantage), device=advantage.device) // size
        output["active"] = top_active(advantage.view(-1, size), self._num_active(size)).flatten()
        return output

    def _num_active(self, size: int) -> int:
        """The curriculum is counted in rollouts, the settings in optimiser steps."""
        host = self.args.host
        length = host.move_every or self.state.max_steps - host.first_step
        stage = replace(host, move_every=None, first_step=0)
        return stage.num_active(self._rollout_step, length // self._updates_a_rollout, size)

    @property
    def _updates_a_rollout(self) -> int:
        return self.args.steps_per_generation * self.num_iterations // self.args.gradient_accumulation_steps

    @property
    def _rollout_step(self) -> int:
        """Rollouts since the reference moved."""
        step = max(self.state.global_step, self.args.first_step)
        return self.args.host.step_of_stage(step) // self._updates_a_rollout

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        inputs = super()._prepare_inputs(generation_batch)
        if self.model.training and self._buffered_inputs is not self._counted:
            self._counted, every = self._buffered_inputs, self.args.gradient_accumulation_steps
            for start in range(0, len(self._buffered_inputs), every):
                self._count(self._buffered_inputs[start : start + every])
        elif not self.model.training:
            self._count([inputs])
        return inputs

    def _count(self, parts: list[dict[str, Any]]) -> None:
        """Note with the micro-batches of an optimiser step what it holds over all processes."""
        tokens = torch.cat([_mask(part).sum(dim=1) for part in parts])
        group = torch.cat([part["group"] for part in parts])
        by_group = tokens.new_zeros(int(group.max()) + 1).index_add_(0, group, tokens)
        own = torch.stack(
            [tokens.sum(), tokens.new_tensor(len(tokens)), tokens.new_tensor(len(group.unique()))]
        )
        total = self.accelerator.reduce(own, reduction="sum").tolist()
        for part in parts:
            part["counts"] = StepCounts(
                tokens=total[0], sequences=total[1], prompts=total[2], max_tokens=self.max_completion_length
            )
            part["group_tokens"] = by_group[part["group"]]

    # ------------------------------------------------------------ the loss

    def _score(self, model: Any, inputs: Mapping[str, Any], with_entropy: bool) -> tuple[Tensor, Any]:
        """Log-probs and, where the model gives them, entropies; [B, T] float32."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].size(1)
        found = self._get_per_token_logps_and_entropies(model, ids, seen, width, compute_entropy=with_entropy)
        logp, entropy = found[:2]
        return _float(logp), entropy

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        mask = _mask(inputs)
        logp, entropy = self._score(model, inputs, with_entropy=True)
        known = {name: _float(value) for name, value in inputs.items() if name.endswith("_logps")}
        result = self.objective(
            TokenBatch(
                logp=logp,
                old_logp=known.get("old_per_token_logps", logp.detach()),
                ref_logp=known.get("ref_per_token_logps"),
                sampler_logp=known.get("sampling_per_token_logps"),
                advantage=inputs["advantages"].to(logp.dtype),
                mask=mask,
                active=inputs["active"],
                step=self._rollout_step,
            )
        )
        loss = result.loss * inputs.get("importance_sampling_ratio", 1.0)
        mode = self.args.reduction or self.objective.scaffold.reduction
        weight = reduction_weights(mask, mode, inputs["counts"], inputs["group_tokens"], dtype=logp.dtype)
        is_trained = mask
        if not self.objective.needs.zero_advantage:
            is_trained = mask & (inputs["advantages"] != 0).unsqueeze(1)
        self._log({**result.stats, "entropy": entropy}, is_trained)
        return (loss * weight).sum() * self.accelerator.num_processes  # whose gradients are averaged

    def _log(self, stats: Mapping[str, Tensor], mask: Tensor) -> None:
        """Every per-token statistic's mean, over the trained tokens of all processes that have it."""
        known = [value[mask].double() for value in stats.values()]
        pairs = torch.stack([torch.stack([v.nansum(), (~v.isnan()).sum().double()]) for v in known])
        totals = self.accelerator.reduce(pairs, reduction="sum").tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        self.logged_stats.update(stats)
        for name, (total, count) in zip(stats, totals, strict=True):
            metrics[name].append(total / count if count else float("nan"))


class _Moves(TrainerCallback):
    def __init__(self, trainer: OWPOTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        has_begun = args.move_every is not None and state.global_step > args.first_step
        if has_begun and args.host.step_of_stage(state.global_step) == 0:
            self.trainer.move_reference()


def _mask(inputs: Mapping[str, Any]) -> Tensor:
    """[B, T] bool: response tokens that are trained on."""
    mask = inputs["completion_mask"]
    return (mask * inputs["tool_mask"] if "tool_mask" in inputs else mask).bool()


def _float(logp: Tensor) -> Tensor:
    """Deviations are read at a scale that bfloat16 does not resolve."""
    return logp if logp.dtype == torch.float64 else logp.float()
