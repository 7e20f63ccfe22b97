"""The rule by which an arm's masks change during training, completed from the study; what it does not go with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lottery.config.groups import PRUNING_GROUPS, channelwise, chosen
from lottery.config.identity import node_identity
from lottery.foundations.errors import Refused
from lottery.rounds.arms import Arm
from lottery.rounds.prune import Pruning
from lottery.training.changes import Gradual, Rewiring
from lottery.training.lightning.project import Project
from lottery.training.recipes import Recipe


def with_rule(arm: Arm, node: Mapping[str, Any], pruning: Pruning, recipe: Recipe, config: Mapping[str, Any]) -> Arm:
    """An arm whose rule has what it takes from the study, and the identity of all that; `node` is its configuration.

    Raises Refused for what masks that change during training do not go with.
    """
    if arm.parent:
        arm = replace(arm, parent=with_rule(arm.parent, node, pruning, recipe, config))
    if not (rule := arm.during):
        return arm
    if isinstance(recipe, Project) and not recipe.automatic:
        raise Refused(
            "arm.during: masks change at optimizer steps, which a module with manual optimization takes by itself; it "
            "goes with automatic optimization"
        )
    if recipe.hardware.devices > 1:
        raise Refused(f"hardware.devices={recipe.hardware.devices}: goes without arm.during, which is for one process")
    if recipe.numerics.precision == "16-mixed" and rule.in_place_of_a_step:
        raise Refused(
            "numerics.precision=16-mixed: its loss scaling goes without arm.during.in_place_of_a_step=true; use "
            "bf16-mixed or 32"
        )
    if isinstance(rule, Rewiring) and config.get("structure"):
        raise Refused("structure: goes without dropping and growing single weights, as arm.during does")
    if channelwise(config):
        raise Refused("structure=channels: goes with masks that change between rounds, not while training (arm.during)")
    identity = node_identity("arm.during", node["during"])
    if isinstance(rule, Gradual):
        identity |= {"keep": "planned"}  # it was by measured densities once, which other masks came of
        own = {"criterion": rule.criterion, "scope": rule.scope}
        taken = [key for key in chosen(PRUNING_GROUPS, config) if key in ("criterion", "scope") and own[key] is None]
        if "scope" in taken and config.get("structure"):
            taken.append("structure")
        identity |= {key: node_identity(key, config[key]) for key in taken}
        rule = replace(rule, criterion=rule.criterion or pruning.criterion, scope=rule.scope or pruning.structured)
    return replace(arm, during=rule, during_identity=identity)
