"""Reports of a search: one self-contained HTML page, Markdown, and text for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mipnet.config import to_yaml
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.formats import aligned, duration, gain, percent
from mipnet.run_folder import Run
from mipnet.visualization.curves import Curve
from mipnet.visualization.html_page import Tile, render_report, render_template
from tune import ranking
from tune.plots import cost_plot, curves_plot, effect_plot, point_label
from tune.ranking import OCCLUSION_AP, PRIMARY_LOSS, PointResult, aps_by_pair, cost_unit
from tune.summary import SearchSummary, best_config
from tune.trial_folders import FINISHED_KEY, SPEC_KEY, TRIAL_KEY

MIN_COLOUR_RANGE = 0.02
"""Least range of AP of a table's colours, because noise must not look like an effect."""


def render_markdown(summary: SearchSummary) -> str:
    """The table and the effects as Markdown."""
    results, best = summary.results, summary.best
    return render_template(
        "search.md.j2",
        "tune",
        summary=summary,
        states=status_counts(results),
        figure=metric_text(best, summary) if best else "",
        by_instances=ranking.instance_effects(results),
        by_place=ranking.place_effects(results),
    )


def render_text(summary: SearchSummary) -> str:
    """The table and the best point for the terminal."""
    results, best, search = summary.results, summary.best, summary.search
    header = summary.columns
    rows = [["#", *(name for name, _ in header)]]
    rows += [[str(rank), *(cell(r) for _, cell in header)] for rank, r in enumerate(results, 1)]
    lines = aligned(rows, 0)
    lines.insert(1, "-" * len(lines[0]))
    lines += ["", f"ranked by the {summary.selection_metric}"]
    if words := summary.constants:
        lines.append(f"all of them: {words}")
    if best:
        lines += ["", f"best      {best.point.description}: {metric_text(best, summary)}"]
        lines.append(f"config    {search.folder.path('best.yaml')}")
    else:
        lines += ["", "no trial came to its end"]
    lines.append(f"report    {search.folder.path('report.html')}")
    if "version" in search.state:
        lines.append(f"registry  {search.config.tracking.model_name} version {search.state['version']}")
    lines += [f"next      {command}" for command in summary.next_commands[:1]]
    return "\n".join(["", *lines])


def status_counts(results: Sequence[PointResult]) -> str:
    """How many points have each status, in words."""
    counts = Counter(r.status for r in results)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "no trial yet"


def metric_text(result: PointResult, summary: SearchSummary) -> str:
    """The metric that ranks the points, and its value for one of them."""
    metric = summary.metric
    return f"{metric.title} {metric.text(result)}{error_text(result) if metric is OCCLUSION_AP else ''}"


def error_text(result: PointResult) -> str:
    return f" ± {percent(result.error)}" if result.error == result.error else ""


def render_html(summary: SearchSummary, date: datetime | None = None) -> str:
    """The whole report as one page without external resources.

    Args:
        summary: of the search.
        date: of the report; by default now.
    """
    search, best, path = summary.search, summary.best, summary.search.folder.path
    return render_report(
        "search",
        search.config,
        date,
        search_facts(summary),
        search_notices(summary),
        package="tune",
        name=search.name,
        summary=summary,
        tiles=search_tiles(summary),
        cost=cost_plot(summary),
        effects=effect_plots(summary),
        curves=learning_curves(summary.results),
        pairs=discount_nms_table(summary),
        held_out=held_out_table(summary),
        yaml=to_yaml(best_config(search, best)) if best else "",
        locations={
            "search": search.folder.uri,
            "trials": path("runs"),
            "best configuration": path("best.yaml"),
        },
    )


def search_facts(summary: SearchSummary) -> list[tuple[str, str]]:
    """Label and value of what stands below the report's title."""
    spec = summary.search.state.get(SPEC_KEY, {})
    halving = spec.get("halving")
    return [
        ("space", str(spec.get("space_name", ""))),
        ("sampler", str(spec.get("sampler", ""))),
        ("halving", f"rungs at epochs {', '.join(map(str, halving['rungs']))}" if halving else "none"),
        ("configurations", status_counts(summary.results)),
        ("trainings", str(sum(len(r.trials) for r in summary.results))),
        ("epochs", str(summary.search.config.train.epochs)),
        ("training took", duration(summary.seconds)),
    ]


def search_notices(summary: SearchSummary) -> list[str]:
    """Warnings that a reader of the figures needs."""
    finished, found = summary.finished, []
    data = summary.search.config.data
    if not summary.search.state.get(FINISHED_KEY):
        found.append("The search is not over: the same command goes on with it.")
    if len(finished) > 1 and summary.metric is PRIMARY_LOSS:
        found.append(
            "No configuration finds people yet, or all find the same: AP cannot rank them. They are ranked "
            "by the loss of λ = 0 over the last epoch, which the plots show instead."
        )
    if finished and not any(len(r.trials) > 1 for r in summary.results):
        found.append(
            "One seed each: the spread between runs is not known, and may be larger than the differences. "
            "--seeds 3 tells."
        )
    if data.val in data.evaluate:
        found.append(f"{data.val} is also a split of the final tables: nothing there is held out.")
    return found


def search_tiles(summary: SearchSummary) -> list[Tile]:
    """The large figures at the top; none without a finished point."""
    best, baseline, front = summary.best, summary.baseline, summary.front
    if best is None:
        return []
    point, ap = best.point, best.final_score.ap
    chosen = f"γ = {best.discount:g}, NMS {best.oks_nms:g}"
    below = f"{chosen}, r = {point.reduction}, learning rate {point.learning_rate:g}"
    found = [Tile("best configuration", point.description, below, "")]
    if summary.metric is PRIMARY_LOSS:
        below = f"{summary.selection_metric}: {percent(ap)}"
        found.append(Tile(f"its {PRIMARY_LOSS.title}", PRIMARY_LOSS.text(best), below, ""))
    else:
        below = f"loss of λ = 0: {PRIMARY_LOSS.text(best)}"
        found.append(Tile(f"its {summary.selection_metric}", percent(ap), below, error_text(best)))
    if baseline and baseline is not best:
        base_ap = baseline.final_score.ap
        below = f"baseline {percent(base_ap)}; {best.cost / baseline.cost:.2f} × its multiply-adds"
        found.append(Tile("over the baseline", gain(ap - base_ap), below))
    unit, unit_name = cost_unit(summary.results)
    costs = [f"{r.cost / unit:.3g} · {unit_name}" for r in (front[0], front[-1])]
    below = (f"from {costs[0]} to {costs[1]}" if len(front) > 1 else costs[0]) + " multiply-adds"
    return [*found, Tile("on the Pareto front", str(len(front)), below, "")]


def effect_plots(summary: SearchSummary) -> list[Curve]:
    """The ranking metric by N and by place, if several were searched."""
    title, results = summary.metric.title, summary.results
    by_n = effect_plot(f"{title} by N", [[e] for e in ranking.instance_effects(results)], [""])
    by_place = effect_plot(
        f"{title} by place", ranking.place_effects(results), ["with a MIMB there", "without"]
    )
    return [plot for plot in (by_n, by_place) if plot]


def learning_curves(results: Sequence[PointResult]) -> list[Curve]:
    """Occlusion AP of the validations and training loss over the epochs, of every training."""
    trials = {}
    for r in results:
        for trial, run in r.trials:
            seed = f", seed {trial.seed}" if len(r.trials) > 1 else ""
            trials[point_label(r, results) + seed] = run
    validations = {name: validation_curve(run) for name, run in trials.items()}
    losses = {name: loss_curve(run) for name, run in trials.items()}
    scores = curves_plot("Validation occlusion AP", validations, "percent")
    lost = curves_plot("Training loss of λ = 0", losses, "log")
    return [plot for plot in (scores, lost) if plot]


def validation_curve(run: Run) -> tuple[list[float], list[float]]:
    """(epochs, occlusion AP) of a training's validations, AP 0 to 1."""
    per_epoch = run.state[TRIAL_KEY].get("steps_per_epoch")
    if not per_epoch:
        return [], []
    rows = [row for row in run.state.get("validations", []) if SELECTION_METRIC in row]
    points = sorted((row["step"], row[SELECTION_METRIC]) for row in rows)
    return [step / per_epoch for step, _ in points], [score for _, score in points]


def loss_curve(run: Run) -> tuple[list[float], list[float]]:
    """(epochs, loss of λ = 0) of a training."""
    points = run.state[TRIAL_KEY].get("losses", [])
    return [epoch for epoch, _ in points], [loss for _, loss in points]


def discount_nms_table(summary: SearchSummary) -> dict[str, Any] | None:
    """AP by γ and NMS threshold over finished results with N > 1; None if there is one pair.

    Returns:
        ``thresholds``; ``rows``: γ -> a cell for each threshold with ``mean`` (AP, 0 to 1), ``chosen``
        (number of points for which the pair is the best) and ``share`` (of the full colour, 0 to 1).
    """
    finished = [r for r in summary.finished if r.point.instances > 1]
    aps = aps_by_pair([run.state[TRIAL_KEY].get("choices", []) for r in finished for _, run in r.succeeded])
    if len(aps) < 2:
        return None
    means = {pair: sum(values) / len(values) for pair, values in aps.items()}
    chosen = Counter((r.discount, r.oks_nms) for r in finished)
    most, least = max(means.values()), min(means.values())

    def cell(pair: tuple[float, float]) -> dict[str, float]:
        mean = means.get(pair, 0.0)
        share = max(1 - (most - mean) / max(most - least, MIN_COLOUR_RANGE), 0.0)
        return {"mean": mean, "chosen": chosen[pair], "share": share}

    discounts, thresholds = (sorted(set(values)) for values in zip(*aps, strict=True))
    return {"thresholds": thresholds, "rows": {d: [cell((d, t)) for t in thresholds] for d in discounts}}


def held_out_table(summary: SearchSummary) -> dict[tuple[str, str], dict[str, float]]:
    """(split, box source) -> AP of "best" and "baseline"."""
    by_line: dict[tuple[str, str], dict[str, float]] = {}
    for row in summary.held_out:
        by_line.setdefault((row["split"], row["boxes"]), {})[row["role"]] = row["AP"]
    return by_line
