"""owpo report | watch."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from owpo.cli.common import Commands
from owpo.errors import InputError

_LONGEST = 86400  # seconds between two looks


def add_commands(commands: Commands) -> None:
    report = commands.add_parser(
        "report",
        help="write a run, or several side by side, as one HTML page that opens offline",
        description="Write what a run came to, its references, the one-way dynamics, its health and its tokens as one "
        "HTML file that needs nothing beside itself. It can be written while the run goes on, and after a run was "
        "killed. docs/report.md shows it.",
        allow_abbrev=False,
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run folder")
    report.add_argument(
        "--to", metavar="FILE", help="the page; else report.html in the run folder, or here for several runs"
    )
    report.add_argument(
        "--figures",
        metavar="DIR",
        help="write the figures there as SVG and PDF instead; of runs that differ by their seed alone the mean, with "
        "95%% intervals over seeds",
    )
    report.set_defaults(run=_report)

    watch = commands.add_parser(
        "watch",
        help="follow a run in the terminal: progress, sparklines, last responses",
        description="Show a run as it stands, anew every few seconds until it is finished or Ctrl-C. It is only read.",
        allow_abbrev=False,
    )
    watch.add_argument("folder", help="the run folder")
    watch.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="between two looks; 2 unless given"
    )
    watch.add_argument("--once", action="store_true", help="look once")
    watch.set_defaults(run=_watch)


def _report(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.report.page import save_figures, write_report
    from owpo.report.record import read_runs

    runs = read_runs([Path(path) for path in arguments.runs])
    if arguments.figures is not None:
        if arguments.to is not None:
            raise InputError("--to names the page and --figures a folder in its place; give one of them")
        folder = Path(arguments.figures)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"--figures {str(folder)!r} is a file, or lies in one; name a folder") from error
        for file in save_figures(runs, folder):
            print(file)
        return
    file = Path(arguments.to or (runs[0].folder / "report.html" if len(runs) == 1 else "report.html"))
    if not file.parent.is_dir():
        raise InputError(f"--to {str(file)!r}: there is no folder {str(file.parent)!r}; make it first")
    if file.is_dir():
        raise InputError(
            f"--to {str(file)!r} is a folder; name a file in it, such as {str(file / 'report.html')!r}"
        )
    write_report(runs, file)
    print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")
    for run in runs:
        if not run.is_finished:
            print(f"{run.name} {run.status}")


def _watch(arguments: argparse.Namespace, _rest: list[str]) -> None:
    if not 0 < arguments.every <= _LONGEST:
        raise InputError(f"--every {arguments.every:g} must be above 0 and at most {_LONGEST}")
    with suppress(KeyboardInterrupt):  # the ordinary way to end it
        from owpo.watching import watch

        watch(Path(arguments.folder), Console(), arguments.every, arguments.once)
