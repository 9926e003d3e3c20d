"""``mipnet predict``: poses of all pictures, continued where an earlier start ended."""

from __future__ import annotations

from mipnet.config import Config, to_yaml
from mipnet.console import say
from mipnet.data.coco import Boxes
from mipnet.experiment.corrupt_images import CorruptImageLog
from mipnet.experiment.prediction_inputs import Pictures, check_if_few
from mipnet.experiment.progress import Progress
from mipnet.inference.output_shards import (
    OutputShards,
    known_corrupt_images,
    predict_shards,
    predictions_digest,
    write_predictions,
)
from mipnet.storage import Folder


def predict_pictures(
    pictures: Pictures, boxes: Boxes, model: Folder, config: Config, out: Folder, *, verbose: bool = False
) -> tuple[int, int]:
    """Predict the poses in the boxes and write results and configuration to ``out``.

    Ray is started only if some pictures are not done yet.

    Args:
        pictures, boxes: to predict.
        model: its folder.
        config: of the model, with the settings of the evaluation and the resources.
        out: for results and intermediate files.
        verbose: show Ray's own messages.

    Returns:
        number of poses, number of images.

    Raises:
        DataError: more pictures than ``data.max_bad_share`` cannot be decoded.
        UserError: the cluster cannot be used.
    """
    from mipnet.ray_runtime.probes import probe_files
    from mipnet.ray_runtime.session import connect

    check_if_few(pictures, config.data.max_bad_share)
    digest = predictions_digest(boxes, model.read("weights.safetensors"), config)
    shards = OutputShards.open(out, digest, len(pictures.uris))
    if shards.resumed:
        say(f"going on: {shards.resumed} of {shards.images} images are done")
    corrupt = known_corrupt_images(shards)
    if shards.resumed < shards.images:
        with connect(config.resources, verbose) as resources:
            probe_files([model.path("model.json"), pictures.uris[0]])
            with Progress("predicting", "image", verbose) as progress:
                names = dict(enumerate(pictures.names))
                corrupt = predict_shards(
                    boxes, shards, model, config, resources, progress=progress.update, names=names
                )
    CorruptImageLog()(corrupt)
    out.write("config.yaml", to_yaml(config))
    return write_predictions(shards, out)
