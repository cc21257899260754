"""Several commands of ours at once, each in a process of its own whose output goes to a file of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from owpo.hosting.process import with_parent
from owpo.stop import StopSignal

_LOOK = 0.1  # seconds between two looks
_TAIL = 4096  # bytes of a log, where its last line is looked for


@dataclass(frozen=True, eq=False)
class Job:
    """
    key    what it is called
    words  of the command, without `owpo`; asked for when the job begins
    log    what it prints is added to this file
    after  jobs that have to end well before it begins
    """

    key: str
    words: Callable[[], list[str]]
    log: Path
    after: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Failure:
    """
    code  the exit code; negative: the signal that ended it
    told  the last line of what it printed
    """

    job: Job
    code: int
    told: str

    def __str__(self) -> str:
        return f"{self.job.key} (exit code {self.code}, {self.job.log}: {self.told})"


def work(
    jobs: Sequence[Job],
    num_workers: int,
    stop: StopSignal,
    on_end: Callable[[Job, Failure | None], None],
) -> list[Failure]:
    """See all jobs through, `num_workers` at a time; one that fails keeps only those that come after it.

    Args:
        jobs: in the order in which they are begun, as far as they may; `after` names jobs of this list.
        on_end: called after each, with None where it went well.

    Raises:
        Interrupted: a stop was asked for. What was at work was asked to stop too, has saved its state and ended.
    """
    waiting, at_work = list(jobs), dict[Job, subprocess.Popen[bytes]]()
    failed = dict[Job, Failure]()

    def end(job: Job, failure: Failure | None) -> None:
        if failure is not None:
            failed[job] = failure
        on_end(job, failure)

    try:
        while waiting or at_work:
            stop.check()
            while (
                late := next((job for job in waiting if not failed.keys().isdisjoint(job.after)), None)
            ) is not None:
                waiting.remove(late)
                cause = next(failed[other] for other in late.after if other in failed)
                end(late, Failure(late, cause.code, f"not begun, as {cause.job.key} failed"))
            while len(at_work) < num_workers and (ready := _first_ready(waiting, at_work)) is not None:
                waiting.remove(ready)
                at_work[ready] = _start(ready)
            ended = [job for job, process in at_work.items() if process.poll() is not None]
            for job in ended:
                code = at_work.pop(job).returncode
                end(job, Failure(job, code, _last_line(job.log)) if code else None)
            if not ended:
                time.sleep(_LOOK)
    finally:
        _end(list(at_work.values()))
    return list(failed.values())


def _first_ready(waiting: Sequence[Job], at_work: Collection[Job]) -> Job | None:
    """The first one that waits for none of those that are to be done or at work."""
    pending = {*waiting, *at_work}
    return next((job for job in waiting if pending.isdisjoint(job.after)), None)


def _start(job: Job) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C in the terminal comes to us alone, and we pass one signal on, not two."""
    with job.log.open("ab") as output:
        return subprocess.Popen(
            with_parent("owpo", job.words()),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask them to stop, and wait until their state is saved; a second signal to us ends them at once."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait()
    except BaseException:
        for process in processes:
            process.kill()
        raise


def _last_line(log: Path) -> str:
    """What came last, up to 300 characters."""
    text = log.read_bytes()[-_TAIL:].decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"
