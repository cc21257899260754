"""The command line.

Exit codes: 0 done, 1 failed, 2 wrong input, 75 interrupted and resumable, 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from owpo.cli import expectation, exporting, measuring, problems, ratchet, reporting, study, training
from owpo.disk.trouble import DiskFailed, disk_trouble
from owpo.errors import InputError, Interrupted, RunFailed
from owpo.printable import printable
from owpo.verify.verdict import VerifierFailed

_EXIT_FAILED, _EXIT_INPUT, _EXIT_INTERRUPTED, _EXIT_UNREAD = 1, 2, 75, 141


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        try:
            return _command(words)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # after the command itself
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return _EXIT_UNREAD


def _command(words: Sequence[str] | None) -> int:
    try:
        arguments, rest = _parsed(words)
    except KeyboardInterrupt:
        _tell("stopped (Ctrl-C) before it began; start it again")
        return _EXIT_INTERRUPTED
    try:
        _run(arguments, rest)
    except InputError as error:
        _tell(str(error))
        return _EXIT_INPUT
    except DiskFailed as error:
        _tell(f"{error}; {error.cure}, then give the same command again")
        return _EXIT_FAILED
    except (RunFailed, VerifierFailed) as error:
        _tell(str(error))
        return _EXIT_FAILED
    except (Interrupted, KeyboardInterrupt) as error:
        _tell(_how_to_go_on(arguments, str(error) or "Ctrl-C", isinstance(error, Interrupted)))
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        if arguments.command in ("train", "resume", "eval", "study"):
            _tell(_how_to_go_on(arguments, "the output was closed", False))
        raise
    return 0


def _parsed(words: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command's arguments, and overrides of a recipe."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    if rest and arguments.command not in ("train", "check"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments, rest


def _run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """
    Raises:
        DiskFailed: also for trouble of the disk that nobody below has told.
        BrokenPipeError: nobody reads the output.
    """
    try:
        arguments.run(arguments, rest)
    except SystemExit as error:  # what rich makes of a broken pipe
        raise BrokenPipeError from error
    except OSError as error:
        failed = disk_trouble(error)
        if failed is None:
            raise
        raise failed from error


def _tell(sentence: str) -> None:
    with suppress(BrokenPipeError):
        print(f"owpo: {printable(sentence)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="owpo",
        description="Train language models with One-Way Policy Optimization: the verifier alone decides the "
        "direction of every token's update, a reference that moves with the policy scales its size.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for part in (training, study, reporting, ratchet, measuring, expectation, exporting, problems):
        part.add_commands(commands)
    return parser


def _how_to_go_on(arguments: argparse.Namespace, reason: str, is_saved: bool) -> str:
    if arguments.command == "study":
        return (
            f"stopped ({reason}); finished runs are kept and those at work have saved their state, go on by the same "
            "command"
        )
    if arguments.command == "eval":
        return f"stopped ({reason}); the samples so far are kept, go on by the same command"
    folder = getattr(arguments, "folder", None)
    if folder is None or not Path(folder).exists():
        return f"stopped ({reason}) before the run began; nothing was lost, start it again"
    saved = "state saved" if is_saved else "the last checkpoint stands"
    return f"stopped ({reason}), {saved}; go on by: owpo resume {folder}"
