"""The command `owpo`, and python -m owpo: the command line behind an import that Ctrl-C may end without a traceback."""

from __future__ import annotations

import signal
import sys

from owpo.stop import keep_interrupts


def main() -> int:
    """Run the command line; returns its exit code."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from owpo.cli import main as command_line  # seconds: torch

    signal.signal(signal.SIGINT, handler)
    keep_interrupts()
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
