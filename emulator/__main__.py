# SPDX-License-Identifier: Apache-2.0
"""Implements ``python -m emulator``, or where it is installed ``ascend-emulator``; any Python 3.10 or later will
do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .launcher import launch, status
from .launcher.places import PLACES, EmulatorError
from .page.document import write_page
from .page.reports import ReportError


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line; everything after ``run`` is the command's own."""
    parser = argparse.ArgumentParser(
        prog=PLACES.command, description="Runs programs for Ascend NPUs on this machine's processor."
    )
    commands = parser.add_subparsers(dest="action", required=True)
    run = commands.add_parser("run", help="run a program on the emulator, which is built when need be")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    commands.add_parser("build", help="only build; prints the folder of the libraries")
    commands.add_parser("status", help="say what is there and what is missing")
    page = commands.add_parser(
        "page", help="draw the race reports in a folder (EMULATOR_RACE_LOG) as an HTML file"
    )
    page.add_argument("folder", type=Path)
    page.add_argument("--output", "-o", type=Path, default=Path("races.html"), metavar="FILE")
    options = parser.parse_args(arguments)
    if options.action == "run":
        options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not options.command:
            run.error(f"no command: {PLACES.command} run -- COMMAND ...")
    return options


def main() -> int:
    """Runs one command; errors on stderr, status 1."""
    options = parse(sys.argv[1:])
    try:
        if options.action == "run":
            launch.run(options.command)
        elif options.action == "build":
            print(launch.build_only())
        elif options.action == "page":
            if not options.folder.is_dir():
                raise EmulatorError(
                    f"{options.folder} is no folder: run the program with EMULATOR_RACE_LOG=FOLDER"
                )
            print(f"{options.output}: {write_page(options.folder, options.output)} race reports")
        else:
            return status.show()
    except (EmulatorError, ReportError, OSError) as error:
        print(f"emulator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
