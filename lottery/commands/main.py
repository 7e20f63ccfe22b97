"""The command line: finds the command that was typed, runs it, and turns its errors into sentences and exit codes.

Each command is a module: `add_to` gives it a parser, which names the function to call. That function imports what it
needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import lottery
from lottery.commands import check, overlap, process, report, run, status, store, verdict
from lottery.commands import list as listing
from lottery.commands.compress import actions as compress
from lottery.commands.ticket import actions as ticket
from lottery.commands.wandb import actions as wandb
from lottery.commands.watch import actions as watch
from lottery.foundations.errors import describe

COMMANDS = (run, listing, check, status, watch, report, verdict, overlap, ticket, compress, store, wandb)


def main() -> None:
    """The `lottery` command: exits 0 if everything asked for was done, else says why in one sentence."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"  # read here, because a launch sets it
    process.prepare()
    words = sys.argv[1:]
    try:
        code = dispatch(words)
        sys.stdout.flush()  # here, since what is buffered may find no reader either
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, process.Terminated)
        trains = words[:1] == ["run"] and "--plan" not in words
        resumes = "nothing is lost: the same command goes on from the last checkpoint"
        after = str(stop) or (resumes if trains else "the same command can be given again")
        print(f"\n{'terminated' if terminated else 'interrupted'}; {after}", file=sys.stderr)
        code = 143 if terminated else 130
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough; Python must not complain when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if wants_traceback:
            raise
        print(f"lottery: {describe(error)}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.exit(code)


def dispatch(words: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    if words[:1] == ["run"]:  # what follows is for Hydra to parse, flags included
        return run.main(words[1:])
    every = parser()
    args, more = every.parse_known_args(words)
    if more and (not hasattr(args, "words") or any(word.startswith("-") for word in more)):
        every.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # settings may stand behind options
        args.words += more
    return args.call(args)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it parses has the command's function as `call`."""
    top = argparse.ArgumentParser(
        prog="lottery",
        description="Lottery-ticket and pruning research: prune, rewind, train again; reproducible and resumable.",
        epilog=run.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"lottery {lottery.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return top
