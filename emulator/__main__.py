# SPDX-License-Identifier: Apache-2.0
"""Implements ``run -- COMMAND``, ``build`` and ``status`` of ``python -m emulator``, or where it is installed of
``ascend-emulator``; any Python 3.10 or later will do."""

from __future__ import annotations

import argparse
import sys

from .launcher import launch, status
from .launcher.places import PLACES, EmulatorError


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
        else:
            return status.show()
    except EmulatorError as error:
        print(f"emulator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
