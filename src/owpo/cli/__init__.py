"""The command line. Exit codes: 0 done, 1 failed, 2 wrong input, 75 interrupted and resumable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from owpo.cli import measuring, problems, ratchet, training
from owpo.errors import InputError, Interrupted, RunFailed
from owpo.verify.verdict import VerifierFailed

_EXIT_FAILED, _EXIT_INPUT, _EXIT_INTERRUPTED = 1, 2, 75


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    if rest and arguments.command not in ("train", "check"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        arguments.run(arguments, rest)
    except InputError as error:
        print(f"owpo: {error}", file=sys.stderr)
        return _EXIT_INPUT
    except (RunFailed, VerifierFailed) as error:
        print(f"owpo: {error}", file=sys.stderr)
        return _EXIT_FAILED
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"owpo: {_how_to_go_on(arguments, error)}", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="owpo",
        description="Train language models with One-Way Policy Optimization: the verifier alone decides the "
        "direction of every token's update, a reference that moves with the policy scales its size.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for part in (training, ratchet, measuring, problems):
        part.add_commands(commands)
    return parser


def _how_to_go_on(arguments: argparse.Namespace, error: BaseException) -> str:
    if arguments.command == "eval":
        return f"stopped ({str(error) or 'Ctrl-C'}); the samples so far are kept, go on by the same command"
    folder = getattr(arguments, "folder", None)
    if folder is None or not Path(folder).exists():
        return "stopped before the run began; nothing was lost, start it again"
    saved = "state saved" if isinstance(error, Interrupted) else "stopped at once, the last checkpoint stands"
    return f"stopped ({str(error) or 'Ctrl-C'}), {saved}; go on by: owpo resume {folder}"
