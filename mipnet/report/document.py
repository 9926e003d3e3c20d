"""What all reports have in common: one HTML file, its look inside, dark where the reader's screen is."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined

STYLE = """
:root {
  color-scheme: light dark;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  --paper: #ffffff; --panel: #f6f7f9; --ink: #16181d; --muted: #5c6470; --rule: #dfe3e8;
  --series-0: #0b5cad; --series-1: #c2500a; --series-2: #0a7f6b; --series-3: #8a3b9c;
  --notice: #fff4d6; --notice-rule: #d9a400;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15171b; --panel: #1e2127; --ink: #e8eaee; --muted: #a0a8b4; --rule: #363b44;
    --series-0: #6cb2ff; --series-1: #ff9d5c; --series-2: #4fd1b5; --series-3: #d59be6;
    --notice: #352c12; --notice-rule: #b38a1d;
  }
  img { filter: brightness(.92); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 var(--font); }
main { max-width: 1320px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { font-size: 30px; line-height: 1.2; margin: 4px 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--rule); }
h3 { font-size: 14px; margin: 0 0 6px; }
p { margin: 0 0 10px; max-width: 80ch; }
.kicker { color: var(--muted); font-size: 13px; margin: 0; }
.muted, figcaption { color: var(--muted); font-size: 13.5px; }
.notice { background: var(--notice); border-left: 4px solid var(--notice-rule); max-width: none;
  padding: 8px 12px; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 32px; margin: 18px 0 22px; }
.facts dt, .tile h3 { color: var(--muted); font-size: 12.5px; font-weight: 400; margin: 0; }
.facts dd { margin: 0; font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(235px, 1fr));
  gap: 14px; margin: 0 0 20px; }
.tile { background: var(--panel); border-radius: 8px; padding: 14px 16px; break-inside: avoid; }
.tile.first { box-shadow: inset 4px 0 var(--series-0); }
.tile p { font-size: 13px; margin: 0; color: var(--muted); }
.tile p.figure { color: var(--ink); font-size: 34px; font-weight: 650; line-height: 1.25; }
.tile p.figure small { color: var(--muted); font-size: 14px; font-weight: 400; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px; text-align: right; white-space: nowrap; }
th { font-weight: 600; }
thead th { color: var(--muted); font-size: 13px; border-bottom: 1px solid var(--rule); }
th[scope=row], .words td, .words th { text-align: left; }
tr.group > * { border-top: 1px solid var(--rule); }
tr.merged td, tr.merged th { font-weight: 650; }
tr.alone th, tr.ceiling th { font-weight: 400; }
tr.ceiling > * { color: var(--muted); font-style: italic; }
.figures table { min-width: 640px; width: 100%; margin-bottom: 12px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 22px 28px; }
figure { margin: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
.overview { overflow-x: auto; margin-bottom: 18px; }
.overview svg { min-width: 600px; max-width: 1000px; }
.pictures { margin: 0 0 26px; break-inside: auto; }
.pictures img { display: block; width: 100%; height: auto; min-width: 900px; background: #fff;
  border: 1px solid var(--rule); border-radius: 6px; }
.bar { display: inline-block; height: 9px; border-radius: 2px; background: var(--series-0); }
pre, code { font: 13px/1.5 var(--mono); }
pre { background: var(--panel); padding: 12px 14px; border-radius: 6px; overflow-x: auto; margin: 0 0 10px; }
.words td { white-space: normal; overflow-wrap: anywhere; }
.words td.setting, .words th { white-space: nowrap; }
summary { cursor: pointer; padding: 6px 0; color: var(--series-0); }
footer { margin-top: 40px; color: var(--muted); font-size: 12.5px; }
@media (max-width: 600px) {
  main { padding: 22px 16px 40px; }
  h1 { font-size: 24px; }
  .curves { grid-template-columns: 1fr; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; }
  .tile { padding: 10px 12px; }
  .tile p.figure { font-size: 27px; }
  th, td { padding: 5px 8px; }
}
@media print {
  @page { size: A4; margin: 14mm; }
  body { font-size: 10.5pt; }
  main { padding: 0; max-width: none; }
  h2 { break-after: avoid; margin-top: 24px; }
  .wide, .overview, pre { overflow: visible; }
  .pictures img, .overview svg { min-width: 0; }
  .tile, pre, .bar { print-color-adjust: exact; }
  .curves { grid-template-columns: 1fr 1fr; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
"""

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ name }} – MIPNet {{ kind }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<header>
<p class="kicker">MIPNet {{ kind }}</p>
<h1>{{ name }}</h1>
<dl class="facts">
{% for label, value in facts %}<div><dt>{{ label }}</dt><dd>{{ value }}</dd></div>
{% endfor %}</dl>
{% for notice in notices %}<p class="notice">{{ notice }}</p>
{% endfor %}</header>

"""

FOOT = """<footer>One file with everything in it; nothing is loaded from elsewhere.</footer>
</main>
</body>
</html>
"""


def document(
    kind: str,
    body: str,
    name: str,
    facts: list[tuple[str, str]],
    notices: list[str],
    style: str = "",
    **values: Any,
) -> str:
    """A whole page. Everything is escaped but what the body exempts: only our own CSS and SVG.

    Args:
        kind: of what it reports: it stands before the name.
        body: the sections, in Jinja2.
        name: of the run or search.
        facts: label and value of what stands below the name.
        notices: what a reader must know before believing the figures.
        style: CSS on top of that of all reports.
        values: what the body names; it may use the others too.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(HEAD + body + FOOT).render(
        kind=kind, name=name, facts=facts, notices=notices, style=STYLE + style, **values
    )
