"""Finding the error that a person can mend behind what another process raised."""

from __future__ import annotations

import errno
import pickle

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from mipnet.errors import DataError, StoreError, UserError, as_user_error, first_few, root_cause, suggest

FULL = OSError(errno.ENOSPC, "as the system says it", "/storage/step-00000003/training.pt")
BROKEN = DataError("the file is broken", "mend it")


def chained(outer: BaseException, cause: BaseException) -> BaseException:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    "error",
    [
        BROKEN,
        chained(RuntimeError("a task failed"), BROKEN),
        RayTaskError("task", "Traceback …", BROKEN),
        RayTaskError("task", "Traceback …", BROKEN).as_instanceof_cause(),
        chained(RuntimeError("Ray Data"), RayTaskError("task", "Traceback …", BROKEN)),
        WorkerGroupError("1 worker failed", {1: BROKEN, 0: chained(ValueError("x"), BROKEN)}),
        ControllerError(BROKEN),
    ],
)
def test_a_users_error_is_found_behind_rays(error: BaseException) -> None:
    found = as_user_error(error)
    assert found is not None
    assert str(found) == "the file is broken; mend it"


def test_a_full_disk_is_named_wherever_it_was_met() -> None:
    message = "cannot use /storage/step-00000003/training.pt (No space left on device); make room there"
    for error in (FULL, RayTaskError("task", "Traceback …", FULL), WorkerGroupError("failed", {0: FULL})):
        assert str(as_user_error(error)).startswith(message)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "none"),
        TrainingFailedError("x"),
        WorkerGroupError("x", {}),
    ],
)
def test_a_bug_stays_one(error: BaseException) -> None:
    assert as_user_error(error) is None


class Renamed(TrainingFailedError):
    """An error of a Ray that keeps what led to it elsewhere."""

    def __init__(self) -> None:
        super().__init__("training failed")
        self.failures, self.worker_failures_by_rank = [BROKEN], {0: BROKEN}


def test_an_error_of_another_ray_is_found_by_its_cause_or_stays_a_bug() -> None:
    assert as_user_error(Renamed()) is None
    assert as_user_error(chained(Renamed(), chained(RuntimeError("a worker failed"), BROKEN))) is BROKEN


@pytest.mark.parametrize("reason", ["The actor died because its node has died.", ""])
def test_the_root_cause_of_a_lost_actor_is_no_id(reason: str) -> None:
    what = "The actor died unexpectedly before finishing this task."
    fields = "\tclass_name: RayTrainWorker\n\tactor_id: cb4481c9d0bd8468c3fb357e02000000"
    error = RuntimeError("training failed")
    error.__cause__ = RayActorError(None, f"{what}\n{fields}\n{reason}")
    assert root_cause(error) == (reason or what)


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert as_user_error(one) is None


def test_names_for_messages() -> None:
    assert first_few(list("abc")) == "a, b, c"
    assert first_few(list("abcdefgh")) == "a, b, c, d, e and 3 more"
    assert suggest("trian", ["train", "predict"]) == "did you mean 'train'?"
    assert suggest("x", [f"{i}" * 3 for i in range(9)]).count(",") == 8
    assert suggest("x", [f"preset-{i}" for i in range(40)]).endswith(" and 35 more")
    assert isinstance(as_user_error(UserError("x")), UserError)


def test_a_store_that_refuses_is_no_bug() -> None:
    """pyarrow's errors of S3 have no number; those of files that it cannot decode neither."""
    error = OSError(
        "When listing objects under key 'x': AWS Error ACCESS_DENIED during ListObjectsV2 operation"
    )
    found = as_user_error(error)
    assert isinstance(found, StoreError)
    assert str(found).startswith("S3 refuses or does not answer (When listing objects under key 'x': AWS")
    assert found.exit_code == 1
    assert as_user_error(OSError("Couldn't deserialize thrift")) is None
    copy = pickle.loads(pickle.dumps(found))
    assert (type(copy), str(copy), copy.exit_code) == (StoreError, str(found), 1)
