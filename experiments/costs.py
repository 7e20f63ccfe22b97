"""What the papers' recipes at full size would cost: `python -m experiments.costs` writes costs.md beside this file.

FLOPs are counted on the networks; hours are estimated from FLOPs, because none of these recipes ran here.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lottery.config.compose import cell_configs
from lottery.config.nodes import make, network
from lottery.foundations.durations import in_steps
from lottery.pruning import masks
from lottery.pruning.prunable import Prunable
from lottery.training.flops import by_weight, of_example
from lottery.training.modules import Module

RECIPES = {
    "fc2019_conv2": "+3.4 points at 4.6 %; early stop up to 3.5 times as early at 8.8 %",
    "fc2019_conv4": "+3.5 points at 11.1 %; 3.5 times at 9.2 %",
    "fc2019_conv6": "+3.3 points at 26.4 %; 2.5 times at 15.1 %",
    "fc2019_resnet18": "rate 0.03 with warm-up: 90.5 % at 27.1 %",
    "fc2019_vgg19": "rate 0.1 with warm-up: as good as dense down to 1.5 %",
    "frankle2020_resnet20": "rewound to step 2,000 tickets match dense down to 16.8 % (from memory)",
    "frankle2020_vgg16": "rewound to step 1,000 tickets match dense down to 1.5 % (from memory)",
    "renda2020_resnet20": "dense 91.71 %; rewound 91.94, 91.67, 90.91 % at 51.2, 21, 10.7 %",
    "renda2020_resnet56": "dense 93.46 %; rewound 93.73, 93.99, 93.36, 92.11 % at 51.2, 21, 10.7, 3.5 %",
    "renda2020_vgg16": "dense 93.33 %",
    "renda2020_resnet50": "dense 76.17 %; rewound 76.02, 75.94, 75.33 % at 51.2, 21, 10.7 %",
}
SUSTAINED = 10e12  # FLOP/s: about a third of what a 2020 workstation GPU can do in fp32
STEP = 0.003  # the least seconds per step, however small the network
TRAIN = {"cifar10": 45000, "imagenet": 1231167}


def step(module: Module, inputs: Tensor) -> None:
    """A forward and a backward pass of two examples."""
    module.loss(module(inputs), torch.tensor([0, 1])).backward()


def main() -> None:
    rows = ["| recipe | expected | runs x rounds | steps a round | FLOPs a step | FLOPs in all | GPU-hours |"]
    rows.append("|---|---|--:|--:|--:|--:|--:|")
    for name, expected in RECIPES.items():
        cells = cell_configs([f"experiment={name}"])
        config = cells[0].config
        data, budget, rounds = config["data"], config["budget"], config["schedule"]["rounds"]
        torch.manual_seed(0)
        module = make("module", config["module"])(network(config["model"]))
        inputs = torch.randn(2, *data["shape"])
        module.train()
        counted = by_weight(module.net, partial(step, module, inputs), Prunable(), len(inputs))
        dense = of_example(counted, masks.dense(masks.prunable(module.net))).dense * data["batch_size"]
        epoch = TRAIN[cells[0].choices["data"]] // data["batch_size"]
        steps = in_steps(budget["steps"], epoch)
        chains = Counter((job.study, job.seed) for job in cells)
        phases = sum(1 + rounds * arms for arms in chains.values())
        hours = phases * steps * max(dense / SUSTAINED, STEP) / 3600
        rows.append(
            f"| `lottery run experiment={name}` | {expected} | {len(cells)} x {rounds + 1} | {steps:,} | {dense:.2e} | "
            f"{phases * steps * dense:.2e} | {hours:,.0f} |"
        )
    text = __doc__.splitlines()[0].partition(":")[0] if __doc__ else ""
    path = Path(__file__).with_name("costs.md")
    path.write_text(
        f"# {text}\n\n"
        "Made by `python -m experiments.costs`. FLOPs are counted on the dense network, forward and backward; hours\n"
        "are an estimate from them, at 10 TFLOP/s and at least 3 ms a step. None of these ran on the machine that\n"
        "made this repository: it has no GPU, and neither CIFAR-10 nor ImageNet could be had there. Each is played\n"
        "at toy size by `tests/test_conf.py`. Expected numbers: the papers', see the recipe's own comments.\n"
        "Renda's recipes rewind weights; `arm=imp,finetune,lr_rewind` has fine-tuning and the learning rate as well.\n"
        "LeNet on MNIST needs no GPU: `lottery run experiment=fc2019_lenet data=mnist --plan` says what it costs.\n\n"
        + "\n".join(rows)
        + "\n"
    )
    print(path.read_text())


if __name__ == "__main__":
    main()
