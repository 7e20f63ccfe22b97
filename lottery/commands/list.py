"""`lottery list`: the groups of `conf/`, and what can be chosen in each."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import Any

from lottery.foundations.errors import Once, Refused, nearby


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser("list", help="name every experiment, model, data set, criterion, arm, ...")
    parser.add_argument("group", nargs="?", help="only this group")
    parser.add_argument("--config-dir", action=Once, help="a folder of yours, as in `lottery run`")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Prints one group or all. Raises Refused for a group that does not exist, naming those that are near it."""
    from lottery.config.groups import GROUPS, options

    sources = (args.config_dir,) if args.config_dir else ()
    if args.group and args.group not in GROUPS:
        groups = {option: group for group in GROUPS for option in options(group, sources)}
        if like := get_close_matches(args.group, groups, n=1):
            also = f"; `lottery list {groups[like[0]]}` has {like[0]}"
        else:
            also = ""
        raise Refused(f"{args.group}: there is no such group; {nearby(args.group, list(GROUPS))}{also}")
    for group in [args.group] if args.group else GROUPS:
        print(group)
        for name, sentence in options(group, sources).items():
            print(f"  {name:<16} {sentence}")
    return 0
