"""An uploaded file as a lazy polars frame of typed columns, or a plain word about why it is not a table.

A CSV file is read three times from disk, never whole into memory: once to look at every line, once to find for each
column the narrowest type that fits all of its values, and once to write it as Parquet into the scratch folder, from
where single columns are read quickly.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import polars as pl

from worker.reporting.column_types import FIRST_YEAR, LAST_YEAR, Kind, Reading, choose_readings, kind_of_dtype
from worker.reporting.csv_structure import DELIMITERS, BadTable, Structure, check_structure
from worker.reporting.text import plural, visible

MAX_COLUMNS = 500
"""Columns beyond these are counted and left out; the report says so."""
PREVIEW_ROWS = 8
ROW_GROUP_ROWS = 1 << 18
MISSING_MARKS = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "Null"]
_PARQUET_MARK = b"PAR1"
_BINARY_MARKS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook. Save the sheet as CSV",
    b"\x1f\x8b": "compressed with gzip. Unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard. Unpack it first",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x7fELF": "a program",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook or another Office document. Save the sheet as CSV",
    b"SQLite format 3": "an SQLite database",
    b"ARROW1": "an Arrow file. Save it as Parquet",
}
_MARKUP = re.compile(rb"<(!doctype\b|!--|\?xml\b|html\b|head\b|body\b|table\b|svg\b|rss\b|feed\b)", re.IGNORECASE)
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Field:
    """One column: `key` in the frame, its own name, and how its values were read."""

    key: str
    name: str
    kind: Kind
    reading: str = ""
    ambiguous: bool = False
    """Whether its dates could be read as day/month and as month/day alike."""


@dataclass
class TableFile:
    """A table to profile. Keys stand for names in `frame`, because names repeat, are empty, or are hostile."""

    frame: pl.LazyFrame
    fields: list[Field]
    rows: int
    columns: int
    size: int
    format: str
    preview: list[list[str | None]]
    details: list[str] = field(default_factory=list)
    """Sentences on how the file was read."""


def open_table(
    path: Path, *, scratch: Path, progress: Progress, file_format: str | None = None, delimiter: str | None = None
) -> TableFile:
    """Check the file and make it readable column by column. Raises BadTable.

    `progress` is told the share of this step, 0 to 1, and what goes on. At most twice the file's size is written to
    `scratch`.
    """
    with path.open("rb") as stream:
        head = stream.read(4096)
    if not head:
        raise BadTable("The file is empty: it has 0 bytes.")
    if head.startswith(_PARQUET_MARK) if file_format is None else file_format == "parquet":
        return _open_parquet(path, head)
    _refuse_other_formats(head)
    return _open_csv(path, delimiter, scratch, progress)


def _refuse_other_formats(head: bytes) -> None:
    """Name what was uploaded instead of a table, where its first bytes tell."""
    for mark, what in _BINARY_MARKS.items():
        if head.startswith(mark):
            raise BadTable(f"The file is not a table: it is {what}.")
    if head.startswith(_PARQUET_MARK):
        raise BadTable("The file is Parquet, not CSV. Leave out `format`, or give “parquet”.")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadTable("Line 1 is not UTF-8: the file is UTF-16. Save it as UTF-8 and upload it again.")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _MARKUP.match(start):
        kind = "HTML" if b"<html" in start.lower() or start.lower().startswith(b"<!doctype html") else "XML"
        raise BadTable(f"The file is not a table: line 1 begins like {kind}, with “{_beginning(start)}”.")
    if start[:1] in (b"{", b"["):
        first_line = start.split(b"\n", 1)[0].strip()
        if start[:1] == b"{" or _is_json(first_line) or first_line in {b"[", b"[{"}:
            raise BadTable(f"The file is not a table: line 1 begins like JSON, with “{_beginning(start)}”.")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.startswith((b"[{", b'["', b"[["))
    return True


def _beginning(text: bytes) -> str:
    return visible(text.split(b"\n", 1)[0].decode("utf-8", "replace"), 40)


def _open_csv(path: Path, delimiter: str | None, scratch: Path, progress: Progress) -> TableFile:
    structure = check_structure(path, delimiter, progress=lambda part: progress(0.3 * part, "Checking every line"))
    size = path.stat().st_size
    source = path if not structure.blank_ranges else _without_blank_lines(path, structure, scratch / "table.csv")
    width = len(structure.header)
    keys = [f"c{index}" for index in range(min(width, MAX_COLUMNS))]
    text = pl.scan_csv(
        source,
        has_header=False,
        skip_rows=1,
        schema={f"c{index}": pl.String() for index in range(width)},
        separator=structure.delimiter,
        quote_char='"' if structure.quoting else None,
        null_values=MISSING_MARKS,
        n_rows=structure.rows,
        glob=False,
    ).select(keys)
    progress(0.3, f"Finding the types of {plural(len(keys), 'column')}")
    readings = choose_readings(text, keys)
    progress(0.65, f"Reading {plural(structure.rows, 'row')}")
    typed = scratch / "table.parquet"
    text.select([readings[key].parse(pl.col(key)).alias(key) for key in keys]).sink_parquet(
        typed, compression="lz4", row_group_size=ROW_GROUP_ROWS
    )
    preview = [
        [None if cell is None else visible(cell, 60) for cell in row]
        for row in text.head(PREVIEW_ROWS).collect().iter_rows()
    ]
    return TableFile(
        frame=pl.scan_parquet(typed, glob=False),
        fields=_fields(structure.header, keys, readings),
        rows=structure.rows,
        columns=width,
        size=size,
        format="CSV",
        preview=preview,
        details=_csv_details(structure),
    )


def _fields(names: list[str], keys: list[str], readings: dict[str, Reading]) -> list[Field]:
    return [
        Field(key, _name(name, index), readings[key].kind, readings[key].label, readings[key].ambiguous)
        for index, (key, name) in enumerate(zip(keys, names, strict=False))
    ]


def _name(name: str, index: int) -> str:
    return visible(name.strip(), 120) or f"(column {index + 1}, unnamed)"


def _csv_details(structure: Structure) -> list[str]:
    details = [
        f"Fields are separated by {DELIMITERS[structure.delimiter]}s; the first line holds the names.",
        "Empty cells and NA, N/A, #N/A, NaN and null count as missing.",
    ]
    if not structure.quoting:
        details.append("Quotation marks stand inside fields, so they were read as ordinary characters.")
    if structure.blank_lines:
        details.append(f"{plural(structure.blank_lines, 'blank line')} passed over.")
    if all(_looks_numeric(name) for name in structure.header):
        details.append("The first line looks like data rather than names; it was taken as the header all the same.")
    return details


def _looks_numeric(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _without_blank_lines(path: Path, structure: Structure, copy: Path) -> Path:
    """Polars takes a blank line for a row of nulls: a copy leaves out those between rows."""
    with path.open("rb") as source, copy.open("wb") as target:
        for start, stop in structure.blank_ranges:
            _copy(source, target, start - source.tell())
            source.seek(stop)
        _copy(source, target, path.stat().st_size - source.tell())
    return copy


def _copy(source: BinaryIO, target: BinaryIO, remaining: int) -> None:
    while remaining > 0:
        block = source.read(min(remaining, 1 << 20))
        target.write(block)
        remaining -= len(block)


def _open_parquet(path: Path, head: bytes) -> TableFile:
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 4))
        foot = stream.read(4)
    if not head.startswith(_PARQUET_MARK):
        raise BadTable("The file is not Parquet: it does not begin with the mark PAR1.")
    if foot != _PARQUET_MARK or size < 12:  # noqa: PLR2004 - two marks and a length
        raise BadTable("The Parquet file is cut off: it does not end with the mark PAR1. Upload it again, whole.")
    try:
        source = pl.scan_parquet(path, glob=False)
        schema = source.collect_schema()
        rows = int(source.select(pl.len()).collect().item())
        names = list(schema)
        kinds = {name: kind_of_dtype(schema[name]) for name in names[:MAX_COLUMNS]}
        keys = {name: f"c{index}" for index, name in enumerate(kinds)}
        frame = source.select(
            [
                Reading.of_dtype(kinds[name], schema[name]).parse(pl.nth(index)).alias(key)
                for index, (name, key) in enumerate(keys.items())
            ]
        )
        preview = [
            [None if cell is None else visible(cell, 60) for cell in row]
            for row in frame.head(PREVIEW_ROWS).collect().iter_rows()
        ]
    except pl.exceptions.PolarsError as error:
        raise BadTable(f"The Parquet file is damaged: {visible(error, 300)}") from None
    if not names:
        raise BadTable("The Parquet file has no columns.")
    if rows == 0:
        raise BadTable(f"The Parquet file has {plural(len(names), 'column')} and no rows.")
    return TableFile(
        frame=frame,
        fields=[
            Field(key, _name(name, index), kinds[name], Reading.of_dtype(kinds[name], schema[name]).label)
            for index, (name, key) in enumerate(keys.items())
        ],
        rows=rows,
        columns=len(names),
        size=size,
        format="Parquet",
        preview=preview,
        details=[
            "Types are the file's own.",
            f"NaN counts as missing, and so do times before the year {FIRST_YEAR} or after {LAST_YEAR}.",
        ],
    )
