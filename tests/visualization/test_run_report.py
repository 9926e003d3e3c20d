"""The HTML report: well formed, complete, escaped, and standing on its own."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from mipnet.config import Config, from_dict, preset
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.evaluation.operating_point import OperatingPoint
from mipnet.evaluation.pose_figures import ALL_JOINTS, Detection, JointFigures, PoseFigures
from mipnet.visualization.run_report import write_report
from tests.helpers.pages import EVIL, Page

VALUES = {
    "AP": 0.512, "AP50": 0.623, "AP75": 0.534, "APM": 0.445, "APL": 0.556, "AR": 0.667, "AR50": 0.778,
    "AP_overlap": 0.489,
}  # fmt: skip
METRICS = {
    f"{split}/{source}/{instance_mode}/{metric}": value - 0.1 * i - 0.01 * j - 0.001 * k
    for i, split in enumerate(("easy", "hard"))
    for j, source in enumerate(("gt", "det5"))
    for k, instance_mode in enumerate(("merged", "lambda0", "lambda1"))
    for metric, value in VALUES.items()
}
HISTORY: list[dict[str, float]] = [
    {
        "step": step,
        "loss": 0.1 / step,
        "loss/lambda0": 0.09 / step,
        "loss/lambda1": 0.11 / step,
        "learning_rate": 1e-3,
        "samples_per_second": 40.0,
        "waited_for_data": 0.1,
        "skipped": 1.0,
        "corrupt": 0.0,
    }
    for step in range(10, 110, 10)
] + [{"step": 100, SELECTION_METRIC: 0.4, "val/det5/merged/AP": 0.4, "val/det5/lambda0/AP": 0.3}]
STATE = {
    "trained": {"steps": 100, "best": {"step": 100, SELECTION_METRIC: 0.4}},
    "seconds": 3725,
    "version": "7",
}


def report(**changed: Any) -> str:
    arguments: dict[str, Any] = {
        "name": "crowd-1",
        "config": preset("tiny"),
        "state": STATE,
        "metrics": METRICS,
        "history": HISTORY,
        "ceilings": {"easy": 0.987, "hard": 0.976},
        "pictures": {"Most crowded": np.full((40, 60, 3), 90, np.uint8)},
        "timings": {"training": 3600.0, "evaluation": 4.25},
        "places": {"weights": "/store/runs/crowd-1/model"},
        "parameters": 1_234_567,
        "next_command": "mipnet predict PICTURES --model models:/mipnet@candidate",
        "date": datetime(2026, 1, 2, 3, 4),
    } | changed
    return write_report(**arguments)


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report())


def test_every_metric_stands_in_its_row(page: Page) -> None:
    lines, split, source = {}, "", ""
    for row in page.rows:
        if len(row) == 3 + len(VALUES) and row[3] != "AP":
            split, source = row[0] or split, row[1] or source
            lines[split, source, row[2]] = row[3:]
    names = {"merged": "merged", "lambda0": "λ = 0 alone", "lambda1": "λ = 1 alone"}
    for (instance_mode, name), split, source in (
        (v, s, b) for v in names.items() for s in ("easy", "hard") for b in ("gt", "det5")
    ):
        wanted = [f"{100 * METRICS[f'{split}/{source}/{instance_mode}/{m}']:.1f}" for m in VALUES]
        assert lines[split, source, name] == wanted
    assert lines["easy", "gt", "ceiling"][0] == "98.7"
    assert lines["hard", "gt", "ceiling"][0] == "97.6"


def test_the_head_says_what_was_run(page: Page) -> None:
    for text in ("crowd-1", "tiny", "2026-01-02 03:04", "N = 2", "2, 3", "1.23 M", "100, best at 100"):
        assert text in page.text
    for text in ("1 h 02 min", "mipnet, version 7", "/store/runs/crowd-1/model", "1 h 00 min", "4.2 s"):
        assert text in page.text
    assert "mipnet predict PICTURES --model models:/mipnet@candidate" in page.text


def test_the_occlusion_metric_comes_first(page: Page) -> None:
    name = "occlusion AP (AP of hard in det5 boxes)"
    at = page.text.index(name)
    assert at < page.text.index("easy, det5 boxes")
    assert "hard, det5 boxes" not in page.texts  # the same figure is not shown twice
    figure, unit, below = page.text[at + len(name) :].split(maxsplit=2)
    assert (figure, unit) == ("40.2", "AP")
    assert below.startswith("λ = 0 alone 40.1 (+0.1 by merging)")


def test_each_protocol_has_its_own_columns_and_occlusion_metric() -> None:
    values = {"AP": 0.7, "AP50": 0.8, "AP75": 0.75, "AR": 0.77, "AP_easy": 0.79, "AP_medium": 0.71}
    values["AP_hard"] = 0.612
    metrics = {f"{split}/gt/merged/{m}": v for split in ("val", "test") for m, v in values.items()}
    page = Page(report(config=preset("crowdpose-hrnet-w32-256x192"), metrics=metrics, ceilings={}))
    assert next(row[3:] for row in page.rows if row[3:4] == ["AP"]) == list(values)
    assert ["test", "gt", "merged", "70.0", "80.0", "75.0", "77.0", "79.0", "71.0", "61.2"] in page.rows
    at = page.text.index("occlusion AP (AP_hard of test in gt boxes)")
    assert page.text[at:].split(")", 1)[1].split()[0] == "61.2"
    assert page.text.index("test, gt boxes") > at
    assert "crowdIndex" in page.text

    coco = {"val2017/gt/merged/AP": 0.77, "val2017/gt/merged/AP_overlap": 0.66}
    page = Page(report(config=preset("coco-hrnet-w32-256x192"), metrics=coco, ceilings={"val2017": 0.95}))
    name = "occlusion AP (AP_overlap of val2017 in gt boxes: people with a neighbour above box IoU 0.3)"
    assert page.text.split(name)[1].split()[0] == "66.0"


JOINTS = {
    "nose": JointFigures(9, 0.412, 2.34, 0.031, 0.812),
    "left_ankle": JointFigures(0, math.nan, math.nan, math.nan, math.nan),
    ALL_JOINTS: JointFigures(9, 0.412, 2.34, 0.031, 0.812),
}
CURVE = {"score": [0.9, 0.5, 0.2], "precision": [1.0, 0.9, 0.3], "recall": [0.2, 0.6, 0.7]}
FIGURES = [
    PoseFigures(
        split,
        source,
        "merged",
        10,
        Detection(20, 0.35, 0.7, 0.467),
        Detection(7, 0.857, 0.6, 0.706),
        JOINTS,
        CURVE,
    )
    for split in ("easy", "hard")
    for source in ("gt", "det5")
]


def test_people_and_joints_have_a_section_of_their_own() -> None:
    html = report(figures=FIGURES, point=OperatingPoint(0.45, 0.2, "det5"))
    page = Page(html)
    assert "poses from score 0.450, joints from 0.200" in page.text
    assert ["easy", "gt", "all", "20", "35.0", "70.0", "46.7"] in page.rows
    assert ["", "", "kept", "7", "85.7", "60.0", "70.6"] in page.rows
    assert page.rows.count(["nose", "9", "41.2", "2.3", "3.1", "81.2"]) == len(FIGURES)
    assert ["left_ankle", "0", "–", "–", "–", "–"] in page.rows
    plots = dict(re.findall(r"<h3>([^<]*)</h3>\s*<div role=[^>]*>(<svg.*?</svg>)", html, re.DOTALL))
    assert {"easy, det5 boxes", "hard, det5 boxes"} <= plots.keys()  # those of the last box source
    assert "easy, gt boxes" not in plots
    assert "operating point" in plots["hard, det5 boxes"]
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))

    nothing: dict[str, list[float]] = {name: [] for name in CURVE}  # where all poses are of ignored people
    without = [replace(figure, kept=None, curve=nothing) for figure in FIGURES]
    page = Page(report(figures=without))
    assert "no operating point: all poses are kept" in page.text
    assert not [row for row in page.rows if "kept" in row]


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs() -> None:
    html = report()
    tags = Page(html).tags
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    assert not re.search(r"@import|url\((?!#)", html)


def test_the_plots_follow_the_pages_colours_and_share_no_names() -> None:
    html = report()
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(plots) == 6  # overview, loss, validation, learning rate, speed, waiting
    for plot in plots:
        assert "var(--series-0)" in plot
        assert not re.search(r"#(?:0[123]0[123]0[123]|10000\d)", plot)  # no stand-in is left
        assert "DejaVu" not in plot
        assert "mathdefault" not in plot
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))


def test_same_run_gives_same_page_to_the_byte() -> None:
    assert report() == report()


def test_text_from_outside_is_escaped() -> None:
    config = from_dict({"data": {"root": EVIL, "evaluate": [EVIL]}}, preset("tiny"))
    metrics = {"$a$<b>/<i>/merged/AP": 0.5}
    html = report(
        name=EVIL, config=config, metrics=metrics, pictures={EVIL: np.zeros((8, 8, 3), np.uint8)},
        places={EVIL: EVIL}, timings={EVIL: 1.0}, next_command=EVIL, ceilings={"$a$<b>": 0.9},
    )  # fmt: skip
    assert "<script" not in html
    page = Page(html)
    assert EVIL in page.text
    assert not [tag for tag, _ in page.tags if tag == "i"]
    assert "$a$<b>, <i>" in page.text  # as it is, in the plot too: neither markup nor a formula


@pytest.mark.parametrize(
    "missing",
    [
        {"history": ()},
        {"pictures": None},
        {"ceilings": None},
        {"metrics": {}},
        {"state": {}},
        {"timings": None, "places": None, "parameters": 0, "next_command": "", "date": None},
        {"history": [{"step": 5, "loss": float("nan")}], "metrics": {"easy/gt/merged/AR": 0.1}},
        {"config": Config(preset="gone")},
    ],
)
def test_parts_may_be_missing(missing: dict[str, Any]) -> None:
    assert "crowd-1" in Page(report(**missing)).text


def test_what_is_missing_is_not_announced() -> None:
    bare = Page(write_report("crowd-1", preset("tiny"), {}, {}))
    for heading in ("Results", "People and joints", "Pictures", "Training", "Time", "Next"):
        assert heading not in bare.texts
    assert "There are no results yet." in bare.text


def test_a_single_instance_network_has_no_lambda() -> None:
    config = from_dict({"model": {"instances": 1, "mimb_stages": []}}, preset("tiny"))
    metrics = {k: v for k, v in METRICS.items() if "/merged/" in k}
    history = [{k: v for k, v in row.items() if "lambda1" not in k} for row in HISTORY[:-1]]
    page = Page(report(config=config, metrics=metrics, history=history))
    assert "N = 1 (baseline)" in page.text
    assert not [row for row in page.rows if "alone" in "".join(row)]
    assert "λ = 0" not in page.text
    assert ["model.instances", "2", "1"] in page.rows
    assert ["model.mimb_stages", "2, 3", "none"] in page.rows


def test_differences_from_the_preset_come_before_the_whole_configuration() -> None:
    config = from_dict({"train": {"epochs": 77}}, preset("tiny"))
    page = Page(report(config=config))
    assert ["train.epochs", str(preset("tiny").train.epochs), "77"] in page.rows
    assert page.text.index("train.epochs") < page.text.index("epochs: 77")
    assert "as it is" in Page(report()).text


@pytest.mark.parametrize(("split", "word"), [("train", "trained on"), ("val", "picked the checkpoint:")])
def test_figures_that_flatter_carry_a_warning(split: str, word: str) -> None:
    assert word in Page(report(metrics={f"{split}/gt/merged/AP": 0.9}, state={})).text
    assert word not in Page(report(state={})).text


def test_restarts_are_listed_with_their_cause() -> None:
    event = {"time": "2026-03-01T12:00:00+01:00", "event": "restart", "step": 40, "cause": f"died {EVIL}"}
    page = Page(report(state={**STATE, "events": [event]}))
    assert ["2026-03-01T12:00:00+01:00", "restart", "40", f"died {EVIL}"] in page.rows
    assert "Restarts" in page.texts
    assert "Restarts" not in Page(report()).texts


def test_faults_are_counted(page: Page) -> None:
    assert "10 updates were not finite and skipped; 0 samples were unreadable." in page.text


def test_neither_ray_nor_mlflow_nor_torch_is_needed() -> None:
    code = (
        "import sys, mipnet.visualization.run_report, mipnet.visualization.example_grids;"
        "sys.exit(any(name in sys.modules for name in ('ray', 'mlflow', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
