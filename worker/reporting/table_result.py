"""A table's profile as the job's result: compact, plain JSON."""

from typing import Any

from worker.reporting.notes import REPORTED
from worker.reporting.profile import ColumnProfile, Profile
from worker.reporting.text import plain

MOST_PAIRS = 100


def table_result(profile: Profile) -> dict[str, Any]:
    """What programs want to know. Estimated counts are marked with `"exact": false`.

    Whole numbers beyond 2^53 are strings; moments are ISO 8601.
    """
    correlations = profile.correlations
    return {
        "title": profile.title,
        "file": {"name": profile.file_name, "format": profile.file_format.lower(), "size": profile.file_size},
        "rows": profile.rows,
        "columns": profile.columns,
        "profiled_columns": len(profile.profiles),
        "missing_cells": profile.missing_cells,
        "duplicate_rows": {"count": profile.duplicates.value, "exact": profile.duplicates.exact},
        "memory_bytes": profile.memory_bytes,
        "profile": [_column(column) for column in profile.profiles],
        "correlations": [
            {"columns": [pair.left, pair.right], "r": round(pair.r, 4), "rows": pair.rows}
            for pair in (correlations.pairs if correlations else [])
            if abs(pair.r) >= REPORTED
        ][:MOST_PAIRS],
        "notes": [{"level": note.level, "text": note.text} for note in profile.notes],
        "left_out": profile.left_out,
    }


def _column(column: ColumnProfile) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": column.name,
        "type": str(column.kind),
        "missing": column.missing,
        "distinct": {"count": column.distinct.value, "exact": column.distinct.exact},
    }
    if column.numbers is not None:
        n = column.numbers
        described["stats"] = {
            "min": plain(n.minimum),
            "max": plain(n.maximum),
            "mean": plain(n.mean),
            "std": plain(n.std),
            "median": plain(n.quantiles["p50"]),
            "quantiles": {name: plain(value) for name, value in n.quantiles.items()},
            "skewness": plain(n.skewness),
            "zeros": n.zeros,
            "negative": n.negative,
            "infinite": n.infinite,
            "outliers": n.outliers,
            "exact": n.exact,
        }
    if column.span is not None:
        described["stats"] = {"min": plain(column.span.first), "max": plain(column.span.last)}
    if column.lengths is not None:
        lengths = column.lengths
        described["length"] = {"min": lengths.minimum, "mean": plain(lengths.mean), "max": lengths.maximum}
    if column.top:
        described["top"] = [{"value": top.text, "count": top.count} for top in column.top]
    return described
