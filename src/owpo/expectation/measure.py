"""One-way for every sample, and in expectation? `owpo.measure_expectation` puts it to a policy and its reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from owpo.config import RunConfig
from owpo.core.objectives.mopd import MOPDConfig
from owpo.core.objectives.owpo import BandConfig
from owpo.disk.files import write_json, write_text
from owpo.engines.engine import LocalSampler
from owpo.errors import InputError, RunFailed, input_errors
from owpo.evaluation.answers import Groups, Sampling, answer_problems
from owpo.evaluation.guard import check_failures
from owpo.evaluation_sets import EvaluationSet, Verifiers, choose_sets
from owpo.expectation.batches import batch_cosines
from owpo.expectation.contexts import contexts_of, measure_contexts
from owpo.expectation.rules import Rule, mopd, weighted
from owpo.expectation.sample import CLEAN, Basis, Sample
from owpo.expectation.tables import markdown
from owpo.expectation.updates import expected_cosines, half_gradients
from owpo.policy.load import check_same_vocabulary, load_policy
from owpo.policy.logprobs import reference_logprobs
from owpo.policy.model import Policy
from owpo.policy.weights import policy_hash
from owpo.problem_sets import as_prompts
from owpo.problems.problem import Problem
from owpo.recipes import load_recipe
from owpo.runs.folder import RunFolder
from owpo.seeds import derive_seed
from owpo.training.display import Display
from owpo.training.rollout import ProblemOrder


@dataclass(frozen=True, kw_only=True)
class Design:
    """
    prompts     problems that are asked, the first that a run with this seed would take
    samples     responses to each
    flips       chances, below 0.5, that the verifier tells the opposite; 0 is always among them
    min_visits  of a token in its context, for the context to count
    batches     small batches to draw of the sample
    batch       their prompts and responses per prompt; None: those of a step of the recipe, as far as the sample allows

    Raises:
        InputError: one of them cannot be.
    """

    prompts: int = 32
    samples: int = 256
    flips: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    min_visits: int = 16
    batches: int = 32
    batch: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.samples < 4:
            raise InputError(
                f"{self.prompts} prompts with {self.samples} samples are no sample of the policy; take at least 1 with "
                "4"
            )
        for flip in self.flips:
            if not 0 <= flip < 0.5:
                raise InputError(
                    f"flip {flip} is not in [0, 0.5): from 0.5 on the verifier tells nothing, or the opposite; leave "
                    "it out"
                )
        if not 1 <= self.min_visits <= self.samples:
            raise InputError(
                f"min_visits = {self.min_visits} must be in 1 ... {self.samples}, the samples of a prompt; sample "
                "more, or lower it"
            )
        if self.batches < 2:
            raise InputError(f"{self.batches} batches give no interval; take at least 2")
        most = self._most
        if self.batch and not (1 <= self.batch[0] <= most[0] and 2 <= self.batch[1] <= most[1]):
            raise InputError(
                f"a batch of {self.batch[0]} prompts x {self.batch[1]} responses cannot be drawn from half a sample of "
                f"{self.prompts} x {self.samples}; take 1 ... {most[0]} prompts and 2 ... {most[1]} responses, or a "
                "larger sample"
            )

    @property
    def _most(self) -> tuple[int, int]:
        """Prompts and responses of the largest batch that half a sample has room for."""
        return self.prompts, self.samples // 2

    @property
    def levels(self) -> list[float]:
        """All flips, the verifier without errors first."""
        return sorted({CLEAN, *self.flips})

    def batch_like(self, step: tuple[int, int]) -> tuple[int, int]:
        """Prompts of a batch and responses to each, where a step of the recipe has `step`."""
        return self.batch or (min(step[0], self._most[0]), min(step[1], self._most[1]))


@dataclass(frozen=True)
class Expectation:
    """`found` as docs/expectation.md describes it; `folder` holds it, where one was asked for."""

    found: dict[str, Any]
    folder: Path | None

    def to_json(self) -> dict[str, Any]:
        return {"folder": None if self.folder is None else str(self.folder), **self.found}


def measure_expectation(
    model: str | Path,
    reference: str | Path,
    like: str | Path,
    design: Design = Design(),
    *,
    data: str = "train",
    seed: int | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    display: Display | None = None,
) -> Expectation:
    """Where and how far OWPO's mean update leaves the verifier's, for a policy and its reference.

    Args:
        model, reference: Hugging Face folders or hub ids.
        like: a run folder or a recipe: problems, template, verifier, sampling of rollouts, bounds of the weight. Flips
            in its verifier are left out.
        data: a problem set, as for `owpo.evaluate`.
        seed, device, dtype: None: those of `like`.
        out: a folder for expectation.json and expectation.md.

    Raises:
        InputError: something is wrong with what was given, before anything is sampled.
        RunFailed: the model's logits are not finite, the verifier fails, or no prompt has both correct and wrong
            responses.
    """
    display = display or Display()
    recipe = _read_recipe(like)
    torch.set_num_threads(recipe.run.threads or torch.get_num_threads())
    seed = recipe.seed if seed is None else seed
    with Verifiers() as verifiers:
        (chosen,) = choose_sets([data], recipe, verifiers, template=None, verifier=None)
        policy, other = (
            _load(name, path, recipe, device, dtype, trust_remote_code)
            for name, path in (("model", model), ("reference", reference))
        )
        with input_errors("reference"):
            check_same_vocabulary(policy, other)
        problems = _problems(chosen, recipe, policy, design.prompts, seed, display)
        groups = _answer(policy, problems, chosen, recipe, design.samples, verifiers, seed, display)
    sample = _scored(groups, policy, other, recipe)
    bounds = _bounds(recipe)
    settings = {
        "model": str(model),
        "model_hash": policy_hash(policy),
        "reference": str(reference),
        "reference_hash": policy_hash(other),
        "like": str(like),
        "data": data,
        "prompts": len(problems),
        "samples": design.samples,
        "temperature": sample.temperature,
        "seed": seed,
        **bounds,
    }
    batch = design.batch_like((recipe.rollout.prompts, recipe.rollout.group_size))
    found = _measure(policy, sample, design, bounds, batch, derive_seed(seed, "batches"), display)
    result = Expectation({"settings": settings, **found}, None if out is None else Path(out))
    if result.folder is not None:
        result.folder.mkdir(parents=True, exist_ok=True)
        write_json(result.folder / "expectation.json", result.found)
        write_text(result.folder / "expectation.md", markdown(result.found))
    return result


def _read_recipe(path: str | Path) -> RunConfig:
    return RunFolder.read_config(Path(path)) if Path(path).is_dir() else load_recipe(path)


def _load(
    name: str,
    path: str | Path,
    recipe: RunConfig,
    device: str | None,
    dtype: str | None,
    trust_remote_code: bool,
) -> Policy:
    with input_errors(name):
        return load_policy(
            str(path),
            device=device or recipe.run.device,
            dtype=dtype or recipe.run.dtype,
            trust_remote_code=trust_remote_code,
        )


def _problems(
    chosen: EvaluationSet, recipe: RunConfig, policy: Policy, count: int, seed: int, display: Display
) -> list[Problem]:
    """The first problems of a run with this seed, in their template."""
    if count > len(chosen.problems):
        raise InputError(
            f"{chosen.name} has {len(chosen.problems)} problems, and {count} prompts are asked for; lower --prompts"
        )
    first = ProblemOrder(chosen.problems, seed).take(0, count)
    prompted, notes = as_prompts(
        chosen.name,
        first,
        chosen.template,
        policy,
        recipe.rollout.max_new_tokens,
        recipe.problems.max_prompt_tokens,
    )
    for note in [*chosen.notes, *notes]:
        display.warn(note)
    return prompted


def _answer(
    policy: Policy,
    problems: list[Problem],
    chosen: EvaluationSet,
    recipe: RunConfig,
    samples: int,
    verifiers: Verifiers,
    seed: int,
    display: Display,
) -> Groups:
    """The responses with their verdicts.

    Raises:
        RunFailed: the logits are not finite, too many verdicts are failures, or no prompt has both correct and wrong
            responses.
    """
    sampling = Sampling(
        group_size=samples,
        max_new_tokens=recipe.rollout.max_new_tokens,
        temperature=recipe.rollout.temperature,
        top_p=1.0,
        seed=derive_seed(seed, "expectation"),
        batch_size=recipe.rollout.batch_size,
        stop=recipe.stop,
    )
    with display.phase("sampling", len(problems) * samples) as advance:
        try:
            groups = answer_problems(
                LocalSampler(policy), problems, verifiers.get(chosen.verifier), sampling, on_batch=advance
            )
        except FloatingPointError as error:
            raise RunFailed(f"{chosen.name}: {error}") from error
    check_failures(list(groups.judged()), chosen.verifier.max_failed_share)
    share_P = groups.correct_PG.double().mean(dim=1)
    if not ((share_P > 0) & (share_P < 1)).any():
        raise RunFailed(
            f"each of the {len(problems)} prompts has only correct or only wrong responses, so the verifier has no "
            "direction to hold anything against; sample more of each by --samples, or take another set or model"
        )
    return groups


def _scored(groups: Groups, policy: Policy, reference: Policy, recipe: RunConfig) -> Sample:
    temperature, tokens = recipe.rollout.temperature, recipe.training.micro_batch_tokens
    logp, ref_logp = (
        reference_logprobs(scorer, groups.responses, temperature, tokens) for scorer in (policy, reference)
    )
    correct = groups.correct_PG.to(policy.device)
    return Sample(groups.responses, correct, (logp - ref_logp).double(), temperature, tokens)


def _bounds(recipe: RunConfig) -> dict[str, float]:
    """Of the weight, and MOPD's alpha: the recipe's where its objective has them, else the paper's."""
    own, band = recipe.objective.build().config, BandConfig()
    return {
        "w_low": getattr(own, "w_low", band.w_low),
        "w_high": getattr(own, "w_high", band.w_high),
        "alpha": own.alpha if isinstance(own, MOPDConfig) else MOPDConfig().alpha,
    }


def _measure(
    policy: Policy,
    sample: Sample,
    design: Design,
    bounds: dict[str, float],
    batch: tuple[int, int],
    seed: int,
    display: Display,
) -> dict[str, Any]:
    w_low, w_high, alpha = bounds["w_low"], bounds["w_high"], bounds["alpha"]
    rules: dict[str, Rule] = {
        "owpo": weighted(w_low, w_high),
        "no_locking": weighted(1.0, w_high),
        "no_accel": weighted(w_low, 1.0),
        "no_asym": weighted(w_low, 1.0, "no_asym"),
        "mopd": mopd(alpha),
    }
    responses, correct_B = sample.responses, sample.correct_PG.flatten()
    contexts = contexts_of(sample.prompt_B, responses.tokens, responses.mask, correct_B, sample.log_ratio_BT)
    past = max(math.log(w_high), -math.log(w_low))
    basis = Basis(rules["owpo"], alpha, design.levels)
    with display.phase("expected gradients", None):
        halves = half_gradients(policy, sample, basis)
    with display.phase("gradients of batches", design.batches) as advance:
        cosines = batch_cosines(
            policy,
            sample,
            basis,
            halves,
            num_batches=design.batches,
            prompts=min(batch[0], len(sample.correct_PG)),
            group_size=batch[1],
            seed=seed,
            on_batch=advance,
        )
    return {
        "accuracy": correct_B.double().mean().item(),
        "contexts": measure_contexts(contexts, rules, design.levels, min_visits=design.min_visits, past=past),
        "updates": expected_cosines(halves, basis),
        "batches": cosines,
    }
