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
from .peers import command as peers
from .peers.suites import SUITES


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
    _peers_arguments(commands.add_parser("peers", help="run another project's tests, from a checkout of it"))
    options = parser.parse_args(arguments)
    if options.action == "run":
        options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not options.command:
            run.error(f"no command: {PLACES.command} run -- COMMAND ...")
    return options


def _peers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", required=True, choices=list(SUITES))
    parser.add_argument("--folder", type=Path, required=True, help="the checkout")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="JSON", help="what came of each file")
    parser.add_argument("--only", nargs="*", default=(), metavar="PART", help="files with this in their names")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="packages beside the environment's")
    parser.add_argument("--again", action="store_true", help="also files that JSON has already")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="files at a time")


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
        elif options.action == "peers":
            choice = peers.Choice(options.only, options.again, options.jobs, options.packages)
            suite = SUITES[options.suite]
            return int(peers.run_suite(suite, options.folder.resolve(), options.output, choice) > 0)
        else:
            return status.show()
    except (EmulatorError, ReportError, OSError) as error:
        print(f"emulator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
