"""owpo expectation."""

from __future__ import annotations

import argparse
import json

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from owpo.cli.common import SET_HELP, Commands, open_display


def add_commands(commands: Commands) -> None:
    expectation = commands.add_parser(
        "expectation",
        help="where the mean update of a one-way weight runs against the verifier",
        description="Sample many responses of a policy and measure, at several chances of a flipped verdict: the share "
        "of tokens at which the mean one-way update is reversed, which way expected updates point, and how well one "
        "batch does.",
        epilog=f"SET: train, selection, report, {SET_HELP} docs/expectation.md.",
        allow_abbrev=False,
    )
    expectation.add_argument("model", help="the policy: a Hugging Face folder or a hub id")
    expectation.add_argument(
        "--reference", required=True, metavar="MODEL", help="a Hugging Face folder or a hub id"
    )
    expectation.add_argument(
        "--like", required=True, metavar="RUN", help="a run folder or a recipe whose settings to use"
    )
    expectation.add_argument("--data", metavar="SET", default="train", help="what to ask (train)")
    expectation.add_argument("--prompts", type=int, default=32, help="problems of it (32)")
    expectation.add_argument("--samples", type=int, default=256, help="responses to each (256)")
    expectation.add_argument(
        "--flip", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3], metavar="P",
        help="chances that the verifier tells the opposite (0 0.1 0.2 0.3)",
    )  # fmt: skip
    expectation.add_argument(
        "--min-visits", type=int, default=16, help="of a token in its context, for it to count (16)"
    )
    expectation.add_argument("--batches", type=int, default=32, help="small batches to draw (32)")
    expectation.add_argument(
        "--batch",
        type=int,
        nargs=2,
        metavar=("PROMPTS", "RESPONSES"),
        help="their size; default: --like's step",
    )
    expectation.add_argument("--seed", type=int, help="default: that of --like")
    expectation.add_argument("--out", metavar="DIR", help="a folder for expectation.json and expectation.md")
    expectation.add_argument("--device", choices=("cpu", "cuda"), help="default: that of --like")
    expectation.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: that of --like")
    expectation.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that comes with a model"
    )
    expectation.add_argument(
        "--json", action="store_true", help="print the result as JSON on stdout, progress on stderr"
    )
    expectation.set_defaults(run=_expectation)


def _expectation(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.expectation.measure import Design, measure_expectation
    from owpo.expectation.tables import tables_of

    design = Design(
        prompts=arguments.prompts,
        samples=arguments.samples,
        flips=tuple(arguments.flip),
        min_visits=arguments.min_visits,
        batches=arguments.batches,
        batch=None if arguments.batch is None else (arguments.batch[0], arguments.batch[1]),
    )
    measured = measure_expectation(
        arguments.model,
        arguments.reference,
        arguments.like,
        design,
        data=arguments.data,
        seed=arguments.seed,
        out=arguments.out,
        device=arguments.device,
        dtype=arguments.dtype,
        trust_remote_code=arguments.trust_remote_code,
        display=open_display(arguments),
    )
    if arguments.json:
        print(json.dumps(measured.to_json(), indent=2))
        return
    console = Console()
    for title, headings, rows, note in tables_of(measured.found):
        table = Table(
            title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.add_column(headings[0], no_wrap=True)
        for heading in headings[1:]:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print(note, markup=False, highlight=False)
        console.print()
    if measured.folder is not None:
        console.print(f"written to {measured.folder}", markup=False, highlight=False, soft_wrap=True)
