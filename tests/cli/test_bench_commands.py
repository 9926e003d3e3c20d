"""``mipnet bench``: what the commands print, keep and refuse; their figures are the machine's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mipnet.cli.main import main

QUICK = ["--preset", "debug", "--rounds", "1"]


@pytest.mark.parametrize(
    ("argv", "keys", "said"),
    [
        (["step", "--batch", "2"], {"ways", "gradient_difference_fp64"}, "prefix once, λ folded"),
        (["inference", "--batch", "2", "--flip", "false"], {"ways", "heatmap_differences"}, "without flip"),
    ],
)
def test_a_measurement_is_printed_and_kept(
    argv: list[str], keys: set[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "figures.json"
    assert main(["bench", *argv, *QUICK, "--json", str(file)]) == 0
    assert said in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert keys | {"benchmark", "machine", "threads"} <= found.keys()
    assert (found["preset"], found["threads"]) == ("debug", 1)


@pytest.mark.parametrize("name", ["step", "inference", "stream", "scaling"])
def test_a_file_that_cannot_be_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    for place in (tmp_path, tmp_path / "file" / "figures.json"):
        assert main(["bench", name, "--json", str(place)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert f"cannot write {place} (" in said.err
        assert "choose another file with --json" in said.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["step", "--rounds", "0"], "--rounds: 0 is below 1; nearest is 1"),
        (["step", "--batch", "-1"], "--batch: -1 is below 0; nearest is 0"),
        (["inference", "--batch", "-1"], "--batch: -1 is below 0; nearest is 0"),
        (["inference", "--threads", "0"], "--threads: 0 is below 1; nearest is 1"),
        (["step", "--compile", "x"], "--compile: 'x' is unknown; give true, false or auto"),
        (["inference", "--device", "gpu"], "--device: unknown device 'gpu'"),
        (["step", "--preset", "debugs"], "preset: 'debugs' is unknown"),
    ],
)
def test_what_cannot_work_is_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *argv]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["stream", "--rounds", "0"], "--rounds: 0 is below 1; nearest is 1"),
        (["stream", "--samples", "0"], "--samples: 0 is below 1; nearest is 1"),
        (["stream", "--cores", "0"], "--cores: 0 is below 1; nearest is 1"),
        (["stream", "--sizes", "x"], "--sizes: 'x' is not a size; give HEIGHTxWIDTH"),
        (["scaling", "--rounds", "0"], "--rounds: 0 is below 1; nearest is 1"),
        (
            ["scaling", "--workers", "17"],
            "resources.workers: 17 is above train.batch_size 16; nearest is 16",
        ),
    ],
)
def test_nothing_is_rendered_or_started_for_what_cannot_work(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *argv, "--storage", str(tmp_path / "storage")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "storage" / "data").exists()
