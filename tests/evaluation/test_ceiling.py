from __future__ import annotations

from pathlib import Path

import pytest

from mipnet.config import Config
from mipnet.config.presets import DATASETS
from mipnet.config.schema import DataConfig, EvaluationConfig, InputConfig, TargetConfig
from mipnet.evaluation.ceiling import ceiling
from mipnet.skeletons import Skeleton

INPUT_SIZES = ((64, 96), (96, 128), (192, 256))


@pytest.fixture(scope="module")
def annotations(shared: Path) -> Path:
    return shared / "data/coco-mini/annotations/person_keypoints_train2017.json"


def configured(
    size: tuple[int, int], target: str, decoder: str, sigma: float = 2.0, data: DataConfig = DATASETS["coco"]
) -> Config:
    return Config(
        input=InputConfig(*size),
        target=TargetConfig(target, sigma),
        data=data,
        evaluation=EvaluationConfig(decoder=decoder),
    )


@pytest.mark.shared
@pytest.mark.parametrize(
    ("target", "decoder", "expected"),
    [("rounded", "quarter", (72.3, 85.2, 93.8)), ("subpixel", "dark", (95.7, 95.6, 95.6))],
)
def test_known_ceilings(annotations: Path, target, decoder, expected) -> None:
    for input_size, ap in zip(INPUT_SIZES, expected, strict=True):
        metrics = ceiling(annotations, configured(input_size, target, decoder))
        assert 100 * metrics["AP"] == pytest.approx(ap, abs=0.1), input_size


@pytest.mark.shared
def test_parabola_loses_least_of_a_subpixel_target(annotations: Path) -> None:
    aps = {
        decoder: ceiling(annotations, configured((64, 96), "subpixel", decoder, 1.25))["AP"]
        for decoder in ("argmax", "quarter", "dark", "parabola")
    }
    assert aps["argmax"] < aps["quarter"] < aps["dark"] < aps["parabola"]


def one_person(x: float) -> dict:
    """A person of three joints, the last at ``x``, in a box from 40 to 80."""
    return {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": 7, "keypoints": ["a", "b", "c"]}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "bbox": [40, 40, 41, 41],
                "area": 1600.0,
                "num_keypoints": 3,
                "keypoints": [50, 50, 2, 70, 65, 2, x, 60, 2],
            }
        ],
    }


def test_one_person_loses_nothing_unless_a_joint_is_outside_the_crop() -> None:
    three = Skeleton("three", ("a", "b", "c"), (0.05, 0.05, 0.05), (), (), ())
    config = configured((192, 256), "subpixel", "parabola", data=DataConfig(skeleton=three))
    whole = ceiling(one_person(55), config)
    assert whole["AP"] == whole["APM"] == pytest.approx(1)
    cut = ceiling(one_person(150), config)
    assert cut["AP"] == pytest.approx(0.4)  # OKS 2/3 passes 4 of the 10 thresholds
