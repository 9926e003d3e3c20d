"""Validations that take longer than the training between them, and on a node that is not the head."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mipnet.config.schema import EvaluationConfig
from mipnet.storage import Folder
from mipnet.tracking.journal import JournalReader
from tests.helpers.commands import command
from tests.helpers.drills import only_run

SLOW_IMAGES, SIDE = 10, 6000
"""Pictures of the validation split, and their sides in px: they take long to decode, as no estimate knows."""
ARGUMENTS = ["--preset", "debug", "--epochs", "4", "--train.checkpoint-steps", "2", "--gpu", "false"]
ARGUMENTS += ["--data.train", "train", "--data.val", "slow", "--data.evaluate", "train", "--data.boxes", "gt"]
SPREAD = 1.5
"""How much longer one validation may take than another."""


@pytest.fixture(scope="module")
def data(small_coco: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small_coco`` with a split ``slow`` of huge pictures, a person in each."""
    root = tmp_path_factory.mktemp("slow")
    (root / "train").symlink_to(small_coco.local_path / "train")
    (root / "annotations").mkdir()
    content = json.loads(small_coco.read("annotations/person_keypoints_train.json"))
    (root / "annotations" / "person_keypoints_train.json").write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    people = content["annotations"][:SLOW_IMAGES]
    (root / "slow").mkdir()
    for number, person in enumerate(people):
        pixels = cv2.resize(rng.integers(0, 256, (600, 600, 3), np.uint8), (SIDE, SIDE))
        cv2.imwrite(str(root / "slow" / f"{number}.jpg"), pixels)
        person["image_id"] = number
    images = [{"id": n, "file_name": f"{n}.jpg", "width": SIDE, "height": SIDE} for n in range(SLOW_IMAGES)]
    slow = {**content, "images": images, "annotations": people}
    (root / "annotations" / "person_keypoints_slow.json").write_text(json.dumps(slow))
    return root


@pytest.mark.ray
@pytest.mark.drill
@pytest.mark.parametrize("where", ["inline", "beside"])
def test_a_run_ends_one_validation_after_its_last_step(where: str, data: Path, tmp_path: Path) -> None:
    words = ["--data", str(data), "--storage", str(tmp_path), "--validation", where]
    done = command("train", *ARGUMENTS, *words)
    assert done.returncode == 0, done.stderr
    assert (
        "boxes at every checkpoint, " + ("by the training" if where == "inline" else "beside") in done.stdout
    )
    rows = list(records(only_run(tmp_path)))
    trained = {int(row["row"]["step"]): row["time"] for row in rows if row["do"] == "training"}
    validated = [(int(row["row"]["step"]), row["time"]) for row in rows if row["do"] == "validation"]
    last_step = max(trained)
    assert sorted(step for step, _ in validated) == [*range(2, last_step, 2), last_step]  # each, and once
    times = sorted(time for _, time in validated)
    longest = max(b - a for a, b in zip([trained[2], *times], times, strict=False))
    after = times[-1] - trained[last_step]
    print(f"{where}: {after / 1000:.1f} s after the last step, longest validation {longest / 1000:.1f} s")
    assert after <= SPREAD * longest


def records(run: Path) -> list[dict[str, Any]]:
    return [entry.record for entry in JournalReader(Folder.of(run)).read() if not entry.repeated]


@pytest.mark.ray
@pytest.mark.drill
def test_threads_are_those_of_the_node_that_computes(small_models: list[Path]) -> None:
    """The head has all cores of this machine and runs nothing, the other node has one."""
    import ray
    from ray.cluster_utils import Cluster

    def threads(model: Folder, evaluation: EvaluationConfig) -> tuple[str, int]:
        import torch

        from mipnet.inference.pipeline import PosePredictor

        PosePredictor(model, evaluation, False, 0)
        return ray.get_runtime_context().get_node_id(), torch.get_num_threads()

    all_cores = os.sched_getaffinity(0)
    if len(all_cores) < 2:
        pytest.skip("this machine has one core")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        os.sched_setaffinity(0, {min(all_cores)})  # of the node's processes, which this one starts
        node = cluster.add_node(num_cpus=2)
        os.sched_setaffinity(0, all_cores)
        ray.init(address=cluster.address)
        where, found = ray.get(
            ray.remote(num_cpus=1)(threads).remote(Folder.of(small_models[0]), EvaluationConfig())
        )
        assert (where, found) == (node.node_id, 1)
    finally:
        os.sched_setaffinity(0, all_cores)
        ray.shutdown()
        cluster.shutdown()
