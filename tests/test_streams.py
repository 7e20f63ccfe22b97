"""The deterministic inputs of a run: random streams, durations, learning rates, data order."""

from __future__ import annotations

import math
import random
from functools import partial
from hashlib import sha256
from itertools import chain, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lottery.data.examples import Data, DataError, Examples, split
from lottery.foundations import seeds
from lottery.foundations.durations import canonical, in_steps
from lottery.foundations.seeds import Order, Streams, derive, generator, noise, restore_noise, seeded
from lottery.training import learning_rates
from lottery.training.learning_rates import constant, cosine, linear, multistep
from lottery.training.recipes import Budget

exact = settings(deadline=None, derandomize=True, database=None)


def labelled(count: int, first: int = 0) -> Examples:
    """Examples whose input is minus their number and whose target is their number."""
    numbers = torch.arange(first, first + count)
    return Examples(-numbers[:, None].float(), numbers)


def data_of(count: int, batch_size: int) -> Data:
    return Data(labelled(count), labelled(2), labelled(2), batch_size, shape=(1,))


# seeds


def test_streams_are_those_of_every_earlier_version() -> None:
    # SHA-256 of "0/init" and so on, first 8 bytes, without the lowest bit: other values are other experiments
    assert derive(0, "init") == 1519069808562059438
    assert derive(0, "order", 1) == 4489457307835839548
    assert derive(100, "reinit", 12) == 9058075763893341259
    assert generator(9058075763893341259).initial_seed() == 9058075763893341259
    assert (Streams(0).init, Streams(0).order(1), Streams(100).reinit(12)) == (
        1519069808562059438,
        4489457307835839548,
        9058075763893341259,
    )
    # every other one, by the text that results in stores were made with
    streams, order = Streams(7), Order(7)
    texts = {
        streams.order(2, copy=1): "7/order/2/copy/1",
        streams.noise(2): "7/noise/2",
        streams.noise(2, copy=1): "7/noise/2/copy/1",
        streams.scoring(2): "7/scoring/2",
        streams.score(2): "7/score/2",
        streams.masks("imp", 2): "7/masks/imp/2",
        streams.rehearsal: "7/rehearsal",
        streams.split: "7/split",
        order.epoch(2): "7/epoch/2",
        order.augment(2): "7/augment/2",
        order.view(2, 3): "7/view/2/3",
    }
    for seed, text in texts.items():
        assert seed == int.from_bytes(sha256(text.encode()).digest()[:8], "big") // 2, text


def drawn_globally() -> list[float]:
    return [torch.rand(()).item(), np.random.rand(), np.random.randn(), random.random(), random.gauss(0, 1)]


def test_a_seed_is_that_of_torch_numpy_and_python_for_a_while() -> None:
    before = noise()
    with seeded(2**63 - 1):
        first = drawn_globally()
        with seeded(5):
            drawn_globally()
        second = drawn_globally()
    after = noise()
    with seeded(2**63 - 1):
        again = drawn_globally() + drawn_globally()
    with seeded(5):
        other = drawn_globally()
    assert again == first + second
    assert not set(other) & set(first)
    assert list(before) == ["torch", "numpy", "python"]
    assert all(torch.equal(state, after[name]) for name, state in before.items())


def test_a_seed_goes_when_an_error_comes() -> None:
    before = noise()["torch"]
    with pytest.raises(KeyError), seeded(5):
        raise KeyError(drawn_globally())
    assert torch.equal(noise()["torch"], before)


def test_random_states_come_back_from_tensors_in_the_middle_of_a_pair() -> None:
    # normal numbers are drawn in pairs, of which the second waits in the state
    with seeded(3):
        np.random.randn(), random.gauss(0, 1)
        state = noise()
        first = drawn_globally() + drawn_globally()
        restore_noise({name: tensor.clone() for name, tensor in state.items()})
        assert drawn_globally() + drawn_globally() == first


@pytest.mark.parametrize("gpus", [0, 4])
def test_a_seed_touches_no_gpu_that_is_not_in_use(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are some, a seed waits for them in case a user's code begins to use one, and is taken back."""
    asked, waiting = [], []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", waiting.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(seeds, "_has_gpus", seeds._has_gpus.__wrapped__)  # asks each time
    before = torch.initial_seed()
    with seeded(3):
        pass
    assert asked == []
    assert waiting == ([3, before] if gpus else [])


def test_a_seed_puts_back_the_state_of_the_gpu_in_use_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, put = [], []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or "state")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put.append((state, device)))
    with seeded(3):
        assert put == []
    assert (asked, put) == ([2], [("state", 2)])


def test_streams_of_different_purposes_and_seeds_differ() -> None:
    purposes = [("init",), ("split",), ("rehearsal",)]
    rounds = ("order", "noise", "reinit", "score", "scoring", "epoch", "augment")
    purposes += [*product(rounds, range(30)), *product(["masks"], ["imp", "random_mask"], range(30))]
    purposes += product(["view"], range(30), range(10))
    seeds = [derive(seed, *purpose) for seed in range(50) for purpose in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_streams_are_unrelated() -> None:
    draws = torch.stack([torch.randn(2000, generator=generator(derive(seed, "init"))) for seed in range(6)])
    correlations = draws.corrcoef() - torch.eye(6)
    assert correlations.abs().max() < 5 / math.sqrt(2000)


# durations


@given(st.integers(0, 10**9), st.integers(1, 10**5))
@exact
def test_durations_are_steps_unless_they_say_epochs(count: int, steps_per_epoch: int) -> None:
    assert in_steps(count, steps_per_epoch) == in_steps(f"{count}it", steps_per_epoch) == count
    assert in_steps(str(count), steps_per_epoch) == in_steps(f"0{count:_}it", steps_per_epoch) == count
    assert in_steps(f"{count}ep", steps_per_epoch) == count * steps_per_epoch


def test_equal_durations_have_one_name() -> None:
    assert {canonical(text) for text in (500, "500", "500it", "0500it", " 500it ")} == {"500it"}
    assert (canonical(0), canonical("000"), canonical("00ep")) == ("0it", "0it", "0ep")


@pytest.mark.parametrize("text", ["", "it", "-5", -5, "5.0", 5.0, "1e3", "5 it", "5epochs", "2ep3it", True, None, "٣"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is no duration: write steps as 500 or 500it, epochs as 2ep"):
        canonical(text)


# learning rates


def steps_of_change(budget: Budget) -> dict[int, float]:
    """The steps where the factor changes, and its new values."""
    factors = [budget.factor(step) for step in range(budget.steps)]
    return {step: factors[step] for step in range(budget.steps) if step == 0 or factors[step] != factors[step - 1]}


@pytest.mark.parametrize(
    ("steps", "drops"), [(3_000, (2_000, 2_500)), (30_000, (20_000, 25_000)), (60_000, (40_000, 50_000))]
)
def test_milestones_stay_at_their_share_of_the_budget(steps: int, drops: tuple[int, int]) -> None:
    rate = partial(multistep, milestones=(20_000, 25_000))
    found = steps_of_change(Budget(steps, recipe_steps=30_000, evaluate=1, learning_rate=rate))
    assert found == {0: 1.0, drops[0]: 0.1, drops[1]: pytest.approx(0.01)}


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 400))
@exact
def test_a_milestone_comes_at_the_first_step_not_before_its_share(
    steps: int, recipe_steps: int, milestone: int
) -> None:
    rate = partial(multistep, milestones=[milestone])
    budget = Budget(steps, recipe_steps, evaluate=1, learning_rate=rate)
    due = -(-milestone * steps // recipe_steps)
    assert [budget.factor(step) for step in range(steps)] == [0.1 if step >= due else 1.0 for step in range(steps)]


@pytest.mark.parametrize("rate", [constant, cosine, linear])
@pytest.mark.parametrize("steps", [60, 300, 3_000])
def test_a_rescaled_recipe_is_the_recipe_written_in_rescaled_steps(
    rate: learning_rates.LearningRate, steps: int
) -> None:
    rescaled = Budget(steps, recipe_steps=300, evaluate=1, learning_rate=rate, warmup=50)
    written = Budget(steps, recipe_steps=steps, evaluate=1, learning_rate=rate, warmup=steps // 6)
    factors = [[budget.factor(step) for step in range(steps)] for budget in (rescaled, written)]
    assert factors[0] == pytest.approx(factors[1], abs=1e-12)


def test_warmup_rises_in_equal_steps_to_the_full_rate() -> None:
    budget = Budget(steps=3_000, recipe_steps=30_000, evaluate=1, warmup=1_000)
    assert [budget.factor(step) for step in range(101)] == pytest.approx([n / 100 for n in range(1, 101)] + [1.0])
    assert budget.factor(98) < 1.0 == budget.factor(99)


def test_no_warmup_begins_with_the_full_rate() -> None:
    assert steps_of_change(Budget(steps=50, recipe_steps=70, evaluate=1)) == {0: 1.0}


def test_warmup_multiplies_the_rate_below_it() -> None:
    rate = partial(multistep, milestones=(2,))
    budget = Budget(steps=5, recipe_steps=5, evaluate=1, learning_rate=rate, warmup=4)
    assert [budget.factor(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.075, 0.1, 0.1])


@given(st.permutations([3, 5, 8]))
@exact
def test_milestones_count_in_any_order(milestones: list[int]) -> None:
    factors = [multistep(step, 10, milestones, gamma=0.5) for step in range(10)]
    assert factors == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]


def test_cosine_and_line_fall_from_one_to_zero() -> None:
    assert [cosine(step, 4) for step in range(5)] == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0])
    assert [linear(step, 4) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("name", ["steps", "recipe_steps", "evaluate"])
def test_an_empty_budget_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}=0: must be at least 1 step"):
        Budget(**{"steps": 5, "recipe_steps": 5, "evaluate": 5, name: 0})


# the order of the data


@st.composite
def orders(draw: st.DrawFn) -> tuple[Data, int, int, int]:
    """Data, a seed, and a stretch of steps over several epochs."""
    count = draw(st.integers(1, 12))
    data = data_of(count, draw(st.integers(1, count)))
    last = draw(st.integers(1, 4 * data.steps_per_epoch))
    return data, draw(st.integers(0, 2**63 - 1)), draw(st.integers(0, last)), last


def drawn(data: Data, seed: int, first: int, last: int) -> list[list[int]]:
    found = []
    for inputs, targets in data.batches(seed, first, last):
        assert torch.equal(inputs[:, 0], -targets.float()), "inputs and targets went apart"
        found.append(targets.tolist())
    return found


@given(orders())
@exact
def test_batches_from_step_k_are_the_tail_of_all(order: tuple[Data, int, int, int]) -> None:
    data, seed, first, last = order
    torch.manual_seed(first)
    whole = drawn(data, seed, 0, last)
    torch.manual_seed(last)
    assert drawn(data, seed, first, last) == whole[first:]
    assert len(whole) == last


@given(orders())
@exact
def test_an_epoch_visits_no_example_twice(order: tuple[Data, int, int, int]) -> None:
    data, seed, *_ = order
    for epoch in range(3):
        first = epoch * data.steps_per_epoch
        batches = drawn(data, seed, first, first + data.steps_per_epoch)
        assert {len(batch) for batch in batches} == {data.batch_size}
        seen = [number for batch in batches for number in batch]
        assert len(seen) == len(set(seen)) == len(data.train) // data.batch_size * data.batch_size


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    data = data_of(100, batch_size=100)
    seen = [drawn(data, seed, epoch, epoch + 1)[0] for seed in range(5) for epoch in range(5)]
    assert len({tuple(batch) for batch in seen}) == 25
    assert list(range(100)) not in seen
    assert all(sorted(batch) == list(range(100)) for batch in seen)


def test_the_remainder_of_an_epoch_is_another_one_each_time() -> None:
    data = data_of(11, batch_size=4)
    left_out = [set(range(11)) - set(chain(*drawn(data, 0, 2 * e, 2 * e + 2))) for e in range(40)]
    assert set.union(*left_out) == set(range(11))


def test_order_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn(data_of(10, 3), 5, 0, 12)
    split(labelled(10), (3,))
    generator(3).seed()
    assert torch.equal(before, torch.get_rng_state())


# parts


@given(st.integers(2, 60), st.data())
@exact
def test_split_deals_out_each_example_once(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, count - 1))
    sizes = [first] + ([data.draw(st.integers(1, count - first - 1))] if first < count - 1 else [])
    parts = split(labelled(count), sizes)
    assert [len(part) for part in parts] == [*sizes, count - sum(sizes)]
    assert sorted(torch.cat([part.targets for part in parts]).tolist()) == list(range(count))
    assert all(torch.equal(part.inputs[:, 0], -part.targets.float()) for part in parts)


def test_split_is_shuffled_and_the_same_each_time() -> None:
    def val(seed: int = 0) -> Tensor:
        return split(labelled(1000), (100,), seed)[0].targets

    assert torch.equal(val(), val())
    assert not torch.equal(val(), val(seed=1))
    assert val().sort().values.tolist() != list(range(100))
    assert val().float().mean() == pytest.approx(499.5, abs=150)  # five standard errors


@pytest.mark.parametrize("sizes", [(10,), (11,), (0,), (-1,), (5, 5), (5, 0)])
def test_split_refuses_parts_that_leave_nothing(sizes: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"^sizes \[.*\]: must be at least 1 and leave some of the 10 examples"):
        split(labelled(10), sizes)


@pytest.mark.parametrize(("sizes", "named"), [((3, 0), "val_size=0"), ((8, 2), "test_size=8"), ((2, 9), "val_size=9")])
def test_split_names_the_setting_at_fault(sizes: tuple[int, ...], named: str) -> None:
    with pytest.raises(DataError, match=f"^{named}: must be at least 1"):
        split(labelled(10), sizes, settings=("test_size", "val_size"))


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_that_the_data_cannot_fill_is_refused(batch_size: int) -> None:
    with pytest.raises(DataError, match=rf"data\.batch_size={batch_size}: must lie between 1 and the 10 training"):
        data_of(10, batch_size)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match="the val split is empty"):
        Data(labelled(4), labelled(0), labelled(4), 2, shape=(1,))


def test_inputs_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.shape=\[1, 28, 28\]: the inputs have shape \[1\]"):
        Data(labelled(4), labelled(4), labelled(4), 2, shape=(1, 28, 28))


@pytest.mark.parametrize(("first", "classes", "found"), [(0, 3, "0 to 3"), (-1, 4, "-1 to 3")])
def test_labels_beyond_the_classes_are_refused_in_any_part(first: int, classes: int, found: str) -> None:
    good, bad = labelled(2), labelled(4 - first, first)
    for parts in ((bad, good, good), (good, bad, good), (good, good, bad)):
        with pytest.raises(DataError, match=rf"data\.classes={classes}: the labels run from {found}"):
            Data(*parts, batch_size=2, shape=(1,), classes=classes)


def test_data_digest_is_of_every_part() -> None:
    digests = {data_of(10, 5).digest}
    for part, field in product(("train", "val", "test"), ("inputs", "targets")):
        data = data_of(10, 5)
        getattr(getattr(data, part), field)[-1] += 1
        digests.add(data.digest)
    assert len(digests) == 7
    assert data_of(10, 5).digest in digests
