"""``mipnet bench scaling``: training on 1, 2, 4, … workers of this cluster or machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mipnet.cli.bench_options import JSON_HELP, parse_benchmark, write_json
from mipnet.cli.shared_options import CONFIG_HELP, STORAGE_HELP, base_config
from mipnet.config import to_dict
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.experiment.datasets import ensure_dataset
from mipnet.experiment.outputs import writable_storage
from mipnet.host import cores

SCALING_SECTIONS = ["model", "input", "target", "augment", "data", "scenes", "train", "resources"]


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet bench scaling``."""

    preset: str = option("tiny", "what to train")
    config: str = option("", CONFIG_HELP)
    rounds: int = option(3, "rounds of each training that count: in one, each decoding task makes a window")
    json: str = option("", JSON_HELP)
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Train shortly on each number of workers, and print how the rates compare."""
    about = (
        "Samples/s of a training, and the time it waits for data, on 1, 2, 4, … workers with the same global "
        "batch: up to --workers, or as many as the cluster has room for."
    )
    base = base_config(argv)
    options, settings, config = parse_benchmark(
        command, argv, about, Options, sections=SCALING_SECTIONS, base=base, least={"rounds": 1}
    )
    storage = writable_storage(options.storage)
    given = "workers" in settings.get("resources", {})

    from mipnet.ray_runtime.probes import probe_files, probe_storage
    from mipnet.ray_runtime.session import connect

    with connect(config.resources, options.verbose, config.window_bytes) as resources:
        import ray

        from mipnet.bench.scaling import (
            max_workers,
            measure_scaling,
            scaling_table,
            with_speed_up,
            worker_counts,
        )
        from mipnet.data.dataset_formats import open_split
        from mipnet.tracking.provenance import cluster_summary

        config = replace(config, resources=resources)
        probe_storage(storage)
        data = ensure_dataset(config, storage, options.verbose)
        people = open_split(config.data, data, config.data.train).people()
        probe_files([str(people.images.uris[0])])
        found: dict[str, Any] = {
            "benchmark": "scaling",
            "config": to_dict(config),
            "machine": cluster_summary(ray.nodes(), cores()),
            "data": f"{len(people)} people in {len(people.images)} images",
        }
        say(f"{found['machine']}; {found['data']}")
        points = []
        for workers in worker_counts(
            config, resources.workers if given else max_workers(resources, ray.nodes())
        ):
            say(f"training on {workers} worker(s), global batches of {config.train.batch_size}")
            points.append(measure_scaling(config, workers, people, storage.join("bench"), options.rounds))
    found["points"] = with_speed_up(points)
    say(f"\n{scaling_table(found['points'])}")
    write_json(options.json, found)
    return 0
