"""`lottery compress`: smaller networks of a trained one, what each costs, and one of them as files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.foundations.errors import Once, Refused
from lottery.foundations.files import staged

if TYPE_CHECKING:
    from lottery.compress.latency import Latency
    from lottery.compress.smaller import Smaller, Trained

EXAMPLES = """examples:
  lottery compress runs/demo-digits-c50a07ad/imp/seed0 --round 0
  lottery compress runs/mine/imp/seed0 --keep 0.5,0.25 --tune 500 --export 0.25 compensation=mean
  lottery compress runs/mine/imp/seed0 --within bytes=100kB,latency=2ms --tune 500 --export --onnx
  lottery compress --weights net.safetensors model=resnet_20 data=cifar10 criterion=taylor"""
FOUND = 0.0
"""In place of a share to export, which is above zero: the one that --within finds."""


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
    parser.add_argument("--config-dir", action=Once, help="a folder of yours, as in `lottery run`")
    parser.add_argument("--round", type=int, default=0, help="the cell's round; the dense one, 0, if not given")
    parser.add_argument("--weights", type=Path, help="a .safetensors file, or .pt of a state_dict, in place of a cell")
    parser.add_argument(
        "--keep",
        type=_shares,
        help="shares to keep of the parameters, or of what structure.budget names, such as 0.5,0.25 (0.5,0.25,0.1)",
    )
    parser.add_argument(
        "--within",
        type=_limits,
        metavar="LIMITS",
        help="find the largest share within bytes=100kB, latency=2ms (of one example, measured), flops=5M or "
        "parameters=50k; several with commas between",
    )
    parser.add_argument(
        "--tune", type=int, default=0, metavar="STEPS", help="optimizer steps that each smaller network trains on"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads that networks are timed with")
    parser.add_argument("--explain", action="store_true", help="say what would go, group by group, and stop")
    parser.add_argument(
        "--export",
        nargs="?",
        type=_share,
        const=FOUND,
        metavar="SHARE",
        help="the share whose network is written to files; the one that --within finds if none is named",
    )
    parser.add_argument("--onnx", action="store_true", help="export ONNX too (lottery[onnx])")
    parser.add_argument("--out", type=Path, default=Path("compressed"), help="a new folder for table and export")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Makes the networks of all shares, prints their table and writes it, with the network that was asked for."""
    from lottery.commands.compress.asked import asked
    from lottery.commands.compress.searched import searched
    from lottery.compress.export import check_point, export_point
    from lottery.compress.programs import check_programs
    from lottery.compress.smaller import going
    from lottery.reports.tables import table

    _check(args)
    refused: Refused | None = None
    # before any work: nothing can be made in some places
    with nullcontext() if args.explain else staged(args.out, "--out ") as folder:
        programs = ("pt2", "onnx") if args.onnx else ("pt2",)
        if args.export is not None:
            check_programs(programs)
        trained, pruning, tune = asked(args.words, args.round, args.weights, args.tune, args.config_dir)
        exports = args.export is not None and folder is not None
        if exports and args.within:  # a search may measure for long
            check_point(trained.part(trained.cut(trained.masks)), trained.recipe.example, programs)
        tried = searched(trained, pruning, args.within, args.threads) if args.within else None
        keep = dict.fromkeys([*args.keep, *([tried.found.share] if tried else [])])
        chosen = {share: trained.chosen(pruning, share) for share in keep}  # before anything is trained
        if folder is None:
            for share, masks in chosen.items():
                print(f"\nat {share:.10g}:")
                print("\n".join(table(going(trained, masks))))
            return 0
        export = tried.found.share if tried and args.export == FOUND else args.export
        if exports:
            check_point(trained.part(trained.cut(chosen[export])), trained.recipe.example, programs)
        found = {}
        for share, masks in chosen.items():
            found[share] = trained.smaller(pruning, masks, tune)
            print(f"at {share:.10g}: {_size(found[share])}", flush=True)
        timed, lines = _measured(trained, found, folder, args.threads)
        print("\n".join(lines))
        if tried:
            tried.write(folder / "within.csv")
        if exports:
            small = found[export]
            part, example = trained.part(small.net), trained.recipe.example
            try:
                made = export_point(folder / "network", part, example, trained.written(small), programs)
            except Refused as refusal:  # of values that tuning came to: what was measured stays
                refused = refusal
    print(f"\ntable   {args.out / 'points.csv'}\nfigure  {args.out / 'points.png'}")
    if refused:
        raise refused
    if exports:
        for name, size in made.files.items():
            apart = made.differences.get(name.removeprefix("model."))
            opset = f", opset {made.opset}" if name.endswith(".onnx") else ""
            said = "" if apart is None else f"{opset}, outputs within {apart:.1g} of the network's"
            print(f"{args.out / 'network' / name}  {size:,} bytes{said}")
    return tried.missed(timed) if tried else 0


def _check(args: argparse.Namespace) -> None:
    if args.keep is None:
        args.keep = () if args.within else (0.5, 0.25, 0.1)
    if args.export == FOUND and not args.within:
        raise Refused("--export: names no share, and there is no --within to find one")
    if args.export not in (None, FOUND, *args.keep):
        shares = ",".join(map("{:g}".format, args.keep))
        other = f"must be one of --keep {shares}" if shares else "needs a --keep, or no number for what --within finds"
        raise Refused(f"--export {args.export:g}: {other}")
    if args.onnx and args.export is None:
        raise Refused("--onnx: goes with --export, which names the share whose network is written")
    for name, least in (("tune", 0), ("threads", 1)):
        if getattr(args, name) < least:
            raise Refused(f"--{name} {getattr(args, name)}: must be at least {least}")
    if not args.explain and (args.out.exists() or args.out.is_symlink()):
        raise Refused(f"--out {args.out}: exists already; name a new folder")


def _measured(
    trained: Trained, found: Mapping[float, Smaller], folder: Path, threads: int
) -> tuple[list[Latency], list[str]]:
    """Measures everything, writes the table, and gives latencies and the table as text."""
    import pandas as pd

    from lottery.compress.energy import counters, energies
    from lottery.compress.latency import csr, latencies
    from lottery.compress.points import rows, shown
    from lottery.compress.sizes import sizes
    from lottery.reports.tables import table
    from lottery.reports.tradeoff import draw_points

    nets = {"dense": trained.network(trained.state, trained.masks)}
    nets |= {f"{share:.10g}": small.net for share, small in found.items()}
    masked = {f"{share:.10g} masked": small.masked for share, small in found.items()}
    running = {name: trained.part(net) for name, net in (nets | masked).items()}
    points = {name: sizes(net, trained.recipe.example) for name, net in running.items()}
    sparse = {f"{name}, CSR": csr(running[name]) for name in ("dense", *masked)}
    running |= {name: net for name, net in sparse.items() if net is not None}
    timed = latencies(running, trained.recipe.example, threads=threads)
    scores = {name: trained.scores(net) for name, net in nets.items()}
    energy = energies(running, trained.recipe.example, counters(), threads=threads)
    every = rows(points, "dense", timed, scores, energy)  # type: ignore[arg-type]  # a metric may be None
    frame = pd.DataFrame(every)
    frame.to_csv(folder / "points.csv", index=False)
    for suffix in ("png", "svg", "pdf"):
        draw_points(frame, trained.recipe.headline, folder / f"points.{suffix}")
    lines = table(shown(every))
    (folder / "points.md").write_text("\n".join(lines) + "\n")
    return timed, ["", *lines]


def _size(small: Smaller) -> str:
    count = sum(weight.numel() for weight in small.net.parameters())
    return f"{count:,} parameters"


def _shares(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(share) for share in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"{text or 'nothing'}: must be shares between 0 and 1, with commas between")
    return found


def _share(text: str) -> float:
    found = _shares(text)
    if len(found) > 1:
        raise argparse.ArgumentTypeError(f"{text}: must be one share")
    return found[0]


def _limits(text: str) -> str:
    from lottery.compress.limits import limits

    try:
        limits(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
