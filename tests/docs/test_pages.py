# SPDX-License-Identifier: Apache-2.0
"""The pages: sizes, links, generated pages, names of errors, metrics and files. Nothing here needs a network."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import promql_parser
import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.docs.pages import ROOT, anchors, fences, links, name_of, num_words, pages, prose

MAX_README_WORDS, MAX_LINE, MAX_CELL = 700, 115, 300
PACKAGE = ROOT / "vllm_ascend_ext"
DASHBOARD = ROOT / "docs" / "recipes" / "grafana_dashboard.json"
PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|md|h|cpp|sh|yml|json|txt))?)(?:::\w+)?`")
METRIC = re.compile(r"vllm:ascend_ext_[a-z_]+")


def long_lines(text: str) -> list[int]:
    """Returns the numbers of lines of prose that are too long; tables and lines that are one link may be."""
    return [
        number
        for number, line in prose(text)
        if len(line) > MAX_LINE and not line.startswith("|") and not re.fullmatch(r"\S*\[[^\]]*\]\(\S+\)\S*", line)
    ]


def long_cells(text: str) -> list[int]:
    rows = [(number, line) for number, line in prose(text) if line.startswith("|")]
    return [number for number, line in rows if any(len(c) > MAX_CELL for c in re.split(r"(?<!\\)\|", line))]


def broken_link(page: Path, target: str) -> str | None:
    """Returns what is wrong with a link, or None. Of links to other sites only the form is looked at."""
    parts = urlsplit(target)
    if parts.scheme:
        return None if parts.scheme == "https" and re.fullmatch(r"[\w.-]+\.\w+", parts.netloc) else "no https link"
    file = (page.parent / parts.path).resolve() if parts.path else page
    if not file.exists():
        return "no such file"
    if page.is_relative_to(ROOT / "docs") and not file.is_relative_to(ROOT / "docs"):
        return "leaves docs/, where the site ends: name the file in backquotes"
    if parts.fragment and parts.fragment not in anchors(file.read_text(encoding="utf-8")):
        return "no such heading"
    return None


def test_readme_is_short() -> None:
    assert num_words((ROOT / "README.md").read_text(encoding="utf-8")) <= MAX_README_WORDS


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_page_can_be_read(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not long_lines(text), f"lines of more than {MAX_LINE} characters"
    assert not long_cells(text), f"cells of more than {MAX_CELL} characters"
    assert sum(line.startswith("# ") for _, line in prose(text)) == 1, "a page has one title"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    found = [(line, target, broken_link(page, target)) for line, target in links(page.read_text(encoding="utf-8"))]
    assert not [f"{page.name}:{line}: {target}: {what}" for line, target, what in found if what]


@pytest.mark.parametrize("script", ["structure.py", "docs_pages.py"])
def test_generated_pages_are_up_to_date(script: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / script), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def error_classes() -> dict[str, str]:
    """Returns the exception classes that the package defines, with the file of each."""
    bases = {"Exception", "Warning"}
    classes = {
        node: file
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    found: dict[str, str] = {}
    for node, file in classes.items():
        names = {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
        if any(name.endswith("Error") or name in bases for name in names):
            found[node.name] = name_of(file)
    return found


def test_every_error_is_in_troubleshooting() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    classes = error_classes()
    assert len(classes) > 30
    assert sorted(name for name, _ in rows) == sorted(classes)
    for name, cells in rows:
        assert all(cell.strip() for cell in re.split(r"(?<!\\)\|", cells)), f"{name} has an empty cell"


def package_texts() -> list[str]:
    """Returns every text of the package's code; what is filled in at run time is an ellipsis."""
    texts = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_texts_of_errors_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    said = package_texts()
    wrong = []
    for row in re.findall(r"^\| `\w+Error` \|.*$", text, re.MULTILINE):
        name, quoted = re.split(r"(?<!\\)\|", row)[1:3]
        pieces = [piece.strip() for quote in re.findall(r"`([^`]+)`", quoted) for piece in quote.split("…")]
        wrong += [f"{name}: {piece!r}" for piece in pieces if not any(piece in one for one in said)]
    assert not wrong, "no message says so:\n" + "\n".join(wrong)


def exported_metrics() -> set[str]:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")  # which is up to date: see above
    return set(re.findall(rf"^\| `({METRIC.pattern})`", text, re.MULTILINE))


def test_the_dashboard_can_be_loaded() -> None:
    """Grafana's own model of a dashboard takes it, and every expression is PromQL."""
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    loaded = Dashboard.from_json(document)
    panels = loaded.panels or []
    assert loaded.title and loaded.schema_version >= 36 and loaded.id_val is None
    assert len({panel.id_val for panel in panels}) == len({panel.title for panel in panels}) == len(panels) > 8
    boxes = [panel.grid_pos for panel in panels]
    assert all(box.x + box.w <= 24 for box in boxes)
    assert len({(box.x, box.y) for box in boxes}) == len(boxes)
    variables = {variable.name for variable in loaded.templating.list_val}
    for expression in expressions(document):
        promql_parser.parse(expression.replace("$__rate_interval", "1m"))
        assert set(re.findall(r"\$(\w+)", expression)) <= variables | {"__rate_interval"}


def expressions(document: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in document["panels"] for target in panel["targets"]]


def test_alerts_on_pages_are_promql() -> None:
    text = (ROOT / "docs" / "recipes" / "prometheus.md").read_text(encoding="utf-8")
    rules = re.findall(r"^ *expr: (.+)$", text, re.MULTILINE)
    assert len(rules) >= 2
    for rule in rules:
        promql_parser.parse(rule)


def test_planted_faults_in_the_dashboard_are_found() -> None:
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    with pytest.raises(ValueError):
        promql_parser.parse(expressions(document)[0] + ")")
    document["panels"] = [1]
    with pytest.raises((TypeError, AttributeError)):
        Dashboard.from_json(document)


def test_metrics_on_pages_and_the_dashboard_are_exported() -> None:
    exported = exported_metrics()
    assert len(exported) > 15
    used = set(METRIC.findall(DASHBOARD.read_text(encoding="utf-8")))
    assert len(used) > 10 and used <= exported
    for page in pages():
        for name in METRIC.findall(page.read_text(encoding="utf-8")):
            is_prefix = name.endswith("_") and any(metric.startswith(name) for metric in exported)
            assert name in exported or is_prefix, f"{name_of(page)}: {name} is no metric"


def test_files_on_pages_are_there() -> None:
    """A path in backquotes exists: from the checkout's root, or from the package's, or beside the page."""
    missing = []
    for page in pages():
        if page.name.startswith("structure"):  # which quotes what files say of their neighbours
            continue
        bases = (ROOT, PACKAGE, page.parent, ROOT / "emulator", ROOT / ".github" / "workflows")
        for number, line in prose(page.read_text(encoding="utf-8")):
            for path in re.findall(
                r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|md|h|cpp|sh|yml|json|txt))?)(?:::\w+)?`", line
            ):
                if not path.startswith("out/") and not any((base / path).exists() for base in bases):
                    missing.append(f"{name_of(page)}:{number}: {path}")
    assert not missing, "\n".join(missing)


def test_pages_that_the_code_names_are_there() -> None:
    sources = [
        file
        for tree in (
            "vllm_ascend_ext",
            "emulator",
            "benchmarks",
            "csrc_ascendc",
            "csrc_channel",
            ".github",
        )
        for file in (ROOT / tree).rglob("*")
        if file.suffix in (".py", ".h", ".cpp", ".yml", ".def")
    ]
    named = {
        (name_of(f), page) for f in sources for page in re.findall(r"\bdocs/[\w/]+\.md", f.read_text("utf-8"))
    }
    assert len(named) > 2
    assert not [f"{file}: {page}" for file, page in sorted(named) if not (ROOT / page).is_file()]


def test_the_site_builds(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    built = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("index.html")}
    assert len(built) >= len(list((ROOT / "docs").rglob("*.md")))


PLANTED = [
    (long_lines, "x" * (MAX_LINE + 1)),
    (long_cells, f"| a | {'x' * MAX_CELL} |"),
    (lambda text: list(fences("page", text))[0].mark == "", "```bash\nls\n```"),
    (lambda text: broken_link(ROOT / "README.md", text), "docs/no_such_page.md"),
    (lambda text: broken_link(ROOT / "README.md", text), "docs/glossary.md#no-such-word"),
    (lambda text: broken_link(ROOT / "README.md", text), "http:/example"),
    (lambda text: broken_link(ROOT / "docs" / "index.md", text), "../README.md"),
]


@pytest.mark.parametrize(("check", "text"), PLANTED)
def test_planted_fault_is_found(check, text) -> None:
    assert check(text)


def test_fences_are_read() -> None:
    text = "a\n<!-- needs: npu -->\n```bash\nls\n\n  -l\n```\nb\n1. x\n   ```text\n   y\n   ```\n"
    first, second = fences("p", text)
    assert (first.language, first.mark, first.line, first.text) == ("bash", "needs: npu", 3, "ls\n\n  -l\n")
    assert (second.language, second.mark, second.text) == ("text", "", "y\n")
    with pytest.raises(ValueError, match="p:1"):
        list(fences("p", "```bash\nls\n"))
