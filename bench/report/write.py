"""Writes the report next to the results that it shows."""

from datetime import UTC, datetime
from pathlib import Path

from bench.report.markdown import markdown
from bench.report.page import page
from bench.tools.budget import load_budget
from bench.tools.document import read_documents


def write_report(folder: Path) -> Path:
    """Write report.html and report.md for the results in the folder, and return the page.

    Raises DocumentError if there is none.
    """
    documents, goals = read_documents([folder]), load_budget()
    written = f"Written on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    html = folder / "report.html"
    html.write_text(page(documents, goals, written=written), encoding="utf-8")
    (folder / "report.md").write_text(markdown(documents, goals), encoding="utf-8")
    return html
