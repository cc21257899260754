"""owpo export."""

from __future__ import annotations

import argparse
import json

from owpo.cli.common import Commands


def add_commands(commands: Commands) -> None:
    export = commands.add_parser(
        "export",
        help="write a version of a run, or an adapter, as an ordinary model folder",
        description="Write an ordinary Hugging Face folder: an adapter is merged into its base and the log-probs are "
        "compared, a whole model is copied. Refuses to write over anything.",
        epilog="docs/lora.md.",
        allow_abbrev=False,
    )
    export.add_argument("folder", help="a run folder, or a folder with an adapter (RUN/versions/ID)")
    export.add_argument("--to", required=True, metavar="FOLDER", help="the folder to be made")
    export.add_argument("--version", metavar="ID", help="of a run; default: the best of its last stage")
    export.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that comes with an adapter's base"
    )
    export.add_argument("--json", action="store_true", help="print what was done as JSON")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace, _rest: list[str]) -> None:
    from owpo.exporting import export
    from owpo.terminal import show_warnings

    show_warnings()
    done = export(
        arguments.folder,
        arguments.to,
        version=arguments.version,
        trust_remote_code=arguments.trust_remote_code,
    )
    if arguments.json:
        print(json.dumps(done.to_json(), indent=2))
    elif done.merged:
        print(
            f"{done.source} merged into {done.folder}; log-probs differ by {done.difference:.1g} nats at most"
        )
    else:
        print(f"{done.source} copied to {done.folder}")
