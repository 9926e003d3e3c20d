"""The model card of a trained model, Markdown: in its folder, and as its registered version's description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mipnet.config import Config
from mipnet.evaluation.operating_point import OperatingPoint
from mipnet.evaluation.pose_figures import ALL_JOINTS
from mipnet.models.costs import count_parameters, multiply_adds
from mipnet.run_folder import MODEL_CARD_FILE
from mipnet.training.checkpoint import model_from_config
from mipnet.visualization.html_page import render_template
from mipnet.visualization.run_report import MERGED, facts, notices, read_metrics

MAX_DESCRIPTION = 5000
"""Characters of a version's description in MLflow's database; PostgreSQL refuses more."""
MAX_DATA_LINES = 8


@dataclass(frozen=True)
class CardFacts:
    """What a run knows about its model; what it does not know is left out of the card.

    Attributes:
        name: of the run.
        config: of the model.
        state: of run.json: ``trained``, ``seconds``, ``data``, ``mended``, ``left_out``, ``odd``.
        metrics: ``split/source/instance_mode/metric`` -> value, 0 to 1.
        figures: as in figures.json: ``PoseFigures`` of each split and box source, null for nan.
        point: the operating point.
        weights_bytes: size of the file of weights.
    """

    name: str
    config: Config
    state: Mapping[str, Any]
    metrics: Mapping[str, float]
    figures: Sequence[Mapping[str, Any]] = ()
    point: OperatingPoint | None = None
    weights_bytes: int = 0


def model_card(found: CardFacts, address: str) -> str:
    """The card as Markdown.

    Args:
        found: about the model.
        address: of the model for ``mipnet.load_predictor``.
    """
    config, state = found.config, found.state
    table = read_metrics(found.metrics)
    return render_template(
        "model_card.md.j2",
        "mipnet.registry",
        name=found.name,
        facts=[*facts(config, {**state, "seconds": 0}, 0), *more_facts(found)],
        address=address,
        joints=config.data.joints.joints,
        data=state.get("data", []),
        data_folder=config.data.root,
        about_data=data_lines(state),
        modes=config.model.instances > 1,
        figures=bool(found.figures),
        results=result_rows(found),
        protocol=config.data.protocol,
        point=found.point,
        val=config.data.val,
        limits=[*notices(config, table), *limits(config, found.point)],
    )


def more_facts(found: CardFacts) -> list[tuple[str, str]]:
    """Initial weights, parameters, multiply-adds, size of the weights, and how long the training took."""
    config = found.config
    with torch.device("meta"):
        model = model_from_config(config)
    cost = multiply_adds(model, (config.input.height, config.input.width))
    several = f", {cost.total / 1e9:.3g} · 10⁹ for all {cost.instances} λ" if cost.instances > 1 else ""
    twice = "; twice that with the flip test" if config.evaluation.flip_test else ""
    rows = [
        ("initial weights", config.train.init or "random"),
        ("parameters", f"{count_parameters(model):,}"),
        ("multiply-adds of a crop", f"{cost.single / 1e9:.3g} · 10⁹{several}{twice}"),
    ]
    if found.weights_bytes:
        rows.append(("weights", f"{found.weights_bytes / 1e6:.1f} MB"))
    if seconds := found.state.get("seconds", {}).get("training"):
        rows.append(("training took", f"{seconds / 60:.0f} min"))
    return rows


def data_lines(state: Mapping[str, Any]) -> list[str]:
    """What was mended in the annotations, left out of them, or is odd; the first lines."""
    lines = [
        f"{label}: {line}"
        for label, kind in (("mended", "mended"), ("left out", "left_out"), ("look at this", "odd"))
        for found in state.get(kind, {}).values()
        for line in found
    ]
    more = [f"and {len(lines) - MAX_DATA_LINES} more, see summary.txt"] if len(lines) > MAX_DATA_LINES else []
    return lines[:MAX_DATA_LINES] + more


def result_rows(found: CardFacts) -> list[dict[str, Any]]:
    """A row for each split and box source: AP, that of λ = 0 alone, and the figures."""
    figures = {(each["split"], each["source"]): each for each in found.figures}
    rows = []
    for (split, source), modes in read_metrics(found.metrics).items():
        figure = figures.get((split, source), {})
        rows.append(
            {
                "split": split,
                "source": source,
                "ap": modes.get(MERGED, {}).get("AP"),
                "primary_ap": modes.get("lambda0", {}).get("AP"),
                "all": figure.get("joints", {}).get(ALL_JOINTS) or dict.fromkeys(("ap", "error_box", "pck")),
                "all_poses": figure.get("all_poses") or {"f1": None},
                "kept": figure.get("kept") or dict.fromkeys(("f1", "precision", "recall")),
            }
        )
    return rows


def limits(config: Config, point: OperatingPoint | None) -> list[str]:
    """What the model cannot do, and where its figures do not hold."""
    instances = config.model.instances
    found = []
    if config.preset == "debug":
        found.append("The preset debug only shows that everything runs: its figures mean nothing.")
    if config.data.generated and not config.train.init:
        found.append("It was trained on rendered people alone; on photographs its figures are not known.")
    people = "1 person" if instances == 1 else f"{instances} people"
    found.append(
        f"It finds at most {people} in a box, and nobody outside of boxes; without any, "
        "the whole picture is one."
    )
    if point:
        found.append(
            f"The operating point holds for boxes with scores like those of {point.source} on the split "
            f"{config.data.val} and the evaluation settings in model.json; for others choose --min-score."
        )
    found.append("One training with one seed; figures of another seed differ.")
    return found


def description(card: str) -> str:
    """The card as a version's description: without its longest sections, if it is too long for MLflow."""
    note = f"\nThe whole card is {MODEL_CARD_FILE} among the version's artifacts.\n"
    sections, text = card.split("\n## "), card
    while len(text) > MAX_DESCRIPTION and len(sections) > 1:
        sections.remove(max(sections[1:], key=len))
        text = "\n## ".join(sections) + note
    return text[:MAX_DESCRIPTION]
