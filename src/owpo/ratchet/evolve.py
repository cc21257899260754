"""A whole run: stage after stage, each against the reference that the plan names.

for each stage:  take the start weights -> take the reference -> train -> keep its best -> checkpoint
"""

from __future__ import annotations

from owpo.errors import InputError, Interrupted, RunFailed
from owpo.policy.load import check_same_vocabulary
from owpo.ratchet.closing import close_run
from owpo.ratchet.plan import Stage, Weights, plan_stages
from owpo.runs.progress import Progress
from owpo.training.session import Session
from owpo.training.stage import Reference, Task, train_stage


def evolve(session: Session) -> None:
    """Train from wherever the run stands to the end of the plan, then measure the closing table.

    Raises:
        Interrupted: a stop was asked for; the state is saved.
        RunFailed: the policy broke, by updates that were not finite or by logits that are not.
    """
    plan = plan_stages(session.config.ratchet, session.config.objective)
    try:
        for stage in plan[session.progress.stage :]:
            _train(session, stage, plan)
            session.save_checkpoint()
    except Interrupted:
        session.save_checkpoint()
        raise
    except FloatingPointError as error:
        raise RunFailed(
            f"{error}. The last checkpoint in {session.folder.checkpoints.folder} is from before; the kept versions "
            f"are in {session.folder.versions.folder}. Start again with a lower training.learning_rate"
        ) from error
    close_run(session)


def _train(session: Session, stage: Stage, plan: list[Stage]) -> None:
    progress = session.progress
    if progress.step == 0:
        _take_start(session, stage)
    reference = _take_reference(session, stage, plan)
    session.display.stage(stage.number, str(stage))
    train_stage(
        session,
        Task(
            number=stage.number,
            lineage=stage.lineage,
            objective=stage.objective.build(),
            steps=stage.steps,
            reference=reference,
        ),
    )
    _finish(session, stage)


def _take_start(session: Session, stage: Stage) -> None:
    """Begin with the weights that the plan names and a new optimiser, or go on with both."""
    if stage.start is None:
        return
    version = version_of(stage.start, session.progress)
    session.folder.versions.load_into(session.policy, version)
    session.restart_optimizer()
    session.progress.stage_start = version


def _take_reference(session: Session, stage: Stage, plan: list[Stage]) -> Reference | None:
    """Load the stage's reference; one that differs from what the checkpoint recorded is refused."""
    progress, versions = session.progress, session.folder.versions
    if stage.reference is None:
        progress.reference = None
        return None
    id = version_of(stage.reference, progress)
    version = versions.describe(id)
    recorded = progress.reference
    if progress.step > 0 and recorded != {"version": id, "hash": version.hash}:
        raise InputError(
            f"the checkpoint was made against the reference {recorded}, but {versions.folder / id} now holds "
            f"hash {version.hash}; restore that folder"
        )
    policy = session.load_version(id)
    check_same_vocabulary(session.policy, policy)
    progress.reference = {"version": id, "hash": version.hash}
    before = plan[stage.number - 2].reference if stage.number > 1 else None
    return Reference(
        policy=policy,
        version=version,
        reason=stage.reason,
        outgoing=(lambda: session.load_version(version_of(before, progress))) if before is not None else None,
    )


def version_of(weights: Weights, progress: Progress) -> str:
    """The version that plays a role of the plan."""
    if weights.kind == "best":
        return progress.stage_best[str(weights.stage)]
    if weights.kind == "last":
        return progress.stage_last[str(weights.stage)]
    return {"base": "base", "given": "reference"}[weights.kind]


def _finish(session: Session, stage: Stage) -> None:
    """Note the stage's best (and last, where a later stage needs it) and step to the next stage."""
    progress = session.progress
    assert progress.best is not None, "the end of a stage is always evaluated"
    progress.stage_best[str(stage.number)] = progress.best["version"]
    if stage.keep_last:
        version = session.folder.versions.add(
            session.policy,
            f"stage{stage.number}-end",
            parent=progress.stage_start,
            stage=stage.number,
            step=stage.steps,
            reason=f"end of stage {stage.number}",
        )
        progress.stage_last[str(stage.number)] = progress.stage_start = version.id
    progress.stage += 1
    progress.step = 0
    progress.evaluated_step = -1
    progress.best = None
