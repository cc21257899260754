"""Seeing a study through: what is done stays, what was begun goes on, the rest is run, and the page is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from owpo.bases.making import ensure_base
from owpo.config import RunConfig
from owpo.disk.lock import is_locked, run_lock
from owpo.disk.trouble import writing
from owpo.errors import InputError, RunFailed, input_errors
from owpo.run import same_recipe
from owpo.runs.folder import RunFolder
from owpo.stop import StopSignal
from owpo.study.file import Study
from owpo.study.grid import StudyRun, runs_of
from owpo.study.jobs import is_done, is_of_another_reference, jobs_of
from owpo.study.page import write_page
from owpo.study.results import Result, ResultsFile, result_of, stored_results
from owpo.study.workers import Failure, Job, work

Tell = Callable[[str], None]
_PATIENCE = 60.0  # seconds


def default_jobs(configs: Sequence[RunConfig]) -> int:
    """The cores that this process may use; 1 where a run wants a GPU, which the others would have to share."""
    if any(config.run.device == "cuda" for config in configs):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def conduct(study: Study, out: Path, *, jobs: int | None = None, tell: Tell = print) -> Path:
    """Run what is not yet done, `jobs` runs at a time, and write tables, figures and page.

    Args:
        out: the study's folder; made where it is not there.
        jobs: None: `default_jobs`.
        tell: is given a line when something is done.

    Returns:
        The page.

    Raises:
        InputError: a configuration is refused, or a run's folder holds another run; nothing has been started.
        Interrupted: Ctrl-C or SIGTERM; the runs at work have saved their state, and the same call goes on.
        RunFailed: some runs failed; the others are done and the page is written.
    """
    runs = runs_of(study, out)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs} must be 1 or more")
    stop = StopSignal()
    with stop.listen():
        with writing(out):
            _make_folders(out)
        with run_lock(out):
            results = _known_results(study, runs, out)
            to_do = [run for run in runs if run.point not in results]
            _wait_for_orphans(to_do, stop, tell)
            tell(f"{study.title}: {len(runs)} runs, {len(results)} of them done; {out}")
            failures = []
            if to_do:
                _make_bases(to_do, stop, tell)
                num_jobs = jobs or default_jobs([run.config for run in to_do])
                failures = _work(study, to_do, results, out, num_jobs, stop, tell)
            file = ResultsFile(out)
            file.write(study, list(results.values()))
            page = write_page(file.read(), study, out)
    if failures:
        raise RunFailed(
            f"{len(failures)} of {len(runs)} runs failed: {'; '.join(map(str, failures))}. The others are done, and "
            f"{page} says how many are missing; mend the cause, then give the same command again"
        )
    return page


def write_stored(study: Study, out: Path) -> Path:
    """Tables, figures and page of the results in `out`, without running or reading a run; returns the page.

    Raises:
        InputError: there are no results, or some are of other settings than the study asks for.
    """
    return write_page(stored_results(study, out), study, out)


def _make_folders(out: Path) -> None:
    try:
        for name in ("runs", "recipes", "logs"):
            (out / name).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--out {str(out)!r} is a file, or lies in one; name a folder") from error


def _known_results(study: Study, runs: Sequence[StudyRun], out: Path) -> dict[object, Result]:
    """Results by point: of each run folder that is finished, and of runs whose folder is gone and whose line is there.

    Raises:
        InputError: a folder holds a run of another configuration; all of them are named.
    """
    stored = {result.point: result for result in ResultsFile(out).read()}
    known: dict[object, Result] = {}
    others = []
    for run in runs:
        line = stored.get(run.point)
        fits = line is not None and line.asked == run.asked
        if not run.folder.exists():
            if line is not None and fits:
                known[run.point] = line
            continue
        refusal = _other_recipe(run)
        if refusal is None and is_of_another_reference(run, out):
            assert run.reference is not None
            refusal = f"{run.folder} learned against an earlier run of {run.reference.key}"
        if refusal is not None:
            others.append(f"  {refusal}")
        elif is_done(run, out):
            known[run.point] = line if line is not None and fits else result_of(run, out, study.metrics)
    if others:
        told = "\n".join(others)
        raise InputError(
            f"some runs were started from other settings than study {study.name} asks for now:\n{told}\nremove these "
            "folders to run them anew, choose another folder for the study by --out, or restore the study's file"
        )
    return known


def _other_recipe(run: StudyRun) -> str | None:
    """How the run in the folder differs from what is asked for; where it, its reference and the study lie is none."""
    begun = RunFolder.read_config(run.folder)
    section = run.config.run.model_copy(update={"folder": begun.run.folder})
    evaluation = run.config.evaluation.model_copy(update={"share": begun.evaluation.share})
    config = run.config.model_copy(update={"run": section, "evaluation": evaluation})
    if run.reference is not None:
        model = getattr(begun.ratchet, "reference", None) or ""
        if Path(model).parts[-3:-1] == (run.reference.key, "versions"):
            config = config.model_copy(update={"ratchet": run.learning_from(model).config.ratchet})
    try:
        same_recipe(config, run.folder)
    except InputError as error:
        return str(error).partition("; choose another")[0]
    return None


def _wait_for_orphans(runs: Sequence[StudyRun], stop: StopSignal, tell: Tell) -> None:
    """Runs of a study that was killed are asked to stop by its death, and may still be saving their state.

    Raises:
        InputError: one is still at work a minute later.
    """
    deadline, was_told = time.monotonic() + _PATIENCE, False
    while at_work := [run for run in runs if is_locked(run.folder)]:
        if not was_told:
            tell(f"waiting for {', '.join(run.point.key for run in at_work)}, at work in another process")
            was_told = True
        if time.monotonic() > deadline:
            raise InputError(
                f"{at_work[0].folder} is in use by another process; wait for it to end, or stop it (run.lock there "
                "holds its number)"
            )
        stop.check()
        time.sleep(0.2)


def _make_bases(runs: Sequence[StudyRun], stop: StopSignal, tell: Tell) -> None:
    """Each base that is to be made, once, before two runs could begin to make it; with one thread, as a run would."""
    made: dict[str, RunConfig] = {}
    for run in runs:
        if run.config.model.make is not None:
            made.setdefault(run.config.model.path, run.config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for path, config in made.items():
            assert config.model.make is not None
            if not Path(path).exists():
                tell(f"making the base model {path}, {config.model.make.steps} steps of supervised training")
            with input_errors("model.make"):
                ensure_base(config.model.make, Path(path), on_step=stop.check)
    finally:
        torch.set_num_threads(threads)


def _work(
    study: Study,
    runs: Sequence[StudyRun],
    results: dict[object, Result],
    out: Path,
    num_jobs: int,
    stop: StopSignal,
    tell: Tell,
) -> list[Failure]:
    """Run them; each that ends well is added to `results` and written down at once. Returns a failure a failed run."""
    jobs = jobs_of(runs, out)
    run_of = {job: run for run in runs for job in jobs[run.point]}
    to_end = {point: set(each) for point, each in jobs.items()}
    num_runs, failed = len(results) + len(runs), dict[object, Failure]()

    def on_end(job: Job, failure: Failure | None) -> None:
        run = run_of[job]
        to_end[run.point].discard(job)
        if failure is not None and run.point not in failed:
            failed[run.point] = failure
            place = f"[{len(results) + len(failed)} of {num_runs}] {job.key}"
            tell(f"{place}: failed with exit code {failure.code}; {job.log}: {failure.told}")
        if to_end[run.point] or run.point in failed:
            return
        results[run.point] = result_of(run, out, study.metrics)
        ResultsFile(out).write(study, list(results.values()))
        place = f"[{len(results) + len(failed)} of {num_runs}] {run.point.key}"
        tell(f"{place}: {_told(results[run.point], study)}")

    work([job for run in runs for job in jobs[run.point]], num_jobs, stop, on_end)
    return list(failed.values())


def _told(result: Result, study: Study) -> str:
    scores = [(measure, result.accuracy(measure)) for measure in study.measures]
    now = ", ".join(
        f"{measure} {100 * accuracy:.1f}%" for measure, accuracy in scores if accuracy is not None
    )
    return f"{now}; before training {100 * result.base.accuracy:.1f}%"
