"""`lottery ticket`: tickets as files. Each action imports what it needs when it runs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.commands.run import main as lottery_run
from lottery.foundations.errors import Once, Refused

if TYPE_CHECKING:
    from lottery.store.tickets import Saved

EPILOG = """examples:
  lottery ticket export runs/demo-digits-c50a07ad/imp/seed0 --round 7 -o imp_r7.safetensors
  lottery ticket show imp_r7.safetensors                      where it comes from; runs nothing that it names
  lottery ticket verify imp_r7.safetensors data.root=DIR      trains it once more, and compares
  lottery ticket run imp_r7.safetensors seed=1,2 -m           under its own recipe in another data order
  lottery ticket run imp_r7.safetensors data=fashion_mnist    on other data (Morcos et al. 2019)
"""


def add_to(commands: Any) -> None:
    """Adds the command and its four actions to a parser."""
    raw = argparse.RawDescriptionHelpFormatter
    ticket = commands.add_parser("ticket", help="tickets as files", epilog=EPILOG, formatter_class=raw)
    actions = ticket.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser("export", help="a finished round's ticket, out of ledger and store")
    export.add_argument("cell", type=Path, help="the folder that holds the ledger")
    export.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="where the data lies now: data.root=DIR")
    export.add_argument("--round", type=int, required=True)
    export.add_argument("-o", "--output", type=Path, help="the file (default: ARM_seedK_rR.safetensors)")
    export.add_argument("--seed-only", action="store_true", help="the seed of the start weights in place of them")
    export.add_argument("--config-dir", action=Once, help="a folder of yours, as in `lottery run`")
    show = actions.add_parser("show", help="what a file says of itself")
    verify = actions.add_parser("verify", help="train it once more and compare; exits 1 if a claim does not hold")
    run = actions.add_parser("run", help="train it under its recipe, changed as you like", add_help=False)
    for parser in (show, verify, run):
        parser.add_argument("file", type=Path)
    verify.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="where the data lies: data.root=DIR")
    verify.add_argument(
        "--tolerance",
        type=float,
        help="of the test score, on other hardware or versions (default for accuracy: 0.01)",
    )
    _trusting(verify)
    run.add_argument("overrides", nargs=argparse.REMAINDER, help="as in `lottery run`")
    ticket.set_defaults(call=main)


def main(args: argparse.Namespace, run: Callable[[list[str]], int] = lottery_run) -> int:
    """One action; `run` is the command `lottery run`."""
    if args.action == "run":
        return _run(args, run)
    return {"export": _export, "show": _show, "verify": _verify}[args.action](args)


def _trusting(parser: argparse.ArgumentParser) -> None:
    help = "import path of a package whose code the file may name besides lottery's own"
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help=help)


def _export(args: argparse.Namespace) -> int:
    from lottery.commands.ticket.export import exported

    sources = (args.config_dir,) if args.config_dir else ()
    saved = exported(args.cell, args.round, args.output, args.seed_only, args.overrides, sources)
    saved.write()
    print(f"{saved.path}: {_title(saved)}, {saved.path.stat().st_size:,} bytes")
    return 0


def _show(args: argparse.Namespace) -> int:
    from lottery.config.nodes import as_yaml
    from lottery.config.trust import trusted
    from lottery.foundations.digests import leaves
    from lottery.store.tickets import read

    saved = read(args.file)
    info, line, phase = saved.info, saved.info["line"], saved.info["phase"]
    config, made = info["config"], info["made"]
    start = (
        f"drawn by seed {line['seed']}" if info["draw"] else f"{sum(t.numel() for t in saved.start.values()):,} numbers"
    )
    print(f"{saved.path}: {_title(saved)}, {saved.path.stat().st_size:,} bytes")
    for name, value in line.items():
        if name.startswith(("test_", "val_")):
            print(f"  {name:<16} {'not finite' if value is None else format(value, '.6g')}")
    print(f"  {'trained':<16} steps {phase['first']:,} to {phase['last']:,}, data order {phase['order']}")
    print(f"  {'start':<16} {start}")
    print(f"  {'made with':<16} lottery {made['lottery']}, torch {made['torch']}, python {made['python']}, "
          f"{made['device']}, {made['cpu'] or 'a processor unknown'}")  # fmt: skip
    print(f"  {'digests':<16} {', '.join(f'{k} {v[:16]}' for k, v in info['digests'].items() if isinstance(v, str))}")
    for name, mask in saved.masks.items():
        print(
            f"  {name:<32} {int(mask.count_nonzero()):>12,} of {mask.numel():>12,}  {line['layer_densities'][name]:.4f}"
        )
    for group, node in config.items():
        settings = " ".join(f"{'.'.join(key)}={as_yaml(value)}" for key, value in leaves(node) if key)
        print(f"  {group:<16} {settings or node}")
    try:
        trusted(saved.path, config)
    except Refused as refusal:
        print(f"not to be trained as it is: {refusal}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from lottery.commands.ticket.verify import verified
    from lottery.config.trust import trusted
    from lottery.store.tickets import read

    saved = read(args.file)
    if args.tolerance is not None and not args.tolerance >= 0:
        raise Refused(f"--tolerance {args.tolerance:g}: must be a number, 0 or more")
    trusted(saved.path, saved.info["config"], tuple(args.trust))
    print(f"{saved.path}: {_title(saved)}; training {saved.info['line']['train_steps']:,} steps", flush=True)
    verdict = verified(saved, args.overrides, tuple(args.trust), args.tolerance)
    if verdict.differs:
        print(f"not trained as here: {'; '.join(verdict.differs)}")
    print("compared bit for bit:" if verdict.exact else f"compared within {verdict.tolerance:g}:")
    for what, recorded, here, agrees in verdict.compared:
        print(f"  {what:<32} {recorded!s:.24} recorded, {here!s:.24} here{'' if agrees else ': NOT THE SAME'}")
    print("it holds" if verdict.holds else "it does not hold")
    return 0 if verdict.holds else 1


def _run(args: argparse.Namespace, run: Callable[[list[str]], int]) -> int:
    from lottery.commands.ticket.transfer import arguments
    from lottery.store.tickets import read

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _trusting(parser)
    trust, given = parser.parse_known_args(args.overrides)
    words = arguments(read(args.file), given, tuple(trust.trust))
    print(shlex.join(["lottery", "run", *words]), flush=True)
    return run(words)


def _title(saved: Saved) -> str:
    line = saved.info["line"]
    kept = sum(int(mask.count_nonzero()) for mask in saved.masks.values())
    of = f"{line['study']} {line['arm']} seed {line['seed']} round {line['round']}"
    return f"{of}, {kept:,} weights kept, density {line['density']:.4g}"
