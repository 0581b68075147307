# SPDX-License-Identifier: Apache-2.0
"""Reads the numbers that `vllm-ascend-ext heatmap` draws: from a saved file, or from a server that runs."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from time import strftime
from typing import Any
from urllib.parse import urlsplit

from vllm_ascend_ext.eplb_load.heatmap.heatmap import Heatmap, heatmap_of
from vllm_ascend_ext.eplb_load.reported_load import ReportError, loads_of_report
from vllm_ascend_ext.integration.errors import PlainError
from vllm_ascend_ext.integration.server.report import NUM_RANKS_HEADER, REPORT_PATH
from vllm_ascend_ext.tools.demo.input import InputError

_TIMEOUT_S = 30.0  # longer than the server waits for its engine


class ServerReportError(PlainError):
    """Says why a server gave no report that can be drawn."""


def from_file(path: Path) -> Heatmap:
    """Returns the heat map of a file: of `demo --json`, or the ranks' reports.

    Raises:
        InputError: the file cannot be read, holds something else, or holds no expert load.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); save one with `demo --json > {path}`") from None
    if isinstance(document, dict) and "schema" in document:
        from vllm_ascend_ext.tools.demo.report import check_document, heatmap_of_document

        check_document(document, path)
        return heatmap_of_document(document)
    if isinstance(document, dict) and isinstance(document.get("results"), list):
        document = document["results"]  # as vLLM's own endpoint /collective_rpc wraps them
    if isinstance(document, dict) and "rank" not in document:
        raise InputError(f"{path}: not a report of `demo --json` (no schema number) or of ranks (no rank)")
    try:
        return heatmap_of(loads_of_report(document))
    except ReportError as error:
        raise InputError(f"{path}: {error}") from None


def check_url(url: str) -> str:
    """Returns the address of the report of the server at `url`.

    Raises:
        InputError: the URL is none of a web server.
    """
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_server = False
    if not is_server or parts.query or parts.fragment:
        raise InputError(f"--url {url}: give the server's address, http://HOST:PORT")
    return url.rstrip("/") + REPORT_PATH


def from_server(url: str, api_key: str | None = None) -> Heatmap:
    """Returns the heat map of a running server.

    Args:
        url: the server's address; with `--root-path`, the proxy's address and that path.
        api_key: what the server wants as `--api-key`.

    Raises:
        InputError: a URL that is none, or a wrong key.
        ServerReportError: the server does not answer, has no report, or counts no expert load.
    """
    address = check_url(url)
    document, num_ranks = _get(address, api_key)
    try:
        load = loads_of_report(document)
    except ReportError as error:
        raise ServerReportError(f"{address}: {error}") from None
    heatmap = heatmap_of(load)
    note = f"{url} at {strftime('%H:%M:%S')}: {heatmap.note}"
    if num_ranks is not None and load.num_ranks < num_ranks:
        note += (
            f" {load.num_ranks} of {num_ranks} ranks answered, those of one data-parallel replica: what the other "
            "ranks counted and have not handed over to the first one is missing."
        )
    return replace(heatmap, note=note)


def _get(address: str, api_key: str | None) -> tuple[Any, int | None]:
    """Returns the document, and how many ranks the deployment has."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_S
        ) as answer:
            num_ranks = answer.headers.get(NUM_RANKS_HEADER)
            return json.load(answer), None if num_ranks is None else int(num_ranks)
    except urllib.error.HTTPError as error:
        raise _refused(address, error) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ServerReportError(f"{address}: no answer ({reason}); is `vllm serve` running there?") from None
    except ValueError:
        raise ServerReportError(f"{address}: the answer is not JSON; is it the address of `vllm serve`?") from None


def _refused(address: str, error: urllib.error.HTTPError) -> Exception:
    if error.code in (401, 403):
        return InputError(f"{address}: the server wants its API key (HTTP {error.code}); give it with --api-key")
    if error.code == 404:
        return ServerReportError(
            f"{address}: no such page; start `vllm serve` with vllm-ascend-ext installed and "
            '--additional-config \'{"ascend_ext": {"eplb_load": {"enabled": true}}}\''
        )
    try:
        said = json.load(error)["error"]
    except (OSError, ValueError, KeyError, TypeError):
        said = error.reason
    return ServerReportError(f"{address}: HTTP {error.code}: {said}")
