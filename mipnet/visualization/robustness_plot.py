"""The robustness plot: AP over the smallest confidence of a box."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from mipnet.evaluation.robustness import RobustnessCurve

COLOURS = {"merged": "#c2410c", "lambda0": "#2563eb"}
LABELS = {"merged": "all instances", "lambda0": "λ = 0 alone"}


def robustness_picture(curves: Sequence[RobustnessCurve]) -> bytes:
    """A panel per split and box source: AP, and behind it the fraction of boxes that are kept.

    Returns:
        content of a PNG file.
    """
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.6 * columns, 2.9 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, curve in zip(panels, curves, strict=False):
            kept = [100 * share for share in curve.kept]
            axes.fill_between(
                curve.confidence, kept, color="#eef0f3", ec="#9ca3af", lw=0.8, label="boxes kept"
            )
            for instance_mode, ap in curve.ap.items():
                axes.plot(
                    curve.confidence, [100 * v for v in ap], color=COLOURS[instance_mode], marker="o", ms=3.2,
                    ls="-" if instance_mode == "merged" else "--", label=LABELS[instance_mode],
                )  # fmt: skip
            axes.set_title(f"{curve.split}, {curve.source}", loc="left", fontsize=10)
            axes.set_xlabel("least confidence of a box")
            axes.set_ylabel("AP, boxes kept (%)")
            axes.set_ylim(0, 100)
            axes.set_xlim(0, 1)
        for axes in panels[len(curves) :]:
            axes.remove()
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, ncols=len(names), frameon=False, fontsize=8, loc="outside lower center")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
