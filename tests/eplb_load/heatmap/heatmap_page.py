# SPDX-License-Identifier: Apache-2.0
"""Reads a heat map's page back."""

import json
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page says.

    rows: cells of the table. load: numbers that the script draws. note: text below the title. refresh: seconds, as
    text, after which a browser loads the page again. addresses: what the page would load.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str | None] = []
        self.note, self.refresh, self._script, self._inside = "", None, "", ""
        self.feed(text)
        found = re.search(r"load = (\[\[.*?\]\])", self._script)
        assert found is not None
        self.load = json.loads(found[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self._inside = "note" if values.get("id") == "note" else tag
        if values.get("http-equiv") == "refresh":
            self.refresh = values["content"]
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self._script += data
        elif self._inside == "note":
            self.note += data
        elif self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()
