"""Starting from other weights: what is taken over, and what is said to stay random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mipnet.errors import UserError
from mipnet.models.build import build_model
from mipnet.models.initialization import describe_uninitialized, matching_keypoints, warm_start_from_folder
from mipnet.models.network import MIPNet
from mipnet.models.weights import save_model, save_weights
from mipnet.skeletons import COCO17, CROWDPOSE14, Skeleton

TINY = {
    "hrnet": {"width": 8, "num_modules": [1, 1], "blocks": 1, "stem_channels": 8},
    "simplebaseline": {"depth": 18, "deconv_channels": 8},
}
SHARED = CROWDPOSE14.joints[:12]


def make(
    joints: Skeleton, instances: int = 2, mimb_stages: tuple[int, ...] = (2, 3), backbone: str = "hrnet"
) -> MIPNet:
    return build_model(backbone, joints.num_joints, instances, mimb_stages, **TINY[backbone])


def save(model: MIPNet, folder: Path, joints: Skeleton) -> Path:
    """The network with random weights everywhere, in a folder that names its skeleton."""
    generator = torch.Generator().manual_seed(5)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return save_model(folder, model, {"config": {"data": {"skeleton": joints.name}}})


def taken_over(model: MIPNet, before: dict, source: MIPNet) -> set[str]:
    """The names whose values became the source's; every other one must be as before."""
    theirs = source.state_dict()
    taken = {n for n, t in model.state_dict().items() if n in theirs and torch.equal(t, theirs[n])}
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items() if n not in taken)
    return taken


def test_a_single_instance_network_gives_all_but_the_mimbs(tmp_path: Path) -> None:
    source, model = make(COCO17, 1, ()), make(COCO17)
    folder = save(source, tmp_path, COCO17)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    assert warm_start_from_folder(model, folder, COCO17, "x") == "4 MIMBs at places 2 and 3"
    counters = {n for n in before if n.startswith("mimbs.") and n.endswith("num_batches_tracked")}
    assert taken_over(model, before, source) | counters == set(source.state_dict()) | counters


@pytest.mark.parametrize("backbone", ["hrnet", "simplebaseline"])
def test_an_encoder_gives_its_trunk(backbone: str, tmp_path: Path) -> None:
    source, model = make(COCO17, 1, (), backbone), make(CROWDPOSE14, 2, (3,), backbone)
    trunk = {n: t for n, t in source.state_dict().items() if not n.startswith("backbone.head.")}
    extra = {"config": {"data": {"skeleton": "coco17"}}}
    folder = save_weights(tmp_path, source.architecture, trunk, extra)
    said = warm_start_from_folder(model, folder, CROWDPOSE14, "x")
    deconvolutions = "the deconvolutions, " if backbone == "simplebaseline" else ""
    assert said == f"1 MIMB at place 3, {deconvolutions}the heatmap layer"
    assert all(torch.equal(model.state_dict()[n], t) for n, t in trunk.items())


@pytest.mark.parametrize("backbone", ["hrnet", "simplebaseline"])
@pytest.mark.parametrize(("theirs", "ours"), [(COCO17, CROWDPOSE14), (CROWDPOSE14, COCO17)])
def test_joints_that_both_skeletons_have_are_copied_by_name(
    backbone: str, theirs: Skeleton, ours: Skeleton, tmp_path: Path
) -> None:
    source, model = make(theirs, backbone=backbone), make(ours, backbone=backbone)
    folder = save(source, tmp_path, theirs)
    layer = "backbone.head" if backbone == "hrnet" else "backbone.head.final"
    before = {n: t.clone() for n, t in model.state_dict().items()}
    said = warm_start_from_folder(model, folder, ours, "x")
    new = [name for name in ours.joints if name not in SHARED]
    assert said == f"the heatmaps of {', '.join(new)} (12 joints are {theirs.name}'s)"
    state = model.state_dict()
    for kind in ("weight", "bias"):
        name = f"{layer}.{kind}"
        for i, joint in enumerate(ours.joints):
            if joint in SHARED:
                wanted = source.state_dict()[name][theirs.joints.index(joint)]
            else:
                wanted = before[name][i]
            assert torch.equal(state[name][i], wanted), (name, joint)
    rest = {n for n in state if not n.startswith(f"{layer}.")}
    assert all(torch.equal(state[n], source.state_dict()[n]) for n in rest)


def test_as_many_joints_in_another_order_are_copied_by_name_too(tmp_path: Path, monkeypatch) -> None:
    turned = replace(COCO17, name="turned17", joints=COCO17.joints[::-1])
    monkeypatch.setitem(__import__("mipnet.skeletons").skeletons.SKELETONS, "turned17", turned)
    source, model = make(turned), make(COCO17)
    assert warm_start_from_folder(model, save(source, tmp_path, turned), COCO17, "x") == ""
    assert torch.equal(model.backbone.head.bias, source.backbone.head.bias.flip(0))


def test_pairs_by_name() -> None:
    assert matching_keypoints(CROWDPOSE14, COCO17) == [(i, i + 5) for i in range(12)]
    assert matching_keypoints(COCO17, CROWDPOSE14) == [(i + 5, i) for i in range(12)]


def test_a_folder_that_names_no_skeleton_gives_its_head_if_it_fits(tmp_path: Path) -> None:
    source = make(COCO17)
    folder = save_model(tmp_path, source)
    same, other = make(COCO17), make(CROWDPOSE14)
    assert warm_start_from_folder(same, folder, COCO17, "x") == ""
    assert warm_start_from_folder(other, folder, CROWDPOSE14, "x") == "the heatmap layer"


def test_another_backbone_is_named(tmp_path: Path) -> None:
    folder = save(make(COCO17), tmp_path, COCO17)
    wider = build_model("hrnet", 17, 2, (3,), **{**TINY["hrnet"], "width": 12, "blocks": 2})
    with pytest.raises(UserError, match="weights of another network: width 8, not 12; blocks 1, not 2"):
        warm_start_from_folder(wider, folder, COCO17, "the.pth")
    with pytest.raises(UserError, match="backbone hrnet, not simplebaseline"):
        warm_start_from_folder(make(COCO17, backbone="simplebaseline"), folder, COCO17, "the.pth")


def test_hundreds_of_names_become_one_line() -> None:
    model = make(COCO17, mimb_stages=(1, 2, 3))
    assert (
        describe_uninitialized(list(model.state_dict()))
        == "6 MIMBs at places 1 and 2 and 3, the heatmap layer"
    )
    assert describe_uninitialized([]) == ""
