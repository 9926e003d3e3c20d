"""The page's look and its skeleton (Jinja2, with automatic escaping; only our own CSS and SVG are exempt)."""

from __future__ import annotations

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

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ name }} – MIPNet run</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<header>
<p class="kicker">MIPNet run</p>
<h1>{{ name }}</h1>
<dl class="facts">
{% for label, value in facts %}<div><dt>{{ label }}</dt><dd>{{ value }}</dd></div>
{% endfor %}</dl>
{% for notice in notices %}<p class="notice">{{ notice }}</p>
{% endfor %}</header>

{% if tiles %}<section>
<h2>Results</h2>
<div class="tiles">
{% for tile in tiles %}<div class="tile{{ ' first' if loop.first }}"><h3>{{ tile.title }}</h3>
<p class="figure">{{ tile.figure }} <small>AP</small></p><p>{{ tile.below }}</p></div>
{% endfor %}</div>
{% if overview %}<figure class="overview" role="img" aria-label="{{ overview.summary }}">
{{ overview.svg | safe }}</figure>{% endif %}
<div class="wide figures"><table>
<thead><tr><th scope="row">split</th><th scope="row">boxes</th><th scope="row">instances</th>
{% for column in columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table %}<tr class="{{ row.kind }}{{ ' group' if row.starts }}">
<th scope="row">{{ row.split if row.starts }}</th>
<th scope="row">{{ row.source if row.starts or row.kind == 'ceiling' }}</th>
<th scope="row">{{ row.view }}</th>
{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
<p class="muted">{{ rules }} Merged: the poses of all λ and boxes of an image after OKS-NMS; λ alone: only
that instance of every box.
{% if has_ceiling %}Ceiling: what perfect heatmaps would reach in ground-truth boxes.{% endif %}</p>
</section>{% endif %}

{% if pictures %}<section>
<h2>Pictures</h2>
<p class="muted">A person has one colour over all columns: a pose or box takes that of the annotated person
that it is closest to. Dashed limbs and a tag mark the poses of λ &gt; 0; left limbs are lighter,
right limbs darker.</p>
{% for picture in pictures %}<figure class="pictures"><h3>{{ picture.title }}</h3>
<div class="wide"><img src="{{ picture.source }}" width="{{ picture.width }}" height="{{ picture.height }}"
 alt="{{ picture.title }}: boxes, poses by instance, merged poses and ground truth"></div></figure>
{% endfor %}</section>{% endif %}

{% if curves %}<section>
<h2>Training</h2>
<div class="curves">
{% for curve in curves %}<figure><h3>{{ curve.title }}</h3>
<div role="img" aria-label="{{ curve.summary }}">{{ curve.svg | safe }}</div></figure>
{% endfor %}</div>
<p class="muted">{{ faults }}</p>
</section>{% endif %}

{% if events %}<section>
<h2>Restarts</h2>
<div class="wide"><table class="words">
<thead><tr><th scope="col">when</th><th scope="col">what</th><th scope="col">at step</th>
<th scope="col">cause</th></tr></thead>
<tbody>
{% for event in events %}<tr><td class="setting">{{ event.time }}</td><td>{{ event.event }}</td>
<td>{{ event.step }}</td><td>{{ event.cause }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="muted">Restart: the training’s processes began again from the last checkpoint; resume: the command
was run again.</p>
</section>{% endif %}

{% if timings %}<section>
<h2>Time</h2>
<div class="wide"><table class="words"><tbody>
{% for row in timings %}<tr><th scope="row">{{ row.phase }}</th><td class="setting">{{ row.time }}</td>
<td><span class="bar" style="width: {{ row.width }}px"></span></td></tr>
{% endfor %}</tbody></table></div>
</section>{% endif %}

<section>
<h2>Configuration</h2>
{% if changes %}<p>What differs from the preset <b>{{ preset }}</b>:</p>
<div class="wide"><table class="words">
<thead><tr><th scope="col">setting</th><th scope="col">preset</th><th scope="col">this run</th></tr></thead>
<tbody>
{% for change in changes %}<tr><td class="setting"><code>{{ change.setting }}</code></td>
<td>{{ change.old }}</td><td><b>{{ change.new }}</b></td></tr>
{% endfor %}</tbody></table></div>
{% elif known_preset %}<p>The preset <b>{{ preset }}</b> as it is.</p>{% endif %}
<details><summary>All settings (config.yaml)</summary><pre>{{ yaml }}</pre></details>
</section>

{% if next_command %}<section>
<h2>Next</h2>
<pre>{{ next_command }}</pre>
</section>{% endif %}

<section>
<h2>Where and with what</h2>
<div class="wide"><table class="words"><tbody>
{% for label, value in places %}<tr><th scope="row">{{ label }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}<tr><th scope="row">versions</th><td>{{ versions }}</td></tr>
</tbody></table></div>
</section>
<footer>One file with everything in it; nothing is loaded from elsewhere.</footer>
</main>
</body>
</html>
"""
