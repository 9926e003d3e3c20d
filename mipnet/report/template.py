"""The sections of a run's report (Jinja2)."""

from __future__ import annotations

BODY = """\
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
"""
