"""owpo eval | compare."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from owpo.cli.common import SET_HELP, Commands, open_display
from owpo.printable import printable


def add_commands(commands: Commands) -> None:
    _add_eval(commands)
    _add_compare(commands)


def _add_eval(commands: Commands) -> None:
    evaluate = commands.add_parser(
        "eval",
        help="measure a model: avg@k, pass@j, maj@k with intervals, every sample kept",
        description="Measure a model on one or more problem sets. Without --like and other settings: the paper's "
        "protocol, 32 samples a problem at temperature 1.0 and top-p 0.7. The same command goes on where it was "
        "stopped.",
        epilog=f"SET: {SET_HELP} With --like also train, selection and report. docs/data.md, docs/evaluation.md.",
        allow_abbrev=False,
    )
    evaluate.add_argument("model", help="a Hugging Face folder, such as runs/demo/versions/base, or a hub id")
    evaluate.add_argument("--data", nargs="+", metavar="SET", default=[], help="what to measure on")
    evaluate.add_argument(
        "--like", metavar="RUN", help="a run folder or a recipe whose sets and settings to use"
    )
    evaluate.add_argument("--protocol", help="paper (default) or greedy; not with --like")
    evaluate.add_argument("-k", type=int, help="samples per problem")
    evaluate.add_argument("--temperature", type=float)
    evaluate.add_argument("--top-p", type=float)
    evaluate.add_argument("--max-new-tokens", type=int, help="8192 unless given, or what the context leaves")
    evaluate.add_argument(
        "--max-prompt-tokens", type=int, help="leave out problems with a longer prompt, and say so"
    )
    evaluate.add_argument("--seed", type=int)
    evaluate.add_argument("--batch-size", type=int, help="sequences decoded at a time")
    evaluate.add_argument(
        "--pass-at", type=int, nargs="+", default=[], metavar="J", help="default: 1, 2, 4, ... k"
    )
    evaluate.add_argument("--template", help="instead of the sets' own; a name or a text with {question}")
    evaluate.add_argument(
        "--verifier", help="instead of the sets' own; a kind (math) or a table as in a recipe"
    )
    evaluate.add_argument("--out", help="the evaluation's folder; default evals/MODEL-HASH")
    evaluate.add_argument("--device", choices=("cpu", "cuda"), help="default: that of --like, else cpu")
    evaluate.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: that of --like, else float32"
    )
    evaluate.add_argument("--revision", help="of a hub id")
    evaluate.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that comes with the model"
    )
    evaluate.add_argument(
        "--json", action="store_true", help="print the result as JSON on stdout, progress on stderr"
    )
    evaluate.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.scores import evaluate

    names = ("k", "temperature", "top_p", "max_new_tokens", "max_prompt_tokens", "seed", "batch_size")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    scores = evaluate(
        arguments.model,
        arguments.data,
        like=arguments.like,
        protocol=arguments.protocol,
        template=arguments.template,
        verifier=arguments.verifier,
        pass_at=arguments.pass_at,
        out=arguments.out,
        device=arguments.device,
        dtype=arguments.dtype,
        revision=arguments.revision,
        trust_remote_code=arguments.trust_remote_code,
        display=open_display(arguments),
        **changes,
    )
    if arguments.json:
        print(json.dumps(scores.to_json(), indent=2))
        return
    console = Console()
    for name, evaluation in scores.sets.items():
        _print_evaluation(console, name, evaluation.to_json())
    console.print(f"every sample is in {scores.folder}", markup=False, highlight=False, soft_wrap=True)


def _print_evaluation(console: Console, name: str, found: dict[str, Any]) -> None:
    problems, k = found["num_problems"], found["samples_per_problem"]
    rows = [(f"avg@{k}", _percent(found["accuracy"]))]
    rows.append(("  95% over problems", f"{_percent(found['low'])} - {_percent(found['high'])}"))
    if found["sampling_low"] is not None:
        told = f"{_percent(found['sampling_low'])} - {_percent(found['sampling_high'])}"
        rows.append(("  95% sampling only", told))
    rows += [(f"pass@{j}", _percent(value)) for j, value in found["pass_at"].items()]
    if found["majority"] is not None:
        rows.append((f"maj@{k}", _percent(found["majority"])))
    rows += [(verdict, str(count)) for verdict, count in found["verdicts"].items()]
    rows.append(("truncated", _percent(found["truncated_share"])))
    rows.append(("mean length", f"{found['response_length']:.1f} tokens"))
    table = Table(
        title=Text(f"{name}: {problems} problems x {k} samples"),
        title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2, 0, 0),
    )  # fmt: skip
    for label, value in rows:
        table.add_row(label, value)
    console.print(table)
    console.print()


def _add_compare(commands: Commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="what model B does better and worse than A on the same problems",
        description="Paired difference B - A of two evaluations, with an interval and a sign-flip test, and the "
        "problems gained, kept and lost.",
        epilog="A and B: folders that owpo eval made, or those in a run's report/, such as runs/demo/report/base.",
        allow_abbrev=False,
    )
    compare.add_argument("a", metavar="A", help="an evaluation folder")
    compare.add_argument("b", metavar="B", help="an evaluation folder of the same problems")
    compare.add_argument(
        "--solved", type=float, default=0.5, help="share of right samples of a solved problem (0.5)"
    )
    compare.add_argument(
        "--list", type=int, default=10, metavar="N", help="problems of each kind to print (10)"
    )
    compare.add_argument("--json", action="store_true", help="print everything as JSON")
    compare.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.scores import compare

    found = compare(arguments.a, arguments.b, solved=arguments.solved, display=open_display(arguments))
    if arguments.json:
        print(json.dumps({name: asdict(comparison) for name, comparison in found.items()}, indent=2))
        return
    console = Console()
    for name, comparison in found.items():
        _print_comparison(console, name, asdict(comparison), arguments.list)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _print_comparison(console: Console, name: str, found: dict[str, Any], num_listed: int) -> None:
    def line(text: str = "") -> None:
        console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    a, b, count = found["a"], found["b"], {kind: len(found[kind]) for kind in _KINDS}
    console.print(Text(printable(f"{name}: {a['num_problems']} problems"), style="bold"))
    for label, accuracy in (("A", a), ("B", b)):
        line(
            f"  {label}      {_percent(accuracy['mean'])} ({_percent(accuracy['low'])} - {_percent(accuracy['high'])})"
        )
    points = " - ".join(f"{100 * found[end]:+.1f}" for end in ("low", "high"))
    line(
        f"  B - A  {100 * found['difference']:+.1f} points (95% {points}), sign-flip test p = {found['p_value']:.2g}"
    )
    line(f"  better on {found['better']} problems, equal on {found['equal']}, worse on {found['worse']}")
    line("  solved: " + ", ".join(f"{kind} {count[kind]}" for kind in _KINDS))
    for kind in ("gained", "lost"):
        if found[kind] and num_listed:
            table = Table(title=f"{kind}, the largest change first", title_justify="left", box=SIMPLE_HEAD)
            table.add_column("problem", overflow="fold")
            for heading in ("A", "B"):
                table.add_column(heading, justify="right", no_wrap=True)
            for change in found[kind][:num_listed]:
                table.add_row(Text(printable(change["id"])), _percent(change["a"]), _percent(change["b"]))
            console.print(table)
            if count[kind] > num_listed:
                line(f"  and {count[kind] - num_listed} more; --list N or --json shows them")
    line()


_KINDS = ("gained", "kept", "lost", "never")
