"""Is this text file a table? Every line is looked at, fast, and the first one that does not fit is named.

Polars would fill short rows with nulls and knows no line numbers, so the shape is checked here, before it reads the
file: `bytes.translate` leaves only separators, quotation marks and line ends, and numpy counts those.
"""

import codecs
import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.reporting.text import plural, visible

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
BLOCK_BYTES = 4 << 20
LONGEST_RECORD_BYTES = 64 << 20
DETECTION_BYTES = 256 << 10
DETECTION_RECORDS = 200
_Integers = NDArray[np.int64]
_QUOTE, _NEWLINE = ord('"'), ord("\n")


class BadTable(Exception):
    """The file cannot be read as a table; the message says which line and why."""


@dataclass
class Structure:
    """What a look at every line of a text file found."""

    delimiter: str
    header: list[str]
    rows: int = 0
    quoting: bool = True
    """Whether quotation marks delimit fields; else they are ordinary characters."""
    blank_lines: int = 0
    blank_ranges: list[tuple[int, int]] = field(default_factory=list)
    """Where the blank lines lie between rows, as byte offsets."""


class _StrayQuote(BadTable):
    """A quotation mark that neither opens nor closes a field."""


def check_structure(path: Path, delimiter: str | None, *, progress: Callable[[float], None]) -> Structure:
    """Read the whole file and return its shape. Raises BadTable naming the first line that does not fit.

    `progress` is told the share of the file that was read, 0 to 1.
    """
    detected = detect_delimiter(path)
    if (
        delimiter is not None
        and detected != delimiter
        and len(_header(path, delimiter)) == 1 < len(_header(path, detected))
    ):
        raise BadTable(
            f"Line 1 has a single field when it is split at each {DELIMITERS[delimiter]}; it looks separated by "
            f"{DELIMITERS[detected]}s. Leave out `delimiter`, or give the right one."
        )
    delimiter = delimiter or detected
    try:
        return _scan(path, Structure(delimiter, _header(path, delimiter)), progress)
    except _StrayQuote as stray:
        # 5" nails: a file that never quotes its fields may use the mark as a character.
        try:
            header = _header(path, delimiter, quoting=False)
            return _scan(path, Structure(delimiter, header, quoting=False), progress)
        except BadTable:
            raise stray from None


def detect_delimiter(path: Path) -> str:
    """The delimiter that splits the first lines into the same number of fields, more than one; else the comma."""
    with path.open("rb") as stream:
        sample = stream.read(DETECTION_BYTES)
        whole = not stream.read(1)
    text = sample.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    if not whole:
        text = text[: text.rfind("\n") + 1] or text
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        widths = [len(record) for record in _records(text, delimiter) if record][:DETECTION_RECORDS]
        if not widths or widths[0] < 2:  # noqa: PLR2004 - one field means that nothing was split
            continue
        score = (round(widths.count(widths[0]) / len(widths), 1), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error:
        return


def _header(path: Path, delimiter: str, *, quoting: bool = True) -> list[str]:
    """The names in the first record."""
    with path.open("rb") as stream:
        head = stream.read(BLOCK_BYTES).removeprefix(codecs.BOM_UTF8)
    if not quoting:
        return head.split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8", "replace").split(delimiter)
    return next(_records(head.decode("utf-8", "replace"), delimiter), [])


def _scan(path: Path, structure: Structure, progress: Callable[[float], None]) -> Structure:
    scanner = _Scanner(structure)
    total = path.stat().st_size
    done = 0
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(BLOCK_BYTES), b""):
            scanner.feed(block)
            done += len(block)
            progress(done / total)
    scanner.finish()
    return structure


class _Scanner:
    """Walks through the blocks of a file; what is left of a record at a block's end waits for the next block."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.width = len(structure.header)
        special = structure.delimiter + ('"\n' if structure.quoting else "\n")
        self.ordinary = bytes(byte for byte in range(256) if byte not in special.encode())
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.decoded_lines = 0
        self.records = 0
        self.lines = 0
        self.offset = 0
        self.tail = b""
        self.trailing_blanks: list[tuple[int, int]] = []
        """Blank lines since the last row; they count only if another row follows."""

    def feed(self, block: bytes) -> None:
        self._check_text(block)
        if self.offset == 0 and not self.tail:
            if b"\r" in block and b"\n" not in block:
                raise BadTable("Line 1 ends with a carriage return alone. Save the file with LF or CRLF line ends.")
            if block.startswith(codecs.BOM_UTF8):
                self.offset = len(codecs.BOM_UTF8)
                block = block[self.offset :]
        self._take(self.tail + block)
        if len(self.tail) > LONGEST_RECORD_BYTES:
            self._refuse_unended()

    def finish(self) -> None:
        if self.decoder.getstate()[0]:
            raise BadTable(f"Line {self.decoded_lines + 1:,} is not UTF-8: the file ends within a character.")
        if self.tail:
            self._take(self.tail if self.tail.endswith(b"\n") else self.tail + b"\n")
        if self.tail:
            self._refuse_unended()
        if self.records == 0:
            raise BadTable("The file is empty.")
        self.structure.rows = self.records - 1
        if self.structure.rows == 0:
            raise BadTable("The file has a header and no rows: line 1 is its only line.")

    def _check_text(self, block: bytes) -> None:
        nul = block.find(b"\0")
        if nul >= 0:
            line = self.decoded_lines + block.count(b"\n", 0, nul) + 1
            raise BadTable(f"Line {line:,} contains a NUL byte: this is a binary file, not a table.")
        try:
            self.decoder.decode(block)
        except UnicodeDecodeError as error:
            # `object` begins with what the decoder had kept of the previous block, which holds no line end
            line = self.decoded_lines + error.object.count(b"\n", 0, error.start) + 1
            raise BadTable(
                f"Line {line:,} is not UTF-8: byte 0x{error.object[error.start]:02X} does not fit there. "
                "Save the file as UTF-8 and upload it again."
            ) from None
        self.decoded_lines += block.count(b"\n")

    def _take(self, buffer: bytes) -> None:
        """Check the whole records in the buffer, which starts with a record, and keep the rest for later."""
        special = np.frombuffer(buffer.translate(None, self.ordinary), np.uint8)
        newline = special == _NEWLINE
        if self.structure.quoting and (quote := special == _QUOTE).any():
            inside = (np.cumsum(quote, dtype=np.int64) & 1).astype(bool)
            record_end = newline & ~inside
            separator = ~newline & ~quote & ~inside
        else:
            record_end, separator = newline, ~newline
        ends = np.flatnonzero(record_end)
        if len(ends) == 0:
            self._check_quotes(buffer, len(buffer))
            self.tail = buffer
            return
        # Which physical line of the buffer each record ends with: quoted fields may hold line ends.
        end_lines = np.cumsum(newline)[ends]
        self._check_quotes(buffer, stop := _nth_newline(buffer, int(end_lines[-1])) + 1)
        widths = np.diff(np.concatenate(([0], np.cumsum(separator)[ends]))) + 1
        wrong = np.flatnonzero(widths != self.width)
        blank = self._look_closer(buffer, widths, end_lines) if len(wrong) or self.trailing_blanks else 0
        self.records += len(ends) - blank
        self.lines += int(end_lines[-1])
        self.offset += stop
        self.tail = buffer[stop:]

    def _look_closer(self, buffer: bytes, widths: _Integers, end_lines: _Integers) -> int:
        """Tell blank lines, which are passed over, from ragged ones, which are refused. Returns how many are blank."""
        newlines = np.flatnonzero(np.frombuffer(buffer, np.uint8) == _NEWLINE)
        stops = newlines[end_lines - 1] + 1
        starts = np.concatenate(([0], stops[:-1]))
        first_lines = np.concatenate(([0], end_lines[:-1])) + self.lines + 1
        odd = np.flatnonzero(widths != self.width)
        for index in odd:
            content = buffer[starts[index] : stops[index]].strip(b"\r\n")
            line = int(first_lines[index])
            if content:
                raise BadTable(
                    f"Line {line:,} has {plural(int(widths[index]), 'field')}, the header has {self.width:,}. "
                    f"(Fields are separated by {DELIMITERS[self.structure.delimiter]}s; "
                    f"the line begins with “{visible(content.decode('utf-8', 'replace'), 60)}”.)"
                )
            if line == 1:
                raise BadTable("Line 1 is blank, where the names of the columns are expected.")
        self.structure.blank_lines += len(odd)
        rows_here = np.flatnonzero(widths == self.width)
        last_row = int(rows_here[-1]) if len(rows_here) else -1
        if last_row >= 0:
            self.structure.blank_ranges += self.trailing_blanks
            self.trailing_blanks = []
        for index in odd:
            blank = (self.offset + int(starts[index]), self.offset + int(stops[index]))
            (self.structure.blank_ranges if index < last_row else self.trailing_blanks).append(blank)
        return len(odd)

    def _check_quotes(self, buffer: bytes, stop: int) -> None:
        """Refuse marks that stand inside an unquoted field, or text that follows a closing one."""
        if not self.structure.quoting:
            return
        octets = np.frombuffer(buffer, np.uint8)
        marks = np.flatnonzero(octets[:stop] == _QUOTE)
        if len(marks) == 0:
            return
        delimiter = ord(self.structure.delimiter)
        opening, closing = marks[0::2], marks[1::2]
        before = octets[np.maximum(opening - 1, 0)]
        bad = opening[(opening > 0) & ~np.isin(before, (delimiter, _NEWLINE, _QUOTE))]
        closing = closing[closing + 1 < len(octets)]
        after = octets[closing + 1]
        bad_close = closing[~np.isin(after, (delimiter, _NEWLINE, ord("\r"), _QUOTE))]
        if len(bad) == len(bad_close) == 0:
            return
        where = int(min(*bad[:1], *bad_close[:1], len(buffer)))
        line = self.lines + buffer.count(b"\n", 0, where) + 1
        raise _StrayQuote(
            f"Line {line:,} has a quotation mark in the middle of a field. "
            'Fields that contain one are written "like ""this""".'
        )

    def _refuse_unended(self) -> None:
        line = self.lines + 1
        if self.structure.quoting and self.tail.count(b'"') % 2:
            opened = self.lines + self.tail.count(b"\n", 0, self._unclosed_mark()) + 1
            raise BadTable(f"Line {opened:,} opens a quotation mark that is never closed.")
        raise BadTable(f"Line {line:,} is longer than {LONGEST_RECORD_BYTES >> 20} MiB: this is not a table.")

    def _unclosed_mark(self) -> int:
        """Where the field that never ends begins: the last mark that follows a separator or a line end."""
        marks = np.flatnonzero(np.frombuffer(self.tail, np.uint8) == _QUOTE)
        return int(marks[0::2][-1]) if len(marks) else 0


def _nth_newline(buffer: bytes, ordinal: int) -> int:
    """The offset of the n-th line end, counted from 1."""
    last = buffer.rfind(b"\n")
    if buffer.count(b"\n") == ordinal:
        return last
    return int(np.flatnonzero(np.frombuffer(buffer, np.uint8) == _NEWLINE)[ordinal - 1])
