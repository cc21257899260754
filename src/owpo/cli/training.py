"""owpo train | resume | check | objectives."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from owpo.cli.common import Commands, open_display
from owpo.core.registry import entries
from owpo.errors import InputError

if TYPE_CHECKING:
    from owpo.config import RunConfig
    from owpo.ratchet.plan import Stage
    from owpo.run import Run

_ENGINE_HELP = "what trains: local, trl (one machine) or verl (a Ray cluster); short for --run.engine"
_JSON_HELP = "print the closing table as JSON on stdout, and progress on stderr"


def add_commands(commands: Commands) -> None:
    train = commands.add_parser(
        "train",
        help="start a run from a recipe",
        description="Start a run. Any entry of the recipe can be overridden: --objective.name dapo, "
        '--training.learning_rate 1e-6, --ratchet \'{protocol = "fixed", steps = 60, reference = "base"}\'.',
        epilog="docs/recipe.md explains every entry; owpo check RECIPE --json prints them all, defaults filled in.",
        allow_abbrev=False,
    )
    train.add_argument("recipe", help="a TOML file, such as recipes/demo.toml")
    train.add_argument(
        "--resume",
        action="store_true",
        help="where the run folder exists, go on with it instead of refusing; the recipe must be the same",
    )
    train.add_argument("--engine", metavar="NAME", help=_ENGINE_HELP)
    train.add_argument("--json", action="store_true", help=_JSON_HELP)
    train.set_defaults(run=_train)

    resume = commands.add_parser(
        "resume",
        help="go on with a run that was stopped or killed",
        description="Go on from the newest intact checkpoint; on CPU the result is the same, bit for bit.",
        allow_abbrev=False,
    )
    resume.add_argument("folder", help="the run folder")
    resume.add_argument("--json", action="store_true", help=_JSON_HELP)
    resume.set_defaults(run=_resume)

    check = commands.add_parser(
        "check",
        help="validate a recipe; print its stages, and the memory and time it will take, without loading a model",
        description="Validate a recipe; print who learns, from which weights, against which reference, how long, and "
        "what memory that is expected to take. A run that cannot fit is refused, with the entry that makes it fit.",
        allow_abbrev=False,
    )
    check.add_argument("recipe", help="a TOML file; overrides as in owpo train")
    check.add_argument("--engine", metavar="NAME", help=_ENGINE_HELP)
    check.add_argument(
        "--json", action="store_true", help="print the resolved configuration, stages and estimates as JSON"
    )
    check.add_argument(
        "--time",
        action="store_true",
        help="also the seconds a step, by timing the run's passes here on one layer and two of new weights",
    )
    check.add_argument(
        "--prompt-tokens",
        type=int,
        metavar="N",
        help="the longest prompt; else problems.max_prompt_tokens, else 256",
    )
    check.add_argument(
        "--response-tokens",
        type=int,
        metavar="N",
        help="with --time: the responses' mean length; else rollout.max_new_tokens and half of it",
    )
    check.set_defaults(run=_check)

    objectives = commands.add_parser(
        "objectives",
        help="list the objectives: paper, what they need, defaults",
        description="Every objective that [objective] name can choose.",
        allow_abbrev=False,
    )
    objectives.add_argument("--json", action="store_true", help="print as JSON")
    objectives.set_defaults(run=_objectives)


def _train(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from owpo.recipes import load_recipe
    from owpo.run import resume, same_recipe, train

    config = load_recipe(arguments.recipe, [*overrides, *_engine(arguments)])
    arguments.folder = config.run.folder
    display = open_display(arguments)
    if arguments.resume and Path(config.run.folder).exists():
        same_recipe(config, Path(config.run.folder))
        _print_rows(arguments, resume(config.run.folder, display=display))
    else:
        _print_rows(arguments, train(config, display=display))


def _engine(arguments: argparse.Namespace) -> list[str]:
    return [] if arguments.engine is None else ["--run.engine", arguments.engine]


def _resume(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.run import resume

    _print_rows(arguments, resume(arguments.folder, display=open_display(arguments)))


def _print_rows(arguments: argparse.Namespace, run: Run) -> None:
    if arguments.json:
        print(json.dumps({"folder": str(run.folder), "rows": run.rows}, indent=2))


def _check(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from owpo.cli.estimate import estimates_of, show_estimates
    from owpo.ratchet.plan import plan_stages
    from owpo.recipes import load_recipe

    config = load_recipe(arguments.recipe, [*overrides, *_engine(arguments)])
    stages = plan_stages(config.ratchet, config.objective)
    if not arguments.json:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in ("stage", "learner", "from", "by", "against", "steps"):
            table.add_column(heading, no_wrap=True)
        table.add_column("the reference")
        for stage in stages:
            cells = stage.to_json()
            keys = ("number", "lineage", "start", "objective", "reference", "steps", "reason")
            table.add_row(*(str(cells[key]) for key in keys))
        print(
            f"{arguments.recipe} is valid: protocol {config.ratchet.protocol}, run folder {config.run.folder}"
        )
        Console().print(table)
    if config.run.engine != "local":
        _tell_of_host(config, stages, as_json=arguments.json)
        return
    estimates = estimates_of(
        config,
        prompt_tokens=arguments.prompt_tokens,
        response_tokens=arguments.response_tokens,
        with_time=arguments.time,
    )
    if arguments.json:
        plan = [stage.to_json() for stage in stages]
        told = {"config": config.model_dump(mode="json"), "stages": plan, "estimate": estimates.to_json()}
        print(json.dumps(told, indent=2))
    else:
        show_estimates(estimates)
    if estimates.refusal is not None:
        raise InputError(estimates.refusal)


def _tell_of_host(config: RunConfig, stages: list[Stage], *, as_json: bool) -> None:
    """What a recipe takes on a host is not estimated."""
    from owpo.hosts.versions import RANGES

    if as_json:
        plan = [stage.to_json() for stage in stages]
        print(json.dumps({"config": config.model_dump(mode="json"), "stages": plan}, indent=2))
    else:
        engine = config.run.engine
        print(
            f"trained by {engine} {RANGES[engine]}; what that takes is not estimated: docs/{engine}.md says what it "
            "depends on"
        )


def _objectives(arguments: argparse.Namespace, _rest: list[str]) -> None:
    rows = [_describe(entry) for entry in entries()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 1, 0))
    for heading in ("name", "paper", "needs", "scaffold", "defaults"):
        table.add_column(heading, no_wrap=heading == "name", overflow="fold")
    for row in rows:
        table.add_row(
            row["name"],
            row["paper"],
            ", ".join(row["needs"]) or "-",
            f"{row['advantage']} {row['reduction']}"
            + (" dynamic sampling" if row["dynamic_sampling"] else ""),
            "\n".join(f"{key} {value}" for key, value in row["defaults"].items()) or "-",
        )
    Console().print(table)
    print("scaffold: advantage estimator, reduction and sampling of the paper. More in docs/objectives.md")


def _describe(entry: Any) -> dict[str, Any]:
    config = entry.config_class()
    needs = asdict(entry.needs(config))
    return {
        "name": entry.name,
        "paper": entry.source,
        "needs": [name.replace("_", " ") for name, needed in needs.items() if needed],
        "advantage": entry.scaffold.advantage,
        "reduction": entry.scaffold.reduction,
        "dynamic_sampling": entry.scaffold.dynamic_sampling,
        "defaults": {f.name: getattr(config, f.name) for f in fields(config)},
    }
