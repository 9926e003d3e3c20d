"""A run's report: one HTML file with figures, curves and pictures inside, to open, mail or print."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from mipnet.config import PRESETS, Config, preset, to_dict, to_yaml
from mipnet.evaluation.occlusion import SCORE, OcclusionAP, occlusion_ap
from mipnet.evaluation.protocols import METRICS, RULES
from mipnet.inference.overlays import encode_jpeg
from mipnet.report.curves import Curve, Rows, learning_curves, overview
from mipnet.report.document import document
from mipnet.report.template import BODY
from mipnet.tracking.provenance import versions

MERGED = "merged"

Table = dict[tuple[str, str], dict[str, dict[str, float]]]
"""(split, box source) -> view -> metric -> value"""


def write_report(
    name: str,
    config: Config,
    state: Mapping[str, Any],
    metrics: Mapping[str, float],
    *,
    history: Rows = (),
    ceilings: Mapping[str, float] | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
    timings: Mapping[str, float] | None = None,
    places: Mapping[str, str] | None = None,
    parameters: int = 0,
    next_command: str = "",
    date: datetime | None = None,
) -> str:
    """The report as one HTML document that needs no other file and no network.

    Whatever is not given is left out of the page.

    Args:
        name: of the run.
        config: its settings.
        state: what run.json holds: ``trained`` (steps, best), ``seconds``, ``version``, ``events``.
        metrics: ``split/source/view/metric`` -> value from 0 to 1.
        history: logged rows, as in a checkpoint's history.json; validations may be among them.
        ceilings: AP of a perfect prediction by split, 0 to 1.
        pictures: title -> contact sheet, (height, width, 3) uint8 RGB.
        timings: phase -> seconds, in order.
        places: label -> path, URI or address: weights, results, MLflow, ….
        parameters: of the network.
        next_command: what to run next.
        date: when it was run; by default now.
    """
    table = read_metrics(metrics)
    ceilings = ceilings or {}
    trained = state.get("trained") or {}
    best = trained.get("best") or {}
    known = config.preset in PRESETS
    columns = METRICS[config.data.protocol]
    rows = table_rows(table, ceilings, columns)
    return document(
        "run",
        BODY,
        name=name,
        facts=facts(config, state, parameters, date or datetime.now().astimezone()),
        notices=notices(config, state, table),
        tiles=tiles(table, ceilings, best, occlusion_ap(config.data, metrics)),
        overview=overview_of(table, ceilings),
        columns=columns,
        rules=RULES[config.data.protocol],
        table=rows,
        has_ceiling=any(row["kind"] == "ceiling" for row in rows),
        pictures=[embed(title, picture) for title, picture in (pictures or {}).items()],
        curves=learning_curves(history, best.get("step"), occlusion_ap(config.data, best).metric or "AP"),
        faults=faults(history),
        events=state.get("events", []),
        timings=timing_rows(timings or {}),
        preset=config.preset,
        known_preset=known,
        changes=changes(config) if known else [],
        yaml=to_yaml(config),
        next_command=next_command,
        places=list((places or {}).items()),
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
    )


def read_metrics(metrics: Mapping[str, float]) -> Table:
    """The flat metrics by line of the table, in their order."""
    table: Table = {}
    for key, value in metrics.items():
        split, source, view, metric = key.split("/")
        table.setdefault((split, source), {}).setdefault(view, {})[metric] = value
    return table


def percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def view_name(view: str) -> str:
    return view.replace("lambda", "λ = ") + " alone" if view.startswith("lambda") else view


def facts(config: Config, state: Mapping[str, Any], parameters: int, date: datetime) -> list[tuple[str, str]]:
    """The head of the page: what was trained, how long, and what became of it."""
    model, trained = config.model, state.get("trained") or {}
    network = (
        f"HRNet, width {model.width}"
        if model.backbone == "hrnet"
        else f"SimpleBaseline, ResNet-{model.depth}"
    )
    found = [
        ("date", f"{date:%Y-%m-%d %H:%M}"),
        ("preset", config.preset),
        ("network", network),
        ("input", f"{config.input.width} × {config.input.height} px"),
        ("instances", f"N = {model.instances}" + ("" if model.instances > 1 else " (baseline)")),
        ("MIMBs at places", ", ".join(map(str, model.places)) or "none"),
    ]
    if parameters:
        found.append(("parameters", f"{parameters / 1e6:.2f} M" if parameters >= 1e5 else f"{parameters:,}"))
    if trained:
        step = (trained.get("best") or {}).get("step")
        found.append(("steps", f"{trained.get('steps', '?')}" + (f", best at {step}" if step else "")))
    if state.get("seconds"):
        found.append(("took", duration(state["seconds"])))
    if "version" in state:
        found.append(("registered as", f"{config.tracking.model_name}, version {state['version']}"))
    return found


def notices(config: Config, state: Mapping[str, Any], table: Table) -> list[str]:
    """What a reader must know before believing the figures."""
    data, found = config.data, []
    splits = {split for split, _ in table}
    if data.train in splits:
        found.append(
            f"{data.train} is the split that was trained on: its figures say how well it is remembered."
        )
    elif data.tune in splits:
        found.append(f"{data.tune} also picked the checkpoint: its figures are a little too good.")
    if config.preset == "debug":
        found.append("The preset debug only shows that everything runs: its figures mean nothing.")
    if not table:
        found.append("There are no results yet.")
    return found


def tiles(
    table: Table, ceilings: Mapping[str, float], best: Mapping[str, Any], occlusion: OcclusionAP
) -> list[dict[str, str]]:
    """The occlusion AP, then merged AP of each split in the last source's boxes, the last split first."""
    if not table:
        return []
    source = list(table)[-1][1]
    shown = {(split, "AP"): f"{split}, {source} boxes" for split, of in reversed(table) if of == source}
    if occlusion.source == source:
        shown = {(occlusion.split, occlusion.metric): occlusion.name} | {
            key: title for key, title in shown.items() if key != (occlusion.split, occlusion.metric)
        }
    found = []
    for (split, metric), title in shown.items():
        views = table[split, source]
        merged, primary = (views.get(view, {}).get(metric) for view in (MERGED, "lambda0"))
        others = []
        if merged is not None and primary is not None:
            gain = f"{100 * (merged - primary):+.1f}".replace("-", "−")
            others.append(f"λ = 0 alone {percent(primary)} ({gain} by merging)")
        if metric == "AP" and split in ceilings:
            others.append(f"ceiling {percent(ceilings[split])}")
        found.append({"title": title, "figure": percent(merged), "below": "; ".join(others)})
    if SCORE in best:
        below = f"picked the checkpoint of step {best['step']}" if "step" in best else ""
        title = "best validation occlusion AP"
        found.append({"title": title, "figure": percent(best[SCORE]), "below": below})
    return found


def overview_of(table: Table, ceilings: Mapping[str, float]) -> Curve | None:
    lines = {
        f"{split}, {source}": {view: values["AP"] for view, values in views.items() if "AP" in values}
        for (split, source), views in table.items()
    }
    perfect = {f"{s}, {source}": ceilings[s] for s, source in table if s in ceilings and source == "gt"}
    return overview(lines, perfect)


def table_rows(table: Table, ceilings: Mapping[str, float], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of the table; each split ends with its ceiling."""
    rows: list[dict[str, Any]] = []
    keys = sorted(table, key=lambda key: list(dict.fromkeys(split for split, _ in table)).index(key[0]))
    for number, (split, source) in enumerate(keys):
        for view, values in table[split, source].items():
            rows.append(
                {
                    "split": split,
                    "source": source,
                    "view": view_name(view),
                    "kind": "merged" if view == MERGED else "alone",
                    "starts": view == next(iter(table[split, source])),
                    "cells": [percent(values.get(column)) for column in columns],
                }
            )
        last = number + 1 == len(keys) or keys[number + 1][0] != split
        if last and split in ceilings:
            cells = [percent(ceilings[split]), *[""] * (len(columns) - 1)]
            rows.append(
                {
                    "split": split,
                    "source": "gt",
                    "view": "ceiling",
                    "kind": "ceiling",
                    "starts": False,
                    "cells": cells,
                }
            )
    return rows


def embed(title: str, picture: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(encode_jpeg(picture, 85)).decode()
    height, width = picture.shape[:2]
    return {"title": title, "source": f"data:image/jpeg;base64,{data}", "width": width, "height": height}


def faults(history: Rows) -> str:
    """What went wrong on the way, from the log."""
    skipped, corrupt = (int(sum(row.get(key, 0) for row in history)) for key in ("skipped", "corrupt"))
    if not skipped and not corrupt:
        return "No update was skipped and no sample was unreadable."
    return f"{skipped} updates were not finite and skipped; {corrupt} samples were unreadable."


def timing_rows(timings: Mapping[str, float]) -> list[dict[str, str]]:
    longest = max(timings.values(), default=0) or 1
    return [
        {"phase": phase, "time": duration(seconds), "width": f"{max(1, 320 * seconds / longest):.0f}"}
        for phase, seconds in timings.items()
    ]


def duration(seconds: float) -> str:
    """As a person would say it: 41 s, 6 min 29 s, 3 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else (f"{seconds:.1f} s" if seconds < 10 else f"{rest} s")


def changes(config: Config) -> list[dict[str, str]]:
    """Every setting that differs from the preset's."""
    old, new = to_dict(preset(config.preset)), to_dict(config)
    return [
        {"setting": f"{section}.{key}", "old": shown(old[section][key]), "new": shown(value)}
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
