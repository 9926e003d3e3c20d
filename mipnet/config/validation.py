"""Checks of settings: types, choices and ranges by pydantic (see ``schema.py``), combinations here."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mipnet.config.schema import Config, DataConfig, ModelConfig, Range, TrainConfig, to_dict
from mipnet.errors import ConfigError, suggest

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

RANGE_ERRORS = {
    "ge": ("is below {limit:g}", "nearest is {limit:g}"),
    "gt": ("is not above {limit:g}", "use a number above {limit:g}"),
    "le": ("is above {limit:g}", "nearest is {limit:g}"),
}
"""Limit of a ``Range`` → why a value beyond it cannot work, and what to give instead."""

YES_NO_OR_AUTO = ("resources.gpu",)


class Problem(ConfigError):
    """A setting whose value cannot work: names the field, the value, why, and the nearest valid choice."""

    def __init__(self, name: str, value: object, why: str, hint: str) -> None:
        super().__init__(f"{name}: {format_value(value)} {why}", hint)

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        return ConfigError, (self.what, self.hint, self.exit_code)


def format_value(value: object) -> str:
    """A value as it is typed in YAML."""
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(str, value)) + "]"
    return repr(value) if isinstance(value, str) else str(value)


def require(name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
    """Raise a ``Problem`` unless the number lies in the range; the nearest valid value is in the message."""
    if at_least is not None and not value >= at_least:
        raise Problem(name, value, f"is below {at_least}", f"nearest is {at_least}")
    if at_most is not None and not value <= at_most:
        raise Problem(name, value, f"is above {at_most}", f"nearest is {at_most}")


def within(name: str, value: Any, ranges: Sequence[Range]) -> Any:
    """``value``, if it lies in all ranges, with the words for a value beyond them that settings have.

    Raises:
        Problem: it does not.
    """
    holds = {"ge": operator.ge, "gt": operator.gt, "le": operator.le}
    for kind, limit in (item for each in ranges for item in each.limits.items()):
        if not holds[kind](value, limit):
            why, hint = (text.format(limit=limit) for text in RANGE_ERRORS[kind])
            raise Problem(name, value, why, hint)
    return value


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Pydantic's converter to a type; made once, because that takes longer than to convert."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def config_of(values: Mapping[str, Any]) -> Config:
    """The configuration that complete nested settings describe.

    Raises:
        ConfigError: wrong type or impossible value; one line that names the field, the value and the nearest
            valid choice.
    """
    from pydantic import ValidationError

    try:
        config: Config = adapter(Config).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"][:2]]  # then comes the position in a list or union
        value = functools.reduce(operator.getitem, path, values)
        raise problem_of(".".join(path), first, value) from None
    _check_combinations(config)
    return config


def validate(config: Config) -> Config:
    """``config`` itself if a run with it is possible.

    Raises:
        ConfigError: as ``config_of``.
    """
    config_of(to_dict(config))
    return config


def problem_of(name: str, error: ErrorDetails, value: object) -> ConfigError:
    """Pydantic's complaint as one line.

    Args:
        name: of the setting or flag.
        error: the first that pydantic found.
        value: the whole value; of a list, ``error`` has only the item.
    """
    kind, given = error["type"], error["input"]
    context = error.get("ctx", {})
    if limits := RANGE_ERRORS.keys() & context.keys():
        (limit,) = limits
        why, hint = (text.format(limit=context[limit]) for text in RANGE_ERRORS[limit])
        return Problem(name, type(context[limit])(float(given)), why, hint)
    if kind == "finite_number":
        numbers = [float(item) for item in value] if isinstance(value, (list, tuple)) else float(given)
        return Problem(name, numbers, "is not finite", "give an ordinary number")
    message = error["msg"].removeprefix("Input should be ").split(",")[0].replace("tuple", "list")
    hint = f"give {message}"
    if kind in ("literal_error", "enum"):
        choices = [c.strip(" '") for c in str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        hint = suggest(str(given), choices)
    elif name in YES_NO_OR_AUTO:
        hint = "give auto, true or false"
    elif name == "resources.workers":
        hint = "give N or MIN:MAX, e.g. 2:8"
    return ConfigError(f"{name}: {format_value(given)} does not fit", hint)


def _check_combinations(config: Config) -> None:
    """Raise a ``ConfigError`` if settings do not fit one another."""
    _check_network(config.model)
    _check_crop(config)
    _check_data(config.data)
    if config.data.generated:
        scenes = config.scenes
        require("scenes.validation", scenes.validation, at_least=1)
        require("scenes.easy + medium + hard", scenes.easy + scenes.medium + scenes.hard, at_least=1)
    if config.resources.object_store_gb:
        require("resources.object_store_gb", config.resources.object_store_gb, at_least=0.1)
    _check_workers(config.resources.workers)
    _check_batch(config)
    _check_sync_batchnorm(config.train)


def _check_network(model: ModelConfig) -> None:
    modules, stages = model.num_modules, model.mimb_stages
    if not 1 <= len(modules) <= 3 or min(modules) < 1:
        raise Problem(
            "model.num_modules", modules, "does not describe stages", "give 1 to 3 positive numbers"
        )
    possible = model.possible_mimb_stages
    for stage in stages:
        if stage not in possible:
            near = min(possible, key=lambda p: abs(p - stage))
            why = f"is not a MIMB stage of {model.backbone}"
            hint = f"choose from {', '.join(map(str, possible))}; nearest is {near}"
            raise Problem("model.mimb_stages", stage, why, hint)
    if len(set(stages)) != len(stages):
        raise Problem("model.mimb_stages", stages, "names a stage twice", "name each stage once")
    if model.instances > 1 and not stages:
        why = f"is empty, so nothing tells {model.instances} instances apart"
        hint = f"give a stage, e.g. {possible[-1]}, or set model.instances to 1"
        raise Problem("model.mimb_stages", (), why, hint)
    if model.backbone == "hrnet":
        require("model.width", model.width, at_least=model.reduction if stages else 1)
    else:
        require("model.reduction", model.reduction, at_most=64)  # channels of the narrowest MIMB stage


def _check_crop(config: Config) -> None:
    step, sigma, cells = config.model.coarsest_stride, config.target.sigma, config.heatmap_size
    for name, side in zip(("width", "height"), config.input.size, strict=True):
        if side < step or side % step:
            why = f"does not fit the heatmaps of {config.model.backbone}"
            near = max(step, round(side / step) * step)
            raise Problem(f"input.{name}", side, why, f"use a multiple of {step}; nearest is {near}")
    if 6 * sigma > max(cells):
        why = f"does not fit a {cells[0]}x{cells[1]} heatmap"
        raise Problem("target.sigma", sigma, why, f"use at most {max(cells) / 6:.2f}")


def _check_data(data: DataConfig) -> None:
    _ = data.joints  # raises for an unknown skeleton
    if not data.evaluate:
        raise Problem("data.evaluate", (), "is empty", "name at least one split")
    if not data.boxes:
        raise Problem("data.boxes", (), "is empty", "name at least one box source, e.g. gt")
    if len({source.partition("=")[0] for source in data.boxes}) < len(data.boxes):  # tables use the names
        raise Problem("data.boxes", data.boxes, "has one name twice", "give each source a name of its own")
    if any(source.startswith("gt=") for source in data.boxes):
        raise Problem("data.boxes", data.boxes, "names a file gt, as labelled boxes are", "give another name")


def _check_workers(workers: int | str) -> None:
    """A number of workers, or MIN:MAX.

    Raises:
        Problem: it is neither, below 1, or MAX is below MIN.
    """
    if not re.fullmatch(r"-?\d+(:\d+)?", str(workers)):
        raise Problem("resources.workers", workers, "is neither N nor MIN:MAX", "give e.g. 8 or 2:8")
    least, *most = map(int, str(workers).split(":"))
    if least < 1:
        near = ":".join(map(str, (1, *(max(number, 1) for number in most))))
        raise Problem("resources.workers", workers, "is below 1", f"nearest is {near}")
    if most and most[0] < least:
        why, hint = "has a MAX below its MIN", f"give {most[0]}:{least}"
        raise Problem("resources.workers", workers, why, hint if most[0] else "give e.g. 1:2")


def _check_batch(config: Config) -> None:
    batch_size, parts = config.train.batch_size, config.train.micro_batches("cpu")
    workers = config.resources.max_workers
    if workers > batch_size:
        verb, least = "is", ""
        if config.resources.elastic:
            verb, least = "ends", f"{min(config.resources.min_workers, batch_size)}:"
        why = f"{verb} above train.batch_size {batch_size}"
        raise Problem("resources.workers", config.resources.workers, why, f"nearest is {least}{batch_size}")
    smallest = batch_size // workers  # share of a worker
    if parts > smallest:
        why = f"is above a worker's share of the batch, {smallest}"
        raise Problem("train.gradient_accumulation_steps", parts, why, f"nearest is {smallest}")
    if config.model.mimb_stages and config.model.instances == 1 and smallest // parts == 1:
        why = "leaves one row a worker, which the batch norm of a MIMB cannot train on"
        raise Problem("train.batch_size", batch_size, why, f"use at least {2 * workers * parts}")


def _check_sync_batchnorm(train: TrainConfig) -> None:
    name = "train.sync_batchnorm"
    if train.sync_batchnorm and train.gradient_accumulation_steps > 1:
        why = f"does not go with {train.gradient_accumulation_steps} gradient_accumulation_steps"
        raise Problem(name, True, f"{why}, each with its own batch norm", "give 0 or 1 of them")
    if train.sync_batchnorm and train.compile:
        raise Problem(name, True, "does not go with train.compile", "leave out one of them")
