"""owpo study."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from owpo.cli.common import Commands
from owpo.errors import InputError
from owpo.printable import printable

_OUT = Path("runs") / "studies"


def add_commands(commands: Commands) -> None:
    study = commands.add_parser(
        "study",
        help="run a grid of runs from one file; write its tables, figures and page",
        description="Run every task, setting, arm and seed of a study file, several at a time; then write tables with "
        "95%% intervals over seeds and paired differences from the baseline, learning curves, and a page of what was "
        "run. Runs that are done are not repeated, and a study that was stopped or killed goes on by the same command.",
        epilog="docs/study.md explains the file and all that is written.",
        allow_abbrev=False,
    )
    study.add_argument("study", nargs="?", metavar="NAME", help="a study of ./studies, or a TOML file")
    study.add_argument("--list", action="store_true", help="list the studies of ./studies, and run nothing")
    study.add_argument("--full", action="store_true", help="the whole study, where it has a reduced form")
    study.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time; else one a core, and one where a run is on a GPU",
    )
    study.add_argument("--out", metavar="DIR", help=f"the study's folder; else {_OUT}/NAME, or NAME-full")
    study.add_argument(
        "--tables", action="store_true", help="only write tables, figures and page anew, of results.jsonl"
    )
    study.set_defaults(run=_study)


def _study(arguments: argparse.Namespace, _rest: list[str]) -> None:
    if arguments.list:
        if arguments.study is not None:
            raise InputError(f"--list shows all studies; leave out {arguments.study!r} or --list")
        _list()
        return
    if arguments.study is None:
        raise InputError("owpo study needs the name of a study, or --list")
    from owpo.study.file import find_study, read_study

    study = read_study(find_study(arguments.study), full=arguments.full)
    out = Path(arguments.out) if arguments.out is not None else _OUT / study.folder_name
    if arguments.tables:
        if arguments.jobs is not None:
            raise InputError("--tables runs nothing; leave out --jobs")
        from owpo.study.conduct import write_stored

        print(write_stored(study, out))
        return
    from owpo.study.conduct import conduct

    print(conduct(study, out, jobs=arguments.jobs, tell=_tell))


def _tell(line: str) -> None:
    print(printable(line), flush=True)


def _list() -> None:
    from owpo.study.file import FOLDER, read_study, study_files

    files = study_files()
    if not files:
        raise InputError(f"there is no study in {FOLDER}; docs/study.md says how to write one")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("name", "title"):
        table.add_column(heading)
    for heading in ("runs", "with --full"):
        table.add_column(heading, justify="right")
    broken = []
    for file in files:
        try:
            reduced, full = read_study(file), read_study(file, full=True)
        except InputError as error:
            broken.append(str(error))
            continue
        table.add_row(escape(reduced.name), escape(reduced.title), str(reduced.num_runs), str(full.num_runs))
    Console().print(table)
    if broken:
        raise InputError("\n".join(broken))
