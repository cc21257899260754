"""The end of a stage: its candidate is measured, held against the reference in force, and written down.

for each candidate:  drift from the reference and from the first one -> gate, where there is one -> lineage.jsonl

Shape legend: C checkpoints of a stage, N problems.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from owpo.config import FixedProtocol, GateConfig, RunConfig
from owpo.policy.logprobs import reference_logprobs
from owpo.ratchet.gate import Decision, Evidence, decide
from owpo.ratchet.plan import Stage
from owpo.runs.versions import Version
from owpo.seeds import derive_seed
from owpo.training.session import Session
from owpo.training.update import token_divergence


@dataclass(frozen=True)
class Drift:
    """Between two policies, at the tokens that the first one sampled.

    kl         KL(first || second) in nats a token, by k3: unbiased and never negative
    abs_delta  mean |log ratio|, which is |delta| whatever the advantage's sign
    """

    kl: float
    abs_delta: float


def gate_of(config: RunConfig) -> GateConfig | None:
    return None if isinstance(config.ratchet, FixedProtocol) else config.ratchet.gate


def begin_lineage(session: Session, stage: Stage) -> None:
    """The run's first reference, which every protocol that moves starts from: the base (Algorithm 1)."""
    if isinstance(session.config.ratchet, FixedProtocol):
        if stage.reference is None:
            return
        root = "base" if stage.reference.kind == "base" else "reference"
    else:
        root = "base"
    session.progress.references = [root]
    version = session.folder.versions.describe(root)
    session.folder.logs["lineage"].append(
        {**_identity(version), "accepted": True, "reasons": ["the first one"], "in_force": root}
    )


def propose(session: Session, stage: Stage) -> None:
    """Make the stage's candidate the reference, unless there is a gate and it does not pass.

    Nothing of the run's state changes before everything is measured, so a stop in between loses nothing.

    Raises:
        Interrupted: a stop was asked for while sampling.
    """
    evaluations = _evaluations(session, stage)
    candidate = _candidate(session, stage, evaluations)
    drift = _measure_drift(session, stage, candidate)
    decision = _pass_gate(session, stage, candidate, evaluations, drift["reference"].kl)
    in_force = session.progress.references[-1]
    _move(session, stage, candidate, accepted=decision is None or decision.accepted)
    record = {
        **_identity(candidate),
        "lineage": stage.lineage,
        "held_against": in_force,
        "accepted": decision is None or decision.accepted,
        "reasons": decision.reasons if decision is not None else ["no gate"],
        "in_force": session.progress.references[-1],
        **{key: _record_of(candidate, evaluations)[key] for key in ("accuracy", "low", "high")},
        "drift": {name: asdict(value) for name, value in drift.items()},
        "gate": decision.to_json() if decision is not None else None,
    }
    session.folder.logs["lineage"].append(record)
    session.display.candidate(record)


def _evaluations(session: Session, stage: Stage) -> list[dict[str, Any]]:
    """The stage's evaluations on the selection set that its candidate was chosen by: one where none was chosen."""
    records = session.folder.logs["evaluations"].records()
    mine = [record for record in records if record["stage"] == stage.number]
    return mine[-1:] if stage.candidate == "last" else mine


def _candidate(session: Session, stage: Stage, evaluations: list[dict[str, Any]]) -> Version:
    progress, versions = session.progress, session.folder.versions
    if stage.candidate == "best":
        assert progress.best is not None, "the end of a stage is always evaluated"
        return versions.describe(progress.best["version"])
    return versions.add(
        session.policy,
        f"stage{stage.number}-end",
        parent=progress.stage_start,
        stage=stage.number,
        step=progress.step,
        reason=f"end of stage {stage.number}",
        score=evaluations[-1]["accuracy"],
    )


def _record_of(candidate: Version, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    return next(record for record in evaluations if record["step"] == candidate.step)


def _measure_drift(session: Session, stage: Stage, candidate: Version) -> dict[str, Drift]:
    """How far the candidate is from the reference in force and from the first one, on the selection problems.

    It answers them as training samples, from its full distribution at the training's temperature, which the KL is of.
    """
    config, references = session.config, session.progress.references
    settings = (config.rollout.temperature, config.training.micro_batch_tokens)
    policy = session.load_version(candidate.id)
    responses = session.respond(policy, candidate.id, derive_seed(config.seed, "drift", stage.number))
    logp_BT = reference_logprobs(policy, responses, *settings)
    del policy

    def drift_from(id: str) -> Drift:
        other_BT = reference_logprobs(session.load_version(id), responses, *settings)
        mask = responses.mask
        return Drift(
            kl=token_divergence(logp_BT, other_BT)[mask].double().mean().item(),
            abs_delta=(logp_BT - other_BT)[mask].double().abs().mean().item(),
        )

    by_version = {id: drift_from(id) for id in dict.fromkeys((references[-1], references[0]))}
    return {"reference": by_version[references[-1]], "first": by_version[references[0]]}


def _pass_gate(
    session: Session, stage: Stage, candidate: Version, evaluations: list[dict[str, Any]], kl: float
) -> Decision | None:
    """Hold the candidate against the reference in force, which answers the selection problems anew; None: no gate."""
    config = session.config
    gate = gate_of(config)
    if gate is None:
        return None
    in_force = session.progress.references[-1]
    reference = session.evaluate_selection(
        session.load_version(in_force), in_force, derive_seed(config.seed, "gate", stage.number)
    )
    mine = _record_of(candidate, evaluations)
    evidence = Evidence(
        checkpoint_CN=torch.tensor([r["correct_by_problem"] for r in evaluations]).double()
        / config.evaluation.samples,
        chosen=evaluations.index(mine),
        reference_N=reference.correct_NK.double().mean(dim=1),
        tail=mine["response_length_p95"],
        reference_tail=reference.response_length_p95,
        truncated_share=mine["truncated_share"],
        reference_truncated_share=reference.truncated_share,
        kl=kl,
    )
    return decide(evidence, gate, derive_seed(config.seed, "gate test", stage.number))


def _move(session: Session, stage: Stage, candidate: Version, *, accepted: bool) -> None:
    """The run's state after the decision; references that are further back than the run keeps are forgotten."""
    progress, protocol = session.progress, session.config.ratchet
    assert not isinstance(protocol, FixedProtocol)
    if stage.candidate == "last":
        progress.stage_start = candidate.id  # where the learner goes on from
    progress.refused = [lineage for lineage in progress.refused if lineage != stage.lineage]
    if not accepted:
        progress.refused.append(stage.lineage)
        return
    progress.references.append(candidate.id)
    progress.passed[stage.lineage] = candidate.id
    first, *moved = progress.references
    progress.references = [first, *moved[-protocol.keep_references :]]


def _identity(version: Version) -> dict[str, Any]:
    return {
        "stage": version.stage,
        "step": version.step,
        "candidate": version.id,
        "hash": version.hash,
        "parent": version.parent,
    }
