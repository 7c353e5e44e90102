"""`wsrl completion SHELL`: prints a script that makes a shell complete commands, options and names of files."""

import argparse

from wsrl.extras import require

EXAMPLES = ('eval "$(wsrl completion bash)"', "wsrl completion fish > ~/.config/fish/completions/wsrl.fish")
SHELLS = ("bash", "zsh", "fish")
FOLDERS = ("DIR",)  # metavars of arguments that are folders
FILES = ("FILE", "FILE.npz", "FILE.svg", "FILE.json", "SOURCE", "QUERY")  # and of those that may be files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish; needs the extra completion")


def run(args: argparse.Namespace) -> int:
    """Prints the script; returns the exit status.

    Raises:
      InputError: the extra is missing.
    """
    shtab = require("shtab", "completion")
    from wsrl.cli.main import COMMANDS, command_parser  # which imports this

    parser = command_parser(COMMANDS)
    for action in _actions(parser):
        if action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
    print(shtab.complete(parser, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All arguments of the parser and of its commands."""
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found += _actions(command)
    return found
