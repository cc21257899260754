"""One stage of training: the method's Algorithm 1 between two moves of the reference.

    repeat:  roll out G responses per prompt -> verify -> advantages -> active samples
             -> reference log-probs -> weights -> updates

Progress changes only at the end of a step. Until its updates begin a step may be left at any moment (a stop is
looked for while sampling), and doing it again gives the same result.

Shape legend: P prompts, G responses per prompt, B = P * G sequences, T response tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from owpo.clock import PhaseClock
from owpo.core.advantage import estimate_advantage
from owpo.core.deviation import active_count, top_active
from owpo.core.registry import Objective
from owpo.errors import RunFailed
from owpo.evaluation.answers import Groups
from owpo.evaluation.guard import check_failures, check_readable, examples
from owpo.seeds import derive_seed
from owpo.training.alarms import ends_stage, raised
from owpo.training.noise import is_noisy, noise_warning
from owpo.training.record import merge_updates, some_rollouts, timing_of
from owpo.training.reference import Reference, measure_move
from owpo.training.rollout import Rollout, collect_rollout, shaped_reward
from owpo.training.session import Session
from owpo.training.tokens import recorded_rows, training_records, watched_records
from owpo.training.update import (
    TrainingRows,
    UpdateResult,
    add_old_logp,
    add_ref_logp,
    optimiser_update,
    rows_with_gradient,
    rows_with_reference,
)
from owpo.verify.verdict import FAILURES


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one stage is to do: `number` is 1-based, `steps` are rollout steps."""

    number: int
    lineage: str
    objective: Objective
    steps: int
    reference: Reference | None


def train_stage(session: Session, task: Task) -> None:
    """From wherever `session.progress` stands in the stage to its end: its last step, or an alarm that ends it."""
    config, progress = session.config, session.progress
    warning = noise_warning(config.verifier)
    if warning is not None:
        session.display.warn(warning)
    records = session.folder.logs["metrics"].records()
    while True:
        is_over = progress.step == task.steps or ends_stage(records, task.number, config.alarms)
        if _evaluation_is_due(session, is_over):
            evaluate_and_keep_best(session, task)
        if is_over:
            return
        session.stop.check()
        records.append(train_step(session, task))
        raise_alarms(session, task, records)
        if progress.step % config.run.checkpoint_every == 0:
            session.save_checkpoint()


def train_step(session: Session, task: Task) -> dict[str, Any]:
    """One rollout batch and its optimiser updates; its line of metrics.jsonl."""
    config, progress = session.config, session.progress
    place = (task.number, progress.step)
    tokens: list[dict[str, Any]] = []
    if progress.step == 0 and config.run.watched_problems > 0:
        tokens += _watch(session, task, session.answer_watched())
    clock = PhaseClock()

    with clock("sampling"), session.display.phase("sampling", None) as advance:
        wants_mixed_groups = config.rollout.dynamic_sampling
        if wants_mixed_groups is None:
            wants_mixed_groups = task.objective.scaffold.dynamic_sampling
        rollout = collect_rollout(
            session.sampler(),
            session.order,
            progress.cursor,
            session.verifier,
            config.rollout,
            config.verifier,
            stop=config.stop,
            dynamic_sampling=wants_mixed_groups,
            seed=derive_seed(config.seed, "rollout", *place),
            clock=clock,
            on_batch=session.watching(advance),
        )
    _check_verdicts(session, rollout)
    if rollout.is_short and progress.short_batches == 0:
        session.display.warn(
            f"{config.rollout.max_rounds} rounds of sampling found only {rollout.stats['groups_kept']} of "
            f"{config.rollout.prompts} groups with both right and wrong answers; going on with those, now and "
            "whenever it happens again (metrics.jsonl counts it as short_batches)"
        )
    rows, results, move = None, [], None
    if rollout.groups is not None:
        assert rollout.rewarded_PG is not None
        rows = _rows_of(rollout.groups, rollout.rewarded_PG, session, task)
        with clock("reference"):
            shares = _shares(rows, session, task)
            rows = _with_log_probs(rows, shares, session, task)
            if progress.step == 0 and task.reference is not None:
                move = _measure_move(rows, session, task.reference, task.objective)
        with clock("updating"):
            results = _update(rows, shares, session, task)
            values = {row: value for result in results for row, value in result.tokens.items()}
            tokens += [
                {"step": progress.step + 1, **record}
                for record in training_records(session.policy, rollout.groups, rows, values)
            ]

    metrics = _log_step(session, task, rollout, rows, results, move, clock)
    _log_tokens(session, task, tokens)
    progress.cursor += rollout.num_drawn
    progress.short_batches += rollout.is_short
    progress.step += 1
    progress.total_steps += 1
    return metrics


def _check_verdicts(session: Session, rollout: Rollout) -> None:
    progress, settings = session.progress, session.config.verifier
    if progress.first_unparseable_share is None:
        progress.first_unparseable_share = rollout.stats["unparseable_share"]
    check_failures(rollout.judged, settings.max_failed_share)
    failed = rollout.stats["timeout_share"] + rollout.stats["error_share"]
    if failed > 0:
        session.display.warn(
            f"{failed:.1%} of the verdicts of step {progress.step + 1} are timeouts or errors, and count as wrong; "
            f"for example {examples(rollout.judged, FAILURES, 1)}"
        )
    check_readable(rollout.judged, progress.first_unparseable_share, settings.max_unparseable_rise)


def _rows_of(groups: Groups, rewarded_PG: Tensor, session: Session, task: Task) -> TrainingRows:
    """Advantages and active samples: all that needs the group, decided before any split."""
    config = session.config
    estimator = config.training.advantage or task.objective.scaffold.advantage
    reward_PG = shaped_reward(rewarded_PG, groups.responses.lengths, config.rollout)
    advantage_PG = estimate_advantage(reward_PG, estimator)
    size = advantage_PG.shape[1]
    num_active = size
    if config.training.active_samples == "curriculum":
        num_active = active_count(session.progress.step, task.steps, size)
    device = groups.responses.tokens.device
    rows = TrainingRows(
        responses=groups.responses,
        group=torch.arange(len(advantage_PG)).repeat_interleave(size).to(device),
        advantage=advantage_PG.flatten().to(device),
        active=top_active(advantage_PG, num_active).flatten().to(device),
        step=session.progress.step,
    )
    if session.progress.step % config.run.token_every == 0:
        rows = recorded_rows(rows, task.objective, config.run.token_rollouts)
    return rows


def _shares(rows: TrainingRows, session: Session, task: Task) -> list[Tensor]:
    """Which rows each optimiser update of the batch trains on: its own share of the prompts, in random order."""
    seed = derive_seed(session.config.seed, "updates", task.number, session.progress.step)
    num_prompts = int(rows.group.max()) + 1
    order = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(seed)).to(rows.group.device)
    num_updates = min(session.config.training.updates_per_batch, num_prompts)
    return [
        torch.isin(rows.group, prompts).nonzero().flatten() for prompts in order.tensor_split(num_updates)
    ]


def _with_log_probs(rows: TrainingRows, shares: list[Tensor], session: Session, task: Task) -> TrainingRows:
    """Only what the objective reads, and only of rows that have a gradient."""
    config, needs = session.config, task.objective.needs
    settings = (config.rollout.temperature, config.training.micro_batch_tokens)
    if needs.old_logp or needs.prepared:
        # The first update's own forward pass is the old policy, unless its weights have to be prepared.
        later = torch.cat(shares if needs.prepared else [shares[0][:0], *shares[1:]])
        trained = rows_with_gradient(rows, task.objective)
        if len(later):
            index = trained[torch.isin(trained, later)]
            rows = add_old_logp(session.policy, rows, index, *settings)
    if needs.reference:
        assert task.reference is not None
        rows = add_ref_logp(task.reference.policy, rows, rows_with_reference(rows, task.objective), *settings)
    return rows


def _measure_move(
    rows: TrainingRows, session: Session, reference: Reference, objective: Objective
) -> dict[str, Any]:
    config = session.config
    return measure_move(
        session.policy,
        reference,
        objective,
        rows.rows(rows_with_gradient(rows, objective)),
        temperature=config.rollout.temperature,
        micro_batch_tokens=config.training.micro_batch_tokens,
        seed=derive_seed(config.seed, "move", session.progress.stage + 1),
    )


def _update(rows: TrainingRows, shares: list[Tensor], session: Session, task: Task) -> list[UpdateResult]:
    """The batch's optimiser updates, each on its own share."""
    config, progress = session.config, session.progress
    seed = derive_seed(config.seed, "updates", task.number, progress.step)
    results = []
    for number, index in enumerate(shares):
        share = rows.rows(index)
        if number == 0 and not task.objective.needs.prepared:
            share = replace(share, old_logp=None)
        for group in session.optimizer.param_groups:
            group["lr"] = learning_rate(
                config.training.learning_rate, config.training.warmup_updates, progress.updates
            )
        result = optimiser_update(
            session.policy,
            session.optimizer,
            task.objective,
            share,
            reduction=config.training.reduction or task.objective.scaffold.reduction,
            max_tokens=config.rollout.max_new_tokens,
            temperature=config.rollout.temperature,
            micro_batch_tokens=config.training.micro_batch_tokens,
            grad_clip=config.training.grad_clip,
            gradient_checkpointing=config.training.gradient_checkpointing,
            seed=derive_seed(seed, number),
        )
        results.append(result)
        if result.bad is None:
            progress.bad_updates = 0
            progress.updates += result.num_tokens > 0
        else:
            progress.bad_updates += 1
            _keep_bad_update(session, task, share, result.bad, number)
    return results


def learning_rate(peak: float, warmup_updates: int, updates_done: int) -> float:
    """Linear from peak / warmup_updates to peak, then constant."""
    return peak * min(1.0, (updates_done + 1) / max(warmup_updates, 1))


def _keep_bad_update(session: Session, task: Task, rows: TrainingRows, reason: str, number: int) -> None:
    """Write down what led to a non-finite loss or gradient; after too many in a row the run ends."""
    folder = session.folder.path / "bad_updates"
    folder.mkdir(exist_ok=True)
    name = f"stage{task.number}-step{session.progress.step}-update{number}"
    save_file(
        {key: value.contiguous() for key, value in rows.tensors().items()}, folder / f"{name}.safetensors"
    )
    note = {"reason": reason, "objective": task.objective.name, "prompts": rows.responses.prompts}
    (folder / f"{name}.json").write_text(json.dumps(note), encoding="utf-8")
    session.display.warn(f"update skipped, {reason}; its batch is in {folder / name}.safetensors")
    limit = session.config.training.max_bad_updates
    if session.progress.bad_updates >= limit:
        raise RunFailed(
            f"{limit} updates in a row had a non-finite loss or gradient (the last: {reason}). The batches are in "
            f"{folder}; the last checkpoint is untouched. A lower training.learning_rate or training.grad_clip, or "
            "run.dtype float32, is the usual mend"
        )


def raise_alarms(session: Session, task: Task, records: list[dict[str, Any]]) -> None:
    """Log and show the alarms of the step whose record is the last."""
    place = {"stage": task.number, "lineage": task.lineage, "step": records[-1]["step"]}
    action = session.config.alarms.action
    for alarm in raised(records, session.config.alarms):
        session.folder.logs["alarms"].append({**place, **alarm.to_json(), "action": action})
        session.display.alarm(alarm, ends_stage=action == "end_stage")


def _evaluation_is_due(session: Session, stage_is_over: bool) -> bool:
    step = session.progress.step
    due = stage_is_over or (step > 0 and step % session.config.evaluation.every == 0)
    return due and session.progress.evaluated_step != step


def evaluate_and_keep_best(session: Session, task: Task) -> None:
    """Score the policy on the selection set; the stage's best is kept as a version, ties go to the earlier."""
    progress = session.progress
    groups = session.answer_selection()
    result = session.evaluation(groups)
    score = result.accuracy.mean
    is_best = progress.best is None or score > progress.best["score"]
    if is_best:
        version = session.folder.versions.add(
            session.policy,
            f"stage{task.number}-step{progress.step}",
            parent=progress.stage_start,
            stage=task.number,
            step=progress.step,
            reason=f"best of stage {task.number} so far on the selection set",
            score=score,
        )
        progress.best = {"version": version.id, "score": score}
    progress.evaluated_step = progress.step
    record = {"stage": task.number, "lineage": task.lineage, "step": progress.step, "set": "selection"}
    by_problem = result.correct_NK.sum(dim=1).tolist()
    session.folder.logs["evaluations"].append(
        {**record, "best": is_best, **result.to_json(), "correct_by_problem": by_problem}
    )
    _log_tokens(session, task, _watch(session, task, groups))
    session.display.evaluation(task.number, progress.step, result, is_best)
    session.track(progress.total_steps, selection={"accuracy": score})


def _watch(session: Session, task: Task, groups: Groups) -> list[dict[str, Any]]:
    """Token records of the watched problems, whose answers come first in `groups`."""
    config, step = session.config, session.progress.step
    if config.run.watched_problems == 0:
        return []
    records = watched_records(
        session.policy,
        groups,
        config.run.watched_problems,
        task.objective,
        task.reference,
        temperature=config.rollout.temperature,
        micro_batch_tokens=config.training.micro_batch_tokens,
        seed=derive_seed(config.seed, "watched", task.number, step),
    )
    return [{"step": step, **record} for record in records]


def _log_tokens(session: Session, task: Task, records: list[dict[str, Any]]) -> None:
    reference = task.reference.version.id if task.reference is not None else None
    place = {"stage": task.number, "lineage": task.lineage, "reference": reference}
    if records:
        session.folder.logs["tokens"].append(*({**place, **record} for record in records))


def _log_step(
    session: Session,
    task: Task,
    rollout: Rollout,
    rows: TrainingRows | None,
    results: list[UpdateResult],
    move: dict[str, Any] | None,
    clock: PhaseClock,
) -> dict[str, Any]:
    """One line in each log, one on the screen; the metrics. Nothing depends on the clock but timing.jsonl."""
    progress, logs, reference = session.progress, session.folder.logs, task.reference
    place = {"stage": task.number, "lineage": task.lineage, "step": progress.step + 1}
    metrics = {
        **place,
        "total_step": progress.total_steps + 1,
        "objective": task.objective.name,
        "reference": reference.version.id if reference is not None else None,
        **rollout.stats,
        "short_batches": progress.short_batches + rollout.is_short,
        "active_share": rows.active.double().mean().item() if rows is not None else None,
        **merge_updates(results),
        "learning_rate": session.optimizer.param_groups[0]["lr"],
    }
    timing = {**place, **timing_of(clock, metrics["sampled_tokens"])}
    logs["metrics"].append(metrics)
    logs["timing"].append(timing)
    if rollout.groups is not None and rows is not None:
        told_PG = rollout.rewarded_PG if is_noisy(session.config.verifier) else None
        for record in some_rollouts(rollout.groups, told_PG, rows, session.config.run.rollouts_per_step):
            logs["rollouts"].append({**place, **record})
    if progress.step == 0 and reference is not None:
        version = {"reference": reference.version.id, "hash": reference.version.hash}
        move = move or {"before": None, "after": None}
        logs["moves"].append({**place, **version, "learner_from": progress.stage_start, **move})
    session.display.step(metrics, timing, task.steps)
    session.track(metrics["total_step"], metrics=metrics, timing=timing)
    return metrics
