"""Reports as documents: self-contained, safe with hostile data, the same twice."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from worker.reporting.job_stamp import Stamp
from worker.reporting.paper import Paper, printable
from worker.reporting.table_report import TableReport, make_table_report

STAMP = Stamp(UUID("0193d5a0-7c00-7000-8000-000000000000"))
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><script>",
    "{{ 7*7 }}{% raw %}",
    "$\\frac{",
    "\u202egpj.exe",
    "=cmd|' /C calc'!A0",
    "a\x07b\x1b[31m",
    "日本語 😀 العربية",
    "javascript:alert(1)",
]
Reporter = Callable[..., TableReport]


@pytest.fixture
def report(tmp_path: Path) -> Reporter:
    def run(content: str, *, title: str | None = None, name: str = "orders.csv") -> TableReport:
        path, scratch = tmp_path / "upload", tmp_path / f"scratch{len(list(tmp_path.iterdir()))}"
        path.write_text(content, encoding="utf-8", newline="")
        scratch.mkdir()
        return make_table_report(
            path, name=name, title=title, stamp=STAMP, scratch=scratch, progress=lambda _p, _m: None
        )

    return run


class _Markup(HTMLParser):
    """The elements and attributes that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _parsed(report: TableReport) -> _Markup:
    markup = _Markup()
    markup.feed(report.html.decode())
    return markup


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _hostile_table() -> str:
    header = ",".join(_quoted(value) for value in HOSTILE)
    rows = [",".join(_quoted(HOSTILE[(row + place) % 3]) for place in range(len(HOSTILE))) for row in range(12)]
    return "\n".join([header, *rows]) + "\n"


def test_hostile_names_and_cells_stay_text(report: Reporter) -> None:
    markup = _parsed(report(_hostile_table(), title="</title><script>alert(1)</script>", name="<b>.csv"))

    assert markup.tags.isdisjoint({"script", "img", "iframe", "object", "link"})
    assert not [name for name, _ in markup.attributes if name.startswith("on")]
    assert all(value.startswith("#") for name, value in markup.attributes if name in {"href", "src"})
    assert any("<script>alert(1)</script>" in text for text in markup.text)


def test_names_that_look_like_formulas_are_drawn_as_they_are(report: Reporter) -> None:
    rows = "".join(f"{number},{number * 3 % 7},{'' if number % 2 else 'x'}\n" for number in range(30))

    made = report(f"$\\frac{{,$x^{{2$,$\\bad\n{rows}")

    assert made.pdf.startswith(b"%PDF-")


def test_control_characters_reach_neither_page_nor_result(report: Reporter) -> None:
    made = report(_hostile_table())

    text = made.html.decode() + json.dumps(made.result, ensure_ascii=False)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


def test_the_page_loads_nothing_and_forbids_it_too(report: Reporter) -> None:
    page = report("a,b\n1,2\n3,\n").html.decode()

    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_result_is_plain_json(report: Reporter) -> None:
    result = report("a,b,c,d\n1,inf,2024-01-01,12345678901234567890\n2,1e308,2024-01-02,1\n3,,,\n").result

    assert json.loads(json.dumps(result, allow_nan=False)) == result
    columns: dict[str, Any] = {column["name"]: column for column in result["profile"]}
    assert columns["d"]["stats"]["max"] == "12345678901234567890"
    assert columns["c"]["stats"] == {"min": "2024-01-01", "max": "2024-01-02"}
    assert result["rows"] == 3


def test_the_result_names_strong_correlations_only(report: Reporter) -> None:
    rows = "".join(f"{number},{number * 2 + number % 3},{(number * 7919) % 101}\n" for number in range(200))

    correlations = report(f"a,b,c\n{rows}").result["correlations"]

    assert [pair["columns"] for pair in correlations] == [["a", "b"]]
    assert correlations[0]["r"] > 0.99


def test_the_same_file_and_job_give_the_same_report(report: Reporter) -> None:
    content = "a,b,c\n1,x,2024-01-01\n2,y,2024-01-02\n2,,2024-01-03\n"

    assert report(content) == report(content)


@pytest.mark.parametrize(
    "content",
    [
        "a\n1\n",
        "a,b\n,\n,\n",
        "a,b\nx,y\n",
        "a\n2024-01-01\n",
        "a\n" + "x" * 100_000 + "\n",
        "a,b\n5,5\n5,5\n5,5\n",
        "a\n1e-300\n2e-300\n",
        "a\n1.0000000000000001\n1.0000000000000002\n",
    ],
    ids=["one cell", "nothing", "one row", "one day", "long cell", "constant", "tiny", "close"],
)
def test_odd_little_tables_have_a_report(content: str, report: Reporter) -> None:
    made = report(content)

    assert made.pdf.startswith(b"%PDF-")
    assert "Column by column" in made.html.decode()


def test_a_wide_table_says_what_was_left_out(report: Reporter) -> None:
    header, row = (",".join(words) for words in ([f"c{n}" for n in range(700)], ["1"] * 700))

    made = report(f"{header}\n{row}\n")

    assert "The first 500 of 700 columns are profiled" in made.html.decode()
    assert "The first 100 columns have charts" in made.html.decode()
    assert len(made.result["profile"]) == 500
    assert made.html.count(b"<article") == 100


def test_paper_shows_a_box_for_what_its_font_lacks() -> None:
    assert printable("Äß日😀") == "Äß□😀"


def test_a_job_tells_when_it_was_accepted() -> None:
    assert STAMP.moment == datetime(2024, 12, 17, 17, 18, 4, tzinfo=UTC)


def test_paper_numbers_its_pages() -> None:
    paper = Paper(title="T", kind="test", stamp=STAMP)
    paper.set_compression(False)
    paper.cover("sub")
    paper.paragraph("word " * 6000)

    assert paper.page_no() > 2
    assert paper.output().startswith(b"%PDF-")


def test_importing_the_job_types_loads_no_engine() -> None:
    code = (
        "import sys, worker.tasks.table_report, worker.tasks.report_activity\n"
        "print([name for name in ('polars', 'matplotlib', 'fpdf', 'numpy') if name in sys.modules])"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "[]"
