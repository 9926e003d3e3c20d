"""Plots of a search's report: AP against cost, effects, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mipnet.visualization import curves
from mipnet.visualization.curves import DASHES, INK, MARKERS, MUTED, SERIES, Curve, Line
from tune.ranking import OCCLUSION_AP, Effect, PointResult, cost_unit
from tune.summary import SearchSummary


def point_label(result: PointResult, results: Sequence[PointResult]) -> str:
    """A short name of a point: its places, and the other dimensions if their values differ."""
    if not result.point.places:
        return "baseline"
    places = ", ".join(map(str, result.point.places))
    n = {r.point.instances for r in results}
    words = f"place{'s' * (len(result.point.places) > 1)} {places}"
    if len(n) > 1:
        words = f"N = {result.point.instances} at {places}"
    for field, sign in (("reduction", "r"), ("learning_rate", "lr")):
        if len({getattr(r.point, field) for r in results if r.point.places}) > 1:
            words += f", {sign} {getattr(result.point, field):g}"
    return words


def capitalized(title: str) -> str:
    """With an upper-case first letter; the others stay."""
    return title[:1].upper() + title[1:]


def cost_plot(summary: SearchSummary) -> Curve | None:
    """The ranking metric against multiply-adds, one mark per finished point, with the Pareto front."""
    done, metric, front = summary.finished, summary.metric, summary.front
    if len(done) < 2:
        return None
    unit, unit_name = cost_unit(done)

    def paint(axes: Axes) -> None:
        for r in done:
            x, y, best = r.cost / unit, metric.of(r), r in front
            colour = SERIES[0] if best else MUTED
            if r.error == r.error and metric is OCCLUSION_AP:
                axes.plot([x, x], [y - 100 * r.error, y + 100 * r.error], color=colour, lw=1, zorder=2)
            fill = colour if best else "none"
            axes.plot(x, y, ls="", marker="o", ms=7, color=colour, mfc=fill, mew=1.4, zorder=3)
        xs, ys = [r.cost / unit for r in front], [metric.of(r) for r in front]
        axes.plot(xs, ys, color=SERIES[0], lw=1.4, zorder=1, drawstyle="steps-post")
        named = front if len(done) > 16 else done
        axes.margins(x=0.1, y=0.14)
        if metric.sign < 0:
            axes.invert_yaxis()  # better is up
        annotate_points(axes, [(r.cost / unit, metric.of(r), point_label(r, summary.results)) for r in named])
        axes.set_xlabel(f"multiply-adds of one crop, all λ ({unit_name})")
        axes.set_ylabel(metric.title + ("" if metric.sign > 0 else ", less is better"))
        axes.grid()
        axes.yaxis.set_major_locator(MaxNLocator(5))

    title = capitalized(f"{metric.title} against cost")
    names = ", ".join(point_label(r, summary.results) for r in front)
    return curves.draw(title, (9.4, 4.0), paint, f"{title}. On the Pareto front: {names}.")


def annotate_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """A label beside each (x, y, label); labels of close marks are stacked."""
    axes.figure.canvas.draw()  # sets the limits that transData depends on
    placed: list[tuple[float, float]] = []
    spots = [(*axes.transData.transform((x, y)), x, y, text) for x, y, text in points]
    for px, py, x, y, text in sorted(spots, key=lambda spot: (spot[1], spot[0])):
        at = py
        while any(abs(px - ox) < 95 and abs(at - oy) < 14 for ox, oy in placed):
            at += 1
        placed.append((px, at))
        offset = (8, 3 + (at - py) * 72 / axes.figure.dpi)  # above a line to the right
        axes.annotate(text, (x, y), offset, textcoords="offset points", color=INK, fontsize=8.5)


def effect_plot(title: str, rows: Sequence[Sequence[Effect]], names: Sequence[str]) -> Curve | None:
    """Means with their standard errors.

    Args:
        title: of the plot.
        rows: a line of the plot each, with an effect for each of ``names``.
        names: of the marks.
    """
    if not rows:
        return None

    def paint(axes: Axes) -> None:
        for i, name in enumerate(names):
            for y, effects in enumerate(rows):
                e, at = effects[i], y + 0.24 * (i - (len(names) - 1) / 2)
                if e.error == e.error:
                    axes.plot([e.mean - e.error, e.mean + e.error], [at] * 2, color=SERIES[i], lw=1.6)
                axes.plot(
                    e.mean, at, ls="", marker=MARKERS[i], ms=7, color=SERIES[i], mew=1.5, zorder=3,
                    mfc=SERIES[i] if i == 0 else "none", label=name if y == 0 and name else None,
                )  # fmt: skip
        curves.label_rows(axes, [effects[0].name for effects in rows], pad=6)
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if len(names) > 1:
            curves.legend_above(axes, len(names), 1.2)

    told = "; ".join(f"{row[0].name}: {', '.join(f'{e.mean:.3g} ({e.count})' for e in row)}" for row in rows)
    return curves.draw(capitalized(title), (4.6, 0.8 + 0.46 * len(rows)), paint, told)


def curves_plot(title: str, lines: Mapping[str, Line], scale: str) -> Curve | None:
    """One curve per training over the epochs, the first ones in colour and the others in grey behind them.

    Args:
        title: of the plot.
        lines: label -> (epochs, values); lines that are all 0 are left out.
        scale: as for ``curves.set_scale``: percent or log.
    """
    lines = {name: line for name, line in lines.items() if any(line[1])}
    if not lines:
        return None

    def paint(axes: Axes) -> None:
        for i, (name, (epochs, values)) in enumerate(lines.items()):
            chosen = i < len(SERIES)
            few = len(epochs) <= 12
            axes.plot(
                epochs, values, color=SERIES[i] if chosen else MUTED, ls=DASHES[i] if chosen else "-",
                lw=1.7 if chosen else 0.8, alpha=1 if chosen else 0.55, zorder=3 if chosen else 1,
                marker=MARKERS[i] if chosen and few else "." if few else "", ms=3.6,
                label=name if chosen else "the others" if i == len(SERIES) else None,
            )  # fmt: skip
        curves.set_scale(axes, scale)
        axes.grid(axis="y")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        curves.legend_above(axes, 2, 2.4)

    return curves.draw(title, (4.6, 3.0), paint, curves.summarize(title, lines))
