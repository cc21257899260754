"""What every part of a run shares: configuration, folder, problems, progress, the learner, and its voice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from owpo.config import RunConfig, TrainingConfig
from owpo.engines.engine import Engine, LocalEngine, Sampler
from owpo.evaluation.answers import Groups, Sampling, answer_problems
from owpo.evaluation.evaluate import Evaluation, evaluation_of
from owpo.evaluation.folder import set_settings
from owpo.evaluation.guard import check_failures
from owpo.evaluation.samples import draw_samples, samples_of
from owpo.policy.model import Policy
from owpo.policy.passes import compile_layers
from owpo.policy.responses import Responses
from owpo.policy.weights import load_state, policy_state
from owpo.problems.problem import Problem
from owpo.runs.checkpoints import Checkpoint, load_optimizer_tensors, optimizer_tensors
from owpo.runs.folder import RunFolder
from owpo.runs.progress import Progress
from owpo.seeds import derive_seed
from owpo.stop import StopSignal
from owpo.training.display import Display
from owpo.training.rollout import ProblemOrder
from owpo.training.trackers import Tracker
from owpo.verify.verifier import Verifier


def new_optimizer(policy: Policy, config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        policy.trained_parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def load_version(folder: RunFolder, id: str, config: RunConfig, beside: Policy | None = None) -> Policy:
    """A version of the run as a policy of its own, on the run's device and in its dtype.

    Args:
        beside: see `VersionStore.load`.
    """
    policy = folder.versions.load(
        id,
        device=config.run.device,
        dtype=config.run.dtype,
        trust_remote_code=config.model.trust_remote_code,
        beside=beside,
    )
    if config.training.compile:
        compile_layers(policy.model)
    return policy


def evaluation_sampling(config: RunConfig, set_name: str, samples: int) -> Sampling:
    """How a run samples a set that it evaluates on. The seed is the same every time, so that differences are paired."""
    return Sampling(
        group_size=samples,
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.evaluation.temperature,
        top_p=config.evaluation.top_p,
        seed=derive_seed(config.seed, "evaluation", set_name),
        batch_size=config.rollout.batch_size,
        stop=config.stop,
    )


@dataclass
class Session:
    """One process at work on one run folder."""

    config: RunConfig
    folder: RunFolder
    policy: Policy
    optimizer: torch.optim.Optimizer
    progress: Progress
    order: ProblemOrder
    selection: list[Problem]
    report: list[Problem]
    verifier: Verifier
    display: Display
    stop: StopSignal
    engine: Engine = field(default_factory=LocalEngine)
    trackers: list[Tracker] = field(default_factory=list)

    def load_version(self, id: str) -> Policy:
        return load_version(self.folder, id, self.config, self.policy)

    def version_to_measure(self, id: str) -> Policy:
        """A version when the learner is needed no more: in its place, or beside it where it is but an adapter."""
        if self.policy.adapter is not None:
            return self.load_version(id)
        self.folder.versions.load_into(self.policy, id)
        return self.policy

    def sampler(self, policy: Policy | None = None, name: str | None = None) -> Sampler:
        """Samples from the learner as it stands, or from another policy with its name; ends the sampler before."""
        place = f"stage {self.progress.stage + 1}, step {self.progress.step}"
        return self.engine.sampler(policy or self.policy, name or place)

    def restart_optimizer(self) -> None:
        self.optimizer = new_optimizer(self.policy, self.config.training)
        self.progress.updates = 0

    def save_checkpoint(self) -> None:
        """Everything a restart needs; then forget the versions that no checkpoint points to."""
        checkpoint = Checkpoint(
            weights=policy_state(self.policy),
            optimizer=optimizer_tensors(self.optimizer),
            progress=self.progress,
            log_marks=self.folder.sync_logs(),
        )
        self.folder.checkpoints.save(checkpoint, self.config.run.keep_checkpoints)
        kept = [Progress.from_json(entry["progress"]) for entry in self.folder.checkpoints.listed()]
        self.folder.versions.keep_only({"base", "reference"}.union(*(p.versions() for p in kept)))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put weights, optimiser and progress where the checkpoint was made."""
        load_state(policy_state(self.policy), checkpoint.weights)
        load_optimizer_tensors(self.optimizer, checkpoint.optimizer)
        self.progress = checkpoint.progress

    def evaluate_selection(
        self, policy: Policy | None = None, name: str | None = None, seed: int | None = None
    ) -> Evaluation:
        """avg@k on the problems that choices are made by, of the learner as it stands unless another policy is given.

        Every checkpoint answers with the same seed, so that differences are paired; another `seed` makes answers that
        no choice has looked at.
        """
        return self.evaluation(self.answer_selection(policy, name, seed))

    def answer_selection(
        self, policy: Policy | None = None, name: str | None = None, seed: int | None = None
    ) -> Groups:
        """What `evaluate_selection` measures."""
        sampling = evaluation_sampling(self.config, "selection", self.config.evaluation.samples)
        return self._answer_selection(
            self.sampler(policy, name), sampling if seed is None else replace(sampling, seed=seed)
        )

    def evaluation(self, groups: Groups) -> Evaluation:
        """avg@k of the selection problems' answers."""
        check_failures(list(groups.judged()), self.config.verifier.max_failed_share)
        return evaluation_of(samples_of(groups, self.selection, self.config.evaluation.samples))

    def answer_watched(self) -> Groups:
        """The learner's answers to the watched problems: the first rows of `answer_selection`."""
        sampling = evaluation_sampling(self.config, "selection", self.config.evaluation.samples)
        watched = self.selection[: self.config.run.watched_problems]
        return answer_problems(
            self.sampler(), watched, self.verifier, sampling, on_batch=self.watching(lambda _: None)
        )

    def respond(self, policy: Policy, name: str, seed: int) -> Responses:
        """Responses of a policy to the selection problems, drawn as training draws them."""
        sampling = replace(
            evaluation_sampling(self.config, "selection", self.config.evaluation.samples),
            temperature=self.config.rollout.temperature,
            top_p=1.0,
            seed=seed,
        )
        return self._answer_selection(self.sampler(policy, name), sampling).responses

    def _answer_selection(self, sampler: Sampler, sampling: Sampling) -> Groups:
        with self.display.phase(
            "evaluating on selection", len(self.selection) * sampling.group_size
        ) as advance:
            return answer_problems(
                sampler, self.selection, self.verifier, sampling, on_batch=self.watching(advance)
            )

    def report_settings(self) -> dict[str, Any]:
        """All that decides what `evaluate_report` samples, but for the weights."""
        sampling = evaluation_sampling(self.config, "report", self.config.evaluation.report_samples)
        return set_settings(self.report, self.config.problems.template, self.config.verifier.spec(), sampling)

    def evaluate_report(self, policy: Policy, name: str, file: Path, judge_again: bool) -> Evaluation:
        """avg@k on the report set of a policy, that of the version `name`.

        Every sample goes to `file`, and what it holds already is not sampled again.
        """
        samples = self.config.evaluation.report_samples
        with self.display.phase("evaluating on report", len(self.report) * samples) as advance:
            drawn = draw_samples(
                file,
                self.sampler(policy, name),
                self.report,
                self.verifier,
                evaluation_sampling(self.config, "report", samples),
                max_failed_share=self.config.verifier.max_failed_share,
                judge_again=judge_again,
                on_batch=self.watching(advance),
            )
        return evaluation_of(drawn)

    def track(self, total_step: int, **records: dict[str, Any]) -> None:
        """Send the numbers of records to the trackers, each as RECORD/NAME."""
        numbers = {
            f"{group}/{name}": value
            for group, record in records.items()
            for name, value in record.items()
            if isinstance(value, int | float)
        }
        for tracker in self.trackers:
            tracker.log(total_step, numbers)

    def watching(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """A callback for long loops: stop if asked to, else move the progress bar."""

        def on_batch(done: int) -> None:
            self.stop.check()
            advance(done)

        return on_batch
