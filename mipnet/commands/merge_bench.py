"""``mipnet bench merge``: decoding and merging beside plain loops over joints and pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipnet.commands.bench_flags import DEFAULT, BenchOptions, begin, read
from mipnet.config.flags import option, say


@dataclass(frozen=True)
class Options(BenchOptions):
    """Flags of ``mipnet bench merge``."""

    preset: str = option(DEFAULT, "whose joints, heatmaps, discount and threshold")
    poses: int = option(40, "poses of an image, all λ counted")
    images: int = option(20, "images of a round")
    crops: int = option(32, "crops whose heatmaps are decoded in a round, each with all its λ")
    device: str = option("auto", "where heatmaps are decoded: auto, cpu or cuda")
    seed: int = option(0, "of the poses")


def main(command: str, argv: Sequence[str]) -> int:
    """Print a table for merging and one for each decoder, after a look that the results are the same."""
    about = "Decoding and merging, beside loops over joints and over pairs of poses."
    least = {"poses": 1, "images": 1, "crops": 1}
    options, _, config = read(command, about, Options, ["model", "evaluation"], argv, least)
    import json

    import numpy as np

    from mipnet.bench import merge as bench
    from mipnet.bench.rounds import as_json, in_turns, machine, table

    device = begin(options)
    n, skeleton, evaluation = config.model.instances, config.data.joints, config.evaluation
    measured: dict[str, Any] = {}
    facts = {"preset": options.preset, "machine": machine(device.type), "threads": options.threads}

    def measure(name: str, unit: str, work: int, ways: dict[str, Callable[[], Any]]) -> None:
        def timed(run: Callable[[], Any]) -> Callable[[], float]:
            return lambda: (run(), float(work))[1]

        timings = in_turns({k: timed(run) for k, run in ways.items()}, bench.PLAIN, options.rounds)
        say(table(timings, unit))
        measured[name] = json.loads(as_json(name, timings, {}))

    say(f"{facts['machine']}, {options.threads} CPU threads")
    people = bench.crowd(options.images, options.poses, n, skeleton.num_joints, options.seed)
    merging = bench.merge_ways(people, skeleton.sigmas, evaluation.discount, evaluation.oks_nms)
    plain, ours = (run() for run in merging.values())
    if not bench.same_poses(plain, ours):
        raise RuntimeError("the two ways of merging keep different poses")
    say(f"\nmerge: {people.scores.size} poses in {options.images} images, the same {len(ours.boxes)} kept")
    measure("merge", "poses", people.scores.size, merging)

    heatmaps = bench.maps(options.crops * n, skeleton.num_joints, config.heatmap_size, device)
    for method in ("quarter", "parabola", "dark"):
        decoding = bench.decode_ways(heatmaps, method)
        (cells, _), (cells_ours, _) = (run() for run in decoding.values())
        worst = float(np.abs(cells - cells_ours).max())
        if worst > 1e-2:
            raise RuntimeError(f"the two ways of decoding ({method}) differ by {worst} cells")
        say(f"\n{method}: {heatmaps.shape[0]} poses, at most {worst:.1e} cells apart")
        measure(method, "poses", heatmaps.shape[0], decoding)
    if options.json:
        text = json.dumps({"benchmark": "merge and decode", **facts, "parts": measured}, indent=2) + "\n"
        Path(options.json).write_text(text, encoding="utf-8")
    return 0
