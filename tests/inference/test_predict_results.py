"""``mipnet predict``, then ``evaluate --results``: poses stay with their pictures, whatever their ids are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mipnet.cli.main import main
from mipnet.skeletons import COCO17
from mipnet.storage import Folder

pytestmark = pytest.mark.ray
CATEGORY = {"id": 1, "name": "person", "keypoints": list(COCO17.joints)}
ORDER = [7, 3, 10, 0, 11, 5, 2, 8, 1, 9, 4, 6]  # picture -> its id in the annotations


@pytest.fixture
def pictures(small_coco: Folder, tmp_path: Path) -> Path:
    """a.jpg to l.jpg: no name is a number."""
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        picture = (small_coco.local_path / "train" / f"{i}.jpg").read_bytes()
        (tmp_path / "pictures" / f"{chr(97 + i)}.jpg").write_bytes(picture)
    return tmp_path / "pictures"


def predict(model: Path, out: Path, *argv: str) -> list[dict[str, Any]]:
    flags = ["--model", str(model), "--storage", str(out.parent / "storage"), "--out", str(out)]
    assert main(["predict", *argv, *flags, "--overlays", "0"]) == 0
    results: list[dict[str, Any]] = json.loads((out / "results.json").read_text())
    return results


def annotated(root: Path, results: list[dict[str, Any]], spell: Any = int) -> None:
    """Annotations by which all results are right, with ids in another order than the names'."""
    names = [f"{chr(97 + i)}.jpg" for i in range(12)]
    ids = {name: spell(number) for name, number in zip(names, ORDER, strict=True)}
    people = []
    for result in results:
        keypoints = [v if i % 3 < 2 else 2 for i, v in enumerate(result["keypoints"])]
        person = {"image_id": ids[result["file_name"]], "category_id": 1, "keypoints": keypoints}
        people.append({"id": len(people) + 1, **person, "bbox": [0, 0, 120, 100], "area": 2000, "iscrowd": 0})
    images = [{"id": i, "file_name": name, "width": 120, "height": 100} for name, i in ids.items()]
    content = {"images": images, "annotations": people, "categories": [CATEGORY]}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "person_keypoints_val.json").write_text(json.dumps(content))


def average_precision(root: Path, results: list[dict[str, Any]]) -> float:
    (root / "scored.json").write_text(json.dumps(results))
    argv = ["evaluate", "--results", f"m={root}/scored.json", "--data", str(root), "--data.evaluate", "val"]
    assert main([*argv, "--data.images", "pictures", "--out", str(root / "tables")]) == 0
    found: float = json.loads((root / "tables" / "metrics.json").read_text())["val/m/results/AP"]
    return found


def test_own_results_score_as_with_the_right_ids(
    pictures: Path, small_models: list[Path], on_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures.parent
    results = predict(small_models[0], root / "out", str(pictures))
    assert "image_id of 12 images is a number without meaning (a.jpg, b.jpg," in capsys.readouterr().out
    annotated(root, results)
    right = [{**r, "image_id": ORDER[ord(r["file_name"][0]) - 97]} for r in results]
    by_ids = [{k: v for k, v in r.items() if k != "file_name"} for r in right]
    assert average_precision(root, by_ids) == pytest.approx(1)
    invented = [{k: v for k, v in r.items() if k != "file_name"} for r in results]
    assert average_precision(root, [r for r in invented if r["image_id"] in ORDER]) < 0.5
    assert average_precision(root, results) == pytest.approx(1)
    from_above = predict(small_models[0], root / "above", str(root))  # one folder up
    assert {r["file_name"].partition("/")[0] for r in from_above} == {"pictures"}
    assert average_precision(root, from_above) == pytest.approx(1)
    few = [r for r in results if r["file_name"] > "c"]
    others = [{**r, "file_name": f"other-{r['file_name']}"} for r in results if r["file_name"] <= "c"]
    wanted = average_precision(root, few)
    assert average_precision(root, [*few, *others]) == wanted
    assert "x result of an image that" in (root / "tables" / "table.txt").read_text()


@pytest.mark.parametrize("spell", ["id {}".format, "{:08d}".format])
def test_a_list_gives_results_its_own_ids(
    spell: Any, pictures: Path, small_models: list[Path], on_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures.parent
    annotated(root, [], spell)
    source = str(root / "annotations" / "person_keypoints_val.json")
    boxes = [{"image_id": spell(i), "category_id": 1, "bbox": [5, 6, 90, 80], "score": 0.5} for i in ORDER]
    (root / "boxes.json").write_text(json.dumps(boxes))
    argv = [str(pictures), "--images-json", source, "--boxes", str(root / "boxes.json")]
    results = predict(small_models[0], root / "listed", *argv)
    assert len({r["image_id"] for r in results}) == 12
    assert {r["file_name"]: r["image_id"] for r in results} == {
        f"{chr(97 + i)}.jpg": spell(number) for i, number in enumerate(ORDER)
    }
    table = pq.read_table(root / "listed" / "results.parquet", columns=["image_id", "file_name"]).to_pylist()
    assert {row["file_name"]: row["image_id"] for row in table} == {
        r["file_name"]: r["image_id"] for r in results
    }
    annotated(root, results, spell)
    by_ids = [{k: v for k, v in r.items() if k != "file_name"} for r in results]
    assert average_precision(root, by_ids) == pytest.approx(1)
    written = json.loads((root / "tables" / "coco" / "val-m-results.json").read_text())
    assert [(r["image_id"], r["file_name"]) for r in written] == [
        (r["image_id"], r["file_name"]) for r in results
    ]
    capsys.readouterr()
    assert predict(small_models[0], root / "listed", *argv) == results
    assert "going on: 12 of 12 images are done" in capsys.readouterr().out
    predict(small_models[0], root / "listed", *argv, "--data.box-score-threshold", "0.4")
    assert "going on" not in capsys.readouterr().out  # another prediction


def test_a_packed_data_set_and_its_tables(
    pictures: Path, small_models: list[Path], on_ray: None, tmp_path: Path
) -> None:
    root = pictures.parent
    plain = predict(small_models[0], root / "out", str(pictures))
    annotated(root, plain)
    flags = ["--data", str(root), "--data.images", "pictures", "--splits", "val", "--shard-images", "5"]
    assert main(["data", "pack", str(root / "packed"), *flags]) == 0
    packed = root / "packed" / "pictures"
    tables = sorted(map(str, packed.glob("shard-*.parquet")))
    for given in ([str(packed)], tables):
        results = predict(small_models[0], root / f"out-{len(given)}", *given)
        fields = ("file_name", "keypoints", "score")
        assert [[r[f] for f in fields] for r in results] == [[r[f] for f in fields] for r in plain]
        assert average_precision(root, results) == pytest.approx(1)
