"""Numbers and strangers' text, made fit to be read: in HTML, in PDF and in JSON."""

import math
import unicodedata
from datetime import date, datetime
from decimal import Decimal

EXACT_IN_JSON = 2**53
_KILO = 1024


def visible(value: object, limit: int = 200) -> str:
    """The value as one line that cannot disturb its surroundings, at most `limit` characters long.

    Line breaks become ⏎; control characters (NUL, which PostgreSQL refuses, too) and those that turn the direction of
    the text around become �.
    """
    text = str(value)
    shown = "".join(_visible_character(character) for character in text[: limit + 1].replace("\r\n", "\n"))
    return shown if len(text) <= limit else shown[: limit - 1] + "…"


def _visible_character(character: str) -> str:
    if character in "\n\r\u2028\u2029":
        return "⏎"
    if character == "\t":
        return " "
    if character in "\u200c\u200d":  # joiners belong to Persian, to Hindi and to emoji
        return character
    return "�" if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co"} else character


def count(value: int, *, exact: bool = True) -> str:
    """`12,345`, or `≈ 12,345` where the count is an estimate."""
    return f"{value:,}" if exact else f"≈ {value:,}"


def plural(value: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2 rows`."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def number(value: object) -> str:
    """A statistic with as many digits as a reader needs: four significant ones, whole numbers in full."""
    if value is None:
        return "–"
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**15 else f"{float(value):.4g}" if abs(value) >= 10**24 else f"{value:,}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S").removesuffix(" 00:00:00")
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, float):
        return visible(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞" if value < 0 else "–"
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if magnitude >= 1e15 or magnitude < 1e-4:  # noqa: PLR2004 - where plain digits stop being readable
        return f"{value:.4g}"
    decimals = max(0, 3 - math.floor(math.log10(magnitude)))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def share(part: float, whole: float) -> str:
    """A percentage that never rounds something to nothing, nor nearly all to all: `< 0.1 %`, `> 99.9 %`."""
    if whole <= 0:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:  # noqa: PLR2004
        return "< 0.1 %"
    if 99.9 < percent < 100:  # noqa: PLR2004
        return "> 99.9 %"
    return f"{percent:.1f} %".replace(".0 %", " %")


def size(octets: float) -> str:
    """Bytes for people, in binary units: `1.4 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if octets < _KILO:
            return f"{octets:,.0f} {unit}" if unit == "bytes" else f"{octets:,.1f} {unit}"
        octets /= _KILO
    return f"{octets:,.1f} GiB"


def duration(seconds: float | None) -> str:
    """Seconds for people: `12 ms`, `3.4 s`, `2 min 5 s`, `1 h 4 min`, `3 d 2 h`."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, word, part, part_word in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {word} {rest} {part_word}" if rest else f"{whole // unit} {word}"
    return f"{whole} s"


def plain(value: object) -> object:
    """The value as JSON takes it: no NaN or infinity, dates in ISO 8601.

    A whole number beyond 2^53 becomes a string, because most readers of JSON would round it.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, int):
        return value if abs(value) <= EXACT_IN_JSON else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return visible(value)
