"""What all reports have in common: one HTML file, its look inside, dark where the reader's screen is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from mipnet.config import Config
from mipnet.formats import decimal, duration, gain, instance_mode_label, percent


@dataclass(frozen=True)
class Tile:
    """One large figure with a title above it and an explanation below it."""

    title: str
    figure: str
    below: str
    unit: str = "AP"


def render_report(
    kind: str,
    config: Config,
    date: datetime | None,
    facts: Sequence[tuple[str, str]],
    notices: Sequence[str],
    *,
    package: str = "mipnet.visualization",
    **values: Any,
) -> str:
    """Render the HTML report of a run or search from the template ``kind``.html.j2.

    Args:
        kind: run or search; also the page's title.
        config: of the training.
        date: of the report; by default now.
        facts: (label, value) pairs below the name, after the date and the preset.
        notices: warnings about how far the figures can be trusted.
        package: as in ``render_template``.
        values: the template's variables, with ``name`` of the run or search.
    """
    shown_date = f"{date or datetime.now().astimezone():%Y-%m-%d %H:%M}"
    facts = [("date", shown_date), ("preset", config.preset), *facts]
    if config.preset == "debug":
        notices = [*notices, "The preset debug only shows that everything runs: its figures mean nothing."]
    values |= {"kind": kind, "preset": config.preset, "facts": facts, "notices": notices}
    return render_template(f"{kind}.html.j2", package, **values)


def render_template(template: str, package: str, **values: Any) -> str:
    """Render a template; HTML is escaped, except what the template marks safe (only our own SVG).

    Args:
        template: NAME.html.j2 or NAME.md.j2.
        package: its templates/ folder has the template; included ones may be in ``mipnet.visualization``.
        values: the template's variables.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("mipnet.visualization")]),
        autoescape=select_autoescape(disabled_extensions=["md.j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {f.__name__: f for f in (percent, decimal, gain, duration, instance_mode_label)}
    return environment.get_template(template).render(values)
