"""What a distant object store costs a training: beside the same training on a local disk, in turns."""

from __future__ import annotations

import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.dataset_formats import open_split
from mipnet.ray_runtime.session import connect
from mipnet.run_folder import TRAINING_FOLDER, open_run
from mipnet.storage import Folder
from mipnet.tracking.journal import JournalReader
from mipnet.training.recovery import recover
from mipnet.training.trainer import end_step, make_schedule, train
from mipnet.training.validation_plan import ValidationPlan
from tests.helpers.servers import KEYS, bucket_at, free_port, objects, process, responds

pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.slow]

SECONDS, PAIRS = 0.2, 5
EPOCHS, CHECKPOINT_STEPS = 128, 60
"""240 steps of 16 of 30 people, with four checkpoints."""


@pytest.fixture
def distant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Folder, Path]]:
    """A bucket in which each request waits, and a file with a line for each."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with objects(tmp_path) as (address, _):
        port, log = free_port(), tmp_path / "requests"
        link = str(Path(__file__).parents[1] / "helpers" / "slow_link.py")
        command = [sys.executable, link, str(port), address.rpartition(":")[2], str(SECONDS), str(log)]
        url = f"http://127.0.0.1:{port}"
        with process(command, tmp_path / "link.log", lambda: responds(f"{url}/moto-api/")):
            yield bucket_at(url), log


def samples_per_second(run: Folder, batch_size: int) -> float:
    """From the first checkpoint to the last step, checkpoints and validations included."""
    records = [e.record for e in JournalReader(run).read() if e.record["do"] == "training"]
    times = {record["step"]: record["time"] for record in records}
    seconds = (times[max(times)] - times[CHECKPOINT_STEPS]) / 1000
    return float((max(times) - CHECKPOINT_STEPS) * batch_size / seconds)


def trained(config: Config, storage: Folder, name: str) -> Folder:
    """The folder of a run that was trained to its end, whose last checkpoint is whole."""
    data = Folder.of(config.data.root)
    people = open_split(config.data, data, "train").people()
    run = open_run(storage, config, name)
    last = end_step(make_schedule(config, people), 0)
    plan = ValidationPlan("inline", every=1, checkpoint_steps=CHECKPOINT_STEPS, end_step=last)
    assert train(config, run, data, people, plan=plan).steps == last
    assert recover(run.folder.join(TRAINING_FOLDER), config).step == last
    return run.folder


def test_a_distant_store_takes_less_than_a_tenth(
    small_config: Config, distant: tuple[Folder, Path], tmp_path: Path
) -> None:
    resources = ResourcesConfig(workers=1, gpu=False, stream_workers=1, object_store_gb=0.5, max_failures=0)
    settings = replace(
        small_config.train, epochs=EPOCHS, checkpoint_steps=CHECKPOINT_STEPS, log_steps=CHECKPOINT_STEPS // 3
    )
    config = replace(small_config, train=settings, resources=resources)
    bucket, log = distant
    rates: list[tuple[float, float]] = []
    with connect(resources):
        for number in range(PAIRS):
            places = [Folder.of(tmp_path / "disk"), bucket.join("storage")]
            found = {}
            for place in places if number % 2 else reversed(places):
                log.write_bytes(b"")
                run = trained(config, place, f"run-{number}")
                found[place.is_local] = samples_per_second(run, settings.batch_size)
                if not place.is_local:
                    requests = Counter(re.findall(rb"^([A-Z]+) /", log.read_bytes(), re.MULTILINE))
            rates.append((found[True], found[False]))
            share = found[False] / found[True]
            print(f"\n| {number + 1} | {found[True]:.1f} | {found[False]:.1f} | {share:.3f} |")
            print("requests:", {method.decode(): number for method, number in requests.items()})
    median = statistics.median(distant / local for local, distant in rates)
    print(f"samples/s on a disk and in a store of {SECONDS} s a request: median of the ratios {median:.3f}")
    assert median > 0.9
