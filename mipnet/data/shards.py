"""A data set in few large files: each image folder becomes Parquet shards, everything else stays as it is.

A packed data set is opened like the plain one, by the same layout and with the same annotation files, so the
order of training and all pixels are the same. A shard holds the images' files as they are, uncompressed:
every image is one piece of it, which ``index.parquet`` names, so that it is read by itself, locally and from
S3 or GCS, without Parquet in between. Any other program reads the shards as the tables that they are::

    name (string), image_id (int64), people (string: JSON list of COCO annotations), image (binary)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mipnet.data.parquet import from_parquet, to_parquet
from mipnet.errors import DataError
from mipnet.storage import Folder, piece_name

MANIFEST, INDEX, UNFINISHED = "pack.json", "index.parquet", "pack.unfinished"
VERSION = 1
THREADS = 4


@dataclass(frozen=True)
class PackedImage:
    """An image to be packed: its name in the image folder, its id, and its people as JSON."""

    name: str
    image_id: int
    people: str


@dataclass(frozen=True)
class Packing:
    """One image folder to pack.

    Attributes:
        source: the image folder as it is.
        target: the image folder of the packed data set.
        images: in the order in which they go into the shards.
        per_shard: images in one shard.
        settings: what the manifest says of where it comes from; annotation files with digests.
    """

    source: Folder
    target: Folder
    images: Sequence[PackedImage]
    per_shard: int
    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of all that decides what the shards hold, except the pixels."""
        rows = [[image.name, image.image_id, image.people] for image in self.images]
        return sha256(json.dumps([VERSION, self.per_shard, self.settings, rows]).encode())

    @property
    def num_shards(self) -> int:
        return -(-len(self.images) // self.per_shard)


def pack(packing: Packing, progress: Callable[[int, int], None] = lambda done, of: None) -> dict[str, Any]:
    """Write the shards that are not there yet, then the index, and last the manifest.

    Args:
        packing: what to do; after an interruption the same again goes on.
        progress: told how many shards of how many are there.

    Returns:
        the manifest.

    Raises:
        DataError: the target holds a pack of something else.
    """
    target, digest = packing.target, packing.digest
    if target.exists(MANIFEST):
        manifest = read_manifest(target)
        if manifest["digest"] != digest:
            raise DataError(
                f"{target.uri} holds another packed data set", "choose another folder, or remove that one"
            )
        return manifest
    done = []
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for record in threads.map(lambda n: _shard(packing, digest, n), range(packing.num_shards)):
                done.append(record)
                progress(len(done), packing.num_shards)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    _write_index(target, done)
    missing = [name for record in done for name in record["missing"]]
    manifest = {
        "version": VERSION,
        "digest": digest,
        "images": len(packing.images) - len(missing),
        "people": sum(len(json.loads(image.people)) for image in packing.images),
        "bytes": sum(record["bytes"] for record in done),
        "missing": missing,
        "settings": packing.settings,
        "shards": [{key: record[key] for key in ("name", "bytes", "sha256")} for record in done],
    }
    target.write(MANIFEST, json.dumps(manifest, indent=2) + "\n")  # last: it says that all is there
    target.remove(UNFINISHED)
    return manifest


def _shard(packing: Packing, digest: str, number: int) -> dict[str, Any]:
    """The record of a shard, which is written unless an earlier start has done it."""
    target, name = packing.target, f"shard-{number:05d}.parquet"
    record_name = f"{UNFINISHED}/{number:05d}.json"
    try:
        record = json.loads(target.read(record_name))
        if record["digest"] == digest:
            return record
    except FileNotFoundError:
        pass
    rows, contents, missing = [], [], []
    begin = number * packing.per_shard
    for image in packing.images[begin : begin + packing.per_shard]:
        try:
            contents.append(packing.source.read(image.name))
            rows.append(image)
        except OSError:
            missing.append(image.name)  # training counts and names it, as it does in the plain folder
    file = _table_file(rows, contents)
    images, at = [], 0
    for image, content in zip(rows, contents, strict=True):
        at = file.index(content, at)  # uncompressed and in order: each is one piece of the file
        images.append([image.name, at, len(content)])
        at += len(content)
    target.write(name, file)
    record = {
        "digest": digest,
        "name": name,
        "bytes": len(file),
        "sha256": sha256(file),
        "images": images,
        "missing": missing,
    }
    target.write(record_name, json.dumps(record))  # after the shard: it says that this one is whole
    return record


def _table_file(rows: Sequence[PackedImage], contents: Sequence[bytes]) -> bytes:
    import pyarrow as pa

    table = pa.table(
        {
            "name": pa.array([row.name for row in rows], pa.string()),
            "image_id": pa.array([row.image_id for row in rows], pa.int64()),
            "people": pa.array([row.people for row in rows], pa.string()),
            "image": pa.array(contents, pa.binary()),
        }
    )
    return to_parquet(table, compression="none", use_dictionary=False, write_statistics=False)


def _write_index(target: Folder, records: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa

    kinds = {"name": pa.string(), "shard": pa.string(), "offset": pa.int64(), "size": pa.int64()}
    rows = [
        {"name": name, "shard": record["name"], "offset": at, "size": size}
        for record in records
        for name, at, size in record["images"]
    ]
    target.write(INDEX, to_parquet(pa.Table.from_pylist(rows, pa.schema(kinds))))


def read_manifest(folder: Folder) -> dict[str, Any]:
    """The manifest of a packed image folder.

    Raises:
        DataError: it is broken, or of a version that this program does not know.
    """
    try:
        manifest = json.loads(folder.read(MANIFEST))
        if manifest["version"] == VERSION and manifest["digest"]:
            return manifest
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{folder.path(MANIFEST)} is not usable", "pack the data set again")


def pieces(folder: Folder) -> dict[str, str]:
    """Image name -> name of its piece of a shard; empty if the folder is not packed.

    Raises:
        DataError: it was not packed to the end, or its index is broken.
    """
    if not folder.exists(MANIFEST):
        if folder.exists(UNFINISHED):
            raise DataError(f"{folder.uri} is not packed to its end", "run the same 'mipnet data pack' again")
        return {}
    read_manifest(folder)
    index = from_parquet(folder.read(INDEX)).to_pydict()
    columns = (index[name] for name in ("name", "shard", "offset", "size"))
    return {name: piece_name(shard, at, size) for name, shard, at, size in zip(*columns, strict=True)}


def verify(folder: Folder, source: Folder | None = None) -> list[str]:
    """What is wrong with a packed image folder, one line each.

    Every shard must have the digest that the manifest tells; every image must be the same by index and by
    table, and the same as in ``source``, if that is given.
    """
    manifest, problems, found = read_manifest(folder), [], pieces(folder)
    seen = 0
    for shard in manifest["shards"]:
        try:
            file = folder.read(shard["name"])
        except OSError:
            problems.append(f"{shard['name']} is missing")
            continue
        if sha256(file) != shard["sha256"]:
            problems.append(f"{shard['name']} has changed since it was written")
            continue
        table = from_parquet(file, ["name", "image"]).to_pydict()
        for name, content in zip(table["name"], table["image"], strict=True):
            seen += 1
            if name not in found or folder.read(found[name]) != content:
                problems.append(f"{name} is not where the index says")
            elif source is not None and source.read(name) != content:
                problems.append(f"{name} differs from {source.uri}")
    if not problems and seen != manifest["images"]:
        problems.append(f"{seen} images instead of {manifest['images']}")
    return problems


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
