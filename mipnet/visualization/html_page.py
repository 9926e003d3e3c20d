"""What all reports have in common: one HTML file, its look inside, dark where the reader's screen is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from mipnet.config import Config
from mipnet.formats import duration, gain, percent, view_name


@dataclass(frozen=True)
class Tile:
    """One large figure with what it is above it and what it means below it."""

    title: str
    figure: str
    below: str
    unit: str = "AP"


def document(
    kind: str,
    config: Config,
    date: datetime | None,
    facts: Sequence[tuple[str, str]],
    notices: Sequence[str],
    package: str = "mipnet.visualization",
    **values: Any,
) -> str:
    """A whole page from the template ``kind``.html.j2.

    Args:
        kind: of what it reports: it stands before the name.
        config: what was trained.
        date: of the report; by default now.
        facts: label and value of what stands below the name, after the date and the preset.
        notices: what a reader must know before believing the figures.
        package: as in ``render``.
        values: what the template names, with ``name`` of the run or search; it may use the others too.
    """
    always = [("date", f"{date or datetime.now().astimezone():%Y-%m-%d %H:%M}"), ("preset", config.preset)]
    if config.preset == "debug":
        notices = [*notices, "The preset debug only shows that everything runs: its figures mean nothing."]
    values |= {"kind": kind, "preset": config.preset, "facts": [*always, *facts], "notices": notices}
    return render(f"{kind}.html.j2", package, **values)


def render(template: str, package: str, **values: Any) -> str:
    """A template filled in. HTML is escaped but for what a template exempts: only our own SVG.

    Args:
        template: NAME.html.j2 or NAME.md.j2.
        package: in whose folder templates/ it is; what it includes may also be in that of
            ``mipnet.visualization``.
        values: what it names.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("mipnet.visualization")]),
        autoescape=select_autoescape(disabled_extensions=["md.j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "gain": gain, "duration": duration, "view_name": view_name}
    return environment.get_template(template).render(values)
