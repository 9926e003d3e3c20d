"""The reports of trials on record: complete, escaped, and standing on their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from mipnet.cli.shared_options import read_flags
from mipnet.config import from_dict, to_yaml
from mipnet.run_folder import Run
from tests.helpers.pages import EVIL, Page
from tune.ranking import rank_points
from tune.search_report import discount_nms_table, render_html, render_markdown, render_text
from tune.summary import SearchSummary, best_config, search_json
from tune.trial_folders import TRIAL_KEY, read_trials

DATE = datetime(2026, 1, 2, 3, 4)


def summary_of(search: Run, finished: bool = True) -> SearchSummary:
    search.note(over=finished)  # the key of commit 3205fb3
    return SearchSummary(
        search, rank_points(read_trials(search), search.config, finished), ["mipnet train --config best.yaml"]
    )


@pytest.fixture
def many(search: Run, record) -> Run:
    """A baseline, two placements with two seeds each, one stopped, one failed; two pairs of γ and NMS."""
    record(instances=1, ap=0.10, number=0)
    for seed, ap in enumerate((0.20, 0.24)):
        record((2,), seed=seed, number=1, pairs={(0.5, 0.9): ap, (0.9, 0.9): ap - 0.05})
        record((1, 2), seed=seed, number=2, pairs={(0.5, 0.9): ap + 0.1, (0.9, 0.9): ap + 0.12})
    record((3,), 0.05, number=3, epochs=1)
    record((1, 2, 3), None, number=4, failed="its process ended without a word")
    search.note(mlflow_run="parent")
    return search


def test_search_json_holds_every_trial_ranked(many: Run) -> None:
    found = json.loads(search_json(summary_of(many)))
    assert found["finished"] is True
    assert found["mlflow_run"] == "parent"
    assert found["metric"] == "occlusion AP (AP of val in det5 boxes)"
    names = [c["name"] for c in found["configurations"]]
    assert names == [f"n{n}-r4-lr0.005" for n in ("2-p1.2", "2-p2", "1", "2-p3", "2-p1.2.3")]
    assert [c["rank"] for c in found["configurations"]] == [1, 2, 3, 4, 5]
    assert [c["status"] for c in found["configurations"]] == ["finished"] * 3 + ["stopped", "failed"]
    best = found["configurations"][0]
    assert (best["occlusion_AP"], best["standard_error"]) == (pytest.approx(0.34), pytest.approx(0.02))
    assert (best["discount"], best["oks_nms"], best["pareto"]) == (0.9, 0.9, True)
    assert [t["seed"] for t in best["trials"]] == [0, 1]
    assert best["trials"][0]["scores"]["3"]["occlusion_AP"] == pytest.approx(0.32)
    assert found["configurations"][4]["trials"][0]["failed"].startswith("its process")
    assert found["best"] == best["name"]


def test_the_front_is_marked_beside_the_rank(many: Run) -> None:
    rows = Page(render_html(summary_of(many))).rows
    marks = {row[0]: row[1] for row in rows if row[0].isdigit()}
    assert marks == {"1": "●", "2": "●", "3": "●", "4": "", "5": ""}


def test_discount_nms_table_gives_noise_no_colour(search: Run, record) -> None:
    record((2,), pairs={(0.5, 0.9): 0.200, (0.9, 0.9): 0.201})
    record((3,), number=1, pairs={(0.5, 0.9): 0.200, (0.9, 0.9): 0.201})
    table = discount_nms_table(summary_of(search))
    assert table is not None
    low, high = (cells[0]["share"] for cells in table["rows"].values())
    assert (low, high) == (pytest.approx(0.95), 1.0)


def test_the_best_configuration_is_a_file_that_train_takes(many: Run, tmp_path: Path) -> None:
    summary = summary_of(many)
    assert summary.best is not None
    config = best_config(many, summary.best)
    path = tmp_path / "best.yaml"
    path.write_text(to_yaml(config))
    again = read_flags("train", ["--config", str(path)])[1].config
    assert again == config
    assert (again.model.mimb_stages, again.train.seed) == ((1, 2), 1)  # the better of the two seeds
    assert (again.evaluation.discount, again.evaluation.oks_nms) == (0.9, 0.9)


def test_the_page_shows_the_table_the_choice_and_the_failure(many: Run) -> None:
    page = Page(render_html(summary_of(many)))
    header = next(row for row in page.rows if row[:1] == ["#"])
    rows = {row[0]: dict(zip(header, row, strict=True)) for row in page.rows if len(row) == len(header)}
    assert rows["1"]["places"] == "1, 2"
    assert (rows["1"]["occlusion AP"], rows["1"]["± SE"], rows["1"]["seeds"]) == ("34.0", "2.0", "2")
    assert (rows["3"]["N"], rows["3"]["places"], rows["3"]["γ"], rows["3"]["± SE"]) == ("1", "–", "–", "–")
    assert (rows["2"]["γ"], rows["2"]["status"]) == ("0.5", "finished")
    assert (rows["4"]["epochs"], rows["4"]["status"]) == ("1", "stopped")
    assert rows["5"]["occlusion AP"] == "–"
    assert "learning rate" not in header  # not searched, so said once
    assert "All of them: r = 4, learning rate 0.005, NMS threshold 0.9." in page.text
    assert ["n2-p1.2.3-r4-lr0.005-s0", "its process ended without a word"] in page.rows
    assert "over the baseline +24.0 AP" in page.text
    assert ["0.5", "27.0chosen by 1"] in page.rows  # means over both configurations with N = 2
    assert ["0.9", "25.5chosen by 1"] in page.rows
    for title in ("Occlusion AP against cost", "Occlusion AP by N", "Occlusion AP by place"):
        assert title in page.texts
    assert "Validation occlusion AP" in page.texts
    assert "Training loss of λ = 0" in page.texts
    assert "mipnet train --config best.yaml" in page.text


def test_the_page_stands_on_its_own(many: Run) -> None:
    page = render_html(summary_of(many), DATE)
    assert page == render_html(summary_of(many), DATE)
    tags = Page(page).tags
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object", "img")]
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 5
    assert not any(re.search(r"#(?:0[123]0[123]0[123]|10000\d)", plot) for plot in plots)  # no stand-in
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))


def test_text_from_outside_is_escaped(many: Run, record) -> None:
    record((1, 3), None, number=9, failed=EVIL)
    many.config = from_dict({"data": {"val": EVIL}}, many.config)
    page = render_html(summary_of(many))
    assert "<script" not in page
    assert EVIL in Page(page).text
    assert EVIL in render_markdown(summary_of(many))  # which is no HTML


def test_markdown_and_terminal_say_the_same(many: Run) -> None:
    summary = summary_of(many)
    lines = render_markdown(summary).splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert table[1][:6] == ["1", "2", "1, 2", "0.9", "34.0", "2.0"]
    assert "**Best: N = 2, places 1, 2** with occlusion AP 34.0 ± 2.0." in lines
    assert any(line.startswith("Pareto front of occlusion AP") and "N = 1 (10.0)" in line for line in lines)
    assert "Mean occlusion AP by N: N = 1: 10.0 (1); N = 2: 28.0 (2)." in lines
    assert "- n2-p1.2.3-r4-lr0.005-s0: its process ended without a word" in lines
    said = render_text(summary)
    assert "best      N = 2, places 1, 2: occlusion AP 34.0 ± 2.0" in said
    assert "ranked by the occlusion AP (AP of val in det5 boxes)" in said


def test_held_out_figures_stand_beside_the_baselines(many: Run) -> None:
    for name, ap in (
        ("n2-p1.2-r4-lr0.005-s0", 0.5),
        ("n2-p1.2-r4-lr0.005-s1", 0.6),
        ("n1-r4-lr0.005-s0", 0.4),
    ):
        (run,) = [run for _, run in read_trials(many) if run.name == name]
        metrics = {"hard/det5/merged/AP": ap, "hard/det5/merged/AR": 0.9, "hard/det5/lambda0/AP": 0.3}
        run.folder.write("results/metrics.json", json.dumps(metrics))
        run.note(**{TRIAL_KEY: {**run.state[TRIAL_KEY], "evaluated": [0.9, 0.9]}})
    summary = summary_of(many)
    assert ["hard", "det5", "55.0", "40.0", "+15.0"] in Page(render_html(summary)).rows
    assert "| best | hard | det5 | 55.0 |" in render_markdown(summary)


def test_what_a_reader_must_know_is_said(search: Run, record) -> None:
    assert "The search is not over" in Page(render_html(summary_of(search, finished=False))).text
    record((2,), 0.0, number=0)
    record((3,), 0.0, loss=0.03, number=1)
    page = Page(render_html(summary_of(search)))
    assert "The search is not over" not in page.text
    assert "They are ranked by the loss" in page.text
    assert "One seed each" in page.text
    assert "Loss (λ = 0) against cost" in page.texts
    assert "Validation occlusion AP" not in page.texts  # a line at zero


def test_a_search_without_any_trial_has_its_reports_too(search: Run) -> None:
    summary = summary_of(search, finished=False)
    assert "no trial yet" in Page(render_html(summary)).text
    assert "no trial yet" in render_markdown(summary)
    assert "no trial came to its end" in render_text(summary)
    assert json.loads(search_json(summary))["best"] is None


def test_reports_need_neither_ray_nor_mlflow() -> None:
    code = (
        "import sys, tune.search_report, tune.summary, tune.successive_halving, tune.samplers;"
        "sys.exit(any(name in sys.modules for name in ('ray', 'mlflow', 'torch', 'optuna')))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
