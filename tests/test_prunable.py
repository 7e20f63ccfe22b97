"""The `prune` setting: which weights get masks, what is refused, and its effects."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from lottery.algorithm import play
from lottery.commands import plan
from lottery.commands.ticket.export import exported
from lottery.commands.ticket.transfer import arguments
from lottery.commands.ticket.verify import verified
from lottery.config.build import build
from lottery.config.check import check, note
from lottery.config.compose import cell_configs
from lottery.foundations.digests import digest_of
from lottery.foundations.errors import Refused
from lottery.pruning import masks
from lottery.pruning.prunable import Prunable
from lottery.rounds.round import Round, dense_round
from lottery.rounds.study import Cell
from lottery.running.launch import run_cell
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.phases import phase_of, specification
from lottery.store.tickets import read
from lottery.training.fit import fit
from lottery.training.loop import Loop
from lottery.training.phase import Trained
from tests.conftest import TINY

NETS = """
from torch import nn

class Recurrent(nn.Module):
    def __init__(self, classes: int = 10):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, classes)

    def forward(self, inputs):
        return self.head(self.rnn(inputs[:, 0])[0][:, -1])

class Words(nn.Module):
    # an embedding whose weight is the output layer's too
    def __init__(self, classes: int = 10):
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(17, 6), nn.Linear(6, 6), nn.Linear(6, 17)
        self.head.weight = self.embedding.weight

    def forward(self, inputs):
        return self.head(self.mix(self.embedding(inputs.flatten(1).long().clamp(0, 16)).mean(1)))[:, :10]

class Bag(nn.Module):
    # nothing but an embedding
    def __init__(self, classes: int = 10):
        super().__init__()
        self.embedding = nn.Embedding(17, 10)

    def forward(self, inputs):
        return self.embedding(inputs.flatten(1).long().clamp(0, 16)).mean(1)
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "nets_of_prunable.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "nets_of_prunable"


class Kinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.rnn = nn.LSTM(4, 3, num_layers=2)
        self.counts = nn.Parameter(torch.zeros(2, 2, dtype=torch.long), requires_grad=False)
        self.head = nn.Linear(4, 7)
        self.tied = nn.Linear(4, 7)
        self.tied.weight = self.embedding.weight


OWN = ["attention.out_proj.weight", "head.weight"]
RNN = [f"rnn.weight_{kind}_l{layer}" for layer in (0, 1) for kind in ("ih", "hh")]


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        ([], [], OWN),
        (["embedding.weight"], [], ["embedding.weight", *OWN]),
        (["Embedding"], [], ["embedding.weight", *OWN]),
        (["tied.weight"], [], ["embedding.weight", *OWN]),  # another name of the same weight, which counts once
        (["Linear"], [], ["embedding.weight", *OWN]),  # a layer of that type holds it
        (["*.in_proj_weight"], [], ["attention.in_proj_weight", *OWN]),
        (["LSTM"], [], [OWN[0], *RNN, OWN[1]]),  # no biases, in order of definition
        (["RNNBase"], [], [OWN[0], *RNN, OWN[1]]),  # what LSTM inherits from
        (["rnn.weight_hh_*"], [], [OWN[0], *RNN[1::2], OWN[1]]),
        (["norm.weight"], [], [OWN[0], "norm.weight", OWN[1]]),  # one dimension, by its whole name
        ([], ["head.*"], OWN[:1]),
        ([], ["attention.*"], OWN[1:]),
        (["*"], ["LSTM", "Linear"], ["attention.in_proj_weight"]),
        (["LSTM"], ["*_l1", "*.weight"], RNN[:2]),
    ],
)
def test_patterns_by_name_or_type_of_layer(include: list[str], exclude: list[str], names: list[str]) -> None:
    net = Kinds()
    found = Prunable(tuple(include), tuple(exclude))(net)
    assert list(found) == names
    own = dict(net.named_parameters())
    assert all(weight is own[name] for name, weight in found.items())


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; users may still bring it
        return torch.jit.script(nn.Sequential(nn.Linear(3, 2)))


ANEW = "its layer computes the weight anew in each forward pass, as weight_norm and other parametrizations do"


@pytest.mark.parametrize(
    ("make", "rule", "said"),
    [
        (Kinds, {"include": ("embeding.weight",)},
         "prune.include=embeding.weight: no parameter and no type of layer that holds one matches; did you mean"),
        (Kinds, {"include": ("GRU",)}, "prune.include=GRU: no parameter and no type of layer that holds one matches; "
         "allowed: embedding.weight, "),
        (Kinds, {"include": ("LayerNorm",)}, "prune.include=LayerNorm: matches only norm.weight, norm.bias, which "
         "is no floating-point weight of two or more dimensions; "),
        (Kinds, {"include": ("counts",)}, "prune.include=counts: counts holds int64, and only floats can be pruned"),
        (Kinds, {"exclude": ("Embedding",)}, "prune.exclude=Embedding: no prunable weight matches; allowed: "
         "attention.out_proj.weight, head.weight, Linear, NonDynamicallyQuantizableLinear"),
        (Kinds, {"exclude": ("att*", "head.*")}, "prune.exclude=[att*,head.*]: leaves nothing to prune"),
        (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2))), {"include": ("0.weight",)},
         f"prune.include=0.weight: masks can't hold 0.weight at zero, since {ANEW}"),
        (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2))), {"include": ("*.original1",)},
         "prune.include=*.original1: masks can't hold 0.parametrizations.weight.original1 at zero, since "),
        (lambda: nn.Sequential(spectral_norm(nn.Linear(3, 2))), {"include": ("0.weight_orig",)},
         f"prune.include=0.weight_orig: masks can't hold 0.weight_orig at zero, since {ANEW}"),
        (lambda: nn.Sequential(spectral_norm(nn.Conv2d(3, 2, 1))), {"include": ("Conv2d",)},
         "prune.include=Conv2d: masks can't hold 0.weight"),
        (scripted, {"include": ("0.weight",)},
         "prune.include=0.weight: masks can't hold 0.weight at zero, since its layer is scripted"),
        (scripted, {"include": ("Linear",)}, "prune.include=Linear: masks can't hold 0.weight at zero, since its "),
    ],
)  # fmt: skip
def test_what_masks_can_not_be_of_is_refused(make: Callable[[], nn.Module], rule: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused) as refusal:
        Prunable(**rule)(make())
    assert str(refusal.value).startswith(said)


def test_looking_at_a_network_does_not_change_it() -> None:
    net = nn.Sequential(nn.Linear(4, 4), parametrizations.spectral_norm(nn.Linear(4, 4)))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    Prunable(exclude=("0.weight", "0.*"), include=("0.weight",)).all(net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prune.include=3", "prune.include=3: must be a pattern of parameter names or types of layers, a list of them"),
        ("prune.exclude=[fc,[a]]", "prune.exclude=['fc', ['a']]: must be a pattern"),
        ("prune.exclude=''", "prune.exclude=: must be a pattern"),
        ("+prune.spare=fc", "prune.spare=fc: there is no such key; allowed: include, exclude"),
        ("prune=LSTM", "prune=LSTM: must hold include and exclude"),
        ("prune.include=net.9.weight", "prune.include=net.9.weight: no parameter"),
    ],
)
def test_what_is_no_rule_is_refused_before_training(override: str, said: str) -> None:
    with pytest.raises(Refused) as refusal:
        check(build(cell_configs([*TINY, override])[0]))
    assert str(refusal.value).startswith(said)


# names


def test_the_study_is_named_by_the_rule_only_where_there_is_one() -> None:
    [plain], [null] = cell_configs([]), cell_configs(["prune.include=[]", "prune.exclude=null"])
    assert plain.study == null.study == "lenet_300_100-digits-f4003c6b"
    spelt = ["prune.exclude=Linear", "prune.exclude=[Linear]", "prune.exclude=[Linear,Linear]"]
    assert len({cell_configs([word])[0].study for word in spelt}) == 1
    others = [spelt[0], "prune.include=Linear", "prune.exclude=[Linear,a]", "prune.exclude=[a,Linear]"]
    assert len({cell_configs([word])[0].study for word in others} | {plain.study}) == 4


def test_phases_are_told_by_their_masks_however_these_are_named() -> None:
    def key(*overrides: str) -> str:
        cell = build(cell_configs([*TINY, *overrides])[0])
        current = dense_round(cell.study.recipe, cell.seed, lambda current: Trained({}, []))
        phase = phase_of(cell.study.recipe, cell.seed, current)
        return digest_of(specification(cell.study.recipe, cell.study.identity, phase))

    plain, without, again = key(), key("prune.exclude=fc1.weight"), key("prune.exclude=[fc1*]")
    assert plain != without == again


# what follows


def model(nets: str, name: str) -> list[str]:
    return [f"model._target_={nets}.{name}", "~model.shape"]


def of(nets: str, name: str, *overrides: str) -> Cell:
    return build(cell_configs([*TINY, *model(nets, name), *overrides])[0])


def played(cell: Cell) -> list[Round]:
    recipe = cell.study.recipe

    def train(current: Round) -> Trained:
        return fit(recipe, phase_of(recipe, cell.seed, current))

    rounds = list(play(recipe, cell.study.pruning, cell.arm, cell.seed, train))
    assert rounds[-1].trained  # which nobody has asked for
    return rounds


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_an_lstm_is_pruned_and_held_at_every_step(nets: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list[bool]()
    pause = Loop.pause

    def looking(loop: Loop) -> None:
        own = dict(loop.module.net.named_parameters())
        assert all(not own[name][~mask].any() for name, mask in loop.phase.masks.items())
        steps.append(any(not mask.all() for mask in loop.phase.masks.values()))
        pause(loop)

    monkeypatch.setattr("lottery.training.loop.CHUNK", 1)
    monkeypatch.setattr(Loop, "pause", looking)
    how = [f"optimizer={optimizer}", "optimizer.weight_decay=0.1", "scope=everywhere"]
    cell = of(nets, "Recurrent", "prune.include=LSTM", *how)
    sizes = {"rnn.weight_ih_l0": 192, "rnn.weight_hh_l0": 144, "head.weight": 60}
    check(cell)
    rounds = played(cell)
    assert [masks.kept(current.ticket.masks) for current in rounds] == [396, 317, 253]  # of 396, 0.8 and 0.64
    assert [sum(steps), len(steps)] == [2 * 30, 3 * 30]
    for current in rounds:
        assert {name: mask.numel() for name, mask in current.ticket.masks.items()} == sizes
        for name, mask in current.ticket.masks.items():
            assert not current.trained.state[name][~mask].any()
            assert (current.trained.state[name] != current.ticket.state[name])[mask].all()


def test_an_embedding_that_is_the_output_layer_too_is_pruned_once(nets: str) -> None:
    cell = of(nets, "Words", "prune.include=Embedding", "scope=rates")
    check(cell)
    recipe = cell.study.recipe
    assert recipe.output == "embedding.weight"
    rounds = played(cell)
    # 20 % of the 36 and, as the output layer, 10 % of the 102: 7 and 10, then 6 of 29 and 9 of 92
    assert [[int(mask.sum()) for mask in current.ticket.masks.values()] for current in rounds] == [
        [102, 36], [92, 29], [83, 23],
    ]  # fmt: skip
    last = rounds[-1]
    assert torch.equal(last.trained.state["embedding.weight"], last.trained.state["head.weight"])
    assert not last.trained.state["head.weight"][~last.ticket.masks["embedding.weight"]].any()
    # forward, and backward to weights and inputs, of the 36 and the 102, whose look-up costs nothing
    whole, half = (recipe.flops({**last.ticket.masks, "embedding.weight": mask}) for mask in (
        torch.ones(17, 6, dtype=torch.bool), torch.arange(102).view(17, 6) < 51
    ))  # fmt: skip
    assert whole.dense == half.dense == recipe.data.batch_size * 6 * (36 + 102)
    assert whole.scaled - half.scaled == pytest.approx(recipe.data.batch_size * 6 * 51)


def test_an_embedding_alone_costs_no_flops(nets: str) -> None:
    cell = of(nets, "Bag", "prune.include=embedding.weight")
    check(cell)
    recipe = cell.study.recipe
    thin = {"embedding.weight": torch.arange(170).view(17, 10) < 17}
    assert (recipe.flops(thin).dense, recipe.share(thin)) == (0.0, 1.0)
    assert [masks.kept(current.ticket.masks) for current in played(cell)] == [170, 153, 138]  # it is the output layer


def test_excluding_a_layer_is_not_sparing_it(capsys: pytest.CaptureFixture[str]) -> None:
    spared, excluded = (
        build(cell_configs([*TINY, "scope=everywhere", word])[0])
        for word in ("scope.spare=[output.*]", "prune.exclude=output.weight")
    )
    one, other = (played(cell)[1].ticket.masks for cell in (spared, excluded))
    layers = {"fc1.weight": 64 * 300, "fc2.weight": 300 * 100}
    kept = round(0.8 * sum(layers.values()))
    assert list(other) == list(layers)
    assert all(torch.equal(one[name], mask) for name, mask in other.items()), "the same weights are kept"
    assert (masks.kept(other), masks.kept(one)) == (kept, kept + 1000)
    assert masks.density(other) == kept / 49200 != masks.density(one) == (kept + 1000) / 50200
    note(excluded, set())
    assert capsys.readouterr().out == (
        f"{excluded.study.name}: never pruned, and not in its density: output.weight, 1.98 % of all parameters\n"
    )


def test_no_other_layer_is_taken_for_the_output_layer_if_that_is_excluded() -> None:
    cell = build(cell_configs([*TINY, "prune.exclude=output.*", "scope=rates"])[0])
    assert cell.study.recipe.output == "output.weight"
    found = played(cell)[1].ticket.masks
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"fc1.weight": 15360, "fc2.weight": 24000}


def test_excluded_layers_are_named_before_those_that_nothing_prunes() -> None:
    said = Prunable(include=("embedding.weight",), exclude=("head.*",)).left_whole(Kinds())
    assert said
    assert said.startswith(
        "never pruned, and not in its density: head.weight, counts, attention.in_proj_weight and 4 more, "
    )


def test_a_ticket_takes_its_rule_with_it(nets: str, tmp_path: Path) -> None:
    rule = ["prune.include=[rnn.weight_hh_*,Embedding*]", "prune.exclude=head.weight"]
    with pytest.raises(Refused, match=r"prune.include=Embedding\*: no parameter"):
        check(of(nets, "Recurrent", *rule))
    rule[0] = "prune.include=[rnn.weight_hh_*]"
    [job] = cell_configs(
        [*TINY, *model(nets, "Recurrent"), *rule, "hardware.accelerator=cpu", f"out={tmp_path / 'runs'}"]
    )
    run_cell(job)
    lines = Ledger(job.folder / NAME).lines()
    assert [line["layer_densities"] for line in lines[:2]] == [{"rnn.weight_hh_l0": 1}, {"rnn.weight_hh_l0": 115 / 144}]
    saved = exported(job.folder, 2, tmp_path / "t.safetensors", seed_only=False)
    saved.write()
    assert saved.info["config"]["prune"] == {"include": ["rnn.weight_hh_*"], "exclude": "head.weight"}
    verdict = verified(read(saved.path), trust=(nets,))
    assert (verdict.exact, verdict.holds, verdict.differs) == (True, True, [])
    [again] = cell_configs(
        [word for word in arguments(saved, ["arm=imp"], trust=(nets,)) if not word.startswith("arm.")]
    )
    assert (again.config["prune"], again.seed) == (job.config["prune"], job.seed)
    [plain] = cell_configs([*arguments(saved, ["prune.include=null", "prune.exclude=null"], trust=(nets,))])
    with pytest.raises(Refused, match=r"the mask of head\.weight is missing in the ticket"):
        check(build(plain))


def test_a_ticket_of_the_default_holds_no_rule(tmp_path: Path) -> None:
    [job] = cell_configs([*TINY, f"out={tmp_path / 'runs'}", "hardware.accelerator=cpu", "schedule.rounds=0"])
    run_cell(job)
    assert "prune" not in exported(job.folder, 0, None, seed_only=False).info["config"]


def test_the_plan_knows_the_rule(nets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [job] = cell_configs([*TINY, *model(nets, "Recurrent"), "prune.include=LSTM", f"out={tmp_path / 'runs'}"])
    plan.show([job])
    said = capsys.readouterr().out
    assert f"{job}: 3 rounds, 3 phases to train (90 steps)\n" in said
    assert "never pruned" not in said
    with pytest.raises(Refused, match=r"prune\.include=GRU: no parameter"):
        plan.show(cell_configs([*TINY, *model(nets, "Recurrent"), "prune.include=GRU", f"out={tmp_path / 'runs'}"]))
