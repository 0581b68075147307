# SPDX-License-Identifier: Apache-2.0
"""Makes Grafana's dashboard of our metrics: a table of panels, and the JSON that Grafana loads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 39  # of Grafana 10 and later, which read older ones as well
_COLUMNS, _WIDTH, _HEIGHT = 24, 12, 8
_RATE = "[$__rate_interval]"
_MODEL = 'model_name=~"$model_name"'


@dataclass(frozen=True)
class Panel:
    """One graph.

    feature: the configuration key of the feature whose metrics it shows.
    expression: PromQL, in which `@name` stands for the feature's metric that ends in `_name`.
    legend: the text of a line, with Prometheus labels in braces.
    unit: Grafana's name of the unit.
    """

    feature: str
    title: str
    description: str
    expression: str
    legend: str
    unit: str


PANELS = (
    Panel(
        "eplb_load",
        "Imbalance over experts",
        "Busiest over average expert, worst layer of each group; 1 is even.",
        f'max by (model, layers) (@imbalance_ratio{{over="experts", {_MODEL}}})',
        "{{model}} layers {{layers}}",
        "none",
    ),
    Panel(
        "eplb_load",
        "Imbalance over ranks",
        "Busiest over average rank, worst layer of each group. Needs expert parallelism.",
        f'max by (model, layers) (@imbalance_ratio{{over="ranks", {_MODEL}}})',
        "{{model}} layers {{layers}}",
        "none",
    ),
    Panel(
        "eplb_load",
        "Tokens counted",
        "Tokens whose routing was counted, a second.",
        f"sum by (model) (rate(@tokens_total{{{_MODEL}}}{_RATE}))",
        "{{model}}",
        "short",
    ),
    Panel(
        "eplb_load",
        "From snapshot to sum",
        "Mean seconds from a snapshot to its sum over all ranks.",
        f"sum(rate(@handover_seconds_total{{{_MODEL}}}{_RATE})) / sum(rate(@handovers_total{{{_MODEL}}}{_RATE}))",
        "mean",
        "s",
    ),
    Panel(
        "eplb_load",
        "Snapshots that joined the next one",
        "Share of snapshots without a free slot. More slots, or a longer interval, make it smaller.",
        f"sum(rate(@merged_snapshots_total{{{_MODEL}}}{_RATE})) / sum(rate(@snapshots_total{{{_MODEL}}}{_RATE}))",
        "merged",
        "percentunit",
    ),
    Panel(
        "eplb_load",
        "Rebalancings that waited",
        "Decisions of the EPLB that waited for their counts, a minute. A larger rebalance_lead makes it smaller.",
        f"60 * sum(rate(@late_windows_total{{{_MODEL}}}{_RATE}))",
        "late windows",
        "short",
    ),
    Panel(
        "mtp_output",
        "Tokens accepted",
        "Tokens accepted, a second.",
        f"sum(rate(@tokens_total{{{_MODEL}}}{_RATE}))",
        "tokens",
        "short",
    ),
    Panel(
        "mtp_output",
        "Acceptance by position",
        "Share of the drafts at each position that the target model accepted.",
        f"sum by (position) (rate(@accepted_drafts_total{{{_MODEL}}}{_RATE})) / "
        f"sum by (position) (rate(@drafts_total{{{_MODEL}}}{_RATE}))",
        "position {{position}}",
        "percentunit",
    ),
    Panel(
        "mtp_output",
        "Ring occupancy",
        "Frames that no reader has acknowledged, of those that may wait. At 100 % the engine stands still.",
        f"max(@ring_occupancy{{{_MODEL}}} / @ring_capacity{{{_MODEL}}})",
        "occupied",
        "percentunit",
    ),
    Panel(
        "mtp_output",
        "Blocked by readers",
        "Share of the time in which steps waited for a reader to make room.",
        f"sum(rate(@blocked_seconds_total{{{_MODEL}}}{_RATE}))",
        "blocked",
        "percentunit",
    ),
    Panel(
        "mtp_output",
        "From sampling to the ring",
        "Mean seconds from sampling to being in the ring.",
        f"sum(rate(@frame_seconds_total{{{_MODEL}}}{_RATE})) / sum(rate(@frames_total{{{_MODEL}}}{_RATE}))",
        "mean",
        "s",
    ),
    Panel(
        "mtp_output",
        "Bytes a frame",
        "Mean size of a frame.",
        f"sum(rate(@frame_bytes_total{{{_MODEL}}}{_RATE})) / sum(rate(@frames_total{{{_MODEL}}}{_RATE}))",
        "mean",
        "bytes",
    ),
)


def dashboard(names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns the dashboard as Grafana reads it.

    names: the exported metrics of each feature.
    """
    return {
        "uid": "vllm-ascend-ext",
        "title": "vllm-ascend-ext",
        "description": "Expert load and MTP output of vLLM servers.",
        "tags": ["vllm", "ascend"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-15m", "to": "now"},
        "timepicker": {},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables(names)},
        "panels": [_panel(number, panel, names[panel.feature]) for number, panel in enumerate(PANELS)],
    }


def _variables(names: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    metrics = "|".join(_named("tokens_total", names[panel]) for panel in dict.fromkeys(p.feature for p in PANELS))
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "model_name",
            "label": "Model",
            "type": "query",
            "datasource": _source(),
            "query": {
                "query": f'label_values({{__name__=~"{metrics}"}}, model_name)',
                "refId": "model_name",
            },
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _panel(number: int, panel: Panel, names: Sequence[str]) -> dict[str, Any]:
    expression = re.sub(r"@(\w+)", lambda found: _named(found[1], names), panel.expression)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _source(),
        "gridPos": {
            "x": number * _WIDTH % _COLUMNS,
            "y": number * _WIDTH // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": "A", "datasource": _source(), "expr": expression, "legendFormat": panel.legend},
        ],
    }


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _named(ending: str, names: Sequence[str]) -> str:
    """Returns the one metric that ends in `ending`; of several the shortest, as `frames` is not `x_frames`."""
    found = sorted((name for name in names if name.endswith("_" + ending)), key=len)
    if not found:
        raise SystemExit(f"dashboard: no metric ends in _{ending}: {', '.join(names)}")
    return found[0]
