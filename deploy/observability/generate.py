"""Writes the dashboards: `python deploy/observability/generate.py`, or `--check` to compare.

Needs the extra `dashboards` (in `dev`), Grafana's own SDK.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE / "dashboards"
TAG: Final = "edge-sidecars"
RUNBOOKS: Final = "https://docs.example.com/edge-sidecars/runbooks/"
ON: Final = 'cluster=~"$cluster", node=~"$node"'
SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
PANEL_WIDTH: Final = 8
PANEL_HEIGHT: Final = 8
"""In Grafana's grid, which has 24 columns."""
HOSTS: Final = "sidecars_config_loaded_timestamp_seconds"
"""A metric that every host has."""


def main(arguments: Sequence[str]) -> int:
    """Write every dashboard, or with `--check` print those that differ. Returns the exit code."""
    boards = yaml.safe_load((HERE / "panels.yaml").read_text("utf-8"))
    texts = {FOLDER / f"{board['name']}.json": text_of(board) for board in boards}
    stale = [file for file, text in texts.items() if not file.exists() or file.read_text("utf-8") != text]
    if "--check" not in arguments:
        FOLDER.mkdir(exist_ok=True)
        for file in stale:
            file.write_text(texts[file], "utf-8")
        return 0
    for file in stale:
        sys.stderr.write(f"{file} differs from panels.yaml: run python deploy/observability/generate.py\n")
    return 1 if stale else 0


def text_of(board: Mapping[str, Any]) -> str:
    """Return the dashboard as JSON."""
    built = (
        dashboard.Dashboard(board["title"])
        .uid(f"{TAG}-{board['name']}")
        .description(board["description"])
        .tags([TAG])
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .link(
            dashboard.DashboardLink("Edge sidecars")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in variables():
        built.with_variable(variable)
    number = 0
    for row in board["rows"]:
        number += 1
        built.with_row(dashboard.Row(row["title"]).id(number))
        for panel in row["panels"]:
            number += 1
            built.with_panel(graph(panel, number))
    return json.dumps(built.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def variables() -> list[dashboard.QueryVariable | dashboard.DatasourceVariable | dashboard.TextBoxVariable]:
    """Return the data source, the clusters, their nodes, and where the runbooks are."""
    labels = {
        "cluster": f"label_values({HOSTS}, cluster)",
        "node": f'label_values({HOSTS}{{cluster=~"$cluster"}}, node)',
    }
    chosen = [
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        for name, query in labels.items()
    ]
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        *chosen,
        dashboard.TextBoxVariable("runbooks")
        .label("Runbooks")
        .default_value(RUNBOOKS)
        .description("Where the documentation is served."),
    ]


def graph(panel: Mapping[str, Any], number: int) -> timeseries.Panel:
    """Return a panel as a graph over time."""
    link = dashboard.DashboardLink("Runbook").type(models.DashboardLinkType.LINK)
    built = (
        timeseries.Panel()
        .id(number)
        .title(panel["title"])
        .description(panel["description"])
        .datasource(SOURCE)
        .unit(panel.get("unit", "short"))
        .span(PANEL_WIDTH)
        .height(PANEL_HEIGHT)
        .fill_opacity(30 if panel.get("stacked") else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .links([link.url(f"${{runbooks}}{panel['runbook']}.html").target_blank(True)])
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if not panel.get("signed"):
        built.min(0)
    if panel.get("stacked"):
        built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    for letter, one in zip("ABCDE", panel["queries"], strict=False):
        built.with_target(
            prometheus.Dataquery()
            .ref_id(letter)
            .datasource(SOURCE)
            .expr(one["query"].replace("$ON", ON))
            .legend_format(one["legend"])
            .range()
        )
    return built


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
