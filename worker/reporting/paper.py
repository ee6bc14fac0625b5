"""An A4 document with a cover band, running footers and the pieces that both reports are made of."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import cast

import matplotlib as mpl
from fpdf import FPDF
from fpdf.enums import XPos, YPos
from matplotlib.ft2font import FT2Font

from worker.reporting.job_stamp import Stamp
from worker.reporting.palette import BLUE, BLUE_WASH, INK, LINE, NAVY, ORANGE, ORANGE_WASH, RAIL, SOFT, rgb

MARGIN = 16.0
WIDTH = 210.0 - 2 * MARGIN
BOTTOM = 297.0 - 18.0
_FONT = "dejavu"


@cache
def _fonts() -> Path:
    return Path(mpl.get_data_path()) / "fonts" / "ttf"


@cache
def _drawable() -> frozenset[int]:
    """Code points that both cuts of the font have."""
    regular, bold = (
        set(FT2Font(str(_fonts() / name)).get_charmap()) for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
    )
    return frozenset(regular & bold)


def printable(text: str) -> str:
    """The text with □ for what DejaVu Sans cannot draw: most of Chinese, Japanese and Korean, and emoji."""
    drawable = _drawable()
    return "".join(character if ord(character) in drawable else "□" for character in text)


class Paper(FPDF):
    """One report on paper. Lengths are millimetres, sizes of letters points."""

    def __init__(self, *, title: str, kind: str, stamp: Stamp) -> None:
        super().__init__(format="A4")
        self.add_font(_FONT, "", _fonts() / "DejaVuSans.ttf")
        self.add_font(_FONT, "B", _fonts() / "DejaVuSans-Bold.ttf")
        self.report_title, self.kind, self.stamp = printable(title), kind, stamp
        self.set_margins(MARGIN, 18, MARGIN)
        self.set_auto_page_break(auto=False)
        self.set_title(self.report_title)
        self.set_creator("Millrace")
        self.set_creation_date(stamp.moment)
        self.set_lang("en")

    def footer(self) -> None:
        """Title and job on the left, the page's number on the right."""
        self.set_y(-13)
        self.pen(SOFT, 7)
        left = self.fitted(f"{self.report_title} · job {self.stamp.job_id}", WIDTH - 30)
        self.cell(WIDTH - 30, 4, left)
        self.cell(30, 4, f"{self.page_no()} / {{nb}}", align="R")

    def cover(self, subtitle: str) -> None:
        """The first page's band."""
        self.add_page()
        self.set_fill_color(*rgb(NAVY))
        self.rect(0, 0, 210, 46, style="F")
        self.set_xy(MARGIN, 11)
        self.pen("#c9dbf2", 7.5)
        self.cell(WIDTH, 4, f"MILLRACE  ·  {self.kind.upper()}")
        self.set_xy(MARGIN, 17)
        self.pen("#ffffff", 20, bold=True)
        self.cell(WIDTH, 11, self.fitted(self.report_title, WIDTH))
        self.set_xy(MARGIN, 30)
        self.pen("#dfeaf8", 9)
        self.cell(WIDTH, 5, self.fitted(printable(subtitle), WIDTH))
        self.set_xy(MARGIN, 54)

    def pen(self, color: str, points: float, *, bold: bool = False) -> None:
        """Choose the colour and the size of letters."""
        self.set_text_color(*rgb(color))
        self.set_font(_FONT, "B" if bold else "", points)

    def fitted(self, text: str, width: float) -> str:
        """As much of the text as fits on one line in the current letters."""
        text = text[:400]
        if self.get_string_width(text) <= width:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.get_string_width(text[:middle] + "…") <= width else (low, middle - 1)
        return text[:low] + "…"

    def need(self, height: float) -> None:
        """Turn the page if less than `height` is left on it."""
        if self.get_y() + height > BOTTOM:
            self.add_page()

    def heading(self, text: str, *, keep: float = 30) -> None:
        """A section's title, on the same page as the first `keep` millimetres below it."""
        self.need(14 + keep)
        self.ln(5)
        self.pen(INK, 13, bold=True)
        self.cell(WIDTH, 7, printable(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(2)

    def paragraph(self, text: str, *, points: float = 8.5, color: str = SOFT) -> None:
        """Running text, broken into lines and over pages."""
        self.pen(color, points)
        for line in self._lines(text, WIDTH):
            self.need(4.6)
            self.cell(WIDTH, 4.6, line, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1)

    def _lines(self, text: str, width: float) -> list[str]:
        """The text broken into lines of that width in the current letters."""
        return cast("list[str]", self.multi_cell(width, 4.6, printable(text), dry_run=True, output="LINES"))

    def tiles(self, tiles: Sequence[tuple[str, str]]) -> None:
        """Key figures in a row: a number and what it counts."""
        gap = 3.0
        wide = (WIDTH - gap * (len(tiles) - 1)) / len(tiles)
        top = self.get_y()
        self.set_draw_color(*rgb(LINE))
        for place, (figure, words) in enumerate(tiles):
            x = MARGIN + place * (wide + gap)
            self.rect(x, top, wide, 19, style="D", round_corners=True, corner_radius=1.6)
            self.set_xy(x + 2.5, top + 3.2)
            size = 13.0
            self.pen(INK, size, bold=True)
            while self.get_string_width(figure) > wide - 5 and size > 7:  # noqa: PLR2004 - the smallest readable size
                size -= 0.5
                self.pen(INK, size, bold=True)
            self.cell(wide - 5, 6, figure)
            self.set_xy(x + 2.5, top + 10.5)
            self.pen(SOFT, 7)
            self.cell(wide - 5, 4, self.fitted(words, wide - 5))
        self.set_xy(MARGIN, top + 21)

    def notes(self, notes: Sequence[tuple[str, str]]) -> None:
        """Remarks in washed boxes; the level `warning` is orange, any other blue."""
        for level, text in notes:
            self.pen(INK, 8.5)
            lines = self._lines(text, WIDTH - 14)
            tall = 4.6 * len(lines) + 3.4
            self.need(tall + 2)
            top = self.get_y()
            warns = level == "warning"
            self.set_fill_color(*rgb(ORANGE_WASH if warns else BLUE_WASH))
            self.rect(MARGIN, top, WIDTH, tall, style="F", round_corners=True, corner_radius=1.4)
            self.set_fill_color(*rgb(ORANGE if warns else BLUE))
            self.ellipse(MARGIN + 2.6, top + 1.9, 4.2, 4.2, style="F")
            self.set_xy(MARGIN + 2.6, top + 1.9)
            self.pen("#ffffff", 7.5, bold=True)
            self.cell(4.2, 4.2, "!" if warns else "i", align="C")
            self.pen(INK, 8.5)
            for place, line in enumerate(lines):
                self.set_xy(MARGIN + 10, top + 1.7 + 4.6 * place)
                self.cell(WIDTH - 14, 4.6, line)
            self.set_xy(MARGIN, top + tall + 1.8)

    def rows(
        self, heads: Sequence[tuple[str, float, str]], rows: Sequence[Sequence[str]], *, points: float = 7.5
    ) -> None:
        """A table with its head on every page. `heads` are word, share of the width and `L` or `R`."""
        self._table_head(heads, points)
        for row in rows:
            if self.get_y() + 5.6 > BOTTOM:
                self.add_page()
                self._table_head(heads, points)
            top = self.get_y()
            for place, ((_, part, align), text) in enumerate(zip(heads, row, strict=True)):
                self.pen(INK, points, bold=place == 0)
                wide = part * WIDTH
                self.cell(wide, 5.6, self.fitted(printable(text), wide - 2), align=align)
            self.set_draw_color(*rgb(LINE))
            self.line(MARGIN, top + 5.6, MARGIN + WIDTH, top + 5.6)
            self.set_xy(MARGIN, top + 5.6)

    def _table_head(self, heads: Sequence[tuple[str, float, str]], points: float) -> None:
        self.pen(SOFT, points)
        for word, part, align in heads:
            self.cell(part * WIDTH, 6, word, align=align)
        self.set_draw_color(*rgb(SOFT))
        self.line(MARGIN, self.get_y() + 6, MARGIN + WIDTH, self.get_y() + 6)
        self.set_xy(MARGIN, self.get_y() + 6)

    def meter(self, x: float, y: float, wide: float, part: float, *, color: str = BLUE, tall: float = 2.4) -> None:
        """A bar filled from the left, `part` from 0 to 1."""
        self.set_fill_color(*rgb(RAIL))
        self.rect(x, y, wide, tall, style="F")
        if part > 0:
            self.set_fill_color(*rgb(color))
            self.rect(x, y, max(0.4, wide * min(1.0, part)), tall, style="F")

    def figure(self, png: bytes, wide: float, tall: float, *, x: float = MARGIN) -> None:
        """A picture below what is there, whole on one page."""
        self.need(tall + 2)
        self.image(io.BytesIO(png), x=x, y=self.get_y(), w=wide, h=tall)
        self.set_xy(MARGIN, self.get_y() + tall + 2)
