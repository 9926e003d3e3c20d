"""``mipnet bench merge``: decoding and merging beside plain loops over joints and pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipnet.config import from_dict, preset
from mipnet.config.checks import require
from mipnet.config.flags import chosen, option, parse, say

DEFAULT = "coco-hrnet-w32-256x192"


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet bench merge``."""

    preset: str = option(DEFAULT, "whose joints, heatmaps, discount and threshold")
    poses: int = option(40, "poses of an image, all λ counted")
    images: int = option(20, "images of a round")
    crops: int = option(32, "crops whose heatmaps are decoded in a round, each with all its λ")
    rounds: int = option(5, "rounds that count")
    threads: int = option(1, "CPU threads")
    device: str = option("auto", "where heatmaps are decoded: auto, cpu or cuda")
    seed: int = option(0, "of the poses")
    json: str = option("", "file for the whole measurement")


def main(command: str, argv: Sequence[str]) -> int:
    """Print a table for merging and one for each decoder, after a look that the results are the same."""
    base = preset(chosen(argv, "--preset", DEFAULT))
    description = "Decoding and merging, beside loops over joints and over pairs of poses."
    options, settings = parse(command, description, Options, ["model", "evaluation"], base, argv)
    for name in ("rounds", "threads", "poses", "images", "crops"):
        require(f"--{name}", getattr(options, name), at_least=1)
    import json

    import numpy as np
    import torch

    from mipnet.bench import merge as bench
    from mipnet.bench.device import choose_device
    from mipnet.bench.rounds import as_json, in_turns, machine, table

    config, device = from_dict(settings, base), choose_device(options.device)
    torch.set_num_threads(options.threads)
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
