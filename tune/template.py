"""The sections of the search's report (Jinja2), and their look on top of that of all reports."""

from __future__ import annotations

STYLE = """
.tile p.figure.long { font-size: 22px; line-height: 1.6; }
tr.best > * { font-weight: 650; }
tr.best > :first-child { box-shadow: inset 4px 0 var(--series-0); }
tr.stopped > *, tr.unfinished > *, tr.failed > * { color: var(--muted); }
tr:hover > * { background: var(--panel); }
.dot { color: var(--series-0); }
.trials th, .trials td { padding: 5px 8px; }
.two { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 24px 32px; }
.heat td { text-align: center; min-width: 74px; }
.heat td span { display: block; font-size: 11.5px; color: var(--muted); }
@media (max-width: 600px) { .two { grid-template-columns: 1fr; } }
@media print { .two { grid-template-columns: 1fr 1fr; } }
"""

BODY = """\
{% if tiles %}<section>
<h2>Result</h2>
<div class="tiles">
{% for tile in tiles %}<div class="tile{{ ' first' if loop.first }}"><h3>{{ tile.title }}</h3>
<p class="figure{{ ' long' if tile.figure | length > 8 }}">{{ tile.figure }}
<small>{{ tile.unit }}</small></p><p>{{ tile.below }}</p></div>
{% endfor %}</div>
</section>{% endif %}

{% if rows %}<section>
<h2>Configurations</h2>
<p class="muted">Ranked by the {{ metric }}, in percent; of equals the one with the lower loss and then the
cheaper one comes first. {% if kept %}All of them: {{ kept }}. {% endif %}
{{ '' }}A <span class="dot">●</span> stands on the Pareto front against multiply-adds.</p>
<div class="wide figures trials"><table>
<thead><tr><th scope="col">#</th><th></th>
{% for column in columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr class="{{ row.kind }}"><td>{{ row.rank }}</td>
<td class="dot">{{ '●' if row.front }}</td>
{% for text in row.cells %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
</section>{% endif %}

{% if cost %}<section>
<h2>{{ cost.title }}</h2>
<figure class="overview" role="img" aria-label="{{ cost.summary }}">{{ cost.svg | safe }}</figure>
</section>{% endif %}

{% if effects %}<section>
<h2>Effects</h2>
<p class="muted">Means over all whole trainings that made a choice, with the standard error over them: what a
choice does on average, whatever goes with it.</p>
<div class="two">
{% for curve in effects %}<figure><h3>{{ curve.title }}</h3>
<div role="img" aria-label="{{ curve.summary }}">{{ curve.svg | safe }}</div></figure>
{% endfor %}</div>
</section>{% endif %}

{% if pairs %}<section>
<h2>Discount γ and NMS threshold</h2>
<p class="muted">Mean AP of all trainings with N &gt; 1, each evaluated with every pair on the tuning split,
and by how many configurations a pair was chosen.</p>
<div class="wide"><table class="heat">
<thead><tr><th scope="row">γ</th>
{% for t in pairs.thresholds %}<th scope="col">NMS {{ t }}</th>{% endfor %}</tr></thead><tbody>
{% for row in pairs.rows %}<tr><th scope="row">{{ row.discount }}</th>
{% for c in row.cells %}<td style="background: color-mix(in srgb, var(--series-0)
 {{ (42 * c.share) | round | int }}%, transparent)">{{ c.text }}
<span>{{ 'chosen by ' ~ c.chosen if c.chosen else ' ' }}</span></td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
</section>{% endif %}

{% if curves %}<section>
<h2>Learning curves</h2>
<div class="two">
{% for curve in curves %}<figure><h3>{{ curve.title }}</h3>
<div role="img" aria-label="{{ curve.summary }}">{{ curve.svg | safe }}</div></figure>
{% endfor %}</div>
</section>{% endif %}

{% if held_out %}<section>
<h2>Held out</h2>
<p class="muted">AP of the merged poses on the splits that nothing was chosen on.</p>
<div class="wide"><table>
<thead><tr><th scope="row">split</th><th scope="row">boxes</th>
<th>best</th>{% if both %}<th>baseline</th><th>gain</th>{% endif %}</tr></thead><tbody>
{% for row in held_out %}<tr><th scope="row">{{ row.split }}</th><th scope="row">{{ row.boxes }}</th>
<td>{{ row.best }}</td>
{% if both %}<td>{{ row.baseline }}</td><td>{{ row.gain }}</td>{% endif %}</tr>
{% endfor %}</tbody></table></div>
</section>{% endif %}

{% if failures %}<section>
<h2>Failed</h2>
<div class="wide"><table class="words"><tbody>
{% for name, why in failures %}<tr><th scope="row">{{ name }}</th><td>{{ why }}</td></tr>
{% endfor %}</tbody></table></div>
</section>{% endif %}

{% if yaml %}<section>
<h2>Best configuration</h2>
<details><summary>best.yaml</summary><pre>{{ yaml }}</pre></details>
</section>{% endif %}

{% if next_commands %}<section>
<h2>Next</h2>
<pre>{{ next_commands | join('\\n') }}</pre>
</section>{% endif %}

<section>
<h2>Where</h2>
<div class="wide"><table class="words"><tbody>
{% for label, value in places.items() %}<tr><th scope="row">{{ label }}</th>
<td><code>{{ value }}</code></td></tr>
{% endfor %}</tbody></table></div>
</section>
"""
