"""Files that are no tables are refused with the line and the reason."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from worker.reporting import csv_structure
from worker.reporting.csv_structure import BadTable, check_structure
from worker.reporting.profile import Profile
from worker.reporting.profile_table import profile_table

Profiler = Callable[..., Profile]


@pytest.fixture
def profiled(tmp_path: Path) -> Profiler:
    def run(content: bytes, **options: Any) -> Profile:
        path, scratch = tmp_path / "upload", tmp_path / "scratch"
        path.write_bytes(content)
        scratch.mkdir()
        return profile_table(path, name="t", title="t", scratch=scratch, progress=lambda _p, _m: None, **options)

    return run


def _parquet(frame: pl.DataFrame) -> bytes:
    target = io.BytesIO()
    frame.write_parquet(target)
    return target.getvalue()


_RAGGED = b"a,b,c,d,e,f,g,h,i\n" + b"1,2,3,4,5,6,7,8,9\n" * 1202 + b"1,2,3,4,5,6,7\n"
_BAD = {
    "empty": (b"", "The file is empty"),
    "header only": (b"a,b\n", "line 1 is its only line"),
    "header without a line end": (b"a,b", "line 1 is its only line"),
    "blank lines only": (b"\n\n\n", "Line 1 is blank"),
    "short row": (_RAGGED, r"Line 1,204 has 7 fields, the header has 9\."),
    "long row": (b"a,b\n1,2\n1,2,3\n", r"Line 3 has 3 fields, the header has 2\."),
    "short row after a quoted line end": (b'a,b\n"x\ny\nz",2\n1\n', r"Line 5 has 1 field, the header has 2\."),
    "short row after a blank line": (b"a,b,c\n1,2,3\n\n1,2\n", "Line 4 has 2 fields"),
    "Latin-1": ("a,b\n1,2\n3,ü\n".encode("latin-1"), "Line 3 is not UTF-8: byte 0xFC"),
    "cut within a character": (b"a,b\n1,\xc3", "Line 2 is not UTF-8: the file ends within a character"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "the file is UTF-16"),
    "NUL bytes": (b"a,b\n1,2\n3,\x00\n", "Line 3 contains a NUL byte"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>", "line 1 begins like HTML"),
    "XML": (b'<?xml version="1.0"?>\n<a/>', "line 1 begins like XML"),
    "JSON object": (b'{"a": 1}\n', "line 1 begins like JSON"),
    "JSON array": (b'[{"a": 1}, {"a": 2}]\n', "line 1 begins like JSON"),
    "Excel": (b"PK\x03\x04\x14\x00", "Excel workbook. Save the sheet as CSV"),
    "gzip": (b"\x1f\x8b\x08\x00", "Unpack it first"),
    "text after a closing mark": (b'a,b\n"x"y,1\n"p,q",2\n', "Line 2 has a quotation mark in the middle"),
    "mark that never closes": (b'a,b\n1,2\n3,"x\n4,5\n', "Line 3 opens a quotation mark that is never closed"),
    "line ends of old Macs": (b"a,b\r1,2\r", "carriage return alone"),
    "cut Parquet": (_parquet(pl.DataFrame({"a": [1, 2]}))[:-9], "cut off"),
    "tiny Parquet": (b"PAR1PAR1", "cut off"),
    "damaged Parquet": (b"PAR1" + b"\xff" * 500 + b"PAR1", "damaged"),
    "Parquet without rows": (_parquet(pl.DataFrame({"a": []})), "1 column and no rows"),
}


@pytest.mark.parametrize("case", _BAD)
def test_a_file_that_is_no_table_is_refused_with_the_reason(case: str, profiled: Profiler) -> None:
    content, reason = _BAD[case]

    with pytest.raises(BadTable, match=reason):
        profiled(content)


def test_damage_inside_a_parquet_files_pages_is_a_bad_table(profiled: Profiler) -> None:
    whole = bytearray(_parquet(pl.DataFrame({"a": [f"text {number}" for number in range(5000)]})))
    whole[4:400] = b"\xff" * 396

    with pytest.raises(BadTable, match="damaged"):
        profiled(bytes(whole))


def test_a_wrong_delimiter_is_named_with_the_right_one(profiled: Profiler) -> None:
    with pytest.raises(BadTable, match="split at each semicolon; it looks separated by commas"):
        profiled(b"a,b\n1,2\n", delimiter=";")


def test_a_wrong_format_is_named(profiled: Profiler) -> None:
    with pytest.raises(BadTable, match="not Parquet: it does not begin with the mark PAR1"):
        profiled(b"a,b\n1,2\n", file_format="parquet")


def test_parquet_called_csv_is_refused(profiled: Profiler) -> None:
    with pytest.raises(BadTable, match="is Parquet, not CSV"):
        profiled(_parquet(pl.DataFrame({"a": [1]})), file_format="csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_out(delimiter: str, profiled: Profiler) -> None:
    lines = [["name", "said"], ["a", "x, y; z"], ["b", "p | q"]]
    content = "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines)

    profile = profiled(content.encode())

    assert (profile.columns, profile.rows) == (2, 2)


def test_blank_lines_are_no_rows_wherever_they_stand(profiled: Profiler) -> None:
    profile = profiled(b'a,b\n\n1,2\r\n\r\n\n"x\n\ny",3\n,\n\n\n')

    assert profile.rows == 3
    assert [column.missing for column in profile.profiles] == [1, 1]
    assert "5 blank lines passed over." in profile.details


def test_marks_inside_unquoted_fields_are_characters(profiled: Profiler) -> None:
    profile = profiled(b'size,what\n5" pipe,x\n3" pipe,y\n')

    assert profile.rows == 2
    assert any("ordinary characters" in detail for detail in profile.details)


def test_the_mark_of_byte_order_is_no_part_of_the_first_name(profiled: Profiler) -> None:
    assert profiled(b"\xef\xbb\xbfa,b\n1,2\n").profiles[0].name == "a"


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_lines_are_counted_right_however_the_file_is_cut_into_blocks(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "upload"
    path.write_bytes('\ufeffnäme,b\n"two\nlines",1\n\n"a ""b""",2\r\nü,3\n\n4\n'.encode())
    monkeypatch.setattr(csv_structure, "BLOCK_BYTES", block)
    monkeypatch.setattr(csv_structure, "_header", lambda *_a, **_k: ["näme", "b"])

    with pytest.raises(BadTable, match="Line 8 has 1 field"):
        check_structure(path, ",", progress=lambda _part: None)


def test_a_field_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b'a,b\n1,"' + b"x\n" * 4000)
    monkeypatch.setattr(csv_structure, "BLOCK_BYTES", 512)
    monkeypatch.setattr(csv_structure, "LONGEST_RECORD_BYTES", 2048)

    with pytest.raises(BadTable, match="Line 2 opens a quotation mark that is never closed"):
        check_structure(path, ",", progress=lambda _part: None)
