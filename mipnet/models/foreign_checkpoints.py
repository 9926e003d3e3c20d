"""Say what a file of weights is, if it is none of ours: by its first bytes, its objects, or its names.

Only what the formats and the projects document is used: magic numbers, and names of modules.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

SUPPORTED = "HRNet, SimpleBaseline (ResNet), MIPNet, and HRNet and ResNet of ImageNet can be imported"

_FIRST_BYTES = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (rb"\s*<(!doctype|!DOCTYPE|html|HTML|\?xml)", "a web page"),
    (rb"\x89HDF", "an HDF5 file (Keras)"),
    (rb"....TFL3", "a TensorFlow Lite model"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x1f\x8b", "a gzip archive: unpack it first"),
    (rb"GGUF", "a GGUF file"),
    (rb"\x08[\x01-\x14][\x12\x1a\x22\x2a\x32\x3a\x42]", "an ONNX file"),  # ir_version, then another field
)
_ARCHIVES = (
    (r"(^|/)constants\.pkl$", "a TorchScript archive"),
    (r"(^|/)(archive_format|serialized_exported_program\.json)$", "a program of torch.export"),
    (r"\.npy$", "an archive of NumPy arrays"),
    (r"\.weights\.h5$", "a Keras model"),
)
_OBJECTS = (
    (r"ultralytics\.|models\.(yolo|common|experimental)\.", "a network of Ultralytics (YOLO)"),
    (r"numpy\.", "NumPy arrays"),
    (r"torch\.(nn|jit|fx)\.|torchvision\.models\.", "a whole network"),
)
_NETWORKS = (
    (r"(attn|self_attn|attention)\.(\w+\.)*qkv|patch_embed|cls_token", "ViTPose or another ViT"),
    (r"encoder\.layers?\.\d+\.attention\.", "ViTPose or another ViT"),
    (r"relative_position_bias_table", "a Swin transformer or HRFormer"),
    (r"(rpn|rpn_head|roi_heads?|bbox_head|query_embed)\b", "a detector"),
    (r"model\.\d+\.(conv|cv\d|m|dfl)\.", "a detector of Ultralytics (YOLO)"),
    (r"(gau|cls_x|cls_y|simcc\w*)\.", "RTMPose or another network with a SimCC head"),
    (
        r"final_layers\.\d|transition_heatmap\.|offset_feature_layers\.",
        "a bottom-up network (HigherHRNet, DEKR)",
    ),
    (r"stage0\.\d+\.|cross_resolution_weighting\.", "Lite-HRNet"),
    (r"hg\.\d+\.|hg_modules\.", "a stacked hourglass network"),
    (r"(stem\.[03]\.(conv|weight)|conv1\.0\.weight|layer4\.0\.se\.)", "a variant of ResNet or CSPNeXt"),
    (r"last_layer\.\d|aux_head\.|decode_head\.", "a network for segmentation"),
    (
        r"features\.\d+\.|depthwise_conv\.|dwconv\.|_blocks\.\d+\.",
        "a network such as VGG, MobileNet or ConvNeXt",
    ),
)


def file_kind(path: Path) -> str:
    """What a file is by its first bytes, or the members of a ZIP archive; "" if it may be PyTorch's.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):  # broken: loading it says how
            return ""
        kinds = (kind for pattern, kind in _ARCHIVES if any(re.search(pattern, name) for name in names))
        known = any(name.endswith("data.pkl") for name in names)
        return next(kinds, "" if known else "a ZIP archive")
    if path.suffix == ".onnx":
        return "an ONNX file"
    return next((kind for pattern, kind in _FIRST_BYTES if re.match(pattern, start, re.DOTALL)), "")


def object_kind(name: str) -> str:
    """What a pickled object is by the name of its class or function; "" if that says nothing."""
    return next((kind for pattern, kind in _OBJECTS if re.match(pattern, name)), "")


def network_kind(names: Iterable[str]) -> str:
    """Whose network it is by the names of its tensors; "" if they say nothing."""
    text = "\n".join(names)
    return next((kind for pattern, kind in _NETWORKS if re.search(rf"(?m)(^|\.)({pattern})", text)), "")
