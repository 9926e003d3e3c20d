"""Where the training stream is decoded."""

from __future__ import annotations

from mipnet.data.stream import DATA_NODE_LABEL, decoding_label_selector


def node(cpus: float, role: str = "", alive: bool = True, gpus: float = 0) -> dict:
    labels = {"ray.io/node-id": "0", **({"mipnet.io/role": role} if role else {})}
    return {"Alive": alive, "Labels": labels, "Resources": {"CPU": cpus, "GPU": gpus}}


def test_decoding_is_bound_to_data_nodes_if_there_are_any():
    head, train = {"Alive": True, "Labels": {}, "Resources": {}}, node(16, "train", gpus=8)
    assert decoding_label_selector([head, train, node(16, "data")]) == DATA_NODE_LABEL


def test_decoding_goes_anywhere_without_a_data_node_that_can_decode():
    train = node(16, "train", gpus=8)
    for others in ([], [node(96)], [node(16, "data", alive=False)], [node(0, "data")]):
        assert decoding_label_selector([train, *others]) is None
