"""A whole run: stage after stage, each against the reference that the stages before have earned.

for each stage:  take the start weights -> take the reference -> train -> propose a candidate -> checkpoint
"""

from __future__ import annotations

from owpo.config import FixedProtocol
from owpo.errors import InputError, Interrupted, RunFailed
from owpo.hosting.stage import host_stage
from owpo.policy.load import check_same_vocabulary
from owpo.ratchet.candidate import begin_lineage, gate_of, propose
from owpo.ratchet.closing import close_run
from owpo.ratchet.plan import Stage, Weights, plan_stages
from owpo.training.reference import Reference
from owpo.training.session import Session
from owpo.training.stage import Task, train_stage


def evolve(session: Session) -> None:
    """Train from wherever the run stands to the end of the plan, then measure the closing table.

    Raises:
        Interrupted: a stop was asked for; the state is saved.
        RunFailed: the policy broke, by updates that were not finite or by logits that are not.
    """
    plan = plan_stages(session.config.ratchet, session.config.objective)
    try:
        for stage in plan[session.progress.stage :]:
            _train(session, stage)
            _finish(session, stage)
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


def _train(session: Session, stage: Stage) -> None:
    session.display.stage(stage.number, str(stage))
    if session.progress.step == 0:
        if not session.progress.references:  # there are some already where a stop came before the first step
            begin_lineage(session, stage)
        _take_start(session, stage)
    train = train_stage if session.config.run.engine == "local" else host_stage
    train(
        session,
        Task(
            number=stage.number,
            lineage=stage.lineage,
            objective=stage.objective.build(),
            steps=stage.steps,
            reference=_take_reference(session, stage),
        ),
    )


def _take_start(session: Session, stage: Stage) -> None:
    """Begin with the weights that the plan names and a new optimiser, or go on with both.

    Where the lineage's last candidate was refused, or has passed, the gate may say otherwise.
    """
    progress, gate = session.progress, gate_of(session.config)
    start = _version_of(stage.start, session) if stage.start is not None else None
    wants_new_optimizer = False
    if gate is not None and stage.lineage in progress.refused:
        if gate.on_refusal == "roll_back":
            start = progress.passed.get(stage.lineage, "base")
        wants_new_optimizer = gate.on_refusal == "restart_optimizer"
    elif gate is not None and stage.lineage in progress.passed:
        wants_new_optimizer = gate.on_move == "restart_optimizer"
    if start is not None:
        session.folder.versions.load_into(session.policy, start)
        progress.stage_start = start
        wants_new_optimizer = True
    if wants_new_optimizer:
        session.restart_optimizer()


def _version_of(weights: Weights, session: Session) -> str:
    """The version that plays a role of the plan."""
    return session.progress.stage_best[str(weights.stage)] if weights.kind == "best" else "base"


def _take_reference(session: Session, stage: Stage) -> Reference | None:
    """Load the reference in force; one that differs from what the checkpoint recorded is refused."""
    progress, versions = session.progress, session.folder.versions
    if stage.reference is None:
        progress.reference = None
        return None
    version = versions.describe(progress.references[-1])
    now = {"version": version.id, "hash": version.hash}
    if progress.step > 0 and progress.reference != now:
        raise InputError(
            f"the checkpoint was made against the reference {progress.reference}, but {versions.folder / version.id} "
            f"now holds hash {version.hash}; restore that folder"
        )
    policy = session.load_version(version.id)
    check_same_vocabulary(session.policy, policy)
    progress.reference = now
    has_moved = len(progress.references) > 1 and version.stage == stage.number - 1
    outgoing = progress.references[-2] if has_moved else None
    return Reference(
        policy=policy,
        version=version,
        outgoing=(lambda: session.load_version(outgoing)) if outgoing is not None else None,
    )


def _finish(session: Session, stage: Stage) -> None:
    """Propose the stage's candidate as the reference, note its best, and step to the next stage.

    Everything that may be interrupted comes before the first change of `progress`.
    """
    progress = session.progress
    assert progress.best is not None, "the end of a stage is always evaluated"
    if stage.candidate is not None:
        propose(session, stage)
    progress.stage_best[str(stage.number)] = progress.best["version"]
    if not isinstance(session.config.ratchet, FixedProtocol):
        kept = list(progress.stage_best)[-session.config.ratchet.keep_references :]
        progress.stage_best = {number: progress.stage_best[number] for number in kept}
    progress.stage += 1
    progress.step = 0
    progress.evaluated_step = -1
    progress.best = None
