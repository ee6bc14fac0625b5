"""From an uploaded file to the three forms of its report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.reporting.job_stamp import Stamp
from worker.reporting.profile_table import Progress, profile_table
from worker.reporting.table_html import table_page
from worker.reporting.table_pdf import table_paper
from worker.reporting.table_result import table_result
from worker.reporting.text import visible


@dataclass(frozen=True)
class TableReport:
    """One report in three forms."""

    html: bytes
    pdf: bytes
    result: dict[str, Any]


def make_table_report(
    path: Path,
    *,
    name: str,
    title: str | None,
    stamp: Stamp,
    scratch: Path,
    progress: Progress,
    file_format: str | None = None,
    delimiter: str | None = None,
) -> TableReport:
    """Profile the file and write its report. Raises BadTable; the same file and stamp give the same report.

    `progress` is told per cent and a few words. `scratch` must be empty; up to twice the file's size is written there.
    """
    profile = profile_table(
        path,
        name=visible(name, 120),
        title=visible(title or name, 120),
        scratch=scratch,
        progress=lambda part, word: progress(2 + 83 * part, word),
        file_format=file_format,
        delimiter=delimiter,
    )
    progress(86, "Writing the HTML report")
    html = table_page(profile, stamp).encode()
    pdf = table_paper(profile, stamp, lambda part: progress(88 + 10 * part, "Drawing the PDF report"))
    return TableReport(html, pdf, table_result(profile))
