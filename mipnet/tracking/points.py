"""The points of MLflow's metrics that records of a journal hold, and their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Metric

STEP_METRICS_GROUP = "learning"
"""MLflow groups metrics by what stands before the last slash, in alphabetical order: metrics over steps come
before ``results/``, which has a group for each line of the tables."""
ROW_KINDS = ("training", "validation")
"""Records of a step that have a ``row`` of metrics; those of kind "metrics" have ``values`` by full names."""


def metrics_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of a record by name; {} if it is of another kind.

    All of a row, loss/lambda0 too, are in one group.
    """
    if record["do"] in ROW_KINDS and isinstance(row := record.get("row"), dict):
        named = {name.replace("loss/", "loss_"): v for name, v in row.items() if name not in ("step", "time")}
        return {f"{STEP_METRICS_GROUP}/{name}": value for name, value in named.items()}
    values = record.get("values") if record["do"] == "metrics" else None
    return values if isinstance(values, dict) else {}


def points_of(record: Mapping[str, Any]) -> list[Metric]:
    """MLflow's entities, without those that are nan, which it rejects.

    A point is the same however often it is sent: MLflow knows it by name, time, step and value.

    Raises:
        TypeError, ValueError, KeyError: the record is odd.
    """
    from mlflow.entities import Metric

    return [
        Metric(metric_name(name), float(value), int(record["time"]), int(record["step"]))
        for name, value in metrics_of(record).items()
        if value == value
    ]


def metric_name(name: str) -> str:
    """A name that MLflow takes, another one for each name: ``yolo@0.5`` becomes ``yolo:40:0.5``.

    MLflow takes letters, digits, ``_ - . / :`` and space, and no name that is another one as a path. Here a
    colon stands on both sides of the number of a character that it would not take.
    """

    def escape(match: re.Match[str]) -> str:
        return "".join(f":{ord(character):x}:" for character in match[0])

    name = re.sub(r"[^\w\-./ ]", escape, name)
    return re.sub(r"(?<![^/])\.{1,2}(?![^/])|^/|/$|(?<=/)/", escape, name)
