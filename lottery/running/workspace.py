"""The saved view "arms compared" of a study in W&B, and a report on it. The one module that knows wandb-workspaces.

Density and accuracy are a line plot of W&B's own, grouped by arm, with a band over seeds: it stays interactive.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lottery.foundations.errors import Refused
from lottery.running.wandb_runs import INIT_SECONDS, cause, default_entity

ARM = "arm_label"
"""The key of a run's configuration that arms are told apart by."""
MOST_RUNS = 500
TRAINING = ("train_loss", "val_loss", "learning_rate", "gradient_norm")
"""What is shown of training."""


@dataclass(frozen=True)
class Overview:
    """What view and report of a study say; `specification` of it needs no network."""

    study: str
    score: str
    """The test metric that it is judged by."""
    project: str
    entity: str

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        try:
            import wandb_workspaces.expr as expr
            import wandb_workspaces.reports.v2 as reports
            import wandb_workspaces.workspaces as workspaces
        except ImportError as error:
            raise Refused(
                f"`lottery wandb workspace` needs the extra lottery[wandb]: pip install 'lottery[wandb]' ({error})"
            ) from error
        return workspaces, reports, expr

    def curve(self, metric: str, title: str, x: str = "round/density", **more: Any) -> Any:
        """A line plot with the mean of each arm and a band of one standard deviation over its seeds."""
        _, reports, _ = self._parts
        return reports.LinePlot(
            title=title,
            x=x,
            y=[metric],
            log_x=x == "round/density",
            groupby=reports.Config(ARM),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            smoothing_type="none",
            max_runs_to_show=MOST_RUNS,
            **more,
        )

    def _scores(self) -> Any:
        return self.curve(f"round/{self.score}", f"{self.score.replace('_', ' ')} by density")

    def bars(self, metric: str, title: str) -> Any:
        """Bars of a summary's number, one for each arm."""
        _, reports, _ = self._parts
        return reports.BarPlot(
            title=title, metrics=[reports.SummaryMetric(metric)], groupby=f"config.{ARM}", groupby_aggfunc="mean"
        )

    def view(self) -> Any:
        """The workspace, not saved yet."""
        workspaces, reports, expr = self._parts
        rounds = [
            self._scores(),
            self.curve("round/early_stop_step", "Early-stopping step by density"),
            self.curve("round/total_flops", "Training FLOPs so far, those of finding the ticket included"),
        ]
        chains = [
            self.bars("final/matching_density", "Sparsest density that matches dense"),
            self.bars(f"final/{self.score}", "At the last round"),
            self.bars("final/total_flops", "Training FLOPs in all"),
            reports.RunComparer(diff_only=True),
        ]
        training = [self.curve(f"train/{name}", name.replace("_", " "), x="train/step") for name in TRAINING]
        return workspaces.Workspace(
            entity=self.entity,
            project=self.project,
            name=f"arms compared: {self.study}",
            auto_generate_panels=False,
            sections=[
                workspaces.Section(name="Rounds", is_open=True, panels=rounds),
                workspaces.Section(name="Chains", is_open=True, panels=chains),
                workspaces.Section(name="Training", is_open=False, panels=training),
            ],
            settings=workspaces.WorkspaceSettings(x_axis="round/density", smoothing_type="none", max_runs=MOST_RUNS),
            runset_settings=workspaces.RunsetSettings(
                filters=f"Config('study') = '{self.study}'",
                groupby=[expr.Config(ARM)],
                order=[expr.Ordering(expr.Summary("final/density"), ascending=True)],
            ),
        )

    def specification(self) -> str:
        """The view as W&B keeps it, as JSON; made without a network."""
        view = self.view()
        return view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)  # there is no public way

    def report(self, tables: str, verdicts: str) -> Any:
        """The report, not saved yet: the curve, the tables of `lottery report`, and verdicts if there are some."""
        _, reports, _ = self._parts
        runs = reports.Runset(
            entity=self.entity,
            project=self.project,
            name="arms",
            filters=f"Config('study') = '{self.study}'",
            groupby=[f"config.{ARM}"],
        )
        grid = reports.PanelGrid(runsets=[runs], panels=[self._scores()])
        judged = [reports.H2(text="Verdicts"), reports.MarkdownBlock(text=verdicts)] if verdicts else []
        return reports.Report(
            entity=self.entity,
            project=self.project,
            title=self.study,
            description="Made from the ledgers, which are the truth.",
            blocks=[reports.H1(text=self.study), grid, reports.MarkdownBlock(text=tables), *judged],
        )

    def save(self, tables: str, verdicts: str) -> dict[str, str]:
        """Saves a new view and a new report; returns their addresses. Raises Refused without a server."""
        self._parts  # noqa: B018  # raises Refused first if the extra is missing
        try:
            view, report = self.view(), self.report(tables, verdicts)
            view.save()
            report.save()
            return {"workspace": view.url, "report": report.url}
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"the W&B server has not taken the view of {self.study} ({cause(error)})") from error


def entity_of(entity: str | None) -> str:
    """Whose project it is: the one asked for, or the user's default. Raises Refused without a key or a server."""
    if entity:
        return entity
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        return default_entity(INIT_SECONDS)
    except Exception as error:
        raise Refused(f"no entity: W&B does not say whose project it is ({cause(error)}); --entity names it") from error
