"""The metric that a project is judged by, and which direction of it is better."""

from __future__ import annotations

import re

from lottery.foundations.errors import Refused
from lottery.foundations.metrics import Headline
from lottery.training.lightning.module.measuring import Logged

HIGHER = ("accuracy", "acc", "auroc", "auc", "average_precision", "dice", "f1", "f1_score", "iou", "jaccard", "map",
          "miou", "precision", "recall", "top5", "r2")  # fmt: skip
"""Names of metrics of which more is better, all but r2 shares in [0, 1]."""
LOWER = ("bce", "ce", "error", "fid", "kl", "loss", "mae", "mape", "mse", "nll", "perplexity", "ppl", "rmse")
"""Names of metrics of which less is better."""

SEVERAL = (
    " (Lightning adds dataloader_idx where there are several loaders: log one of them by add_dataloader_idx=False, or "
    "give validation and test as many)"
)


def headline_among(val: Logged, test: Logged, asked: str | None, better: str | None) -> Headline:
    """The metric that a project is judged by, one that validation and test both log.

    Not asked for, it is the accuracy, else the only metric besides the loss, else the loss. Its direction is asked for,
    or that of the torchmetrics object that was logged, or that of a usual name. Raises Refused.
    """
    both = [name[5:] for name in test.names.values() if f"val_{name[5:]}" in val.names.values()]
    logged = [f"{part} logs {', '.join(sorted(of.names)) or 'nothing'}" for part, of in
              (("validation", val), ("test", test))]  # fmt: skip
    listed = " and ".join(logged) + (SEVERAL if "dataloader_idx_" in "".join(logged) else "")
    name = asked
    if name is None:
        others = [each for each in both if each != "loss"]
        usual = [each for each in ("accuracy", "acc") if each in both]
        name = usual[0] if usual else others[0] if len(others) == 1 else "loss" if both == ["loss"] else None
        if name is None and both:
            said = ", ".join(both)
            raise Refused(f"headline=null: validation_step and test_step both log {said}; headline= chooses one")
        if name is None:
            raise Refused(
                "headline=null: must be a metric that validation_step and test_step both log under one name besides "
                f"val_ and test_; {listed}"
            )
    if name not in both:
        raise Refused(f"headline={name}: must be logged by validation_step and by test_step; {listed}")
    metric = test.metrics.get(f"test_{name}", val.metrics.get(f"val_{name}"))
    bare = re.sub(r"_dataloader_idx_\d+$", "", name.lower())
    base = bare.rpartition("_")[2] if bare not in (*HIGHER, *LOWER) else bare
    known = {**dict.fromkeys(HIGHER, True), **dict.fromkeys(LOWER, False)}.get(base)
    higher = getattr(metric, "higher_is_better", None)
    higher = known if higher is None else higher
    if better is not None:
        higher = {"higher": True, "lower": False}[better]
    if higher is None:
        raise Refused(
            f"headline={name}: nothing says whether higher or lower is better; better=higher or better=lower does"
        )
    bounds = [getattr(metric, f"plot_{side}_bound", None) for side in ("lower", "upper")]
    share = bounds == [0, 1] if metric is not None else bool(known) and base != "r2"
    return Headline(name, higher, share)
