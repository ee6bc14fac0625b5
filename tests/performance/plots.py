"""The plot of the report: how each figure stands to its goal."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.performance.goals import BY_NAME, is_met
from tests.performance.measurement import Comparison

MET, MISSED = "#1b7f5c", "#b3541e"


def draw_ratios(comparisons: Sequence[Comparison], path: Path) -> None:
    """An SVG: per figure a dot at ratio over goal (so that right of 1 is reached), with the rounds' span."""
    # Text stays text, and the same figures give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "millrace", "font.size": 9}):
        figure = Figure(figsize=(8, 0.42 * len(comparisons) + 1.1), layout="constrained")
        axes = figure.subplots()
        for place, comparison in enumerate(reversed(comparisons)):
            spread = [_towards_goal(comparison, ratio) for ratio in comparison.round_ratios]
            colour = MET if is_met(comparison) else MISSED
            axes.plot(
                [min(spread), max(spread)], [place, place], color=colour, linewidth=2, alpha=0.5, solid_capstyle="round"
            )
            axes.plot(_towards_goal(comparison, comparison.ratio), place, marker="o", color=colour)
        axes.axvline(1, color="#555555", linewidth=1)
        axes.set_xscale("log")
        axes.set_yticks(range(len(comparisons)), [comparison.name for comparison in reversed(comparisons)])
        axes.set_xlabel("of the goal, on a logarithmic scale: from 1 on it is reached")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})


def _towards_goal(comparison: Comparison, ratio: float) -> float:
    goal = BY_NAME[comparison.name].goal
    # What takes nothing measurable (no megabyte, say) has no place on a logarithmic scale.
    return ratio / goal if comparison.better == "more" else goal / max(ratio, goal / 100)
