"""`lottery compress`: smaller networks of a trained one, what each costs, and one of them as files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.foundations.errors import Refused
from lottery.foundations.files import staged

if TYPE_CHECKING:
    from lottery.compress.smaller import Smaller, Trained

EXAMPLES = """examples:
  lottery compress runs/demo-digits-c50a07ad/imp/seed0 --round 0
  lottery compress runs/mine/imp/seed0 --keep 0.5,0.25 --tune 500 --export 0.25 compensation=mean
  lottery compress --weights net.safetensors model=resnet_20 data=cifar10 criterion=taylor"""


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
    from lottery.commands.compress.asked import asked
    from lottery.compress.export import export_point
    from lottery.compress.programs import check_programs
    from lottery.compress.smaller import going
    from lottery.reports.tables import table

    _check(args)
    programs = ("pt2", "onnx") if args.onnx else ("pt2",)
    if args.export is not None:
        check_programs(programs)
    trained, pruning, tune = asked(args.words, args.round, args.weights, args.tune)
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
            part, example = trained.part(small.net), trained.recipe.example
            made = export_point(folder / "network", part, example, trained.written(small), programs)
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
    points = {name: sizes(trained.part(net), trained.recipe.example) for name, net in nets.items()}
    running = {name: trained.part(net) for name, net in (nets | masked).items()}
    timed = latencies(running, trained.recipe.example, threads=threads)
    scores = {name: trained.scores(net) for name, net in nets.items()}
    every = rows(points, "dense", timed, scores)  # type: ignore[arg-type]  # a metric may be None
    frame = pd.DataFrame(every)
    frame.to_csv(folder / "points.csv", index=False)
    for suffix in ("png", "svg", "pdf"):
        draw_points(frame, trained.recipe.headline, folder / f"points.{suffix}")
    lines = table(shown(every))
    (folder / "points.md").write_text("\n".join(lines) + "\n")
    return ["", *lines]


def _size(small: Smaller) -> str:
    count = sum(weight.numel() for weight in small.net.parameters())
    return f"{count:,} parameters"


def _shares(text: str) -> tuple[float, ...]:
    found = tuple(float(share) for share in text.split(","))
    if not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"{text}: shares must lie between 0 and 1")
    return found
