"""owpo ratchet."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from owpo.cli.common import Commands


def add_commands(commands: Commands) -> None:
    ratchet = commands.add_parser(
        "ratchet",
        help="print a run's lineage: every reference, every candidate, and why it moved or not",
        description="Print the lineage of a run's reference, also while the run goes on: each candidate, what it was "
        "trained from, its accuracy on the selection set, its drift from the reference it was held against and from "
        "the first one, and the decision with its reasons. docs/ratchet.md explains the columns.",
        allow_abbrev=False,
    )
    ratchet.add_argument("folder", help="the run folder")
    ratchet.add_argument(
        "--json", action="store_true", help="print the lines of lineage.jsonl as one JSON array"
    )
    ratchet.set_defaults(run=_ratchet)


def _ratchet(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.runs.folder import RunFolder
    from owpo.terminal import show_lineage

    path = Path(arguments.folder)
    RunFolder.read_config(path)
    records = RunFolder(path).logs["lineage"].records()
    if arguments.json:
        print(json.dumps(records, indent=2))
        return
    if not records:
        print(f"{path} has no reference: its objective reads none, or it has not begun")
        return
    show_lineage(Console(), records)
    print(f"\nreference in force: {records[-1]['in_force']}")
