"""Measuring models: `owpo.evaluate` and `owpo.compare`. The command line is a thin cover over these two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError, model_validator

from owpo.config import RunConfig, Section
from owpo.core.registry import did_you_mean
from owpo.disk.lock import run_lock
from owpo.disk.settings import differences
from owpo.engines.engine import LocalSampler
from owpo.errors import InputError, RunFailed, input_errors
from owpo.evaluation.answers import Sampling
from owpo.evaluation.comparison import Comparison, on_shared_ids
from owpo.evaluation.comparison import compare as compare_grids
from owpo.evaluation.evaluate import Evaluation, evaluation_of
from owpo.evaluation.folder import EvaluationFolder, decisive_settings, set_settings
from owpo.evaluation.samples import Sample, check_rows, draw_samples, read_samples
from owpo.evaluation_sets import EvaluationSet, Verifiers, choose_sets
from owpo.policy.load import load_policy
from owpo.policy.model import Policy
from owpo.policy.weights import policy_hash
from owpo.problem_sets import as_prompts, prompt_length
from owpo.problems.problem import Problem
from owpo.problems.templates import template as find_template
from owpo.recipes import explain_entry, load_recipe
from owpo.runs.folder import RunFolder
from owpo.seeds import derive_seed
from owpo.stop import StopSignal
from owpo.training.display import Display

_LONGEST_RESPONSE = 8192  # the paper's, for its 7B model
_COLDEST = 1e-6  # below it logits over temperature leave the range of float32


class Protocol(Section):
    """How to sample."""

    k: Annotated[int, Field(ge=1)]
    """Samples per problem."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """None: 8192, or what the model's context leaves beside the longest prompt, if that is less."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    """Problems with a longer prompt are left out, and counted; None: one that does not fit is refused."""
    seed: int = 0
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Sequences decoded at a time."""
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    """Texts that end a response; None: those of the set's template."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Protocol:
        if self.temperature == 0 and self.k > 1:
            raise ValueError(
                f"temperature 0 gives the same response every time, so k = {self.k} would count one sample {self.k} "
                "times; use k = 1, or a temperature above 0"
            )
        if 0 < self.temperature < _COLDEST:
            raise ValueError(f"temperature = {self.temperature} is as good as greedy; use 0 with k = 1")
        return self


PROTOCOLS = {
    # arXiv 2605.22156; on GPQA and MMLU-Pro it takes 8 samples
    "paper": Protocol(k=32, temperature=1.0, top_p=0.7),
    "greedy": Protocol(k=1, temperature=0.0, top_p=1.0),
}


@dataclass(frozen=True)
class Scores:
    """A finished evaluation: its folder, and what it found on each set."""

    folder: Path
    sets: dict[str, Evaluation]

    def to_json(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "sets": {name: e.to_json() for name, e in self.sets.items()}}


def evaluate(
    model: str | Path,
    data: str | Path | Sequence[str | Path] = (),
    *,
    like: str | Path | None = None,
    protocol: str | None = None,
    template: str | None = None,
    verifier: str | None = None,
    pass_at: Sequence[int] = (),
    out: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    display: Display | None = None,
    **changes: Any,
) -> Scores:
    """avg@k, pass@j, maj@k of a model on one or more problem sets; every sample is kept in a folder.

    Doing the same again goes on with what that folder holds. The result is the same, bit for bit on CPU.

    Args:
        model: a Hugging Face folder or a hub id.
        data: problem sets: a preset (`aime24`), a preset with a file (`aime24=aime.parquet`), a JSONL or Parquet file,
            a folder, a hub id, or a source as in a recipe (`{kind = "chain_addition", count = 400}`). With `like`, also
            `train`, `selection` and `report`; then `report` is the default.
        like: a run folder or a recipe, whose settings and sets to measure with. `report` then repeats the numbers of
            the run's own closing table.
        protocol: where `like` is not given: "paper" (the default) or "greedy".
        template, verifier: instead of the sets' own; docs/data.md and docs/verifiers.md list them.
        pass_at: the j of pass@j; none: 1, 2, 4, ... k.
        out: the folder; None: evals/MODEL-HASH, the hash being that of all settings.
        device, dtype: as for the recipe's `run`; None: those of `like`, else "cpu" and "float32".
        changes: entries of `Protocol`, such as k=8, temperature=0.6, max_new_tokens=1024, seed=1.

    Raises:
        InputError: something is wrong with what was given, before anything is sampled.
        Interrupted: Ctrl-C or SIGTERM; the samples so far are kept, the same call goes on.
        RunFailed: the model's logits are not finite, or more than the verifier's max_failed_share of the verdicts are
            timeouts or errors. The samples are kept; the same call judges those again and goes on.
    """
    display = display or Display()
    recipe = _read_recipe(like) if like is not None else None
    if recipe is not None:
        device, dtype = device or recipe.run.device, dtype or recipe.run.dtype
        torch.set_num_threads(recipe.run.threads or torch.get_num_threads())  # they decide the last bits
    rules = _protocol(protocol, recipe, changes)
    _check_pass_at(pass_at, rules.k)
    stop = StopSignal()
    with stop.listen(), Verifiers() as verifiers:
        sets = choose_sets(_words(data, recipe), recipe, verifiers, template=template, verifier=verifier)
        with input_errors("model"):
            policy = load_policy(
                str(model),
                device=device or "cpu",
                dtype=dtype or "float32",
                revision=revision,
                trust_remote_code=trust_remote_code,
            )
        plans = [_plan(chosen, policy, rules) for chosen in sets]
        for plan in plans:
            for note in plan.notes:
                display.warn(note)
        settings = {
            "model": str(model),
            "model_hash": policy_hash(policy),
            "model_code_may_run": trust_remote_code,
            "dtype": str(policy.compute_dtype).removeprefix("torch."),
            "sets": {plan.chosen.name: plan.settings() for plan in plans},
        }
        folder = EvaluationFolder.open(Path(out) if out is not None else _default_folder(settings), settings)
        results = {}
        with run_lock(folder.path):
            for plan in plans:
                samples = _draw(folder, settings, policy, plan, verifiers, display, stop)
                results[plan.chosen.name] = evaluation_of(samples, pass_at)
            folder.finish(settings, {name: result.to_json() for name, result in results.items()})
    return Scores(folder.path, results)


def _read_recipe(path: str | Path) -> RunConfig:
    return RunFolder.read_config(Path(path)) if Path(path).is_dir() else load_recipe(path)


def _words(data: str | Path | Sequence[str | Path], recipe: RunConfig | None) -> list[str]:
    words = [str(data)] if isinstance(data, str | Path) else [str(word) for word in data]
    return words or ([] if recipe is None else ["report"])


def _protocol(name: str | None, recipe: RunConfig | None, changes: dict[str, Any]) -> Protocol:
    if name is not None and recipe is not None:
        raise InputError(f"protocol {name!r} and like each say how to sample; leave one out")
    if name is not None and name not in PROTOCOLS:
        raise InputError(
            f"unknown protocol {name!r}.{did_you_mean(name, PROTOCOLS)} Known: {', '.join(PROTOCOLS)}"
        )
    chosen = PROTOCOLS[name or "paper"]
    if recipe is not None:
        chosen = Protocol(
            k=recipe.evaluation.report_samples,
            temperature=recipe.evaluation.temperature,
            top_p=recipe.evaluation.top_p,
            max_new_tokens=recipe.rollout.max_new_tokens,
            max_prompt_tokens=recipe.problems.max_prompt_tokens,
            seed=recipe.seed,
            batch_size=recipe.rollout.batch_size,
            stop=recipe.rollout.stop,
        )
    try:
        return Protocol.model_validate({**chosen.model_dump(), **changes})
    except ValidationError as error:
        raise InputError("; ".join(explain_entry(item) for item in error.errors())) from error


def _check_pass_at(pass_at: Sequence[int], k: int) -> None:
    for j in pass_at:
        if not 1 <= j <= k:
            raise InputError(
                f"pass@{j} needs 1 <= j <= k, and k = {k}; sample more by -k, or ask for a smaller j"
            )


@dataclass(frozen=True)
class _Plan:
    """A set, its prompts as the model is given them, and how they are sampled."""

    chosen: EvaluationSet
    prompted: list[Problem]
    sampling: Sampling
    notes: list[str]

    def settings(self) -> dict[str, Any]:
        return set_settings(self.prompted, self.chosen.template, self.chosen.verifier.spec(), self.sampling)


def _plan(chosen: EvaluationSet, policy: Policy, rules: Protocol) -> _Plan:
    room = rules.max_new_tokens
    prompted, notes = as_prompts(
        chosen.name, chosen.problems, chosen.template, policy, room, rules.max_prompt_tokens
    )
    if room is None:
        longest = max(prompt_length(chosen.name, problem, policy) for problem in prompted)
        room = min(_LONGEST_RESPONSE, policy.context_length - longest)
    sampling = Sampling(
        group_size=rules.k,
        max_new_tokens=room,
        temperature=rules.temperature,
        top_p=rules.top_p,
        seed=derive_seed(rules.seed, "evaluation", chosen.name),
        batch_size=rules.batch_size,
        stop=find_template(chosen.template).stop if rules.stop is None else tuple(rules.stop),
    )
    return _Plan(chosen, prompted, sampling, [f"{chosen.name}: {note}" for note in chosen.notes] + notes)


def _default_folder(settings: dict[str, Any]) -> Path:
    """A name that the same evaluation finds again: the hash is of all that decides which responses are sampled."""
    decisive = json.dumps(decisive_settings(settings), sort_keys=True)
    return (
        Path("evals")
        / f"{Path(settings['model']).resolve().name}-{hashlib.sha256(decisive.encode()).hexdigest()[:8]}"
    )


def _draw(
    folder: EvaluationFolder,
    settings: dict[str, Any],
    policy: Policy,
    plan: _Plan,
    verifiers: Verifiers,
    display: Display,
    stop: StopSignal,
) -> list[Sample]:
    """All samples of one set, from the folder as far as it has them."""
    name = plan.chosen.name
    judge_again = folder.begin(name, plan.prompted, settings["sets"][name]["grader"])
    if judge_again:
        display.warn(f"{name}: the verifier has changed; what was sampled is judged again")
    total = len(plan.prompted) * plan.sampling.group_size
    with display.phase(f"evaluating on {name}", total) as advance:

        def on_batch(done: int) -> None:
            stop.check()
            advance(done)

        try:
            return draw_samples(
                folder.samples_file(name),
                LocalSampler(policy),
                plan.prompted,
                verifiers.get(plan.chosen.verifier),
                plan.sampling,
                max_failed_share=plan.chosen.verifier.max_failed_share,
                judge_again=judge_again,
                on_batch=on_batch,
            )
        except FloatingPointError as error:
            raise RunFailed(f"{name}: {error}") from error


def compare(
    a: str | Path, b: str | Path, *, solved: float = 0.5, seed: int = 0, display: Display | None = None
) -> dict[str, Comparison]:
    """What `b` does better and worse than `a` on the same problems, by set.

    Args:
        a, b: evaluation folders, as `evaluate` and a run's report/ leave them. Sets of the same name are compared, or
            the only set of each.
        solved: a problem counts as solved where at least this share of its samples is right.
        seed: of the test's random signs.
        display: is told what else differs between the two: settings, problems that only one was asked.

    Raises:
        InputError: one is no finished evaluation, they share no set or problem, or one id stands for two problems.
    """
    display = display or Display()
    first, second = EvaluationFolder.read(Path(a)), EvaluationFolder.read(Path(b))
    mine, theirs = first.settings["sets"], second.settings["sets"]
    pairs = [(name, name) for name in mine if name in theirs]
    if not pairs and len(mine) == len(theirs) == 1:
        pairs = [(*mine, *theirs)]
    if not pairs:
        raise InputError(
            f"{a} measured {', '.join(mine)} and {b} measured {', '.join(theirs)}: no set is in both"
        )
    compared = {}
    for name, other in pairs:
        with input_errors(f"set {name!r}"):
            before, after = _evaluation(first, name), _evaluation(second, other)
            same_template = mine[name]["template"] == theirs[other]["template"]
            _check_same_problems(first.problems(name), second.problems(other), same_template)
            a_SK, b_SK, ids = on_shared_ids(
                before.correct_NK, before.problems, after.correct_NK, after.problems
            )
            compared[name] = compare_grids(a_SK, b_SK, ids, solved=solved, seed=seed)
        for key in ("template", "verifier", "sampling"):
            for difference in differences({key: mine[name][key]}, {key: theirs[other][key]}):
                display.warn(
                    f"{name}: {difference.replace(' was ', ' is ').replace(', is now ', ' in A and ')} in B"
                )
        alone = [len(found.problems) - len(ids) for found in (before, after)]
        if any(alone):
            display.warn(
                f"{name}: {alone[0]} problems of A and {alone[1]} of B are not in the other, and left out"
            )
    return compared


def _evaluation(folder: EvaluationFolder, set_name: str) -> Evaluation:
    """What a finished folder found on a set, from its samples."""
    path, problems = folder.samples_file(set_name), folder.problems(set_name)
    samples = read_samples(path)
    size = folder.settings["sets"][set_name]["sampling"]["group_size"]
    check_rows(path, samples, problems, size)
    if len(samples) != size * len(problems):
        raise InputError(
            f"{path} holds {len(samples)} of {size * len(problems)} samples; go on by the owpo eval command that made "
            "it"
        )
    return evaluation_of(samples)


def _check_same_problems(a: list[Problem], b: list[Problem], same_template: bool) -> None:
    """
    Raises:
        InputError: an id has another answer in the two or, where the template is the same, another prompt.
    """
    mine = {problem.id: problem for problem in a}
    for problem in b:
        other = mine.get(problem.id)
        if other is None:
            continue
        if other.answer != problem.answer or (same_template and other.prompt != problem.prompt):
            raise InputError(
                f"the id {problem.id!r} stands for two problems: {other.prompt[:80]!r} with the answer "
                f"{other.answer[:40]!r} in A, {problem.prompt[:80]!r} with {problem.answer[:40]!r} in B; evaluate both "
                "on one set"
            )
