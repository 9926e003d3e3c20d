"""How a checkpoint reaches the storage: at once on a disk, behind the training in an object store."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from pyarrow.fs import LocalFileSystem
from ray.train import Checkpoint, CheckpointConsistencyMode, CheckpointUploadMode

from mipnet.errors import UserError
from mipnet.run_folder import TRAINING_FOLDER
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal, JournalReader
from mipnet.training.checkpoint import MANIFEST_FILE, MODEL_FILES, STATE_FILES, checkpoint_name, damage
from mipnet.training.checkpoint_report import CheckpointReporter
from mipnet.training.recovery import checkpoint_names
from mipnet.training.step import TrainStep
from tests.helpers.networks import tiny
from tests.helpers.steps import make

HISTORY = [{"step": 1.0, "loss": 0.1}]


class FakeTrain:
    """Ray Train as far as a reporter sees it: it uploads in one thread, and has what is uploaded.

    Attributes:
        reports: what was reported.
        in_flight: uploads, also those that are done.
        known: reports whose checkpoint is uploaded.
        may_upload: an upload waits for it.
    """

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.may_upload = threading.Event()
        self.in_flight: list[Future[Any]] = []
        self.known: list[dict[str, Any]] = []
        self.pool = ThreadPoolExecutor(1)

    def report(self, metrics: dict[str, Any], checkpoint: Any = None, **options: Any) -> None:
        self.reports.append({"metrics": metrics, "checkpoint": checkpoint, **options})
        if checkpoint is not None and options.get("checkpoint_upload_mode") == CheckpointUploadMode.ASYNC:
            self.in_flight.append(self.pool.submit(self.upload, self.reports[-1]))

    def upload(self, report: dict[str, Any]) -> Checkpoint:
        assert self.may_upload.wait(60)
        stored: Checkpoint = report["checkpoint_upload_fn"](
            report["checkpoint"], report["checkpoint_dir_name"]
        )
        self.known.append(report)
        return stored

    def get_all_reported_checkpoints(self, consistency_mode: CheckpointConsistencyMode) -> None:
        assert consistency_mode == CheckpointConsistencyMode.COMMITTED
        for each in self.in_flight:
            each.result()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTrain:
    made = FakeTrain()
    for name in ("report", "get_all_reported_checkpoints"):
        monkeypatch.setattr(ray.train, name, getattr(made, name))
    storage = SimpleNamespace(experiment_fs_path="bucket/training", storage_filesystem=LocalFileSystem())
    context = SimpleNamespace(get_storage=lambda: storage)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return made


@pytest.fixture
def step() -> TrainStep:
    return make(tiny())


@pytest.fixture
def remote() -> Folder:
    """The folder of a run in a store that takes whole objects only, in this process's memory."""
    pytest.importorskip("fsspec")
    return Folder.of(f"fsspec+memory://checkpoints-{uuid.uuid4().hex}/run")


def rows(folder: Folder) -> list[str]:
    return [entry.record["do"] for entry in JournalReader(folder).read()]


def report(
    reporter: CheckpointReporter,
    step: TrainStep,
    number: int,
    then: Callable[[], None],
    before: Callable[[], None] = lambda: None,
) -> None:
    step.step = number
    reporter.report(step, HISTORY, {"ap": 0.5}, beside=False, before=before, afterwards=then)


def test_on_a_disk_it_is_whole_before_it_is_reported(
    fake: FakeTrain, step: TrainStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = Folder.of(tmp_path / "run"), []
    journal = Journal(run, "worker")
    journal.add("training")

    def look(metrics: dict[str, Any], checkpoint: Checkpoint, **options: Any) -> None:
        folder = Folder.of(checkpoint.path)
        seen.append((damage(folder, (*STATE_FILES, *MODEL_FILES)), folder.exists(MANIFEST_FILE), rows(run)))
        assert (metrics, options["checkpoint_dir_name"]) == (
            {"step": 7, "loss": 0.1, "ap": 0.5},
            "step-00000007",
        )

    monkeypatch.setattr(ray.train, "report", look)
    reporter = CheckpointReporter(run, journal, 0)
    report(reporter, step, 7, lambda: seen.append("afterwards"), lambda: journal.add("file"))  # type: ignore[arg-type]
    assert seen == [("", True, ["training", "file"]), "afterwards"]
    assert not list((tmp_path / "scratch").glob("mipnet-*"))


def test_in_an_object_store_the_training_goes_on_and_one_is_uploaded_at_a_time(
    fake: FakeTrain, step: TrainStep, remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, training, done = Journal(remote, "worker"), remote.join(TRAINING_FOLDER), list[int]()
    monkeypatch.setattr("mipnet.tracking.journal.SECONDS_BETWEEN_PARTS", 1e9)
    journal.add("training")
    reporter = CheckpointReporter(remote, journal, 0)

    def one_is_known() -> None:
        assert 1 in {each["metrics"]["step"] for each in fake.known}
        done.append(1)

    report(reporter, step, 1, one_is_known, lambda: journal.add("file"))
    assert not checkpoint_names(training)  # and it is back already
    assert not rows(remote)
    threading.Timer(0.1, fake.may_upload.set).start()  # else the next would wait for ever
    report(reporter, step, 2, lambda: done.append(2))
    assert training.join(checkpoint_name(1)).exists(MANIFEST_FILE)
    reporter.finish()
    assert done == [1, 2]
    assert checkpoint_names(training) == [checkpoint_name(1), checkpoint_name(2)]
    for name in checkpoint_names(training):
        assert training.join(name).exists(MANIFEST_FILE)
        assert damage(training.join(name), (*STATE_FILES, *MODEL_FILES)) == ""
    assert rows(remote) == ["training", "file"]
    assert [each.result().path for each in fake.in_flight] == [
        "bucket/training/step-0000000" + n for n in "12"
    ]


def test_a_failed_upload_counts_nothing_and_leaves_nothing(
    fake: FakeTrain, step: TrainStep, remote: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train then restarts the workers; the manifest, which comes last, is not there."""

    def refuse(self: Folder, source: Path, name: str = "", last: str = "") -> None:
        assert last == MANIFEST_FILE
        raise UserError("cannot write it")

    monkeypatch.setattr(Folder, "upload", refuse)
    fake.may_upload.set()
    reporter = CheckpointReporter(remote, Journal(remote, "worker"), 0)
    report(reporter, step, 1, lambda: pytest.fail("it is not stored"))
    with pytest.raises(UserError, match="cannot write it"):
        reporter.wait()
    assert not list((tmp_path / "scratch").glob("mipnet-*"))


def test_the_manifest_is_uploaded_last(
    remote: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[str]] = []
    monkeypatch.setattr(
        "mipnet.storage.put_files", lambda fs, files: groups.append([Path(p).name for p in files])
    )
    for name in (*STATE_FILES, MANIFEST_FILE):
        (tmp_path / "scratch").mkdir(exist_ok=True)
        (tmp_path / "scratch" / name).write_text("x")
    remote.upload(tmp_path / "scratch", "step", last=MANIFEST_FILE)
    assert groups == [sorted(STATE_FILES), [MANIFEST_FILE]]


@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_node_without_room_says_so_in_one_line(
    where: str, fake: FakeTrain, step: TrainStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Folder.of(tmp_path) if where == "disk" else Folder("s3://bucket/run")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr("socket.gethostname", lambda: "node-7")
    with pytest.raises(UserError) as caught:
        report(CheckpointReporter(run, Journal(Folder.of(tmp_path), "worker"), 0), step, 1, lambda: None)
    scratch = tmp_path / "scratch"
    assert str(caught.value).startswith(
        f"no room for a checkpoint in {scratch} of node-7: it takes 0 MB, and 0 MB"
    )
    assert str(caught.value).endswith("are left; make room there, then the same command goes on")
    assert not fake.reports
    assert not list(scratch.glob("mipnet-*"))


def test_other_ranks_report_no_files_and_wait_for_nothing(
    fake: FakeTrain, step: TrainStep, remote: Folder
) -> None:
    reporter = CheckpointReporter(remote, Journal(remote, "worker"), 1)
    report(reporter, step, 1, lambda: pytest.fail("rank 0 does that"))
    reporter.finish()
    assert [(each["checkpoint"], each["metrics"]) for each in fake.reports] == [(None, {"step": 1})]
