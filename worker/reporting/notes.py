"""What is worth noticing about a table, in words."""

from collections.abc import Callable

from worker.reporting.column_types import Kind
from worker.reporting.profile import ColumnProfile, Note, Profile
from worker.reporting.text import count, number, plural, share

STRONG = 0.8
"""An absolute correlation from here on is worth a word."""
REPORTED = 0.5
"""An absolute correlation from here on stands in the JSON result."""
_MANY_MISSING = 0.3
_SKEWED = 2.0
_MOST_ALIKE = 5
_LISTED = 6


def worth_noticing(profile: Profile) -> list[Note]:
    """Sentences, warnings first. Each kind of remark comes at most a few times; the rest is named together."""
    notes = [*_about_rows(profile), *_about_columns(profile), *_about_pairs(profile)]
    return sorted(notes, key=lambda note: note.level != "warning")


def _about_rows(profile: Profile) -> list[Note]:
    if profile.duplicates.value == 0:
        return []
    amount = count(profile.duplicates.value, exact=profile.duplicates.exact)
    part = share(profile.duplicates.value, profile.rows)
    verb = "row repeats" if profile.duplicates.value == 1 else "rows repeat"
    return [Note("warning", f"{amount} {verb} an earlier row in every column ({part} of all rows).")]


def _about_columns(profile: Profile) -> list[Note]:
    columns = profile.profiles
    notes = [
        _together("warning", columns, lambda c: c.kind is Kind.EMPTY, "has no values at all", "have no values at all"),
        _together(
            "warning",
            columns,
            lambda c: c.present > 1 and c.distinct.value == 1 and c.kind is not Kind.OTHER,
            "has the same value in every row that has one",
            "have one and the same value in every row that has one",
        ),
        _together(
            "info",
            columns,
            lambda c: c.identifier,
            "is different in every row: it may be an identifier",
            "are different in every row: they may be identifiers",
        ),
        _together(
            "warning",
            columns,
            lambda c: c.ambiguous_dates,
            "has dates that fit month/day and day/month alike; month/day was taken",
            "have dates that fit month/day and day/month alike; month/day was taken",
        ),
        _together(
            "warning",
            columns,
            lambda c: c.numbers is not None and c.numbers.infinite > 0,
            "contains infinite numbers, which its statistics leave out",
            "contain infinite numbers, which their statistics leave out",
        ),
    ]
    missing = sorted(
        (c for c in columns if c.kind is not Kind.EMPTY and c.missing / c.rows >= _MANY_MISSING),
        key=lambda c: -c.missing,
    )
    notes += [
        Note("warning", f"{_quoted(column)} is missing in {share(column.missing, column.rows)} of the rows.")
        for column in missing[:_MOST_ALIKE]
    ]
    skewed = sorted(
        (c for c in columns if c.numbers and abs(c.numbers.skewness or 0) >= _SKEWED and not c.identifier),
        key=lambda c: -abs(c.numbers.skewness or 0) if c.numbers else 0,
    )
    notes += [_skew(column) for column in skewed[:_MOST_ALIKE]]
    for column in columns:
        if column.top and column.distinct.value > 1 and (column.top[0].count / column.present) > 0.95:  # noqa: PLR2004
            part = share(column.top[0].count, column.present)
            notes.append(Note("info", f"{_quoted(column)} is “{column.top[0].text}” in {part} of its values."))
    notes.append(
        _together(
            "info",
            columns,
            _zero_heavy,
            "is zero in more than half of its values",
            "are zero in more than half of their values",
        )
    )
    return [note for note in notes if note is not None]


def _zero_heavy(column: ColumnProfile) -> bool:
    return column.numbers is not None and column.distinct.value > 2 and column.numbers.zeros > column.present / 2  # noqa: PLR2004


def _skew(column: ColumnProfile) -> Note:
    assert column.numbers is not None  # noqa: S101 - narrows the type; the caller chose those that have numbers
    side = "high" if (column.numbers.skewness or 0) > 0 else "low"
    return Note(
        "info",
        f"{_quoted(column)} is skewed: a few {side} values pull its mean to {number(column.numbers.mean)}, "
        f"while its median is {number(column.numbers.quantiles['p50'])}.",
    )


def _about_pairs(profile: Profile) -> list[Note]:
    if profile.correlations is None:
        return []
    strong = [pair for pair in profile.correlations.pairs if abs(pair.r) >= STRONG]
    notes = [
        Note(
            "info",
            f"“{pair.left}” and “{pair.right}” {'rise together' if pair.r > 0 else 'move against each other'} "
            f"(correlation {pair.r:+.2f}).",
        )
        for pair in strong[:_MOST_ALIKE]
    ]
    if len(strong) > _MOST_ALIKE:
        notes.append(
            Note(
                "info", f"{plural(len(strong) - _MOST_ALIKE, 'more pair is', 'more pairs are')} as strongly correlated."
            )
        )
    return notes


def _together(
    level: str, columns: list[ColumnProfile], test: Callable[[ColumnProfile], bool], one: str, many: str
) -> Note | None:
    found = [column for column in columns if test(column)]
    if not found:
        return None
    named = ", ".join(_quoted(column) for column in found[:_LISTED])
    if len(found) > _LISTED:
        named += f" and {len(found) - _LISTED:,} more"
    return Note(level, f"{named} {one if len(found) == 1 else many}.")


def _quoted(column: ColumnProfile) -> str:
    return f"“{column.name}”"
