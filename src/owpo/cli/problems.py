"""owpo data inspect | verify."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from owpo.cli.common import SET_HELP, Commands
from owpo.printable import printable

if TYPE_CHECKING:
    from owpo.evaluation_sets import Verifiers


def add_commands(commands: Commands) -> None:
    data = commands.add_parser("data", help="look at problem sets", allow_abbrev=False)
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="counts, duplicates, conflicts, prompt lengths, kinds of answers, examples",
        description="What a problem set looks like before anything is trained on it.",
        epilog=f"SET: {SET_HELP} docs/data.md explains presets and templates.",
        allow_abbrev=False,
    )
    inspect.add_argument("source", metavar="SET")
    inspect.add_argument(
        "--against", metavar="SET", nargs="+", default=[], help="report what it shares with these"
    )
    inspect.add_argument(
        "--template", help="a name or a text with {question}; default: the preset's, else plain"
    )
    inspect.add_argument(
        "--model", help="a model folder or hub id whose tokenizer counts the tokens of prompts"
    )
    inspect.add_argument("--revision", help="of a hub id")
    inspect.add_argument("--json", action="store_true", help="print as JSON")
    inspect.set_defaults(run=_inspect)

    verify = commands.add_parser(
        "verify",
        help="judge one response, or audit the verifiers on the conformance set",
        description="Judge one response: owpo verify math --response 'so \\boxed{1/2}' --answer 0.5. With --audit, "
        "every verifier (or the one named) is held against pairs of known truth, and its errors are listed.",
        epilog="docs/verifiers.md says what each verifier accepts, and holds the audit's table.",
        allow_abbrev=False,
    )
    verify.add_argument(
        "verifier", nargs="?", metavar="VERIFIER", help="a kind (math) or a table as in a recipe"
    )
    verify.add_argument("--response", help="what a model wrote")
    verify.add_argument("--answer", help="the true answer")
    verify.add_argument(
        "--audit", action="store_true", help="false negatives and false positives on the conformance set"
    )
    verify.add_argument("--json", action="store_true", help="print as JSON")
    verify.set_defaults(run=_verify)


def _inspect(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.errors import InputError, input_errors
    from owpo.evaluation_sets import parse_source
    from owpo.policy.folder import load_failure
    from owpo.policy.tokenizer import load_tokenizer
    from owpo.problem_sets import load_source
    from owpo.problems.overlap import find_overlap
    from owpo.problems.survey import survey

    tokenizer = None
    if arguments.model is not None:
        try:
            tokenizer = load_tokenizer(arguments.model, revision=arguments.revision)
        except (OSError, ValueError) as error:
            raise InputError(f"--model: {load_failure(arguments.model, error)}") from error
    name, source = parse_source(arguments.source)
    with input_errors(name):
        loaded = load_source(source, "train")
        found = survey(loaded, template=arguments.template, tokenizer=tokenizer)
    overlaps = {}
    for word in arguments.against:
        other, other_source = parse_source(word)
        with input_errors(other):
            overlaps[word] = find_overlap(loaded.problems, load_source(other_source, "report").problems)
    if arguments.json:
        print(
            json.dumps({**found, "overlap": {word: o.describe() for word, o in overlaps.items()}}, indent=2)
        )
        return
    _print_survey(name, found)
    for word, overlap in overlaps.items():
        print(f"\nagainst {word}: {overlap.describe()}")


def _print_survey(name: str, found: dict[str, Any]) -> None:
    counts, length, frame = found["counts"], found["prompt_length"], found["template"]
    table = Table(title=Text(name), title_justify="left", title_style="bold", box=None, show_header=False)
    for key in ("rows", "problems", "duplicates", "conflicting", "blank"):
        table.add_row(_COUNTS[key], str(counts[key]))
    told = ", ".join(f"{key} {length[key]:,}" for key in ("min", "median", "p95", "max"))
    table.add_row(f"prompt length in {length['unit']}", told)
    table.add_row("answers", ", ".join(f"{kind} {count}" for kind, count in found["answer_kinds"].items()))
    table.add_row("verifier that fits", found["verifier"])
    table.add_row("template", frame["name"])
    table.add_row("stop strings", Text(", ".join(map(repr, frame["stop"])) or "none"))
    console = Console()
    console.print(table)
    for conflict in counts["conflict_examples"]:
        answers = ", ".join(f"{each['answer']!r} ({each['where']})" for each in conflict["answers"])
        print(f"\nconflict: {conflict['prompt']!r} has the answers {answers}")
    for example in found["examples"]:
        print(printable(f"\n{example['id']}, answer {example['answer']!r}\n{example['prompt']}"))


_COUNTS = {
    "rows": "rows",
    "problems": "distinct problems",
    "duplicates": "duplicate rows, dropped",
    "conflicting": "rows of prompts with different answers, dropped",
    "blank": "rows with a blank prompt or answer, dropped",
}


def _verify(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.errors import InputError
    from owpo.evaluation_sets import Verifiers, parse_verifier

    with Verifiers() as verifiers:
        if arguments.audit:
            _audit(arguments, verifiers)
            return
        if None in (arguments.verifier, arguments.response, arguments.answer):
            raise InputError("name a verifier, a --response and an --answer, or ask for the --audit")
        verifier = verifiers.get(parse_verifier(arguments.verifier))
        (judgement,) = verifier.submit([arguments.response], [arguments.answer]).result()
    if arguments.json:
        print(json.dumps(asdict(judgement)))
        return
    told = f"; {judgement.detail}" if judgement.detail else ""
    print(printable(f"{judgement.verdict}; answer read: {judgement.answer!r}{told}"))


def _audit(arguments: argparse.Namespace, verifiers: Verifiers) -> None:
    """The named verifier, or all three beside math-verify as it comes."""
    from owpo.errors import input_errors
    from owpo.evaluation_sets import parse_verifier
    from owpo.verify.audit import BASELINE, audit_table, baseline_grader, run_audit
    from owpo.verify.verifier import InPlaceVerifier, Verifier

    words = [arguments.verifier] if arguments.verifier is not None else ["math", "numeric", "choice"]
    chosen = [parse_verifier(word) for word in words]
    graders: dict[str, Verifier] = {config.kind: verifiers.get(config) for config in chosen}
    if arguments.verifier is None:
        graders[BASELINE] = InPlaceVerifier(baseline_grader())
    with input_errors():
        audits = run_audit(graders)
    if arguments.json:
        print(json.dumps([audit.to_json() for audit in audits], indent=2))
    else:
        print(audit_table(audits), end="")
