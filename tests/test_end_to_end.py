"""The command line as its users run it: train, evaluate, predict, continue after a kill."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from mipnet.cli.main import main
from mipnet.training.checkpoint import checkpoint_name, step_from_path
from tests.helpers.commands import clean_environment, command
from tests.helpers.drills import (
    MEASURED,
    checkpoints,
    kill_all,
    mlflow_points,
    only_run,
    processes_called,
    recorded_steps,
    start,
    wait_for,
)

TRAIN = ["train", "--preset", "debug", "--epochs", "6", "--train.checkpoint-steps", "20"]
EPOCHS, BATCH, LOG_STEPS = 6, 16, 4
EVALUATE_LITTLE = ["--data.evaluate", "hard", "--data.boxes", "gt"]
"""For runs of which only the training is looked at."""
README = Path(__file__).parents[1] / "README.md"


def total_steps(said: str) -> int:
    """The number of steps, after checking it against the number of people."""
    people, steps = map(int, re.search(r"(\d+) people in \d+ images; (\d+) steps", said).groups())
    assert steps == math.ceil(EPOCHS * people / BATCH)
    return steps


@pytest.fixture(scope="module")
def trained(ray_address, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A storage in which the debug preset ran to its end, and what it said."""
    storage = tmp_path_factory.mktemp("storage")
    return storage, command(*TRAIN, "--storage", str(storage), address=ray_address)


def first_losses(storage: Path) -> float:
    """The mean loss of the first 50 steps."""
    state = json.loads((only_run(storage) / "run.json").read_text())
    rows = mlflow_client(storage).get_metric_history(state["mlflow_run"], "learning/loss")
    losses = {row.step: row.value for row in rows if row.step <= 50 and row.step % LOG_STEPS == 0}
    assert len(losses) == 50 // LOG_STEPS
    return sum(losses.values()) / len(losses)


def mlflow_client(storage: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")


def check_complete(storage: Path, steps: int) -> None:
    """One finished MLflow run with every logged step exactly once, and one registered candidate."""
    client = mlflow_client(storage)
    experiments = [e.experiment_id for e in client.search_experiments()]
    (found,) = client.search_runs(experiments)
    assert found.info.status == "FINISHED"
    logged = [m.step for m in client.get_metric_history(found.info.run_id, "learning/loss")]
    assert sorted(logged) == sorted({*range(LOG_STEPS, steps, LOG_STEPS), 20, 40, steps})
    version = client.get_model_version_by_alias("mipnet", "candidate")
    assert (int(version.version), version.run_id) == (1, found.info.run_id)
    assert json.loads((only_run(storage) / "run.json").read_text())["finished"]


def check_page(client, found) -> None:
    """What an engineer looks for on the page of a run."""
    tags, metrics = found.data.tags, found.data.metrics
    assert tags["command"].startswith("mipnet train --preset debug")
    assert {"version.torch", "version.ray", "version.mlflow", "mlflow.user", "cluster"} <= tags.keys()
    assert tags["restarts"] == "0"
    inputs = {d.dataset.name.rpartition("/")[2]: d.tags[0].value for d in found.inputs.dataset_inputs}
    assert inputs == {"train": "training", "val": "validation", "easy": "evaluation", "hard": "evaluation"}
    assert {"results/hard/det5/merged/AP", "learning/validation_occlusion_AP"} <= metrics.keys()
    assert metrics["system/cpu_utilization_percentage"] >= 0
    files = {
        a.path
        for folder in ("", "pictures", "results/pictures")
        for a in client.list_artifacts(found.info.run_id, folder)
    }
    assert {"config.yaml", "report.html", "pictures/training-crops.jpg"} <= files
    assert {f"pictures/validation-{step:08d}.jpg" for step in (20, 40)} <= files
    assert {f"results/pictures/{kind}-hard-det5.jpg" for kind in ("best", "worst", "crowded")} <= files
    kept = {a.path for a in client.list_artifacts(found.info.run_id, "results")}
    assert {"results/figures.txt", "results/figures.json", "results/table.txt"} <= kept
    assert "results/hard/det5/merged/PCK" in metrics
    version = client.get_model_version_by_alias("mipnet", "candidate")
    assert 'mipnet.load_predictor("models:/mipnet/1")' in version.description
    assert "| hard | det5 |" in version.description


@pytest.mark.ray
@pytest.mark.slow
def test_train_ends_with_tables_weights_and_a_candidate(trained):
    storage, done = trained
    assert done.returncode == 0, done.stderr
    steps = total_steps(done.stdout)
    assert f"step {steps}/{steps}" in done.stdout
    picture = only_run(storage) / "pictures" / "validation-00000020.jpg"
    assert f"poses of step 20: {picture}\n" in done.stdout
    assert picture.read_bytes().startswith(b"\xff\xd8")
    check_complete(storage, steps)
    assert (only_run(storage) / "report.html").read_text().startswith("<!DOCTYPE html>")
    run = only_run(storage)
    metrics = json.loads((run / "results" / "metrics.json").read_text())
    names = {name.rpartition("/")[0] for name in metrics}
    views = ("merged", "lambda0", "lambda1")
    assert names == {f"{s}/{b}/{v}" for s in ("easy", "hard") for b in ("gt", "det5") for v in views}
    card = (run / "model" / "model-card.md").read_text()
    assert f"# {run.name}\n" in card
    assert "/train | " in card
    figures = json.loads((run / "results" / "figures.json").read_text())
    model = json.loads((run / "model" / "model.json").read_text())
    assert model["extra"].get("operating_point") == figures["operating_point"]
    assert [f["split"] for f in figures["figures"]] == ["easy", "easy", "hard", "hard"]
    client = mlflow_client(storage)
    state = json.loads((run / "run.json").read_text())
    losses = [m.value for m in client.get_metric_history(state["mlflow_run"], "learning/loss")]
    assert losses[-1] < 0.8 * losses[0]  # it learns
    assert "ceiling" in done.stdout
    check_page(client, client.get_run(state["mlflow_run"]))
    assert re.search(r"^scene (\d+)/\1$", done.stdout, re.MULTILINE)
    assert re.search(r"^box (\d+)/\1$", done.stdout, re.MULTILINE)
    assert f"look      mipnet ui --storage {storage}\n" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "WARNING" not in done.stdout + done.stderr  # ours, not Ray's and MLflow's chatter


@pytest.mark.ray
@pytest.mark.slow
def test_the_python_of_the_readme(trained, tmp_path):
    """Each block of the chapter, in their order, in one interpreter; its training is that of ``trained``."""
    storage, _ = trained
    chapter = README.read_text().partition("\n## Python\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
    assert len(blocks) == 4
    (data,) = (storage / "data").iterdir()
    shutil.copy(README.parent / ".github" / "crowd.jpg", tmp_path / "photo.jpg")
    shutil.copy(data / "annotations" / "person_keypoints_hard.json", tmp_path / "annotations.json")
    (tmp_path / "pictures").symlink_to(data / "hard")
    home = tmp_path / "home"  # of the user's data, beside the folder in which Python looks for modules
    home.mkdir()
    (home / "mipnet").symlink_to(storage)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        env={**clean_environment(), "XDG_DATA_HOME": str(home)},
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert re.match(r"\(\d, 17, 3\) \[", first)
    run = only_run(storage)
    assert f"run {run.name} is finished" in done.stdout
    ap = json.loads((run / "results" / "metrics.json").read_text())["hard/det5/merged/AP"]
    assert rest[-1] == f"{run} 1 {ap}"


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_command_prints_the_summary_and_a_runs_name_keeps_its_settings(trained, capsys, on_ray):
    storage, done = trained
    assert main([*TRAIN, "--storage", str(storage)]) == 0
    said = capsys.readouterr().out
    assert "is finished" in said
    assert said.split("\n\n", 1)[1] in done.stdout
    assert main([*TRAIN, "--storage", str(storage), "--name", only_run(storage).name, "--epochs", "7"]) == 2
    complaint = capsys.readouterr().err
    assert "train.epochs: 6 -> 7" in complaint
    assert len(complaint.strip().splitlines()) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_the_config_beside_the_results_runs_as_it_is(trained, capsys, on_ray):
    storage, _ = trained
    config = only_run(storage) / "results" / "config.yaml"
    assert main(["train", "--config", str(config), "--storage", str(storage)]) == 0
    assert "is finished" in capsys.readouterr().out  # the same settings are the same run


@pytest.mark.ray
@pytest.mark.slow
def test_evaluate_gives_the_tables_of_the_training(trained, ray_address, tmp_path):
    storage, _ = trained
    model, run = "models:/mipnet@candidate", only_run(storage)
    again = f"again={run}/results/coco/{{split}}-det5-merged.json"  # the same poses as if of somebody else
    argv = ["evaluate", model, "--results", again, "--robustness", "--out", str(tmp_path)]
    done = command(*argv, "--storage", str(storage), address=ray_address)
    assert done.returncode == 0, done.stderr
    mine = json.loads((tmp_path / "metrics.json").read_text())
    theirs = json.loads((run / "results" / "metrics.json").read_text())
    others = {name: mine.pop(name) for name in list(mine) if "/again/results/" in name}
    assert others
    for name, value in others.items():
        assert value == pytest.approx(theirs[name.replace("again/results", "det5/merged")], abs=1e-6)
    (curve, *_) = json.loads((tmp_path / "robustness.json").read_text())
    assert curve["ap"]["merged"][0] == pytest.approx(theirs[f"{curve['split']}/det5/merged/AP"], abs=1e-6)
    assert curve["kept"] == sorted(curve["kept"], reverse=True)
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert mine.keys() == theirs.keys()
    assert mine == pytest.approx(theirs, abs=1e-6)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["preset"] == "debug"


@pytest.mark.ray
@pytest.mark.slow
def test_predict_writes_results_and_overlays(trained, ray_address, tmp_path, capsys, on_ray):
    storage, _ = trained
    (data,) = (storage / "data").iterdir()
    boxes = json.loads((data / "boxes" / "det5_hard.json").read_text())
    files = sorted((data / "hard").iterdir())
    named = [{**box, "file_name": files[box["image_id"] - 1].name} for box in boxes]
    (tmp_path / "boxes.json").write_text(json.dumps(named))
    out = tmp_path / "out"
    argv = ["predict", str(data / "hard"), "--storage", str(storage), "--out", str(out)]
    done = command(*argv, "--boxes", str(tmp_path / "boxes.json"), address=ray_address)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    theirs = json.loads((only_run(storage) / "results" / "coco" / "hard-det5-merged.json").read_text())
    assert [r["keypoints"] for r in results] == [r["keypoints"] for r in theirs]
    figures = json.loads((only_run(storage) / "results" / "figures.json").read_text())
    least = (figures["operating_point"] or {"pose_score": 0})["pose_score"]
    assert [r["keep"] for r in results] == [r["score"] >= least for r in results]
    second = json.loads((only_run(storage) / "results" / "coco" / "hard-det5-lambda1.json").read_text())
    assert {r["instance"] for r in results} <= {0, 1}
    assert {r["instance"] for r in second} == {1}
    assert len(list((out / "overlays").iterdir())) == len(files)

    assert main(argv) == 0
    assert "each whole image is taken as one box" in capsys.readouterr().out


def start_again(storage: Path, untouched: Path) -> subprocess.Popen[str]:
    """The training on a Ray of its own, in a storage with the data set of another, which is the same."""
    if not (storage / "data").exists():
        shutil.copytree(untouched / "data", storage / "data")
    return start([*TRAIN, *EVALUATE_LITTLE, "--storage", str(storage)])


def check_same_records(storage: Path, untouched: Path) -> None:
    """Every point of MLflow is there once, those of the training with the other run's values."""
    found, wanted = (training_points(s) for s in (storage, untouched))
    assert found == wanted
    found, wanted = ({row["step"] for row in state_of(s)["validations"]} for s in (storage, untouched))
    assert found == wanted


def training_points(storage: Path) -> dict[tuple[str, int], list[float]]:
    points = mlflow_points(f"sqlite:///{storage / 'mlflow.db'}", state_of(storage)["mlflow_run"])
    assert {len(values) for values in points.values()} == {1}
    others = (*MEASURED, "validation_occlusion_AP")
    ours = {k: v for k, v in points.items() if re.fullmatch("learning/[^/]+", k[0])}
    return {k: v for k, v in ours.items() if not k[0].endswith(others)}


def state_of(storage: Path) -> dict:
    return json.loads((only_run(storage) / "run.json").read_text())


def check_same_weights(storage: Path, untouched: Path, steps: int) -> None:
    weights = [
        load_file(only_run(s) / "training" / f"step-{steps:08d}" / "weights.safetensors")
        for s in (storage, untouched)
    ]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_run_continues_as_if_nothing_had_happened(trained, tmp_path):
    """SIGKILL to the driver and to all that it started, before and after the first planned checkpoint; and
    between them SIGTERM, which saves one."""
    driver = start_again(tmp_path, trained[0])
    wait_for(driver, lambda: recorded_steps(tmp_path))
    kill_all(driver)
    assert not checkpoints(tmp_path), "the kill came too late to show anything"
    driver, before = start_again(tmp_path, trained[0]), len(recorded_steps(tmp_path))
    wait_for(driver, lambda: len(recorded_steps(tmp_path)) > before)
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=600)
    assert driver.returncode == 128 + signal.SIGTERM, said
    assert "stopping: saving a checkpoint" in said
    training = only_run(tmp_path) / "training"
    saved = step_from_path(str(max(training.glob("step-*"))))
    assert saved >= max(recorded_steps(tmp_path)), "steps are lost"
    driver = start_again(tmp_path, trained[0])
    # A stop ends Ray's controller before it has taken note of the last checkpoint: there may be no snapshot.
    wait_for(driver, lambda: any(checkpoint_name(20) in each.read_text() for each in checkpoints(tmp_path)))
    kill_all(driver)
    assert "trained" not in state_of(tmp_path), "the kill came too late to show anything"

    done = command(*TRAIN, *EVALUATE_LITTLE, "--storage", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "going on at step" in done.stdout
    assert re.search(r"^resumed at step \d+: the last start ended without a word$", done.stdout, re.MULTILINE)
    steps = total_steps(done.stdout)
    check_complete(tmp_path, steps)
    check_same_weights(tmp_path, trained[0], steps)
    check_same_records(tmp_path, trained[0])


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_training_process_is_replaced(trained, tmp_path):
    """The command itself goes on from the last checkpoint, to the same weights."""
    driver = start_again(tmp_path, trained[0])
    wait_for(driver, lambda: checkpoints(tmp_path))
    (worker,) = processes_called("RayTrainWorker", driver)
    assert os.getpriority(os.PRIO_PROCESS, worker) == os.getpriority(os.PRIO_PROCESS, 0), "it gives way"
    os.kill(worker, signal.SIGKILL)
    said, _ = driver.communicate(timeout=600)
    assert driver.returncode == 0, said
    (event,) = state_of(tmp_path)["events"]
    assert (event["event"], event["step"] % 20) == ("restart", 0)
    line = rf"workers restarted at step {event['step']}: worker 0 on [\d.]+: "
    assert len(re.findall(line, said)) == 2  # when it happened, and in the summary
    steps = total_steps(said)
    check_complete(tmp_path, steps)
    check_same_weights(tmp_path, trained[0], steps)
    check_same_records(tmp_path, trained[0])


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_cut_off_after_its_last_step_only_does_what_is_left(trained, ray_address, tmp_path):
    storage = tmp_path / "storage"
    shutil.copytree(trained[0], storage)
    note = only_run(storage) / "run.json"
    state = json.loads(note.read_text())
    note.write_text(json.dumps({k: v for k, v in state.items() if k in ("mlflow_run", "seconds")}))
    done = command(*TRAIN, "--storage", str(storage), address=ray_address)
    assert done.returncode == 0, done.stderr
    steps = total_steps(done.stdout)
    assert f"going on at step {steps}" in done.stdout
    check_complete(storage, steps)  # one run, each row once, and still version 1


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_to_the_end_and_learn_the_same(ray_address, trained, tmp_path):
    storage, done = trained
    (data,) = (storage / "data").iterdir()
    argv = [*TRAIN, *EVALUATE_LITTLE, "--data", str(data), "--storage", str(tmp_path)]
    argv += ["--tracking.register", "false", "--workers", "2", "--train.gradient-accumulation-steps", "1"]
    two = command(*argv, address=ray_address)
    assert two.returncode == 0, two.stderr
    assert "on 2 worker(s)" in two.stdout
    assert total_steps(two.stdout) == total_steps(done.stdout)
    # The global batches are the same, and a rank's batch norm sees what one of the two parts' did.
    assert first_losses(tmp_path) == pytest.approx(first_losses(storage), rel=1e-4)


@pytest.mark.parametrize("job", ["train", "evaluate", "predict"])
def test_jobs_take_the_flags_of_their_commands(job):
    script = Path(__file__).parents[1] / "jobs" / f"{job}.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == command(job, "--help").stdout


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"]])
def test_help_is_quick_and_light(argv):
    code = (
        "import sys; from mipnet.cli.main import main\n"
        f"try: main({argv!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'numpy', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import time; assert time.process_time() < 5  # a bound for broken, not for slow machines"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "preset" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "--preset", "tniy"], "preset: 'tniy' is unknown; did you mean 'tiny'?"),
        (["train", "--train.los", "mse"], "--train.los: unknown flag; did you mean '--train.loss'?"),
        (["train", "--train.loss", "msse"], "train.loss: 'msse' does not fit; did you mean 'mse'?"),
        (
            ["train", "--model.mimb-stages"],
            "model.mimb_stages: [] is empty, so nothing tells 2 instances apart",
        ),
        (["train", "--config", "/nowhere.yaml"], "--config: cannot read /nowhere.yaml"),
        (["predict"], "no images"),
        (["predict", "/nowhere.jpg"], "/nowhere.jpg does not exist"),
        (["evaluate"], "no model to evaluate"),
    ],
)
def test_errors_are_one_line_before_anything_starts(argv, message, tmp_path):
    done = command(*argv, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"mipnet: {message}")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
