"""`lottery compress`: smaller networks of a trained one, what each costs, and one of them as files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.foundations.errors import Refused

if TYPE_CHECKING:
    from lottery.compress.smaller import Smaller, Trained
    from lottery.rounds.prune import Pruning
    from lottery.training.recipes import Budget

EXAMPLES = """examples:
  lottery compress runs/demo-digits-c50a07ad/imp/seed0 --round 0
  lottery compress runs/mine/imp/seed0 --keep 0.5,0.25 --tune 500 --export 0.25 compensation=least_squares
  lottery compress --weights net.safetensors model=resnet_20 data=cifar10 criterion=taylor"""
GROUPS = ("criterion", "scope", "structure", "compensation")
"""what may be chosen for a finished run, whose other settings are its own"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "compress",
        help="make a trained network smaller, measure what it costs, and export it",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="+", metavar="CELL or setting", help="a finished cell's folder; settings as of `lottery run`"
    )
    parser.add_argument("--round", type=int, default=-1, help="the cell's round; its last one if not given")
    parser.add_argument("--weights", type=Path, help="a .safetensors file, in place of a cell")
    parser.add_argument(
        "--keep", type=_shares, default=(0.5, 0.25, 0.1), help="shares of the weights to keep, such as 0.5,0.25"
    )
    parser.add_argument(
        "--tune", type=int, default=0, metavar="STEPS", help="optimizer steps that each smaller network trains on"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads that networks are timed with")
    parser.add_argument("--explain", action="store_true", help="say what would go, group by group, and stop")
    parser.add_argument("--export", type=float, metavar="SHARE", help="the share whose network is written to files")
    parser.add_argument("--onnx", action="store_true", help="export ONNX too (lottery[onnx])")
    parser.add_argument(
        "--out", type=Path, default=Path("compressed"), help="a new folder for table, figure and export"
    )
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Makes the networks of all shares, prints their table and writes it, with the network that was asked for."""
    from lottery.compress.export import export_point
    from lottery.compress.programs import check_programs
    from lottery.compress.smaller import going
    from lottery.reports.tables import table

    _check(args)
    programs = ("pt2", "onnx") if args.onnx else ("pt2",)
    if args.export is not None:
        check_programs(programs)
    trained, pruning, tune = _asked(args)
    if args.explain:
        for share in args.keep:
            small = trained.smaller(pruning, share)
            print(f"\nat {share:.4g} of the weights:")
            print("\n".join(table(going(trained, small.masks))))
        return 0
    found = {}
    for share in args.keep:
        found[share] = trained.smaller(pruning, share, tune)
        print(f"{share:.4g} of the weights: {_size(found[share])}", flush=True)
    args.out.mkdir(parents=True)
    _publish(trained, found, args)
    if args.export is not None:
        small = found[args.export]
        made = export_point(args.out / "network", small.net, trained.example, _plain(small), programs)
        for name, size in made.files.items():
            print(f"{made.folder / name}  {size:,} bytes")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.export is not None and args.export not in args.keep:
        raise Refused(f"--export {args.export:g}: must be one of --keep {','.join(map('{:g}'.format, args.keep))}")
    for name, least in (("tune", 0), ("threads", 1)):
        if getattr(args, name) < least:
            raise Refused(f"--{name} {getattr(args, name)}: must be at least {least}")
    if not args.explain and args.out.exists():
        raise Refused(f"--out {args.out}: exists already; name a new folder")


def _asked(args: argparse.Namespace) -> tuple[Trained, Pruning, Budget | None]:
    """The trained network, how channels are chosen, and how long smaller networks train on."""
    from lottery.compress.smaller import Trained
    from lottery.config.build import build_pruning, build_recipe
    from lottery.config.compose import cell_configs
    from lottery.foundations.seeds import Streams, seeded
    from lottery.rounds.lengths import last_rate
    from lottery.training.module_recipe import ModuleRecipe

    folders = [word for word in args.words if "=" not in word]
    settings = [word for word in args.words if "=" in word]
    config = dict(cell_configs(["structure=channels", "scope=layerwise", *settings])[0].config)
    if bool(args.weights) is bool(folders) or len(folders) > 1:
        raise Refused(
            "compress: needs one finished cell's folder, or --weights with the settings of its model and data"
        )
    if folders:
        from lottery.config.recorded import phase, recorded

        if wrong := [word for word in settings if word.lstrip("+~").partition("=")[0].partition(".")[0] not in GROUPS]:
            raise Refused(f"{wrong[0]}: is the run's own; of a finished run {', '.join(GROUPS)} may be chosen")
        state = phase(Path(folders[0]), _round(args, Path(folders[0]))).state
        config = {**recorded(Path(folders[0])), **{group: config.get(group) for group in GROUPS}}
    if not str((config.get("structure") or {}).get("_target_")).endswith(".channels"):
        raise Refused("compress: needs structure=channels, since what is left by others is no smaller network")
    recipe = build_recipe(config)
    if not isinstance(recipe, ModuleRecipe):
        raise Refused("compress: is for modules of ours so far, not for a Lightning project")
    if args.weights:
        from lottery.models.pretrained import pretrained

        with recipe.numerics.entered(), seeded(Streams(config["seed"]).init):
            try:
                state = pretrained(recipe.network(), str(args.weights)).state_dict()
            except ValueError as error:
                raise Refused(f"--{error}") from error
    schedule = {"_target_": "lottery.pruning.schedules.explicit", "densities": [0.5]}
    pruning = build_pruning({**config, "schedule": schedule}, recipe)
    tune = last_rate(recipe.budget, 1.0, args.tune / recipe.budget.steps) if args.tune else None
    return Trained(recipe, state, config["seed"]), pruning, tune


def _round(args: argparse.Namespace, cell: Path) -> int:
    from lottery.store.folder import NAME
    from lottery.store.ledger import Ledger

    return len(Ledger(cell.resolve() / NAME).lines()) - 1 if args.round < 0 else int(args.round)


def _publish(trained: Trained, found: Mapping[float, Smaller], args: argparse.Namespace) -> None:
    """Measures everything, prints the table and writes it."""
    import pandas as pd

    from lottery.compress.latency import latencies
    from lottery.compress.points import cells, rows
    from lottery.compress.sizes import sizes
    from lottery.reports.tables import table

    dense = trained.network(trained.state)
    nets = {"dense": dense} | {f"{share:.4g}": small.net for share, small in found.items()}
    masked = {f"{share:.4g} masked": small.masked for share, small in found.items()}
    points = {name: sizes(net, trained.example) for name, net in nets.items()}
    timed = latencies({**nets, **masked}, trained.example, threads=args.threads)
    scores = {name: trained.scores(net) for name, net in nets.items()}
    every = rows(points, "dense", timed, scores)  # type: ignore[arg-type]  # a metric may be None
    pd.DataFrame(every).to_csv(args.out / "points.csv", index=False)
    lines = table([list(each) for each in zip(*cells(every), strict=True)])  # a point a column: there are many rows
    (args.out / "points.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))
    print(f"\ntable   {args.out / 'points.csv'}")


def _plain(small: Smaller) -> dict[str, Any]:
    return {name: {str(axis): list(kept) for axis, kept in axes.items()} for name, axes in small.structure.items()}


def _size(small: Smaller) -> str:
    count = sum(weight.numel() for weight in small.net.parameters())
    return f"{count:,} parameters"


def _shares(text: str) -> tuple[float, ...]:
    found = tuple(float(share) for share in text.split(","))
    if not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"{text}: shares must lie between 0 and 1")
    return found
