"""One stage of training by a host: TRL or verl. The counterpart of `training.stage`.

    start weights -> job -> the host's processes -> a policy at every step that is to be evaluated
                  -> evaluated here, one after another, the best kept

The host's optimiser lives in its own checkpoints. A stage that goes on with the optimiser goes on in the host's folder,
against another reference; one with a new optimiser begins another folder.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import Any

import torch

from owpo.disk.files import atomic_folder, write_text
from owpo.errors import InputError, RunFailed
from owpo.hosting.process import run_host
from owpo.hosting.prompts import prompt_as_given
from owpo.hosts.job import Job
from owpo.policy.load import load_weights, save_policy
from owpo.training.session import Session
from owpo.training.stage import Task, evaluate_and_keep_best, raise_alarms

_MODULES = {"trl": "owpo.hosts.trl_job", "verl": "owpo.hosts.verl_job"}


def host_stage(session: Session, task: Task) -> None:
    """From wherever `session.progress` stands in the stage to its end.

    Raises:
        Interrupted: a stop was asked for; the host goes on from its own checkpoint.
        RunFailed: the host failed.
    """
    config, progress = session.config, session.progress
    job = _job(session, task)
    if progress.step == 0:
        _train(session, task, job)
    for step in job.export_steps:
        done = step - job.first_step
        if done <= progress.evaluated_step:
            continue
        session.stop.check()
        load_weights(session.policy, job.export_folder(step))
        progress.total_steps += done - progress.step
        progress.step = done
        evaluate_and_keep_best(session, task)
        session.save_checkpoint()
    progress.host_steps = job.last_step
    progress.updates = job.last_step * config.training.updates_per_batch
    shutil.rmtree(job.path / "exports", ignore_errors=True)


def _job(session: Session, task: Task) -> Job:
    """What the host is to do; the same at every resume of the stage."""
    config, progress, policy = session.config, session.progress, session.policy
    if progress.step == 0 and progress.updates == 0:  # the optimiser is new
        progress.host_folder, progress.host_steps = task.number, 0
    first, every = progress.host_steps, config.evaluation.every
    due = [step for step in range(1, task.steps + 1) if step % every == 0 or step == task.steps]
    folder = (session.folder.path / "host" / str(progress.host_folder)).absolute()
    reference = None
    if task.reference is not None:
        reference = str((session.folder.versions.folder / task.reference.version.id).absolute())
    longest = max(
        len(policy.encode(problem.prompt, special_tokens=not problem.is_chat))
        for problem in session.order.problems
    )
    if config.run.engine == "verl" and longest + config.rollout.max_new_tokens > config.verl.tokens_per_gpu:
        raise InputError(
            f"verl.tokens_per_gpu = {config.verl.tokens_per_gpu} is less than the longest prompt ({longest} tokens) "
            f"and rollout.max_new_tokens = {config.rollout.max_new_tokens} together; raise it"
        )
    return Job(
        folder=str(folder),
        model=str(folder / "start"),
        reference=reference,
        objective={"name": task.objective.name, **asdict(task.objective.config)},
        first_step=first,
        last_step=first + task.steps,
        export_steps=[first + step for step in due],
        prompt_tokens=longest,
        config=config.model_dump(mode="json"),
    )


def _train(session: Session, task: Task, job: Job) -> None:
    """Run the host up to the stage's last step; its steps go into the run's logs as they come."""
    config = session.config
    _hand_over(session, job)
    steps = _Steps(session, task, job)
    if not job.is_done:
        device = session.policy.device
        session.display.note(f"{config.run.engine} trains; what it prints is in {job.path / 'host.log'}")
        _put_on(session, task, "cpu")
        try:
            run_host(
                _MODULES[config.run.engine],
                [str(job.path / "job.json")],
                job.path / "host.log",
                stop=session.stop,
                on_look=steps.log_new,
            )
        finally:
            _put_on(session, task, device)
        if not job.is_done:
            raise RunFailed(
                f"{config.run.engine} ended before step {task.steps} of the stage; {job.path / 'host.log'} may say why "
                "(fewer problems than a step takes is one reason)"
            )
    steps.log_new()


def _put_on(session: Session, task: Task, device: Any) -> None:
    """Move the run's own models: off the device while the host trains on it, and back."""
    policies = [session.policy, *([task.reference.policy] if task.reference is not None else [])]
    for policy in policies:
        policy.model.to(device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _hand_over(session: Session, job: Job) -> None:
    """Everything that the host reads, each file whole before the next is begun."""
    if job.first_step == 0 and not (job.path / "start").is_dir():
        shutil.rmtree(job.path.parent, ignore_errors=True)  # what an optimiser before this one left
        job.path.mkdir(parents=True)
        engine = session.config.run.engine
        lines = [
            {"id": p.id, "prompt": prompt_as_given(session.policy, p, engine), "answer": p.answer}
            for p in session.order.problems
        ]
        lines *= -(-session.config.rollout.prompts // len(lines))  # hosts drop what does not fill a step
        write_text(job.path / "train.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        with atomic_folder(job.path / "start") as folder:
            save_policy(session.policy, folder)
    if not (job.path / "start").is_dir():
        raise InputError(
            f"{job.path}, where the optimiser of this stage was kept, is gone; restore that folder"
        )
    job.write()


class _Steps:
    """The host's steps on their way into the run's logs, as they come.

    A host that goes on from its checkpoint does later steps again; then what was logged of the stage is logged anew.
    """

    def __init__(self, session: Session, task: Task, job: Job) -> None:
        self.session, self.task, self.job = session, task, job
        self.before = session.progress.total_steps
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget the stage's lines, also those of a start that was stopped."""
        logs = self.session.folder.logs
        for name in ("metrics", "timing", "alarms"):
            logs[name].keep(sum(record["stage"] != self.task.number for record in logs[name].records()))
        self.earlier = logs["metrics"].records()
        self.taken: list[dict[str, Any]] = []  # of the host's lines
        self.logged: list[dict[str, Any]] = []  # what became of them

    def log_new(self) -> None:
        records = self.job.metrics()
        if records[: len(self.taken)] != self.taken:
            self._begin_anew()
        for record in records[len(self.taken) :]:
            self.taken.append(record)
            self._log(record)

    def _log(self, record: dict[str, Any]) -> None:
        session, task = self.session, self.task
        step = record["step"] - self.job.first_step
        place = {"stage": task.number, "lineage": task.lineage, "step": step}
        metrics = {
            **place,
            "total_step": self.before + step,
            "objective": task.objective.name,
            "reference": task.reference.version.id if task.reference is not None else None,
            **{name: value for name, value in record.items() if name not in ("step", "seconds")},
        }
        timing = {**place, "seconds": record.get("seconds")}
        session.folder.logs["metrics"].append(metrics)
        session.folder.logs["timing"].append(timing)
        session.display.step(metrics, timing, task.steps)
        session.track(metrics["total_step"], metrics=metrics, timing=timing)
        self.logged.append(metrics)
        raise_alarms(session, task, [*self.earlier, *self.logged])
