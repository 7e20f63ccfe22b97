"""`lottery compress --within`: the largest share that stays within limits; bytes are counted, time is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
from torch import nn

from lottery.commands.compress.asked import asked
from lottery.commands.compress.searched import Searched
from lottery.commands.main import dispatch
from lottery.compress.latency import Interval, Latency
from lottery.compress.limits import limits, verdict
from lottery.compress.within import TURNS, Candidate, candidates, largest
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import seeded
from lottery.models.lenet import lenet_300_100
from lottery.pruning.channels.masking import left
from tests.few import few

CHANNELS = "structure.budget=channels"
"""shares of channels, which are found at once"""
PARAMETERS = 64 * 300 + 300 + 300 * 100 + 100 + 1000 + 10


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    with seeded(0):
        safetensors.torch.save_file(lenet_300_100([1, 8, 8], 10).state_dict(), file)
    return file


def search(weights: Path, limited: Mapping[str, float], *settings: str, threads: int = 1) -> list[Candidate]:
    trained, pruning, _ = asked(["data=digits", *(settings or [CHANNELS])], 0, weights, 0)
    return list(candidates(trained, pruning, limited, threads))


def bytes_at(weights: Path, share: float, *settings: str) -> int:
    trained, pruning, _ = asked(["data=digits", *(settings or [CHANNELS])], 0, weights, 0)
    return trained.recipe.cost("bytes", left(trained.recipe.coupling, trained.chosen(pruning, share)))


Timed = Callable[[float, float], list[Any]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Time goes by parameters: a network of n takes between low * n and high * n seconds, the whole one the mean."""

    def set_(low: float, high: float) -> list[Any]:
        seen: list[Any] = []

        def latencies(nets: Mapping[str, nn.Module], example: Any, *how: Any) -> list[Latency]:
            found = []
            drift = 3.0 ** len(seen)  # the machine gets slower and slower
            for name, net in nets.items():
                net(*example)  # it runs
                count = sum(weight.numel() for weight in net.parameters())
                ends = (low, high) if name == "net" and len(nets) == 2 else ((low + high) / 2,) * 2
                found.append(Latency(name, 1, 1, 1, tuple(drift * count * end for end in ends for _ in range(30))))
            seen.append((count, net.training, *how))
            return found

        monkeypatch.setattr("lottery.compress.within.latencies", latencies)
        return seen

    return set_


@pytest.mark.parametrize("limit", few([100_000, 60_000, 33_333, 190_000], 2))
def test_one_thousandth_more_is_too_much(limit: int, weights: Path) -> None:
    tried = search(weights, {"bytes": limit})
    found = largest(tried, "")
    assert bytes_at(weights, found.share) == found.costs["bytes"] <= limit < bytes_at(weights, found.share + 1 / 1000)
    assert [round(1000 * one.share) / 1000 for one in tried] == [one.share for one in tried]
    assert (tried[0].share, tried[0].costs["parameters"], tried[0].latency) == (1, PARAMETERS, None)
    for one in tried[2:]:  # the rule of bisection: no share on the wrong side of the one that is found
        assert (one.share <= found.share) is (one.verdict == "within")


def test_all_limits_count(weights: Path) -> None:
    alone = [largest(search(weights, one), "").share for one in ({"bytes": 100_000}, {"flops": 9_000})]
    assert largest(search(weights, {"bytes": 100_000, "flops": 9_000}), "").share == min(alone) < max(alone)


def test_a_share_is_one_of_the_budget_that_is_asked_for(weights: Path) -> None:
    tried = search(weights, {"bytes": 100_000}, "structure.budget=bytes")
    found = largest(tried, "")
    assert found.costs["bytes"] <= 100_000
    assert 0 <= found.share - 100_000 / tried[0].costs["bytes"] < 0.003  # whole channels come to a share from below


def test_a_latency_that_noise_leaves_open_counts_as_too_much(weights: Path, clock: Timed) -> None:
    seen = clock(0.9e-7, 1.1e-7)
    tried = search(weights, {"latency": 2e-3}, threads=2)
    found = largest(tried, "")
    assert found.latency == Interval(
        *(pytest.approx(found.costs["parameters"] * each) for each in (1e-7, 0.9e-7, 1.1e-7))
    )
    assert found.costs["parameters"] * 1.1e-7 <= 2e-3
    undecided = [one for one in tried if one.verdict == "undecided"]
    assert undecided
    assert all(one.costs["parameters"] * 0.9e-7 <= 2e-3 < one.costs["parameters"] * 1.1e-7 for one in undecided)
    assert {each[1:] for each in seen} == {(False, (1,), 2, TURNS)}


def test_a_network_is_timed_once(weights: Path, clock: Timed) -> None:
    """Shares that keep the same channels are the same network, of which one time is known."""
    seen = clock(1e-7, 1e-7)
    tried = search(weights, {"latency": 1e-3}, CHANNELS, "structure.multiple=50")
    counts = [count for count, *_ in seen]
    assert len(counts) == len(set(counts)) < len(tried)


@pytest.mark.parametrize(
    ("limited", "ends", "said"),
    [
        (
            {"bytes": 1e6},
            (0, 0),
            r"^--within it: the network is within as it is, with 50,610 parameters, [\d,]+ bytes, ",
        ),
        ({"bytes": 100}, (0, 0), r"it: can't be reached; the smallest network, a share of 0\.00\d, has \d+ parameters"),
        (
            {"latency": 1e-9},
            (1e-7, 1e-7),
            r"can't be reached; .* ms, and the whole one 50,610 .* 5\.06 \[5\.06, 5\.06\] ms$",
        ),
        ({"latency": 1e-3}, (0, 1), r"it: can't be told from noise; the smallest network, .* \[0, \d"),
    ],
)
def test_what_is_out_of_reach_is_one_sentence(
    limited: dict[str, float], ends: tuple[float, float], said: str, weights: Path, clock: Timed
) -> None:
    clock(*ends)
    with pytest.raises(Refused, match=said):
        largest(search(weights, limited), "it")


def test_the_share_is_said_and_explained(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not dispatch(
        ["compress", "data=digits", CHANNELS, "--weights", str(weights), "--within", "bytes=100kB", "--explain"]
    )
    said = capsys.readouterr().out
    share = said.partition("the largest that is within: --keep ")[2].split()[0]
    assert f"\nat {share}:\n" in said
    assert float(share) == largest(search(weights, {"bytes": 100_000}), "").share


@pytest.mark.slow
def test_the_share_makes_the_same_files_again(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_for = ("compress", "data=digits", "compensation.batches=1", "--weights", str(weights), "--tune", "3")
    assert not dispatch([*asked_for, "--within", "bytes=100kB", "--export", "--out", str(tmp_path / "found")])
    said = capsys.readouterr().out
    share = said.partition("--keep ")[2].split()[0]
    assert not dispatch([*asked_for, "--keep", share, "--export", share, "--out", str(tmp_path / "again")])
    files = [tmp_path / name / "network" / "model.safetensors" for name in ("found", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert 95_000 < files[0].stat().st_size <= 100_000
    points = pd.read_csv(tmp_path / "found" / "points.csv", dtype={"point": str})
    assert list(points["point"]) == ["dense", share, f"{share} masked", f"{share} masked, CSR"]
    table = pd.read_csv(tmp_path / "found" / "within.csv")
    assert table["share"].is_monotonic_increasing
    assert table.set_index("share").loc[float(share), "verdict"] == "within"
    assert table.set_index("share").loc[float(share), "bytes"] == files[0].stat().st_size
    assert json.loads((tmp_path / "found" / "network" / "structure.json").read_text())


@pytest.mark.parametrize(
    ("low", "high", "code", "said"),
    [
        (1e-3, 1.9e-3, 0, r"measured again, 0\.5 takes 1\.\d+ \[1, 1\.9\] ms, within --within latency=2ms"),
        (1e-3, 2.1e-3, 0, "which noise lets nobody tell from --within latency=2ms"),
        (2.1e-3, 3e-3, 1, "above --within latency=2ms"),
    ],
)
def test_what_the_table_measures_counts(
    low: float, high: float, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Candidate(0.5, {}, Interval(1e-3, 1e-3, 1e-3), "within")
    timed = [Latency("0.5", batch, 1, 1, (low,) * 10 * batch + (high,) * 10) for batch in (64, 1)]
    assert Searched("latency=2ms", found, (found,)).missed(timed) == code
    assert pd.Series([capsys.readouterr().out]).str.contains(said).all()
    assert Searched("bytes=2", found, (found,)).missed([]) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes=100", {"bytes": 100}),
        ("bytes=1.5KiB, flops=2e3", {"bytes": 1536, "flops": 2000}),
        ("latency=250us,parameters=50k", {"latency": 250e-6, "parameters": 50_000}),
    ],
)
def test_limits(text: str, found: dict[str, float]) -> None:
    assert limits(text) == pytest.approx(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("100kB", "^100kB: must limit one of parameters, flops, bytes, latency, such as"),
        ("energy=1J", "^energy=1J: must limit one of"),
        ("bytes=1,bytes=2", "^bytes=2: bytes is limited twice$"),
        ("latency=2", "^latency=2: must be a positive number with a unit, which is one of s, ms, us$"),
        ("latency=-2ms", "^latency=-2ms: must be a positive number"),
        ("bytes=0", "^bytes=0: must be a positive number with a unit, which is one of none, B, kB"),
        ("bytes=1e999", "^bytes=1e999: must be"),
        ("bytes=1.2.3", "^bytes=1.2.3: must be"),
        ("bytes=", "^bytes=: must be"),
    ],
)
def test_limits_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        limits(text)


def test_verdicts_at_the_edge() -> None:
    assert verdict({"bytes": 100}, {"bytes": 100}, None) == "within"
    assert verdict({"bytes": 99}, {"bytes": 100}, None) == "too much"
    at = Interval(2.0, 1.0, 3.0)
    assert [verdict({"latency": limit}, {}, at) for limit in (0.9, 1.0, 2.9, 3.0)] == [
        "too much", "undecided", "undecided", "within",
    ]  # fmt: skip
    assert verdict({"latency": 3.0, "bytes": 1}, {"bytes": 2}, at) == "too much"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--onnx"], "--onnx: goes with --export, which names the share whose network is written"),
        (["--export"], "--export: names no share, and there is no --within to find one"),
        (
            ["--within", "bytes=100kB", "--export", "0.5"],
            r"--export 0\.5: needs a --keep, or no number for what --within",
        ),
    ],
)
def test_what_is_refused_before_anything_is_read(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=said):
        dispatch(["compress", "runs/none", *words, "--out", str(tmp_path / "out")])


def test_a_limit_that_is_none_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dispatch(["compress", "runs/none", "--within", "latency=2"])
    assert "argument --within: latency=2: must be a positive number with a unit" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "1.5", "0.5,0.2"])
def test_a_share_to_export_that_is_none_ends_the_command(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dispatch(["compress", "runs/none", "--within", "bytes=4kB", "--export", share])
    assert f"argument --export: {share}: must be " in capsys.readouterr().err
