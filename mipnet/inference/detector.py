"""Find the people in pictures with an exported detector, by ONNX Runtime. No Ray and no MLflow in here."""

from __future__ import annotations

import ast
import hashlib
import logging
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from mipnet.data.box_ops import box_nms
from mipnet.errors import UserError, first_few, first_line
from mipnet.inference.detector_layouts import PADDING, Layout, Letterbox, Size, recognise
from mipnet.storage import Folder, split_uri

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

MIN_BOX_SCORE = 0.2
"""Boxes with a lower score are not kept. ``data.box_score_threshold`` can only leave out more."""
MAX_IOU = 0.65
"""Of the NMS of detectors that have none; higher than usual, because people in crowds overlap."""
MAX_PEOPLE = 300
"""Of a picture: those with the highest scores."""
DEFAULT_SIDE, MAX_SIDE = 640, 2048  # px of the detector's input, where it takes any size; at most
MAX_BYTES = 2**31  # of the file
WEIGHTS_ENDINGS = (".data", "_data")
"""Of the files with weights beside a graph, after its name; the second is that of Hugging Face's exports."""
PERSON = {1: 0, 80: 0, 91: 1}
"""Number of classes -> index of persons, where a file does not name them: COCO's 80, or its 91 ids."""
HINT = (
    "export RF-DETR, RTMDet (mmdeploy), YOLOX or Ultralytics' YOLO as .github/CONTRIBUTING.md shows; "
    "or give boxes with --boxes"
)


@dataclass(frozen=True)
class DetectorFile:
    """An ONNX file with the weights that lie beside it.

    Attributes:
        name: path or URI, for messages.
        contents: of its files, by their names. The first is the graph.
    """

    name: str
    contents: dict[str, bytes]

    @classmethod
    def read(cls, path: str | PathLike[str]) -> DetectorFile:
        """Read MODEL.onnx, and the weights outside of it in files such as MODEL.onnx.data, if there are any.

        Raises:
            UserError: there is no such file, or it is too large.
        """
        folder, name = split_uri(Folder.of(path).uri)
        there = folder.stats([name, *(f"{name}{ending}" for ending in WEIGHTS_ENDINGS)])
        if not name.lower().endswith(".onnx") or name not in there:
            wrong = "does not exist" if name.lower().endswith(".onnx") else "is no ONNX file"
            raise UserError(f"the detector {path} {wrong}", "give a file that ends in .onnx")
        names = [name, *sorted(there.keys() - {name})]
        if sum(stat.size for stat in there.values()) > MAX_BYTES:
            raise UserError(f"the detector {path} is larger than {MAX_BYTES // 2**30} GiB", HINT)
        return cls(str(path), {each: folder.read(each) for each in names})

    @property
    def digest(self) -> str:
        """SHA-256 of what decides which boxes are found."""
        rules = f"1 {MIN_BOX_SCORE} {MAX_IOU} {MAX_PEOPLE}"
        digest = hashlib.sha256(rules.encode())
        for content in self.contents.values():
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Found:
    """The n people found in one picture, by falling score.

    Attributes:
        boxes: (n, 4) float64 x, y, w, h in px.
        scores: (n,) float64, 0 to 1.
    """

    boxes: np.ndarray
    scores: np.ndarray

    @classmethod
    def nobody(cls) -> Found:
        return cls(np.zeros((0, 4)), np.zeros(0))

    def kept(self, min_score: float, max_iou: float) -> np.ndarray:
        """(k,) indices of the boxes without those below a score, and those that overlap a better one by more
        than an IoU."""
        keep = np.flatnonzero(self.scores >= min_score)
        kept: np.ndarray = keep[box_nms(np.zeros(len(keep)), self.boxes[keep], self.scores[keep], max_iou)]
        return kept

    def where(self, index: np.ndarray | slice) -> Found:
        """Only some of the people."""
        return Found(self.boxes[index], self.scores[index])


class Detector:
    """Callable: a picture to the boxes of the people in it.

    Args:
        file: the ONNX file.
        gpu: run on a GPU, if this ONNX Runtime can.
        threads: CPU threads; 0 is all cores.

    Attributes:
        layout: the kind of detector, recognised by its answer to an even grey picture.
        frame: how a picture is fitted into its input.
        batch_size: pictures that it takes at once; None is any number.

    Raises:
        UserError: ONNX Runtime is not installed, or the file is no detector of a layout that is known.
    """

    def __init__(self, file: DetectorFile, gpu: bool = False, threads: int = 0) -> None:
        self._file = file.name
        self._session = _session(file, gpu, threads)
        self._input, size, self.batch_size = self._checked_input()
        grey = np.full((1, 3, size[1], size[0]), PADDING / 255, self._dtype)
        outputs = self._run(np.repeat(grey, self.batch_size or 1, axis=0))
        classes = _class_names(self._session.get_modelmeta().custom_metadata_map)
        found = recognise({k: v[:1] for k, v in outputs.items()}, size, self._extra_values(outputs, classes))
        if found is None:
            shapes = [f"{name} {v.dtype} {'x'.join(map(str, v.shape))}" for name, v in outputs.items()]
            raise UserError(f"{self._file} is no detector that is known: it gives {first_few(shapes)}", HINT)
        self.layout: Layout = found
        self.frame: Letterbox = found.frame(size)
        self._person = self._person_index(classes)

    def __call__(self, pixels: np.ndarray) -> Found:
        """The people in a picture (H, W, 3) uint8 RGB."""
        return self.find(self.frame.fit(pixels)[None], [(pixels.shape[1], pixels.shape[0])])[0]

    def find(self, inputs: np.ndarray, sizes: list[Size]) -> list[Found]:
        """The people in B pictures.

        Args:
            inputs: (B, h, w, 3) uint8 RGB, the pictures fitted into ``frame``.
            sizes: width and height of each picture in px.
        """
        found: list[Found] = []
        step = self.batch_size or len(inputs)
        for begin in range(0, len(inputs), step):
            chunk = inputs[begin : begin + step]
            if self.batch_size:  # a graph of a fixed batch is fed whole ones
                chunk = np.concatenate([chunk, np.repeat(chunk[:1], step - len(chunk), axis=0)])
            outputs = self._run(self.layout.normalize(chunk).astype(self._dtype))
            corners, scores = self.layout.decode(outputs, self.frame.size, self._person)
            for row, size in enumerate(sizes[begin : begin + step]):
                found.append(self._people(corners[row], scores[row], size))
        return found

    def _people(self, corners: np.ndarray, scores: np.ndarray, size: Size) -> Found:
        usable = np.isfinite(corners).all(axis=1) & (scores >= MIN_BOX_SCORE)  # nan is not above
        boxes, scores = self.frame.boxes_in_picture(corners[usable], size), scores[usable].astype(np.float64)
        inside = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1))
        order = inside[np.argsort(-scores[inside], kind="stable")]
        found = Found(boxes[order], scores[order].clip(max=1))
        found = found.where(found.kept(0, MAX_IOU)) if self.layout.nms else found
        return found.where(slice(MAX_PEOPLE))

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, {self._input: images}), strict=True))
        except Exception as error:  # ONNX Runtime's errors have no class in common
            raise UserError(f"the detector {self._file} fails: {_reason(error)}", HINT) from None

    def _checked_input(self) -> tuple[str, Size, int | None]:
        """Name, size and batch size of the graph's only input.

        Raises:
            UserError: it has several, or one that is no picture, or a very large one.
        """
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        if len(shape) != 4 or shape[1] != 3 or inputs[0].type not in dtypes:
            listed = first_few([f"{each.name} {each.type} {each.shape}" for each in inputs])
            raise UserError(
                f"{self._file} is no detector that is known: its input is not one picture of 3 channels "
                f"({listed})",
                HINT,
            )
        self._dtype = dtypes[inputs[0].type]
        batch, _, height, width = (side if isinstance(side, int) and side > 0 else None for side in shape)
        size = width or DEFAULT_SIDE, height or DEFAULT_SIDE
        if max(size) > MAX_SIDE or (batch or 1) > 256:
            raise UserError(f"the detector {self._file} takes pictures of {size[0]}x{size[1]} px", HINT)
        return inputs[0].name, size, batch

    def _extra_values(self, outputs: dict[str, np.ndarray], classes: list[str]) -> int:
        """Values of each box beside box and classes, as pose and segmentation models of Ultralytics have."""
        task = self._session.get_modelmeta().custom_metadata_map.get("task", "detect")
        first = next(iter(outputs.values()))
        if task not in ("pose", "segment") or first.ndim != 3:
            return 0
        rows, columns = int(first.shape[1]), int(first.shape[2])
        end_to_end = columns < rows <= 1000
        return max(0, columns - 6 if end_to_end else rows - 4 - len(classes))

    def _person_index(self, classes: list[str]) -> int:
        """Which class is a person: by the file's own names, else as in COCO.

        Raises:
            UserError: none is, or the file does not say.
        """
        if classes:
            lower = [name.lower() for name in classes]
            if "person" in lower:
                return lower.index("person")
            raise UserError(f"the detector {self._file} finds no persons, but {first_few(classes)}", HINT)
        number = self.layout.classes
        if number and number not in PERSON:
            raise UserError(
                f"the detector {self._file} does not say which of its {number} classes are persons",
                "write {0: 'person', …} under 'names' into its metadata, as .github/CONTRIBUTING.md shows",
            )
        return PERSON[number] if number else 0


def _session(file: DetectorFile, gpu: bool, threads: int) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "a detector needs ONNX Runtime, which is not installed",
            "install this project's extra 'detector', or onnxruntime-gpu for a GPU",
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # its errors come as exceptions
    # Threads that spin while they wait would take the cores of the pose network beside.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if gpu and not cuda_is_available():
        logger.warning("ONNX Runtime has no GPU here (onnxruntime-gpu does): the detector runs on the CPU")
    cuda = ["CUDAExecutionProvider"] if gpu and cuda_is_available() else []
    with TemporaryDirectory() as scratch:  # weights outside of the graph can only be files that were read
        for name, content in file.contents.items():
            (Path(scratch) / name).write_bytes(content)
        graph = str(Path(scratch) / next(iter(file.contents)))
        try:
            return onnxruntime.InferenceSession(graph, options, providers=[*cuda, "CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no class in common
            if "xternal data" in str(error):
                what = f"weights of the detector {file.name} lie in files other than {file.name}.data"
                raise UserError(what, "save it as one file") from None
            what = f"{file.name} is no ONNX model that can be run: {_reason(error, scratch)}"
            raise UserError(what, HINT) from None


def cuda_is_available() -> bool:
    """Whether this machine's ONNX Runtime can compute on a GPU."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _reason(error: Exception, scratch: str = "") -> str:
    """What ONNX Runtime says, without its prefix and the folder of its copy."""
    text = str(error).replace(f"{scratch}/", "") if scratch else str(error)
    return first_line(ValueError(text.rpartition(" : ")[2]))


def _class_names(metadata: dict[str, str]) -> list[str]:
    """The names that Ultralytics writes into a file: {0: 'person', 1: 'bicycle', …}."""
    text: Any = metadata.get("names", "")
    if not text or len(text) > 100_000:
        return []
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or names.keys() != set(range(len(names))):
        return []
    return [str(names[number]) for number in range(len(names))]
