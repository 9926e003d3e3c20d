"""The report of a run: one self-contained HTML file with results, curves and pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from mipnet.config import PRESETS, Config, preset, to_dict, to_yaml
from mipnet.evaluation.occlusion import SELECTION_METRIC, OcclusionAP, occlusion_ap
from mipnet.evaluation.operating_point import OperatingPoint, operating_point_line
from mipnet.evaluation.pose_figures import FIGURES_HELP, PoseFigures
from mipnet.evaluation.protocols import METRIC_DESCRIPTIONS, METRIC_NAMES
from mipnet.formats import duration, gain, percent
from mipnet.tracking.provenance import package_versions
from mipnet.visualization.curves import Curve, Rows, learning_curves, overview, precision_recall
from mipnet.visualization.html_page import Tile, render_report
from mipnet.visualization.overlays import encode_jpeg

MERGED = "merged"

Table = dict[tuple[str, str], dict[str, dict[str, float]]]
"""(split, box source) -> instance mode -> metric -> value"""


def write_report(
    name: str,
    config: Config,
    state: Mapping[str, Any],
    metrics: Mapping[str, float],
    *,
    figures: Sequence[PoseFigures] = (),
    point: OperatingPoint | None = None,
    history: Rows = (),
    ceilings: Mapping[str, float] | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
    timings: Mapping[str, float] | None = None,
    places: Mapping[str, str] | None = None,
    parameters: int = 0,
    next_command: str = "",
    date: datetime | None = None,
) -> str:
    """The report as one HTML document without external files; sections without data are left out.

    Args:
        name: of the run.
        config: its settings.
        state: of run.json: ``trained`` (steps, best), ``seconds``, ``version``, ``events``, ``mended``,
            ``left_out``, ``odd``, ``damaged_checkpoints``.
        metrics: ``split/source/instance_mode/metric`` -> value from 0 to 1.
        figures: of merged poses, a section of their own.
        point: the model's operating point.
        history: metric rows as in a checkpoint's history.json, training and validation.
        ceilings: AP of a perfect prediction by split, 0 to 1.
        pictures: title -> contact sheet, (height, width, 3) uint8 RGB.
        timings: phase -> seconds, in order.
        places: label -> path, URI or address: weights, results, MLflow, ….
        parameters: their number in the network; 0 leaves it out.
        next_command: shell command to run next.
        date: of the run; by default now.
    """
    table = read_metrics(metrics)
    best = (state.get("trained") or {}).get("best") or {}
    left_out = [f"Damaged: checkpoint {line}" for line in state.get("damaged_checkpoints", [])]
    left_out += [
        f"{label}: {line}"
        for label, kind in (("Mended", "mended"), ("Left out", "left_out"), ("Look at this", "odd"))
        for lines in state.get(kind, {}).values()
        for line in lines
    ]
    return render_report(
        "run",
        config,
        date,
        facts(config, state, parameters),
        [*notices(config, table), *left_out],
        name=name,
        **_result_values(config, table, ceilings or {}),
        tiles=tiles(table, ceilings or {}, best, occlusion_ap(config.data, metrics)),
        **_figure_values(figures, point),
        **_training_values(config, history, best),
        **_config_values(config),
        pictures=[embed(title, picture) for title, picture in (pictures or {}).items()],
        events=state.get("events", []),
        timings=timings or {},
        next_command=next_command,
        places=places or {},
        versions=", ".join(f"{name} {number}" for name, number in package_versions().items()),
    )


def _result_values(config: Config, table: Table, ceilings: Mapping[str, float]) -> dict[str, Any]:
    """Template values of the section with the results, without its tiles."""
    splits = list(dict.fromkeys(split for split, _ in table))
    return {
        "overview": overview_of(table, ceilings),
        "columns": METRIC_NAMES[config.data.protocol],
        "rules": METRIC_DESCRIPTIONS[config.data.protocol],
        "table": sorted(table.items(), key=lambda line: splits.index(line[0][0])),
        "ceilings": ceilings,
        "has_ceiling": any(split in ceilings for split in splits),
    }


def _figure_values(figures: Sequence[PoseFigures], point: OperatingPoint | None) -> dict[str, Any]:
    """Template values of the section with the figures of people and joints; plots of the last box source."""
    mark = point.pose_score if point else None
    curves = [
        precision_recall(f"{found.split}, {found.source} boxes", found.curve, mark)
        for found in figures
        if found.source == figures[-1].source and found.curve["score"]
    ]
    about = {"operating_point": operating_point_line(point), "figures_help": FIGURES_HELP}
    return {"figures": figures, "score_curves": curves, **about}


def _training_values(config: Config, history: Rows, best: Mapping[str, Any]) -> dict[str, Any]:
    """Template values of the section with the learning curves."""
    metric = occlusion_ap(config.data, best).metric or "AP"
    totals = {key: int(sum(row.get(key, 0) for row in history)) for key in ("skipped", "corrupt")}
    return {"curves": learning_curves(history, best.get("step"), metric), **totals}


def _config_values(config: Config) -> dict[str, Any]:
    """Template values of the section with the settings."""
    known = config.preset in PRESETS
    return {"known_preset": known, "changes": changes(config) if known else [], "yaml": to_yaml(config)}


def read_metrics(metrics: Mapping[str, float]) -> Table:
    """Metrics with keys ``split/source/instance_mode/metric`` as a nested table, in the same order."""
    table: Table = {}
    for key, value in metrics.items():
        split, source, instance_mode, metric = key.split("/")
        table.setdefault((split, source), {}).setdefault(instance_mode, {})[metric] = value
    return table


def facts(config: Config, state: Mapping[str, Any], parameters: int) -> list[tuple[str, str]]:
    """Label and value of the facts at the head of the page."""
    model, trained = config.model, state.get("trained") or {}
    hrnet = model.backbone == "hrnet"
    found = [
        ("network", f"HRNet, width {model.width}" if hrnet else f"SimpleBaseline, ResNet-{model.depth}"),
        ("input", f"{config.input.width} × {config.input.height} px"),
        ("instances", f"N = {model.instances}" + ("" if model.instances > 1 else " (baseline)")),
        ("MIMBs at places", ", ".join(map(str, model.mimb_stages)) or "none"),
    ]
    if parameters:
        found.append(("parameters", f"{parameters / 1e6:.2f} M" if parameters >= 1e5 else f"{parameters:,}"))
    if trained:
        step = (trained.get("best") or {}).get("step")
        found.append(("steps", f"{trained.get('steps', '?')}" + (f", best at {step}" if step else "")))
    if ended := trained.get("ended"):
        found.append(("ended early", ended["why"]))
    if state.get("seconds"):
        found.append(("took", duration(state["seconds"])))
    if "version" in state:
        found.append(("registered as", f"{config.tracking.model_name}, version {state['version']}"))
    return found


def notices(config: Config, table: Table) -> list[str]:
    """Warnings about how far the figures can be trusted."""
    train, val, found = config.data.train, config.data.val, []
    splits = {split for split, _ in table}
    if train in splits:
        found.append(f"{train} is the split that was trained on: its figures say how well it is remembered.")
    elif val in splits:
        found.append(f"{val} also picked the checkpoint: its figures are a little too good.")
    if not table:
        found.append("There are no results yet.")
    return found


def tiles(
    table: Table, ceilings: Mapping[str, float], best: Mapping[str, Any], occlusion: OcclusionAP
) -> list[Tile]:
    """Tiles: the occlusion AP, then the merged AP of each split in the last box source, last split first."""
    if not table:
        return []
    source = list(table)[-1][1]
    figures: dict[tuple[str, str], str] = {}
    if occlusion.source == source:
        figures[occlusion.split, occlusion.metric] = occlusion.name
    for split in (split for split, of in reversed(table) if of == source):
        figures.setdefault((split, "AP"), f"{split}, {source} boxes")
    found = []
    for (split, metric), title in figures.items():
        merged, primary = (table[split, source].get(mode, {}).get(metric) for mode in (MERGED, "lambda0"))
        others = []
        if merged is not None and primary is not None:
            others.append(f"λ = 0 alone {percent(primary)} ({gain(merged - primary)} by merging)")
        if metric == "AP" and split in ceilings:
            others.append(f"ceiling {percent(ceilings[split])}")
        found.append(Tile(title, percent(merged), "; ".join(others)))
    if SELECTION_METRIC in best:
        below = f"picked the checkpoint of step {best['step']}" if "step" in best else ""
        found.append(Tile("best validation occlusion AP", percent(best[SELECTION_METRIC]), below))
    return found


def overview_of(table: Table, ceilings: Mapping[str, float]) -> Curve | None:
    lines = {
        f"{split}, {source}": {mode: values["AP"] for mode, values in modes.items() if "AP" in values}
        for (split, source), modes in table.items()
    }
    perfect = {f"{s}, {source}": ceilings[s] for s, source in table if s in ceilings and source == "gt"}
    return overview(lines, perfect)


def embed(title: str, picture: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(encode_jpeg(picture, 85)).decode()
    height, width = picture.shape[:2]
    return {"title": title, "source": f"data:image/jpeg;base64,{data}", "width": width, "height": height}


def changes(config: Config) -> list[tuple[str, str, str]]:
    """(name, preset's value, run's value) of each setting that differs from the preset."""
    old, new = to_dict(preset(config.preset)), to_dict(config)
    return [
        (f"{section}.{key}", shown(old[section][key]), shown(value))
        for section, values in new.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if old[section][key] != value
    ]


def shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) or "none"
