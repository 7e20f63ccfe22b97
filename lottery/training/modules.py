"""Lightning modules: a network with its loss and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lottery.foundations.metrics import LOSS, Headline

_LOSS = "write loss(outputs, targets)"
_MEASURED = "write loss(outputs, targets) and metrics(), which are measured on validation and test data"
_DATA = "give a data set of your own (data=...)"
_OPTIMIZER = "give an optimizer of your own (optimizer=...), and its learning rates by budget.learning_rate"
_CLIPPED = "use optimizer.clip_norm, or an optimizer of your own (optimizer=...)"
_STEPS = "Lightning sees chunks of many optimizer steps; what is done at each step belongs to loss or the optimizer"
_KEPT = "weights and buffers of the network are kept, everything else is not"
INSTEAD = {
    **dict.fromkeys(("training_step", "batch_loss", "batch_outputs"), _LOSS),
    "configure_optimizers": _OPTIMIZER,
    "lr_scheduler_step": _OPTIMIZER,
    "optimizer_step": _OPTIMIZER,
    "optimizer_zero_grad": _OPTIMIZER,
    "configure_gradient_clipping": _CLIPPED,
    "clip_gradients": _CLIPPED,
    "on_before_optimizer_step": _CLIPPED,
    "on_before_zero_grad": _STEPS,
    "backward": _STEPS,
    "manual_backward": _STEPS,
    "on_before_backward": _STEPS,
    "on_after_backward": _STEPS,
    "on_train_batch_start": _STEPS,
    "on_train_batch_end": _STEPS,
    **dict.fromkeys(("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"), _DATA),
    **dict.fromkeys(("prepare_data", "on_before_batch_transfer", "transfer_batch_to_device"), _DATA),
    "on_after_batch_transfer": "give data.augment or data.prepare",
    **dict.fromkeys(("validation_step", "test_step", "predict_step"), _MEASURED),
    **{
        f"on_{part}_{when}": _MEASURED
        for part in ("validation", "test", "predict")
        for when in ("start", "end", "epoch_start", "epoch_end", "batch_start", "batch_end")
    },
    "on_save_checkpoint": _KEPT,
    "on_load_checkpoint": _KEPT,
}
"""Lightning's methods that this framework never calls, or not at each step; and what to write or use instead."""


class Driver(Protocol):
    """What a module hands Lightning's calls on to while it is trained: `lottery.training.loop.Loop`.

    It is a protocol because the loop imports modules, to know what it trains.
    """

    optimizer: Optimizer

    def advance(self, first: int, last: int) -> None:
        """Takes the optimizer steps from `first` to `last` (exclusive), one chunk."""

    def pause(self) -> None:
        """Does what is due between two chunks."""


class Module(pl.LightningModule):
    """What a study trains: a network with its loss and its metrics, which subclasses define.

    The loop belongs to the framework. A Lightning batch is a chunk of optimizer steps (see `lottery.training.loop`), so
    `training_step` and the other methods in `INSTEAD` must not be overridden. Outputs may be anything that `loss` and
    the metrics take.
    """

    headline: str
    """name of the metric that the module is judged by, one of `metrics` or `loss`"""
    higher_is_better: bool | None = None
    """whether a higher headline is better, for one whose metric does not say so itself"""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = net
        self.loop: Driver | None = None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, a scalar."""
        raise TypeError(f"{type(self).__name__} must define loss(outputs, targets)")

    def batch_outputs(self, batch: tuple[Tensor, Tensor]) -> Any:
        """Outputs of the network for a batch (inputs, targets)."""
        return self(batch[0])

    def batch_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss of the network on a batch (inputs, targets), a scalar."""
        return self.loss(self(batch[0]), batch[1])

    def metrics(self) -> Mapping[str, Metric]:
        """Fresh torchmetrics by name, updated with (outputs, targets); `loss` is always measured too."""
        raise TypeError(f"{type(self).__name__} must define metrics()")

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def configure_optimizers(self) -> Optimizer:
        assert self.loop is not None, "a module is trained by lottery.training.fit.fit"
        return self.loop.optimizer

    def training_step(self, chunk: tuple[int, int], index: int) -> None:
        assert self.loop is not None, "a module is trained by lottery.training.fit.fit"
        self.loop.advance(*chunk)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self.loop is not None, "a module is trained by lottery.training.fit.fit"
        self.loop.pause()


class Classifier(Module):
    """Cross-entropy and accuracy in [0, 1]; top-5 accuracy too where there are more than 5 classes.

    `label_smoothing` (Szegedy et al. 2016), in [0, 1), applies to training only: evaluation has plain cross-entropy. So
    does `scale_penalty`, times the sum of the absolute scales of all BatchNorms (network slimming, Liu et al. 2017).
    """

    headline = "accuracy"

    def __init__(self, net: nn.Module, classes: int, label_smoothing: float = 0.0, scale_penalty: float = 0.0) -> None:
        super().__init__(net)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing:g}: must lie in [0, 1)")
        if not 0 <= scale_penalty < float("inf"):
            raise ValueError(f"scale_penalty={scale_penalty:g}: must be a finite number of 0 or more")
        if scale_penalty and not _scales(net):
            raise ValueError(f"scale_penalty={scale_penalty:g}: the network has no BatchNorm with scales")
        self.classes = classes
        self.label_smoothing = label_smoothing
        self.scale_penalty = scale_penalty

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.label_smoothing if self.training else 0.0
        error = functional.cross_entropy(outputs, targets, label_smoothing=smoothing)
        if not (self.scale_penalty and self.training):
            return error
        # of the network as it is now: rounds may train one without its dead channels
        return error + self.scale_penalty * torch.cat(_scales(self.net)).abs().sum()

    def metrics(self) -> Mapping[str, Metric]:
        accuracy = MulticlassAccuracy(self.classes, average="micro", validate_args=False)
        return {"accuracy": accuracy} | ({"top5": _TopFive()} if self.classes > 5 else {})


def _scales(net: nn.Module) -> list[Tensor]:
    return [norm.weight for norm in net.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.affine]


def headline_of(module: Module) -> Headline:
    """The metric that a module is judged by: which way it gets better, and whether it is a share in [0, 1].

    The module's `higher_is_better` comes first, then the one that torchmetrics gives its metric, then the name.
    Raises ValueError for names that no ledger can hold, and for a headline of which the direction is not known.
    """
    name, metrics = getattr(module, "headline", None), module.metrics()
    if slashed := [each for each in metrics if "/" in each]:
        raise ValueError(
            f"its metric {slashed[0]!r} has a / in its name, as only what analyses find has; "
            f"call it {slashed[0].replace('/', '_')!r}"
        )
    if LOSS in metrics:
        raise ValueError(f"one of its metrics is called {LOSS!r}, as the mean loss is, which is always measured")
    if name not in (*metrics, LOSS):
        raise ValueError(f"its headline is {name!r}; it measures {', '.join([*metrics, LOSS])}")
    metric, usual = metrics.get(name), Headline.named(name)
    bounds = [getattr(metric, f"plot_{side}_bound", None) for side in ("lower", "upper")]
    higher, known = getattr(metric, "higher_is_better", None), name in (LOSS, "accuracy")
    higher = higher if module.higher_is_better is None else module.higher_is_better
    if higher is None and not known:
        raise ValueError(
            f"its headline {name!r} does not say whether higher or lower is better; write higher_is_better = True or "
            f"False into {type(module).__name__} or into the metric's class"
        )
    share = usual.share if known else bounds == [0, 1]
    return Headline(name, usual.higher_is_better if higher is None else higher, share)


class _TopFive(Metric):
    """Share of the examples whose class is among the five largest outputs.

    The same as torchmetrics' own, which takes four times as long: a tenth of a small network's evaluation.
    """

    higher_is_better, plot_lower_bound, plot_upper_bound = True, 0.0, 1.0
    hits: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.hits += (outputs.topk(5, dim=1).indices == targets[:, None]).sum()
        self.total += len(targets)

    def compute(self) -> Tensor:
        return self.hits / self.total
