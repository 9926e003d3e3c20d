"""Plots as inline SVG in the colours of the page's CSS variables, for light and dark mode and print."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.formats import instance_mode_label

# Placeholder colours for matplotlib, which the SVG replaces by CSS variables.
INK, MUTED, RULE = "#010101", "#020202", "#030303"
SERIES = ("#100001", "#100002", "#100003", "#100004")
VARIABLES = {
    **{INK: "ink", MUTED: "muted", RULE: "rule", "'DejaVu Sans', sans-serif": "font"},
    **{colour: f"series-{i}" for i, colour in enumerate(SERIES)},
}
DASHES = ("-", (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5)))  # tells lines apart on grey paper
MARKERS = ("o", "s", "D", "^")

VALIDATION = "Validation occlusion AP"

Rows = Sequence[Mapping[str, float]]
Line = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Curve:
    """A plot with its title and a one-sentence summary for screen readers."""

    title: str
    svg: str
    summary: str


def learning_curves(history: Rows, best_step: float | None = None, metric: str = "AP") -> list[Curve]:
    """Plots over the steps: loss, validation, learning rate, speed and waiting time.

    Args:
        history: metric rows with ``step``, of training or validation.
        best_step: step of the selected checkpoint, marked in the validation plot.
        metric: which of an instance mode's figures the occlusion AP is.

    Returns:
        the plots that have values.
    """
    losses = {"all": line(history, "loss")}
    for key in sorted({key for row in history for key in row if key.startswith("loss/lambda")}):
        losses["λ = " + key.removeprefix("loss/lambda")] = line(history, key)
    if len(losses) == 2:
        losses = {"all": losses["all"]}  # N = 1: both are the same
    plots = [
        ("Loss", losses, "log"),
        (VALIDATION, validations(history, metric), "percent"),
        ("Learning rate", {"": line(history, "learning_rate")}, "plain"),
        ("Samples per second", {"": line(history, "samples_per_second")}, "from zero"),
        ("Share of the time spent waiting for data", {"": line(history, "waited_for_data")}, "percent"),
    ]
    return [
        plot(title, lines, scale, best_step if title == VALIDATION else None)
        for title, lines, scale in plots
        if any(values for _, values in lines.values())
    ]


def line(rows: Rows, key: str) -> Line:
    """Steps and finite values of one metric."""
    points = [(row["step"], row[key]) for row in rows if math.isfinite(row.get(key, math.nan))]
    return [step for step, _ in points], [value for _, value in points]


def validations(history: Rows, metric: str) -> dict[str, Line]:
    """By step, the metric of each instance mode; keys SELECTION_METRIC, SPLIT/SOURCE/INSTANCE_MODE/METRIC."""
    rows: list[dict[str, float]] = []
    for row in sorted((r for r in history if SELECTION_METRIC in r), key=lambda r: r["step"]):
        modes = {key.split("/")[-2]: value for key, value in row.items() if key.endswith(f"/{metric}")}
        rows.append({"step": row["step"], **modes, "merged": row[SELECTION_METRIC]})
    names = sorted({key for row in rows for key in row if key.startswith("lambda")})
    return {name.replace("lambda", "λ = "): line(rows, name) for name in ("merged", *names)}


def summarize(title: str, lines: Mapping[str, Line]) -> str:
    """Summary of a plot: first and last value of its first line."""
    steps, values = next(iter(lines.values()))
    return f"{title}: {values[0]:.3g} at step {steps[0]:g}, {values[-1]:.3g} at step {steps[-1]:g}"


def plot(title: str, lines: Mapping[str, Line], scale: str, mark: float | None) -> Curve:
    """One small plot over the steps."""
    few = max(len(steps) for steps, _ in lines.values()) <= 20

    def paint(axes: Axes) -> None:
        for i, (label, (steps, values)) in enumerate(lines.items()):
            k = i % len(SERIES)
            axes.plot(
                steps, values, color=SERIES[k], ls=DASHES[k], lw=1.5, marker=MARKERS[k] if few else "",
                ms=3.2, label=label or None,
            )  # fmt: skip
        if mark is not None:
            axes.axvline(mark, color=MUTED, lw=0.8, zorder=0)
            axes.annotate(
                "best", (mark, 1), (-3, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
                ha="right", va="top", color=MUTED, fontsize=8,
            )  # fmt: skip
        set_scale(axes, scale)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("step")
        if len(lines) > 1:
            legend_above(axes, len(lines), 2.4)

    return draw(title, (4.6, 2.3), paint, summarize(title, lines))


def set_scale(axes: Axes, scale: str) -> None:
    if scale == "log":
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 300 * low else (1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if scale == "percent":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    if scale in ("percent", "from zero"):
        axes.set_ylim(bottom=0)


def legend_above(axes: Axes, columns: int, length: float) -> None:
    """Put the legend above the plot; ``length`` is the length of its lines in font sizes."""
    axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), handlelength=length)


def overview(points: Mapping[str, Mapping[str, float]], ceilings: Mapping[str, float]) -> Curve | None:
    """AP of every instance mode, a row per split and box source, with the ceiling of perfect heatmaps.

    Args:
        points: label of a line -> instance mode -> AP from 0 to 1.
        ceilings: label of a line -> AP from 0 to 1.
    """
    points = {label: modes for label, modes in points.items() if modes}
    if not points:
        return None
    names = list(dict.fromkeys(name for modes in points.values() for name in modes))

    def paint(axes: Axes) -> None:
        for y, modes in enumerate(points.values()):
            low, high = min(modes.values()), max(modes.values())
            axes.plot([100 * low, 100 * high], [y, y], color=RULE, lw=3, zorder=1, solid_capstyle="round")
        for i, name in enumerate(names):
            k = i % len(SERIES)
            at = [(100 * modes[name], y) for y, modes in enumerate(points.values()) if name in modes]
            axes.plot(
                *zip(*at, strict=True), ls="", marker=MARKERS[k], ms=6.5 if i else 8, mew=1.6,
                color=SERIES[k], mfc="none" if i else SERIES[k], label=instance_mode_label(name),
                zorder=4 - min(i, 2), clip_on=False,
            )  # fmt: skip
        at = [(100 * ceilings[label], y) for y, label in enumerate(points) if label in ceilings]
        if at:
            axes.plot(*zip(*at, strict=True), ls="", marker="|", ms=13, mew=1.6, color=MUTED, label="ceiling")
        label_rows(axes, list(points), pad=9)  # clear of a marker at 0
        axes.set_xlim(0, 100)
        axes.set_xlabel("AP")
        legend_above(axes, len(names) + 1, 1.2)

    size = 9.4, 0.75 + 0.34 * len(points)
    return draw("AP by split and boxes", size, paint, "AP of every line of the table below")


def precision_recall(title: str, curve: Mapping[str, Sequence[float]], mark: float | None) -> Curve:
    """Precision, recall and F1 over the score from which poses are kept.

    Args:
        title: of the plot.
        curve: ``score``, ``precision`` and ``recall`` as in ``PoseFigures``.
        mark: the operating point's score, marked in the plot.
    """
    lines = {"precision": list(curve["precision"]), "recall": list(curve["recall"])}
    pairs = zip(*lines.values(), strict=True)
    lines["F1"] = [2 * p * r / (p + r) if p + r else 0.0 for p, r in pairs]

    def paint(axes: Axes) -> None:
        for k, (label, values) in enumerate(lines.items()):
            axes.plot(curve["score"], values, color=SERIES[k], ls=DASHES[k], lw=1.5, label=label)
        if mark is not None:
            axes.axvline(mark, color=MUTED, lw=0.8, zorder=0)
            axes.annotate(
                "operating point", (mark, 0), (3, 3), xycoords=("data", "axes fraction"),
                textcoords="offset points", color=MUTED, fontsize=8,
            )  # fmt: skip
        set_scale(axes, "percent")
        axes.set_ylim(0, 1)
        axes.grid(axis="y")
        axes.set_xlabel("poses from this score on")
        legend_above(axes, len(lines), 2.4)

    best = max(range(len(lines["F1"])), key=lines["F1"].__getitem__)
    summary = f"{title}: F1 is at most {lines['F1'][best]:.3g}, at score {curve['score'][best]:.3g}"
    return draw(title, (4.6, 2.3), paint, summary)


def label_rows(axes: Axes, names: Sequence[str], pad: float) -> None:
    """Label the rows at the left, first row at the top, ``pad`` pt from the plot."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", colors=INK, labelsize=10, pad=pad)
    axes.grid(axis="x")


STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read, searched and takes the page's font
    "text.parse_math": False,  # a name with two $ in it is not a formula
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 9,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0.1,
}


def draw(title: str, size: tuple[float, float], paint: Callable[[Axes], None], summary: str) -> Curve:
    """A plot as inline SVG. Ids in it are distinct for distinct titles.

    Args:
        title: of the plot.
        size: width and height in inches.
        paint: draws on the axes.
        summary: one sentence for screen readers.
    """
    file = io.StringIO()
    with rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = "<svg" + file.getvalue().partition("<svg")[2]
    # Remove group ids, which are equal in all plots, and matplotlib's <style>, which would apply to the page.
    svg = re.sub(r'(?<=<g) id="[^"]*"|<defs>\s*<style.*?</style>\s*</defs>\s*', "", svg, flags=re.DOTALL)
    for stand_in, name in VARIABLES.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return Curve(title, svg.strip(), summary)
