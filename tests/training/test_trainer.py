"""What our trainer does otherwise than Ray's."""

from __future__ import annotations

import math
import os

import pytest
import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from mipnet.config import preset
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.inference.crop_predictor import DivergedError
from mipnet.ray_runtime.session import LOCAL_WORKER_NICENESS
from mipnet.run_folder import TRAINING_FOLDER, open_run
from mipnet.storage import Folder
from mipnet.tracking.journal import JournalReader
from mipnet.training import checkpoint_validation as validation_module
from mipnet.training import recovery
from mipnet.training.checkpoint import checkpoint_name
from mipnet.training.checkpoint_validation import make_validate_fn
from mipnet.training.recovery import write_record
from mipnet.training.trainer import (
    TRAIN_WORKER_RUNTIME_ENV,
    VALIDATION_TASK,
    WORKER_GROUP_START_TIMEOUT,
    FailureReporter,
    Trainer,
    best_checkpoint_of,
    environment_defaults,
    last_checkpoint_step,
    run_trainer,
)
from mipnet.training.validation_plan import ValidationPlan

LOST = "The actor died unexpectedly before finishing this task.\n\tip: 198.18.7.2\n"


def cleans_up(trainer: TorchTrainer) -> bool:
    return any(isinstance(c, PlacementGroupCleanerCallback) for c in trainer._create_default_callbacks())


@pytest.mark.ray
def test_nothing_waits_for_a_dashboard_that_is_not_there(ray_session, monkeypatch):
    """Fails as well if Ray renames what we override: then training would end ten seconds late again."""
    assert cleans_up(TorchTrainer(print))
    assert not cleans_up(Trainer(print))
    monkeypatch.setattr(ray._private.worker, "get_dashboard_url", lambda: "127.0.0.1:8265")
    assert cleans_up(Trainer(print))


def test_a_ray_that_does_not_tell_of_a_dashboard_is_left_as_it_is(monkeypatch):
    monkeypatch.delattr("ray._private.worker.get_dashboard_url")
    assert [type(c) for c in Trainer(print)._create_default_callbacks()] == [
        type(c) for c in TorchTrainer(print)._create_default_callbacks()
    ]


def test_a_cleaner_of_another_name_is_kept(monkeypatch):
    """As in a Ray that names it otherwise: training ends late, and nothing else is different."""
    monkeypatch.setattr("ray._private.worker.get_dashboard_url", lambda: None)
    monkeypatch.setattr("mipnet.training.trainer.CLEANUP_CALLBACK", "AnotherName")
    assert cleans_up(Trainer(print))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "The actor died.\n\tip: 198.18.7.2\nThe node died: lost",
            "worker 1 on 198.18.7.2: The node died: lost",
        ),
        (
            f"{LOST}The actor died because its node has died. Node Id: 0bd4\n\tthe actor's node …",
            "worker 1 on 198.18.7.2: its node was lost",
        ),
        (
            f"{LOST}The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR",
            "worker 1 on 198.18.7.2: its process was killed, crashed or ran out of memory",
        ),
        (
            "The actor c139 is unavailable: RpcError: recvmsg. The task may or may not have been executed.",
            "worker 1: its process or node does not answer",
        ),
        (
            "ray::run() (pid=7, ip=fd00::1:2, actor_id=0)\nValueError: bad",
            "worker 1 on fd00::1:2: ValueError: bad",
        ),
        ("skip: 5 of them\nno word of where", "worker 1: no word of where"),
    ],
)
def test_a_failure_is_one_line_with_rank_and_node(text, said, tmp_path):
    folder = Folder.of(tmp_path)
    FailureReporter(folder).after_exception(None, {2: RuntimeError("later"), 1: RuntimeError(text)})
    assert [(e.record["do"], e.record["cause"]) for e in JournalReader(folder).read()] == [("failed", said)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ray.exceptions.ActorDiedError(), "The actor died unexpectedly before finishing this task."),
        (ray.exceptions.OutOfMemoryError("5 worker(s) were killed\nand more"), "5 worker(s) were killed"),
    ],
)
def test_a_lost_controller_is_one_line(error, said):
    class Lost:
        def fit(self):
            raise error

    with pytest.raises(UserError) as raised:
        run_trainer(Lost(), "the same command goes on")
    line = f"training failed: Ray Train's controller was lost ({said}); the same command goes on"
    assert (str(raised.value), raised.value.exit_code) == (line, 1)


def run_of(folder, **scores):
    """A run whose checkpoints, whole by all signs, have these scores."""
    run = open_run(Folder.of(folder), preset("debug"), "mine")
    training = run.folder.join(TRAINING_FOLDER)
    record = {name: {"step": int(name[-8:]), **score} for name, score in scores.items()}
    for name in record:
        training.write(f"{name}/model.json", "{}")
    write_record(training, record)
    return run


ONE, TWO = checkpoint_name(1), checkpoint_name(2)
PLAN = ValidationPlan("beside", every=1, checkpoint_steps=1, end_step=2)


@pytest.fixture
def all_whole(monkeypatch):
    monkeypatch.setattr(recovery, "damage", lambda *_: "")


def test_the_best_checkpoint_is_the_newest_of_equals(all_whole, tmp_path):
    run = run_of(tmp_path, **{ONE: {SELECTION_METRIC: 0.5}, TWO: {SELECTION_METRIC: 0.5}})
    found = best_checkpoint_of(run, PLAN, lambda name: pytest.fail("it was validated"))
    assert (found.best, found.metrics["step"]) == (run.folder.join(f"{TRAINING_FOLDER}/{TWO}"), 2)


def test_what_was_not_validated_beside_the_training_is_validated_at_its_end(all_whole, tmp_path):
    run = run_of(tmp_path, **{ONE: {}, TWO: {SELECTION_METRIC: 0.1}})
    assert best_checkpoint_of(run, PLAN, lambda name: {SELECTION_METRIC: 0.4}).metrics["step"] == 1


def test_what_was_not_to_be_validated_is_not_validated_at_the_end(all_whole, tmp_path):
    run = run_of(tmp_path, **{ONE: {}, TWO: {}})
    validated = []
    plan = ValidationPlan("inline", every=2, checkpoint_steps=1, end_step=2)
    best_checkpoint_of(run, plan, lambda name: validated.append(name) or {SELECTION_METRIC: 0.4})
    assert validated == [TWO]


@pytest.mark.parametrize("value", [None, math.nan])
@pytest.mark.parametrize("now", [False, True])
def test_a_run_that_cannot_be_measured_at_its_end_has_failed(value, now, all_whole, tmp_path):
    """Though an earlier checkpoint could be."""
    last = {} if now else {SELECTION_METRIC: value}
    run = run_of(tmp_path, **{ONE: {SELECTION_METRIC: 0.4}, TWO: last})
    with pytest.raises(UserError, match="the last checkpoint of run mine has no occlusion AP on"):
        best_checkpoint_of(run, PLAN, lambda name: {SELECTION_METRIC: value})


def test_a_checkpoint_of_exploded_weights_cannot_be_measured(tmp_path, monkeypatch):
    """Another error fails the validation, which is then tried again at the end."""
    folder = Folder.of(tmp_path)
    monkeypatch.setattr(validation_module, "open_split", lambda *_: None)

    def fail(error):
        def predict(*_, **__):
            raise RuntimeError("a task failed") from error

        return predict

    validate = make_validate_fn(preset("debug"), folder, folder)
    monkeypatch.setattr(validation_module, "predict_splits", fail(DivergedError("heatmaps reach nan")))
    assert math.isnan(validate(ONE)[SELECTION_METRIC])
    (entry,) = JournalReader(folder).read()
    assert entry.record.items() >= {"do": "unvalidated", "step": 1, "cause": "heatmaps reach nan"}.items()
    monkeypatch.setattr(validation_module, "predict_splits", fail(ValueError("bug")))
    with pytest.raises(RuntimeError, match="a task failed"):
        validate(ONE)


def test_the_process_that_computes_counts_its_own_cores(tmp_path, monkeypatch):
    """Not the one that asks for a validation, maybe on a smaller machine: 0 threads leaves it to it."""
    folder, given = Folder.of(tmp_path), []
    monkeypatch.setattr(validation_module, "open_split", lambda *_: None)
    monkeypatch.setattr(
        validation_module, "predict_splits", lambda *_, resources, **__: given.append(resources)
    )

    def record(step, config, run_folder, journal, predict, on_picture):
        predict()
        return {SELECTION_METRIC: 0.5}

    monkeypatch.setattr(validation_module, "record_validation", record)
    config = preset("debug")
    assert make_validate_fn(config, folder, folder)(ONE) == {SELECTION_METRIC: 0.5}
    assert given == [config.resources]
    assert given[0].cpus_per_worker == 0


def test_ray_knows_the_time_that_workers_may_take_to_start():
    """Fails as well if Ray renames the variable: cold nodes would have one minute again."""
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    assert WORKER_GROUP_START_TIMEOUT in ENV_VARS_TO_PROPAGATE


def test_settings_of_ray_are_those_of_one_training(monkeypatch):
    monkeypatch.setenv("MIPNET_SET_BY_THE_USER", "7")
    with environment_defaults({"MIPNET_SET_BY_THE_USER": "30", WORKER_GROUP_START_TIMEOUT: "30"}):
        assert os.environ["MIPNET_SET_BY_THE_USER"] == "7"
        assert os.environ[WORKER_GROUP_START_TIMEOUT] == "30"
    assert os.environ["MIPNET_SET_BY_THE_USER"] == "7"
    assert WORKER_GROUP_START_TIMEOUT not in os.environ


def test_a_last_checkpoint_that_was_damaged_is_made_again(tmp_path, monkeypatch):
    run = run_of(tmp_path, **{ONE: {SELECTION_METRIC: 0.4}, TWO: {SELECTION_METRIC: 0.5}})
    monkeypatch.setattr(recovery, "damage", lambda folder, _: "cut" * folder.uri.endswith(TWO))
    with pytest.raises(UserError, match="was damaged; the same command goes on at step 1") as caught:
        best_checkpoint_of(run, PLAN, lambda name: {})
    assert caught.value.exit_code == 1


def test_without_a_record_a_run_begins_at_its_first_step(tmp_path):
    assert last_checkpoint_step(Folder.of(tmp_path)) == 0
    (tmp_path / TRAINING_FOLDER).mkdir()
    assert last_checkpoint_step(Folder.of(tmp_path)) == 0
    (tmp_path / TRAINING_FOLDER / "checkpoint_manager_snapshot.json").write_text("broken")
    with pytest.raises(ValueError, match="Expecting value"):
        last_checkpoint_step(Folder.of(tmp_path))


@pytest.mark.ray
def test_a_validation_that_is_lost_more_often_than_ray_repeats_a_task_is_made(ray_session, tmp_path):
    def validate() -> int:
        lives = len(list(tmp_path.iterdir()))
        (tmp_path / str(lives)).touch()
        if lives < 5:
            os._exit(1)
        return lives

    assert ray.get(ray.remote(validate).options(**VALIDATION_TASK).remote(), timeout=120) == 5


@ray.remote(num_cpus=0)
def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.ray
def test_those_who_train_come_before_all_other_workers(ray_session):
    """Ray's own setting, read by its processes as they start: fails as well if Ray renames it."""
    others, training = ray.get(
        [niceness.remote(), niceness.options(runtime_env=TRAIN_WORKER_RUNTIME_ENV).remote()]
    )
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert (others, training) == (min(ours + int(LOCAL_WORKER_NICENESS), 19), ours)
