"""`lottery compress`: smaller networks of a trained one, what each costs, and one of them as files."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.config.groups import PRUNING_GROUPS, channelwise
from lottery.foundations.errors import Refused
from lottery.foundations.files import staged

if TYPE_CHECKING:
    from torch import Tensor

    from lottery.compress.smaller import Smaller, Trained
    from lottery.rounds.prune import Pruning
    from lottery.training.module_recipe import ModuleRecipe
    from lottery.training.recipes import Budget

EXAMPLES = """examples:
  lottery compress runs/demo-digits-c50a07ad/imp/seed0 --round 0
  lottery compress runs/mine/imp/seed0 --keep 0.5,0.25 --tune 500 --export 0.25 compensation=mean
  lottery compress --weights net.safetensors model=resnet_20 data=cifar10 criterion=taylor"""
GROUPS = tuple(group for group in PRUNING_GROUPS if group != "schedule")
"""what may be chosen for a finished run, whose other settings are its own"""


DEFAULTS = ("structure=channels", "scope=layerwise", "compensation=least_squares")
"""what settings change, besides the budget, which is of parameters; `~compensation` leaves survivors as they are"""


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
    parser.add_argument("--round", type=int, default=0, help="the cell's round; the dense one, 0, if not given")
    parser.add_argument("--weights", type=Path, help="a .safetensors file, in place of a cell")
    parser.add_argument(
        "--keep",
        type=_shares,
        default=(0.5, 0.25, 0.1),
        help="shares to keep of the parameters, or of what structure.budget names, such as 0.5,0.25",
    )
    parser.add_argument(
        "--tune", type=int, default=0, metavar="STEPS", help="optimizer steps that each smaller network trains on"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads that networks are timed with")
    parser.add_argument("--explain", action="store_true", help="say what would go, group by group, and stop")
    parser.add_argument("--export", type=float, metavar="SHARE", help="the share whose network is written to files")
    parser.add_argument("--onnx", action="store_true", help="export ONNX too (lottery[onnx])")
    parser.add_argument("--out", type=Path, default=Path("compressed"), help="a new folder for table and export")
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
    chosen = {share: trained.chosen(pruning, share) for share in args.keep}  # before anything is trained
    if args.explain:
        for share, masks in chosen.items():
            print(f"\nat {share:.10g}:")
            print("\n".join(table(going(trained, masks))))
        return 0
    found = {}
    for share, masks in chosen.items():
        found[share] = trained.smaller(pruning, masks, tune)
        print(f"at {share:.10g}: {_size(found[share])}", flush=True)
    with staged(args.out) as folder:
        print("\n".join(_measured(trained, found, folder, args.threads)))
        if args.export is not None:
            small = found[args.export]
            made = export_point(folder / "network", small.net, trained.example, _plain(small), programs)
    print(f"\ntable   {args.out / 'points.csv'}\nfigure  {args.out / 'points.png'}")
    if args.export is not None:
        for name, size in made.files.items():
            apart = made.differences.get(name.removeprefix("model."))
            said = "" if apart is None else f", outputs within {apart:.1g} of the network's"
            print(f"{args.out / 'network' / name}  {size:,} bytes{said}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.export is not None and args.export not in args.keep:
        raise Refused(f"--export {args.export:g}: must be one of --keep {','.join(map('{:g}'.format, args.keep))}")
    for name, least in (("tune", 0), ("threads", 1)):
        if getattr(args, name) < least:
            raise Refused(f"--{name} {getattr(args, name)}: must be at least {least}")
    if not args.explain and (args.out.exists() or args.out.is_symlink()):
        raise Refused(f"--out {args.out}: exists already; name a new folder")


def _asked(args: argparse.Namespace) -> tuple[Trained, Pruning, Budget | None]:
    """The trained network, how channels are chosen, and how long smaller networks train on."""
    from lottery.compress.smaller import Trained
    from lottery.config.build import build_pruning, build_recipe
    from lottery.config.compose import cell_configs
    from lottery.foundations.seeds import Streams
    from lottery.rounds.lengths import last_rate
    from lottery.rounds.round import dense_ticket, initial
    from lottery.training.module_recipe import ModuleRecipe

    # an arm's label, and so a cell's folder, may hold settings
    settings = [w for w in args.words if w.startswith(("+", "~")) or ("=" in w and "/" not in w.partition("=")[0])]
    folders = [Path(word) for word in args.words if word not in settings]
    if bool(args.weights) is bool(folders) or len(folders) > 1:
        raise Refused("compress: needs one finished cell's folder, or --weights with settings of its model and data")
    moved = [word for word in settings if folders and word.lstrip("+").startswith("data.root=")]
    settings = [word for word in settings if word not in moved]
    configs = cell_configs([*DEFAULTS, *settings])
    if len(configs) > 1:
        raise Refused(f"compress: makes networks of one configuration, and the settings ask for {len(configs)}")
    config = dict(configs[0].config)
    if folders:
        config = _of_run(folders[0], settings, config, moved)
    if not channelwise(config):
        raise Refused("compress: needs structure=channels, since what is left by others is no smaller network")
    if not any(word.lstrip("+").startswith("structure.budget=") for word in settings):
        config["structure"] = {**config["structure"], "budget": "parameters"}
    recipe, seed = build_recipe(config), config["seed"]
    if not isinstance(recipe, ModuleRecipe):
        raise Refused("compress: is for modules of ours so far, not for a Lightning project")
    if folders:
        _check_data(folders[0], recipe)
    schedule = {"_target_": "lottery.pruning.schedules.explicit", "densities": [0.5]}
    pruning = build_pruning({**config, "schedule": schedule}, recipe)
    start, masks = initial(recipe, Streams(seed).init), dense_ticket(recipe, seed).masks
    if folders:
        from lottery.config.recorded import phase

        entry = phase(folders[0], args.round)
        state, masks = entry.state, entry.masks
    else:
        state = _of_file(args.weights, recipe, seed)
        if getattr(getattr(pruning.criterion, "func", pruning.criterion), "__module__", "").endswith("criteria.start"):
            raise Refused("criterion: compares weights with those that training began with, and --weights has none")
    tune = last_rate(recipe.budget, 1.0, args.tune / recipe.budget.steps) if args.tune else None
    return Trained(recipe, state, masks, start, seed), pruning, tune


def _of_run(cell: Path, settings: Iterable[str], asked: Mapping[str, Any], moved: Sequence[str]) -> dict[str, Any]:
    """A run's configuration, pruned as asked, on the hardware and with the folder of data asked for, if any."""
    from lottery.config.recorded import recorded

    groups = {word: word.lstrip("+~").partition("=")[0].partition(".")[0] for word in settings}
    if wrong := [word for word, group in groups.items() if group not in (*GROUPS, "hardware")]:
        raise Refused(
            f"{wrong[0]}: is the run's own; of a finished run {', '.join(GROUPS)}, hardware and data.root may be chosen"
        )
    ran = recorded(cell)
    plain = [word.lstrip("+~").partition("=")[0] for word in settings]
    keys = {word.split(".")[1] for word in plain if word.startswith("hardware.")} & asked["hardware"].keys()
    hardware = asked["hardware"] if "hardware" in plain else ran["hardware"] | {k: asked["hardware"][k] for k in keys}
    root = moved[-1].partition("=")[2].strip("'\"") if moved else None
    if root == "":
        raise Refused("data.root=: is empty; it is the folder that holds the data")
    return {
        **ran,
        **{group: asked.get(group) for group in GROUPS},
        "hardware": hardware,
        "data": ran["data"] | ({"root": root} if root else {}),
    }


def _check_data(cell: Path, recipe: ModuleRecipe) -> None:
    """Raises Refused for other data than those that a cell was trained on."""
    from lottery.store.folder import NAME
    from lottery.store.ledger import Ledger

    ran = next((line.get("data") for line in Ledger(cell / NAME).lines()), None)
    if ran and ran != (found := recipe.data.digest[:16]):
        raise Refused(f"data: are others than those that {cell} was trained on, of digest {found} and not {ran}")


def _of_file(weights: Path, recipe: ModuleRecipe, seed: int) -> dict[str, Tensor]:
    from lottery.foundations.seeds import Streams, seeded
    from lottery.models.pretrained import pretrained

    with recipe.numerics.entered(), seeded(Streams(seed).init):
        try:
            return pretrained(recipe.network(), str(weights)).state_dict()
        except ValueError as error:
            raise Refused(f"--{error}") from error


def _measured(trained: Trained, found: Mapping[float, Smaller], folder: Path, threads: int) -> list[str]:
    """Measures everything, writes the table, and gives it as text."""
    import pandas as pd

    from lottery.compress.latency import latencies
    from lottery.compress.points import rows, shown
    from lottery.compress.sizes import sizes
    from lottery.reports.tables import table
    from lottery.reports.tradeoff import draw_points

    nets = {"dense": trained.network(trained.state, trained.masks)}
    nets |= {f"{share:.10g}": small.net for share, small in found.items()}
    masked = {f"{share:.10g} masked": small.masked for share, small in found.items()}
    points = {name: sizes(net, trained.example) for name, net in nets.items()}
    timed = latencies({**nets, **masked}, trained.example, threads=threads)
    scores = {name: trained.scores(net) for name, net in nets.items()}
    every = rows(points, "dense", timed, scores)  # type: ignore[arg-type]  # a metric may be None
    frame = pd.DataFrame(every)
    frame.to_csv(folder / "points.csv", index=False)
    for suffix in ("png", "svg", "pdf"):
        draw_points(frame, trained.recipe.headline, folder / f"points.{suffix}")
    lines = table(shown(every))
    (folder / "points.md").write_text("\n".join(lines) + "\n")
    return ["", *lines]


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
