# SPDX-License-Identifier: Apache-2.0
"""Writes the load as one HTML file that needs nothing else: a picture to point at, and numbers for each layer."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from vllm_ascend_ext.eplb_load.balance import expert_imbalance, top_experts
from vllm_ascend_ext.eplb_load.heatmap.picture import names_of_layers
from vllm_ascend_ext.printable import printable

_NUM_TOP = 4  # busiest experts named for each layer
# a few points of matplotlib's viridis, so that both pictures read alike
_COLOURS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">@REFRESH@
<title>@TITLE@</title><style>
body { font: 13px system-ui, sans-serif; margin: 16px; color: #222; background: #fff }
h1 { font-size: 17px } canvas { display: block } #map { overflow-x: auto }
#said { position: sticky; top: 0; background: #fff; padding: 4px 0; min-height: 1.3em; font-weight: 600 }
table { border-collapse: collapse; margin-top: 16px } th, td { padding: 1px 10px; text-align: right }
th:first-child, td:first-child, td:last-child, th:last-child { text-align: left }
th { border-bottom: 1px solid #888 } tr:hover td { background: #eef }
</style></head><body><h1>@TITLE@</h1>
<p>Tokens routed to each expert, relative to the average expert of its layer (1 is even).
Grey: a layer without load.</p>@NOTE@
<div id="said">Point at a cell.</div><div id="map"><canvas></canvas></div>
<table><thead><tr><th>layer</th><th>routed</th><th>max / mean</th><th>variation</th>
<th>busiest experts</th></tr></thead>
<tbody>@ROWS@</tbody></table>
<script>
const names = @NAMES@, load = @LOAD@, colours = @COLOURS@;
const canvas = document.querySelector("canvas"), said = document.querySelector("#said");
const layers = load.length, experts = load[0].length, height = 14, top_ = 18, bottom = 34;
const pen = canvas.getContext("2d");
pen.font = "11px system-ui, sans-serif";
const left = 8 + Math.max(...names.map(name => pen.measureText(name).width));
const room = document.querySelector("#map").clientWidth - left - 8;
const width = Math.max(4, Math.min(24, Math.floor(room / experts)));
const scale = window.devicePixelRatio || 1, w = left + width * experts + 8, h = top_ + height * layers + bottom;
canvas.width = w * scale; canvas.height = h * scale; canvas.style.width = w + "px"; canvas.style.height = h + "px";
pen.scale(scale, scale);
pen.font = "11px system-ui, sans-serif";
const means = load.map(row => row.reduce((a, b) => a + b, 0) / experts);
const ratio = (l, e) => load[l][e] / means[l];
let most = 1;
load.forEach((row, l) => { if (means[l]) most = Math.max(most, ...row.map((_, e) => ratio(l, e))); });
function colour(value) {
  const at = value / most * (colours.length - 1), i = Math.min(Math.floor(at), colours.length - 2), t = at - i;
  return "rgb(" + colours[i].map((c, k) => Math.round(c + t * (colours[i + 1][k] - c))).join(",") + ")";
}
pen.textBaseline = "middle";
for (let l = 0; l < layers; l++) {
  pen.fillStyle = "#222"; pen.textAlign = "right";
  pen.fillText(names[l], left - 4, top_ + (l + 0.5) * height);
  for (let e = 0; e < experts; e++) {
    pen.fillStyle = means[l] ? colour(ratio(l, e)) : "lightgrey";
    pen.fillRect(left + e * width, top_ + l * height, width - (width > 6 ? 1 : 0), height - 1);
  }
}
pen.fillStyle = "#222"; pen.textAlign = "center";
let step = 1;
while (step * width < 30) step *= 2;
for (let e = 0; e < experts; e += step) pen.fillText(e, left + (e + 0.5) * width, top_ / 2);
const bar = Math.min(240, width * experts);
for (let x = 0; x < bar; x++) { pen.fillStyle = colour(x / bar * most); pen.fillRect(left + x, h - 26, 1, 10); }
pen.fillStyle = "#222"; pen.textAlign = "left"; pen.fillText("0", left, h - 8);
pen.textAlign = "right"; pen.fillText(most.toFixed(1) + " x mean", left + bar, h - 8);
canvas.addEventListener("mousemove", event => {
  const l = Math.floor((event.offsetY - top_) / height), e = Math.floor((event.offsetX - left) / width);
  if (l < 0 || e < 0 || l >= layers || e >= experts) return;
  said.textContent = names[l] + ", expert " + e + ": " + load[l][e].toLocaleString() + " tokens"
    + (means[l] ? ", " + ratio(l, e).toFixed(2) + " x mean" : "");
});
</script></body></html>
"""


def write_heatmap_page(
    load_LE: torch.Tensor,
    path: str | Path,
    layer_names: Sequence[str] | None = None,
    title: str | None = None,
    *,
    note: str = "",
    refresh_s: int | None = None,
) -> None:
    """Writes the page, with the imbalance and the busiest experts of each layer as `balance` computes them.

    Args:
        load_LE: ``[L, E]`` integers, not negative, on any device.
        path: path of the file, replaced if it exists.
        layer_names: L labels; by default the numbers 0 to L - 1.
        title: title of the page.
        note: a paragraph of text below the title; empty for none.
        refresh_s: time after which a browser loads the page again, in seconds; None for never.

    Raises:
        ValueError: another shape or dtype, a negative load, or another number of names.
        OSError: the file cannot be written.
    """
    names = names_of_layers(layer_names, load_LE.shape[0])
    refresh = "" if refresh_s is None else f'<meta http-equiv="refresh" content="{refresh_s}">'
    values = {
        "REFRESH": refresh,
        "NOTE": f'\n<p id="note">{html.escape(printable(note))}</p>' if note else "",
        "TITLE": html.escape(printable(title or "Expert load")),
        "ROWS": "\n".join(_rows(load_LE, names)),
        "NAMES": _script(names),
        "LOAD": _script(load_LE.cpu().tolist()),
        "COLOURS": _script(_COLOURS),
    }
    page = re.sub(r"@([A-Z]+)@", lambda place: values[place[1]], _PAGE)  # one pass: values are not templates
    Path(path).write_text(page, encoding="utf-8")


def _rows(load_LE: torch.Tensor, names: list[str]) -> list[str]:
    """Returns the table's rows, one a layer."""
    imbalance, rows = expert_imbalance(load_LE), []
    for layer, name in enumerate(names):
        busiest = ", ".join(
            f"{hot.expert} ({hot.share:.1%})" for hot in top_experts(load_LE[layer : layer + 1], _NUM_TOP)
        )
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{imbalance.total[layer]:,}</td>"
            f"<td>{imbalance.max_over_mean[layer]:.2f}</td><td>{imbalance.variation[layer]:.2f}</td>"
            f"<td>{busiest}</td></tr>"
        )
    return rows


def _script(value: object) -> str:
    """Returns JSON that cannot end the script element around it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
