"""Custom skeletons from YAML files: joint names, left/right pairs, sigmas, limbs, half-body set.

A configuration holds the whole definition, not the file's path, because other nodes and users of the model do
not have the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mipnet.errors import ConfigError, reason_of, suggest
from mipnet.skeletons import SKELETONS, Skeleton

SKELETON_SUFFIXES = (".yaml", ".yml", ".json")
MERGE_TAG = "tag:yaml.org,2002:merge"
SETTING = "data.skeleton"
SKELETON_KEYS = tuple(field.name for field in fields(Skeleton))


def skeleton_setting(value: Any) -> Any:
    """``data.skeleton`` in a configuration: the name of a built-in skeleton, or a definition with indices.

    Args:
        value: a name, the path of a YAML or JSON file, or a definition, which may name joints or use indices.

    Raises:
        ConfigError: a file that cannot be read, or a definition that is no skeleton.
    """
    if isinstance(value, Skeleton):
        value = asdict(value)
    if isinstance(value, str) and value.lower().endswith(SKELETON_SUFFIXES):
        return parse_skeleton(yaml_of(value, what="the skeleton "), value)
    if isinstance(value, str):
        if value not in SKELETONS:
            hint = suggest(value, SKELETONS)
            raise ConfigError(f"{SETTING}: {value!r} is unknown", f"{hint} Or give a YAML file")
        return value
    return parse_skeleton(value, SETTING)


def skeleton_of(value: Any) -> Skeleton:
    """The ``Skeleton`` of a setting, a name or a file; errors as ``skeleton_setting``."""
    found = skeleton_setting(value)
    return SKELETONS[found] if isinstance(found, str) else Skeleton(**found)


def yaml_of(path: str | Path, where: str = "", what: str = "") -> Any:
    """The content of a YAML file; ``2:8`` is text there, as in YAML 1.2, and not 128 to the base 60.

    Args:
        path: of the file.
        where, what: for messages: the flag that named the file, and what the file is.

    Raises:
        ConfigError: it cannot be read, is not YAML, or has a key twice, of which YAML takes the last.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_yaml_int(self, node: Any) -> Any:
            return node.value if ":" in node.value else super().construct_yaml_int(node)

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)  # before merges: these may be overridden
            lines: dict[tuple[str, str], int] = {}
            for key, _ in node.value:
                name, line = (key.tag, str(key.value)), key.start_mark.line + 1
                if name in lines and key.tag != MERGE_TAG:
                    twice = f"{key.value!r:.50} is there twice, in lines {lines[name]} and {line}"
                    raise ConfigError(f"{where}{path}: {twice}", "remove one of them")
                lines[name] = line
            return node

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    try:
        # Bytes: YAML detects the encoding. The loader is a safe one.
        return yaml.load(Path(path).expanduser().read_bytes(), Loader)
    except OSError as error:
        reason = reason_of(error)
        raise ConfigError(f"{where}cannot read {what}{path} ({reason})", "check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also of 2024-02-31, and of deep nesting
        problem = " ".join(str(error).split())
        raise ConfigError(f"{where}{path} is not YAML ({problem})", "mend it there") from None


def parse_skeleton(content: Any, where: str) -> dict[str, Any]:
    """A checked definition, its pairs and sets as indices.

    Args:
        content: of a file.
        where: the file or setting that it is from, for messages.

    Raises:
        ConfigError: something is missing, unknown, of the wrong kind, or does not fit the joints.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} does not define a skeleton", f"give {', '.join(SKELETON_KEYS)}")
    for key in content:
        if key not in SKELETON_KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}", suggest(str(key), SKELETON_KEYS))
    for key in ("joints", "sigmas", "flip_pairs"):
        if not isinstance(content.get(key), list | tuple) or (not content[key] and key != "flip_pairs"):
            raise ConfigError(f"{where}: there is no list {key!r}", _MISSING_HINTS[key])
    joints = tuple(map(str, content["joints"]))
    # A configuration that was written by mipnet has names as text, and indices.
    own = where == SETTING and all(isinstance(joint, str) for joint in content["joints"])

    def index(joint: Any) -> int:
        if isinstance(joint, int) and not isinstance(joint, bool):
            if not own and str(joint) in joints and joints.index(str(joint)) != joint:
                what = f"{joint} may be the joint of that name or the one of that index, counted from 0"
                raise ConfigError(f"{where}: {what}", f"write the name in quotes: '{joint}'")
            return joint
        if str(joint) not in joints:
            raise ConfigError(f"{where}: no joint is called {joint!r:.50}", suggest(str(joint), joints))
        return joints.index(str(joint))

    def pairs(key: str) -> tuple[tuple[int, int], ...]:
        given = content.get(key) or ()
        for pair in given:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise ConfigError(f"{where}: {key} has {pair!r:.50}", "give pairs of joints")
        return tuple((index(a), index(b)) for a, b in given)

    try:
        sigmas = tuple(float(sigma) for sigma in content["sigmas"])
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: sigmas must be numbers", _MISSING_HINTS["sigmas"]) from None
    name = str(content.get("name") or Path(where).stem)
    if name in SKELETONS:
        raise ConfigError(f"{where}: {name!r} is the name of a built-in skeleton", "give it another name")
    upper = tuple(sorted({index(joint) for joint in content.get("upper_body") or ()}))
    flip_pairs, limbs = pairs("flip_pairs"), pairs("limbs")
    try:
        return asdict(Skeleton(name, joints, sigmas, flip_pairs, limbs, upper))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.what}", error.hint) from None


_MISSING_HINTS = {
    "joints": "name each joint, in the order of the annotations",
    "sigmas": "give one OKS constant for each joint; 0.05 will do until you have measured yours",
    "flip_pairs": "pair what changes places in a mirror, e.g. [[left_eye, right_eye]]; [] if nothing does",
}
