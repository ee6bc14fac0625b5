"""Histograms, quantiles and time lines of one column."""

from datetime import date, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from worker.reporting.profile import Histogram, TimeLine

BARS = 40
_QUANTILES = (1, 5, 25, 50, 75, 95, 99)
_MOST_PERIODS = 60
_UNITS = {
    "second": ("1s", 1),
    "minute": ("1m", 60),
    "hour": ("1h", 3600),
    "day": ("1d", 86_400),
    "week": ("1w", 7 * 86_400),
    "month": ("1mo", 30.44 * 86_400),
    "quarter": ("1q", 91.3 * 86_400),
    "year": ("1y", 365.25 * 86_400),
    "decade": ("10y", 3652.5 * 86_400),
    "century": ("100y", 36_525 * 86_400),
}


def quantiles(ordered: pl.Series) -> dict[str, float]:
    """Linear quantiles of a sorted series of finite numbers, by name: p1 … p99."""
    values = ordered.to_numpy()
    points = np.quantile(values, [percent / 100 for percent in _QUANTILES]) if len(values) < 3 else _picked(values)  # noqa: PLR2004
    return {f"p{percent}": float(point) for percent, point in zip(_QUANTILES, points, strict=True)}


def _picked(values: NDArray[np.float64]) -> list[float]:
    """numpy would copy and partition millions of values that are sorted already."""
    points = []
    for percent in _QUANTILES:
        place = percent / 100 * (len(values) - 1)
        low = int(place)
        high = min(low + 1, len(values) - 1)
        points.append(values[low] + (values[high] - values[low]) * (place - low))
    return points


def histogram(ordered: pl.Series, *, whole_numbers: bool) -> Histogram:
    """Bars over the range in which nearly all values lie, so that one far value does not flatten the picture."""
    values = ordered.to_numpy()
    low, high = float(values[0]), float(values[-1])
    if whole_numbers and high - low < BARS:
        edges = np.arange(low - 0.5, high + 1, 1.0)
        counts, _ = np.histogram(values, edges)
        return Histogram(edges.tolist(), counts.tolist(), whole_numbers=True)
    at_1, at_99 = values[int(0.01 * (len(values) - 1))], values[int(0.99 * (len(values) - 1))]
    spread = float(at_99 - at_1)
    if spread > 0:
        low, high = max(low, float(at_1) - 0.5 * spread), min(high, float(at_99) + 0.5 * spread)
    if not low < high or not np.isfinite(high - low) or (high - low) / BARS < 2 * np.spacing(max(abs(low), abs(high))):
        return Histogram([low, low], [len(values)])
    edges = np.linspace(low, high, min(BARS, max(10, int(np.sqrt(len(values)) * 2))) + 1)
    if whole_numbers:
        step = max(1.0, np.round((high - low) / BARS))
        edges = np.floor(low) + step * np.arange(np.ceil((high - np.floor(low) + 1) / step) + 1) - 0.5
    counts, _ = np.histogram(values, edges)
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return Histogram(edges.tolist(), counts.tolist(), whole_numbers=whole_numbers, below=below, above=above)


def time_line(values: pl.Series) -> TimeLine:
    """Rows per second, minute, … or century: the finest unit that needs at most 60 bars."""
    # Dates and moments: polars' types allow any value here.
    first: Any = values.min()
    last: Any = values.max()
    seconds = (last - first).total_seconds()
    is_date = isinstance(first, date) and not isinstance(first, datetime)
    unit = next(
        name
        for name, (_, length) in _UNITS.items()
        if (seconds / length < _MOST_PERIODS or name == "century") and not (is_date and length < 86_400)  # noqa: PLR2004 - a day
    )
    every = _UNITS[unit][0]
    counted = values.alias("at").to_frame().group_by(pl.col("at").dt.truncate(every)).len().sort("at")
    full = counted.upsample("at", every=every, maintain_order=True).with_columns(pl.col("len").fill_null(0))
    return TimeLine(unit, [start.isoformat() for start in full["at"].to_list()], full["len"].to_list())
