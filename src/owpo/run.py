"""Starting and resuming runs: `owpo.train` and `owpo.resume`. The command line is a thin cover over these two."""

from __future__ import annotations

import difflib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from owpo.bases.making import ensure_base
from owpo.config import FixedProtocol, ModelConfig, RunConfig
from owpo.disk.lock import run_lock
from owpo.disk.settings import differences
from owpo.disk.trouble import disk_trouble
from owpo.engines.vllm_engine import check_installed, installed_version
from owpo.errors import InputError, RunFailed, input_errors
from owpo.estimate.fit import check_memory
from owpo.hosts.versions import check_host
from owpo.policy.load import check_same_vocabulary, load_policy
from owpo.policy.lora import add_adapter, require_peft, target_names
from owpo.policy.model import Policy
from owpo.policy.passes import check_recomputes
from owpo.problem_sets import ProblemSets, load_problem_sets, longest_prompt
from owpo.ratchet.candidate import gate_of
from owpo.ratchet.evolve import evolve
from owpo.ratchet.gate import check_selection
from owpo.ratchet.plan import plan_stages
from owpo.recipes import load_recipe
from owpo.runs.environment import describe_environment, earlier_starts
from owpo.runs.folder import RunFolder
from owpo.runs.progress import Progress
from owpo.seeds import derive_seed
from owpo.stop import StopSignal
from owpo.training.display import Display
from owpo.training.engine import open_engine
from owpo.training.rollout import ProblemOrder
from owpo.training.session import Session, load_version, new_optimizer
from owpo.training.trackers import TrackerFailed, check_trackers, open_trackers
from owpo.verify.graders import fingerprint
from owpo.verify.verifier import Verifier, open_verifier


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and the rows of its closing table."""

    folder: Path
    rows: list[dict[str, Any]]

    def metrics(self) -> list[dict[str, Any]]:
        """One record a rollout step; docs/run-folder.md says what each means."""
        return RunFolder(self.folder).logs["metrics"].records()

    def version_folder(self, version: str) -> Path:
        """The Hugging Face folder of a version named in `rows`."""
        return self.folder / "versions" / version


def train(
    recipe: str | Path | RunConfig, overrides: Sequence[str] = (), *, display: Display | None = None
) -> Run:
    """Start a run and see it through.

    Args:
        recipe: a TOML file, or a configuration.
        overrides: for a file, `--section.key value` words.
        display: where progress is shown; None: nowhere.

    Raises:
        InputError: something in the recipe, the data or the models is wrong; nothing has been written.
        Interrupted: Ctrl-C or SIGTERM; the state is saved, `resume` goes on.
        RunFailed: too many non-finite updates, or the disk is full, read-only or failing; the message says what stands.
    """
    config = recipe if isinstance(recipe, RunConfig) else load_recipe(recipe, overrides)
    display = display or Display()
    path = Path(config.run.folder)
    if path.exists():
        raise InputError(
            f"run.folder {str(path)!r} exists; go on with it by `owpo resume {path}`, choose another by "
            "--run.folder, or remove it to start afresh"
        )
    _check_place(path, "run.folder", path)
    if config.evaluation.share is not None:
        share = Path(config.evaluation.share)
        _check_place(share / "samples", "evaluation.share", share)
    if config.run.engine != "local":
        check_host(config.run.engine)
    config = _with_threads(config, config.run.threads or torch.get_num_threads())
    stop = StopSignal()
    with stop.listen(), _disk_trouble_is_told(path), _verifier(config) as verifier:
        problems = _problems(config, verifier)
        # The tokenizer is not there yet: four characters a token ask for little rather than much.
        if config.run.engine == "local":  # a host takes memory of its own, of other machines too
            warning = check_memory(config, prompt_tokens=problems.longest_text() // 4 + 1)
            if warning is not None:
                display.warn(warning)
        _create(path, config, problems, display, stop)
        try:
            return _go_on(path, config, problems, verifier, display, stop)
        except TrackerFailed as error:
            # No step was begun, and the mend may be another recipe.
            shutil.rmtree(path, ignore_errors=True)
            raise InputError(f"{error}; or take it out of run.trackers. Then start it again") from error


def resume(folder: str | Path, *, display: Display | None = None) -> Run:
    """Go on with a run from its newest intact checkpoint, as if it had never stopped. See `train` for errors."""
    path = Path(folder)
    if not path.is_dir():
        folders = (
            [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
        )
        near = difflib.get_close_matches(path.name, folders, n=1)
        hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise InputError(f"no run folder {str(path)!r}.{hint}")
    config = RunFolder.read_config(path)
    display = display or Display()
    done = RunFolder(path).result()
    if done is not None:
        display.result(path, done)
        return Run(path, done["rows"])
    stop = StopSignal()
    with stop.listen(), _disk_trouble_is_told(path), _verifier(config) as verifier:
        problems = _problems(config, verifier)
        try:
            return _go_on(path, config, problems, verifier, display, stop)
        except TrackerFailed as error:
            raise InputError(f"{error}. Then go on by: owpo resume {path}") from error


@contextmanager
def _disk_trouble_is_told(path: Path) -> Iterator[None]:
    """
    Raises:
        RunFailed: the disk is full, read-only or failing: where, which checkpoint stands, how to go on.
    """
    show_in_thread = threading.excepthook
    # TensorBoard writes in a thread; what stops that one is raised again here.
    threading.excepthook = lambda told: (
        None if told.exc_value and disk_trouble(told.exc_value) else show_in_thread(told)
    )
    try:
        yield
    except Exception as error:
        failed = disk_trouble(error)
        if failed is None:
            raise
        raise RunFailed(f"{failed}. {_what_stands(path, failed.cure)}") from error
    finally:
        threading.excepthook = show_in_thread


def _what_stands(path: Path, cure: str) -> str:
    if not path.exists():
        return f"There is no {path}; {cure}, then start it again"
    try:
        name = RunFolder(path).checkpoints.listed()[-1]["name"]
    except (InputError, IndexError):
        return f"There is no checkpoint yet; {cure}, then go on from the start by: owpo resume {path}"
    return f"The last checkpoint, {path / 'checkpoints' / name}, stands; {cure}, then go on by: owpo resume {path}"


@contextmanager
def _verifier(config: RunConfig) -> Iterator[Verifier]:
    """The run's verifier; its processes end with the block."""
    with input_errors("verifier"):
        verifier = open_verifier(config.verifier.spec(), **config.verifier.limits())
    with closing(verifier):
        yield verifier


def _problems(config: RunConfig, verifier: Verifier) -> ProblemSets:
    """The run's problem sets, with enough to choose by for a gate."""
    problems = load_problem_sets(config.problems, verifier, config.verifier.kind)
    gate = gate_of(config)
    if gate is not None:
        with input_errors():
            check_selection(len(problems.selection), gate)
    return problems


def _check_place(path: Path, entry: str, given: Path) -> None:
    """Something can be made at `path`, for an entry of the recipe: said now, not after a base has been trained.

    Another name is tried, since a folder of this one, left by a kill, would be taken for a run.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)).rmdir()
    except OSError as error:
        raise InputError(
            f"{entry} {str(given)!r} cannot be made: {error.strerror}; choose another"
        ) from error


def same_recipe(config: RunConfig, folder: Path) -> None:
    """
    Raises:
        InputError: the run in `folder` was started from another configuration; names what differs.
    """
    started_with = RunFolder.read_config(folder)
    if config.run.threads is None:
        config = _with_threads(config, started_with.run.threads)
    different = differences(started_with.model_dump(mode="json"), config.model_dump(mode="json"))
    if different:
        raise InputError(
            f"{folder} holds a run with other settings ({'; '.join(different[:5])}); choose another folder by "
            f"--run.folder, or go on with that run as it is by `owpo resume {folder}`"
        )


def _with_threads(config: RunConfig, threads: int | None) -> RunConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"threads": threads})})


def _create(path: Path, config: RunConfig, problems: ProblemSets, display: Display, stop: StopSignal) -> None:
    """The run folder with its configuration and the weights it was given; it appears whole or not at all."""
    _use_device(config)
    _make_base(config.model, display, stop)
    with input_errors("model"):
        policy = _load(config, config.model.path, config.model.revision)
        if config.training.gradient_checkpointing:
            check_recomputes(policy.model)
    if config.model.lora is not None:
        with input_errors("model.lora.target_modules"):
            target_names(policy.model, config.model.lora.target_modules)
    problems.prompted(config.problems, policy, config.rollout.max_new_tokens)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        folder = RunFolder.create(temporary, config, problems.digests())
        folder.versions.add(
            policy, "base", parent=None, stage=0, step=0, reason=f"given: {config.model.path}"
        )
        given = config.ratchet.reference if isinstance(config.ratchet, FixedProtocol) else None
        if given not in (None, "base"):
            assert given is not None
            with input_errors("ratchet.reference"):
                reference = _load(config, given, None)
                check_same_vocabulary(policy, reference)
            folder.versions.add(
                reference, "reference", parent=None, stage=0, step=0, reason=f"given: {given}"
            )
        temporary.rename(path)
    except FileExistsError as error:
        raise InputError(f"run.folder {str(path)!r} has appeared meanwhile; another run took it") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_base(config: ModelConfig, display: Display, stop: StopSignal) -> None:
    """The base model of `model.make`, where the recipe has one and its folder is not there yet."""
    if config.make is None:
        return
    if not Path(config.path).exists():
        display.note(f"making the base model {config.path}, {config.make.steps} steps of supervised training")
    with input_errors("model.make"), display.phase("making the base model", config.make.steps) as advance:

        def on_step(step: int, _loss: float) -> None:
            stop.check()
            advance(step)

        ensure_base(config.make, Path(config.path), on_step=on_step)


def _load(config: RunConfig, path: str, revision: str | None) -> Policy:
    """A whole model.

    Raises:
        ValueError: it cannot be had, or is an adapter.
    """
    policy = load_policy(
        path,
        device=config.run.device,
        dtype=config.run.dtype,
        revision=revision,
        trust_remote_code=config.model.trust_remote_code,
    )
    if policy.adapter is not None:
        raise ValueError(
            f"{path!r} is an adapter, and a run is given whole models; make one of it by "
            f"`owpo export {path} --to FOLDER`"
        )
    return policy


def _go_on(
    path: Path,
    config: RunConfig,
    problems: ProblemSets,
    verifier: Verifier,
    display: Display,
    stop: StopSignal,
) -> Run:
    """Run from the newest checkpoint, or from the start where there is none."""
    _use_device(config)
    with run_lock(path):
        folder = RunFolder(path)
        folder.check_problems(problems.digests())
        policy = _learner(folder, config)
        problems = problems.prompted(config.problems, policy, config.rollout.max_new_tokens)
        for note in problems.notes:
            display.warn(note)
        session = Session(
            config=config,
            folder=folder,
            policy=policy,
            optimizer=new_optimizer(policy, config.training),
            progress=Progress(),
            order=ProblemOrder(problems.train, config.seed),
            selection=problems.selection,
            report=problems.report,
            verifier=verifier,
            display=display,
            stop=stop,
        )
        checkpoint = folder.checkpoints.load_newest()
        if checkpoint is not None:
            session.restore(checkpoint)
        folder.cut_logs(checkpoint.log_marks if checkpoint is not None else {})
        grader = fingerprint(config.verifier.spec())
        _note_environment(folder, grader, config, display)
        plan = plan_stages(config.ratchet, config.objective)
        display.start(path, [str(stage) for stage in plan], session.progress.stage)
        longest = partial(longest_prompt, problems, policy)
        with (
            open_trackers(config, path, session.progress.total_steps, display.warn) as session.trackers,
            open_engine(config, policy, folder.versions.folder / "base", longest) as session.engine,
        ):
            evolve(session)
        result = folder.result()
        assert result is not None
        display.result(path, result)
        return Run(path, result["rows"])


def _learner(folder: RunFolder, config: RunConfig) -> Policy:
    """The policy as the run starts: the base, or an adapter on it."""
    policy, lora = load_version(folder, "base", config), config.model.lora
    if lora is None:
        return policy
    with input_errors("model.lora"):
        return add_adapter(
            policy,
            rank=lora.rank,
            alpha=lora.alpha,
            targets=lora.target_modules,
            seed=derive_seed(config.seed, "adapter"),
            base=str(folder.versions.folder / "base"),
            base_hash=folder.versions.describe("base").hash,
        )


def _note_environment(folder: RunFolder, grader: dict[str, str], config: RunConfig, display: Display) -> None:
    """Write down what this start runs with; say where it differs from the start before in what can change a bit."""
    now = describe_environment(
        torch.get_num_threads(),
        grader,
        trust_remote_code=config.model.trust_remote_code,
        with_peft=config.model.lora is not None,
        vllm=installed_version() if config.rollout.engine == "vllm" else None,
    )
    starts, damaged = earlier_starts(folder.environment)
    if damaged is not None:
        display.warn(f"{folder.environment.path} could not be read; it was put aside as {damaged.name}")
    changed = [
        f"{key} was {starts[-1].get(key)!r}, is now {now[key]!r}"
        for key in ("torch", "transformers", "peft", "processor", "threads", "cuda", "vllm", "grader")
        if starts and starts[-1].get(key) != now[key]
    ]
    if changed:
        display.warn(f"{'; '.join(changed)}: results may differ from an uninterrupted run's")
    folder.environment.append(now)


def _use_device(config: RunConfig) -> None:
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise InputError("run.device = 'cuda', but torch sees no CUDA device here; set run.device to 'cpu'")
    if config.rollout.engine == "vllm":
        check_installed()
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    check_trackers(config)
    if config.model.lora is not None:
        with input_errors("model.lora"):
            require_peft()
