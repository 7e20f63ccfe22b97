"""The ledger: a line for each round, whatever happens to the process or the file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lottery.commands import status
from lottery.foundations.errors import Refused
from lottery.reports.results import read
from lottery.store import leases
from lottery.store.folder import NAME, cells, folders
from lottery.store.ledger import Ledger, LedgerError, needed
from lottery.store.owners import this_process


def line(index: int, rounds: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "arm": "imp", "round": index, "rounds": rounds, "density": 0.8**index,
        "test_accuracy": 1 / (index + 3), "run": {"seconds": 0.1},
    } | more  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for index in range(3):
        ledger.record(line(index))
    return ledger


def test_gives_back_what_was_recorded(ledger: Ledger) -> None:
    assert ledger.lines() == [line(0), line(1), line(2)]
    assert ledger.path.read_bytes().count(b"\n") == 3


def test_a_ledger_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.lines() == []
    assert not ledger.finished()
    assert not ledger.path.exists()


def test_is_finished_with_the_last_planned_round(ledger: Ledger) -> None:
    assert not ledger.finished()
    ledger.record(line(3))
    assert ledger.finished()


def test_a_dense_study_is_finished_with_round_zero(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.record(line(0, rounds=0))
    assert ledger.finished()


def test_the_last_line_torn_anywhere_is_overwritten(ledger: Ledger) -> None:
    whole = ledger.path.read_bytes()
    before = whole.rindex(b"\n", 0, -1) + 1
    for length in range(before, len(whole)):
        ledger.path.write_bytes(whole[:length])
        assert ledger.lines() == [line(0), line(1)]
        ledger.record(line(2))
        assert ledger.path.read_bytes() == whole


def test_a_torn_line_longer_than_the_new_one_leaves_nothing(ledger: Ledger) -> None:
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"round": 3, ' + b"x" * 10_000)
    ledger.record(line(3))
    assert ledger.path.read_bytes() == whole + json.dumps(line(3)).encode() + b"\n"


@pytest.mark.parametrize(
    "damage", [b'{"round": 1, "den', b"", b"[]", b"null", b'{"arm": "imp"}', b'{"round": 2}', b"\xff\xfe", b"1"]
)
def test_damage_in_the_middle_is_named_by_its_line(damage: bytes, ledger: Ledger) -> None:
    texts = ledger.path.read_bytes().split(b"\n")
    texts[1] = damage
    ledger.path.write_bytes(b"\n".join(texts))
    for act in (ledger.lines, ledger.finished, lambda: ledger.record(line(3))):
        with pytest.raises(LedgerError, match=r"ledger\.jsonl, line 2 is damaged"):
            act()
    assert ledger.path.read_bytes() == b"\n".join(texts)


@pytest.mark.parametrize(
    ("old", "new"), [(b"}\n{", b"},{"), (b', "round": 1', b', "a": [1\n2], "round": 1'), (b"}\n{", b"}\n\n{")]
)
def test_each_line_is_whole_by_itself(old: bytes, new: bytes, ledger: Ledger) -> None:
    """Lines are parsed together; what is JSON only then is damaged all the same."""
    ledger.path.write_bytes(ledger.path.read_bytes().replace(old, new, 1))
    with pytest.raises(LedgerError, match=r"line [12] is damaged"):
        ledger.lines()


def test_a_lost_line_is_damage_too(ledger: Ledger) -> None:
    first, _, third = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(first + third)
    with pytest.raises(LedgerError, match=r"line 2 is damaged: it says round 2, not 1"):
        ledger.lines()


def test_a_round_recorded_again_stays_one_line(ledger: Ledger) -> None:
    before = ledger.path.read_bytes()
    for index in (0, 1, 2, 2):
        ledger.record(line(index, run={"seconds": 99, "host": "another"}))
    assert ledger.path.read_bytes() == before


@pytest.mark.parametrize("changed", [{"test_accuracy": 0.123}, {"stopped": "thin"}, {"density": 0.80000001}])
def test_another_result_for_a_recorded_round_is_refused(changed: dict[str, Any], ledger: Ledger) -> None:
    before, (key, value) = ledger.path.read_bytes(), *changed.items()
    with pytest.raises(LedgerError, match=rf"round 1 .*{key} .* there, {value} now"):
        ledger.record(line(1, **changed))
    assert ledger.path.read_bytes() == before


def test_a_key_that_one_version_lacks_is_no_other_result(ledger: Ledger) -> None:
    fewer, before = line(1), ledger.path.read_bytes()
    del fewer["density"]
    for older_or_newer in (fewer, line(1, new=0.5)):
        ledger.record(older_or_newer)
    assert ledger.path.read_bytes() == before
    with pytest.raises(LedgerError, match=r"test_accuracy 0\.25 there, 0\.5 now"):
        ledger.record(line(1, new=0.5, test_accuracy=0.5))


def test_a_chain_that_had_ended_does_not_go_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / NAME)
    ledger.record(line(0, stopped="thin"))
    with pytest.raises(LedgerError, match="stopped thin there, None now"):
        ledger.record(line(0))


def test_numbers_that_json_lacks_are_refused_and_nothing_is_written(ledger: Ledger) -> None:
    before = ledger.path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        ledger.record(line(3, test_loss=math.nan))
    assert ledger.path.read_bytes() == before


def test_a_line_is_synced_before_it_counts(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(ledger.path.read_bytes()))
    ledger.record(line(3))
    assert synced == [ledger.path.read_bytes()]


def without_run(path: Path) -> bytes:
    lines = (json.loads(text) for text in path.read_bytes().splitlines())
    return b"\n".join(json.dumps({k: v for k, v in line.items() if k != "run"}).encode() for line in lines)


@settings(max_examples=25, deadline=None)
@given(kills=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, exclude_max=True)), max_size=6))
def test_without_run_an_interrupted_ledger_has_the_same_bytes(
    kills: list[tuple[int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ledgers")
    undisturbed, disturbed = Ledger(folder / "one.jsonl"), Ledger(folder / "other.jsonl")
    for index in range(4):
        undisturbed.record(line(index, run={"seconds": 1.0}))
    for start, (reached, share) in enumerate([*kills, (3, 0.0)]):
        torn = start < len(kills)
        for index in range(reached + 1):
            disturbed.record(line(index, run={"seconds": 7.5, "start": start}))
        content = disturbed.path.read_bytes()
        if torn:  # killed while it wrote its last line
            last = content.rindex(b"\n", 0, -1) + 1 if content.count(b"\n") > 1 else 0
            disturbed.path.write_bytes(content[: last + int(share * (len(content) - last))])
    assert without_run(disturbed.path) == without_run(undisturbed.path)
    assert list(json.loads(disturbed.path.read_bytes().splitlines()[0]))[-1] == "run"


def test_a_line_that_came_twice_counts_once(ledger: Ledger) -> None:
    whole = ledger.path.read_bytes().splitlines(keepends=True)
    again = json.dumps({**line(2), "run": {"seconds": 7.0}}).encode() + b"\n"
    ledger.path.write_bytes(b"".join([*whole, again]))
    assert ledger.lines() == [line(0), line(1), line(2)]
    ledger.record(line(3))
    assert [found["round"] for found in ledger.lines()] == [0, 1, 2, 3]
    ledger.path.write_bytes(b"".join([*whole, whole[1]]))
    with pytest.raises(LedgerError, match="line 4 is damaged: it says round 1, not 3"):
        ledger.lines()


# where ledgers are looked for


def recorded(folder: Path, *phases: str, name: str = NAME, drew: tuple[str, ...] = ()) -> Path:
    """A cell's folder whose ledger names some phases, each with other phases that it needed."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, phase in enumerate(phases):
        Ledger(folder / name).record(line(index, phase=phase, run={"drew": list(drew)}))
    return folder


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """An `out` with a study, links to a study and an arm on other disks, and circular links."""
    out = tmp_path / "out"
    recorded(out / "here" / "imp" / "seed0", "a", drew=("b",))
    recorded(out / "here" / "imp" / "seed0", "a", name="early_bird.jsonl", drew=("c", "d"))
    recorded(tmp_path / "disk" / "study" / "imp" / "seed0", "e")
    recorded(tmp_path / "other" / "arm" / "seed1", "f")
    (out / "afar").symlink_to(tmp_path / "disk" / "study")
    (out / "here" / "one_shot").symlink_to(tmp_path / "other" / "arm")
    (out / "a_second_way").symlink_to(out / "here")
    (out / "here" / "imp" / "again").symlink_to(out)
    (tmp_path / "disk" / "study" / "imp" / "itself").symlink_to(tmp_path / "disk" / "study" / "imp" / "itself")
    (out / "store" / ("0" * 64)).mkdir(parents=True)
    (out / "store" / ("0" * 64) / "seed0").mkdir()
    wandb = out / "here" / "imp" / "seed0" / "wandb"
    (wandb / "run-1").mkdir(parents=True)
    (wandb / "latest-run").symlink_to("run-0")
    return out


def test_cells_are_found_through_links_and_once(linked: Path) -> None:
    found = [linked / "afar/imp/seed0", linked / "here/imp/seed0", linked / "here/one_shot/seed1"]
    assert sorted(cells(linked)) == found
    assert status.find([linked, linked / "here", linked / "a_second_way"]) == found
    assert len(list(folders(linked))) == len({folder.resolve() for folder in folders(linked)}) == 10


def test_reports_read_through_links(linked: Path) -> None:
    for path in linked.rglob("early_bird.jsonl"):
        path.unlink()
    for folder, arm, seed in (
        ("afar/imp/seed0", "imp", 0),
        ("here/imp/seed0", "imp", 0),
        ("here/one_shot/seed1", "x", 1),
    ):
        (linked / folder / NAME).unlink()
        whole = {"study": folder[:4], "seed": seed, "arm": arm, "train_steps": 1, "early_stop_step": 1}
        scores = {"early_stop_test_accuracy": 0.5, "layer_densities": {}}
        Ledger(linked / folder / NAME).record(line(0, **whole, **scores))
    assert list(zip(read(linked)["study"], read(linked)["arm"], strict=True)) == [
        ("afar", "imp"),
        ("here", "imp"),
        ("here", "x"),
    ]


def test_what_linked_cells_are_made_of_is_needed(linked: Path) -> None:
    (linked / "here/imp/again").unlink()
    with pytest.raises(Refused, match=r"^.*/disk/study/imp/itself: is a link to what is not there; bring that back"):
        needed([linked.parent / "disk"])
    (linked.parent / "disk/study/imp/itself").unlink()
    assert needed([linked]) == {*"abcdef"}


def test_what_is_needed_can_not_be_told_without_a_disk_that_is_linked(tmp_path: Path) -> None:
    recorded(tmp_path / "study" / "imp" / "seed0", "a")
    assert needed([tmp_path]) == {"a"}
    (tmp_path / "elsewhere").symlink_to(tmp_path / "unmounted")
    with pytest.raises(Refused) as refused:
        needed([tmp_path])
    assert str(refused.value) == (
        f"{tmp_path / 'elsewhere'}: is a link to what is not there; bring that back, or remove the link"
    )


def test_what_is_needed_can_not_be_told_of_a_damaged_ledger(linked: Path) -> None:
    path = linked / "here/imp/seed0/early_bird.jsonl"
    path.write_text("{}\n")
    (linked.parent / "disk/study/imp/itself").unlink()
    with pytest.raises(LedgerError, match=rf"^{path}, line 1 is damaged"):
        needed([linked])


def test_what_is_needed_can_not_be_told_while_a_cell_is_played(linked: Path) -> None:
    (linked.parent / "disk/study/imp/itself").unlink()
    with leases.hold(linked.parent / "other/arm/seed1"), pytest.raises(Refused) as refused:
        needed([linked])
    who = f"process {os.getpid()} on {this_process()['host']}"
    assert str(refused.value) == (
        f"{linked / 'here/one_shot/seed1'}: {who} works there, and what it trains is in no ledger yet; "
        "wait until it has ended"
    )
    assert needed([linked]) == {*"abcdef"}
