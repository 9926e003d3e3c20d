"""``mipnet bench scaling``: training on 1, 2, 4, … workers of this cluster or machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mipnet.cli.bench_options import write_json
from mipnet.cli.shared_options import CONFIG_HELP, JSON_HELP, STORAGE_HELP, VERBOSE_HELP, Call
from mipnet.config import to_dict
from mipnet.config.flags import option
from mipnet.config.schema import Count
from mipnet.console import say
from mipnet.experiment.arguments import check_json_writable, writable_storage
from mipnet.experiment.datasets import ensure_dataset
from mipnet.host import cores

ABOUT = (
    "Samples/s of a training, and the time it waits for data, on 1, 2, 4, … workers with the same global "
    "batch: up to --workers, or as many as the cluster has room for."
)
SECTIONS = ("model", "input", "target", "augment", "data", "scenes", "train", "resources")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet bench scaling``."""

    preset: str = option("tiny", "what to train")
    config: str = option("", CONFIG_HELP)
    rounds: Count = option(3, "rounds of each training that count: in one, each decoding task makes a window")
    json: str = option("", JSON_HELP)
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, VERBOSE_HELP)


def run(options: Options, call: Call) -> int:
    """Train shortly on each number of workers, and print how the rates compare."""
    check_json_writable(options.json)
    config = call.config
    storage = writable_storage(options.storage)
    given = "workers" in call.settings.get("resources", {})

    from mipnet.experiment.preflight import connected
    from mipnet.ray_runtime.probes import probe_files

    with connected(config.resources, storage, options.verbose, config.window_bytes) as resources:
        import ray

        from mipnet.bench import scaling
        from mipnet.data.dataset_formats import open_split
        from mipnet.tracking.provenance import cluster_summary

        config = replace(config, resources=resources)
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
        most = resources.max_workers if given else scaling.max_workers(resources, ray.nodes())
        for workers in scaling.worker_counts(config, most):
            say(f"training on {workers} worker(s), global batches of {config.train.batch_size}")
            bench = storage.join("bench")
            points.append(scaling.measure_scaling(config, workers, people, bench, options.rounds))
    found["points"] = scaling.with_speed_up(points)
    say(f"\n{scaling.scaling_table(found['points'])}")
    write_json(options.json, found)
    return 0
