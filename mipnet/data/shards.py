"""Packs each image folder of a data set into a few large Parquet shards; all other files are copied.

A packed data set is opened like the original, in the same format and with the same annotation files, so the
order of training and all pixels are the same. A shard stores the image files uncompressed. Each is one byte
range of the shard, listed in ``index.parquet``, and is read as such, locally or from S3 or GCS, without
parsing Parquet. Other programs can read the shards as tables with the columns::

    name (string), image_id (int64), people (string: JSON list of COCO annotations), image (binary)
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mipnet.data.parquet import from_parquet, to_parquet
from mipnet.errors import DataError, first_line
from mipnet.storage import Folder, byte_range_name

logger = logging.getLogger(__name__)

MANIFEST, INDEX, UNFINISHED = "pack.json", "index.parquet", "pack.unfinished"  # names of files and a folder
FORMAT_VERSION = 1
PACKING_THREADS = 4


@dataclass(frozen=True)
class PackedImage:
    """An image to pack: its name in the image folder, its id, and its COCO annotations as a JSON list."""

    name: str
    image_id: int
    people: str


@dataclass(frozen=True)
class PackingJob:
    """One image folder to pack.

    Attributes:
        source: the original image folder.
        target: the image folder of the packed data set.
        images: in the order of the shards.
        per_shard: images in one shard.
        settings: the origin, for the manifest: data settings, and annotation files with their digests.
    """

    source: Folder
    target: Folder
    images: Sequence[PackedImage]
    per_shard: int
    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines the shards, except the pixels."""
        rows = [[image.name, image.image_id, image.people] for image in self.images]
        return sha256(json.dumps([FORMAT_VERSION, self.per_shard, self.settings, rows]).encode())

    @property
    def num_shards(self) -> int:
        return -(-len(self.images) // self.per_shard)


def pack(packing: PackingJob, progress: Callable[[int, int], None] = lambda done, of: None) -> dict[str, Any]:
    """Write the shards that do not exist yet, then the index, then the manifest.

    Args:
        packing: the job; the same job resumes after an interruption.
        progress: called with (shards done, shards in total).

    Returns:
        the manifest.

    Raises:
        DataError: the target holds another packed data set.
    """
    target, digest = packing.target, packing.digest
    if target.exists(MANIFEST):
        manifest = read_manifest(target)
        if manifest["digest"] != digest:
            hint = "choose another folder, or remove that one"
            raise DataError(f"{target.uri} holds another packed data set", hint)
        return manifest
    records = []
    with ThreadPoolExecutor(PACKING_THREADS) as threads:
        try:
            for record in threads.map(lambda n: _pack_shard(packing, digest, n), range(packing.num_shards)):
                records.append(record)
                progress(len(records), packing.num_shards)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    _write_index(target, records)
    missing = [name for record in records for name in record["missing"]]
    manifest = {
        "version": FORMAT_VERSION,
        "digest": digest,
        "images": len(packing.images) - len(missing),
        "people": sum(len(json.loads(image.people)) for image in packing.images),
        "bytes": sum(record["bytes"] for record in records),
        "missing": missing,
        "settings": packing.settings,
        "shards": [{key: record[key] for key in ("name", "bytes", "sha256")} for record in records],
    }
    target.write(MANIFEST, json.dumps(manifest, indent=2) + "\n")  # last: marks the pack as complete
    target.remove(UNFINISHED)
    return manifest


def _pack_shard(packing: PackingJob, digest: str, number: int) -> dict[str, Any]:
    """Write a shard unless an earlier run has done so; returns its record."""
    target, name = packing.target, f"shard-{number:05d}.parquet"
    record_name = f"{UNFINISHED}/{number:05d}.json"
    try:
        record: dict[str, Any] = json.loads(target.read(record_name))
        if record["digest"] == digest:
            return record
        logger.info("%s is of another data set: packed again", target.path(name))
    except FileNotFoundError:
        pass  # not packed yet
    rows, contents, missing = [], [], []
    begin = number * packing.per_shard
    for image in packing.images[begin : begin + packing.per_shard]:
        try:
            contents.append(packing.source.read(image.name))
            rows.append(image)
        except OSError:
            logger.info("left out of the shards: %s", packing.source.path(image.name), exc_info=True)
            missing.append(image.name)  # training reports it as corrupt, as with the original folder
    file = _table_file(rows, contents)
    images, offset = [], 0
    for image, content in zip(rows, contents, strict=True):
        offset = file.index(content, offset)  # uncompressed and in order: one byte range each
        images.append([image.name, offset, len(content)])
        offset += len(content)
    target.write(name, file)
    record = {
        "digest": digest,
        "name": name,
        "bytes": len(file),
        "sha256": sha256(file),
        "images": images,
        "missing": missing,
    }
    target.write(record_name, json.dumps(record))  # after the shard: marks it as complete
    return record


def _table_file(rows: Sequence[PackedImage], contents: Sequence[bytes]) -> bytes:
    import pyarrow as pa

    types = {"name": pa.string(), "image_id": pa.int64(), "people": pa.string(), "image": pa.binary()}
    lines = [vars(row) | {"image": content} for row, content in zip(rows, contents, strict=True)]
    table = pa.Table.from_pylist(lines, pa.schema(types))
    return to_parquet(table, compression="none", use_dictionary=False, write_statistics=False)


def _write_index(target: Folder, records: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa

    column_types = {"name": pa.string(), "shard": pa.string(), "offset": pa.int64(), "size": pa.int64()}
    rows = [
        {"name": name, "shard": record["name"], "offset": offset, "size": size}
        for record in records
        for name, offset, size in record["images"]
    ]
    target.write(INDEX, to_parquet(pa.Table.from_pylist(rows, pa.schema(column_types))))


def read_manifest(folder: Folder) -> dict[str, Any]:
    """The manifest of a packed image folder.

    Raises:
        DataError: it is broken, or of an unknown version.
    """
    try:
        manifest: dict[str, Any] = json.loads(folder.read(MANIFEST))
        if manifest["version"] == FORMAT_VERSION and manifest["digest"]:
            return manifest
    except (ValueError, KeyError, TypeError):
        logger.info("broken manifest %s", folder.path(MANIFEST), exc_info=True)
    raise DataError(f"{folder.path(MANIFEST)} is not usable", "pack the data set again")


def byte_ranges(folder: Folder) -> dict[str, str]:
    """Image name -> name of its byte range in a shard; empty if the folder is not packed.

    Raises:
        DataError: packing was interrupted, or manifest or index are missing or broken.
    """
    if not folder.exists(MANIFEST):
        if folder.exists(UNFINISHED):
            raise DataError(f"{folder.uri} is not packed to its end", "run the same 'mipnet data pack' again")
        return {}
    read_manifest(folder)
    where, hint = folder.path(INDEX), "copy the packed folder again, or remove it and pack again"
    try:
        content = folder.read(INDEX)
    except FileNotFoundError:
        raise DataError(f"{where} is missing", hint) from None
    try:
        index = from_parquet(content).to_pydict()
        columns = [index[name] for name in ("name", "shard", "offset", "size")]
    except (OSError, ValueError, KeyError) as error:  # all of them of the content
        raise DataError(f"{where} is damaged ({first_line(error)})", hint) from None
    return {
        name: byte_range_name(shard, offset, size) for name, shard, offset, size in zip(*columns, strict=True)
    }


def verify(folder: Folder, source: Folder | None = None) -> list[str]:
    """Check a packed image folder; returns one line per fault.

    Every shard must have the manifest's digest; every image must be the same by index, by table, and in
    ``source`` if given.
    """
    manifest, faults, ranges = read_manifest(folder), [], byte_ranges(folder)
    seen = 0
    for shard in manifest["shards"]:
        try:
            file = folder.read(shard["name"])
        except OSError:
            faults.append(f"{shard['name']} is missing")
            continue
        if sha256(file) != shard["sha256"]:
            faults.append(f"{shard['name']} has changed since it was written")
            continue
        table = from_parquet(file, ["name", "image"]).to_pydict()
        for name, content in zip(table["name"], table["image"], strict=True):
            seen += 1
            if name not in ranges or folder.read(ranges[name]) != content:
                faults.append(f"{name} is not where the index says")
            elif source is not None and source.read(name) != content:
                faults.append(f"{name} differs from {source.uri}")
    if not faults and seen != manifest["images"]:
        faults.append(f"{seen} images instead of {manifest['images']}")
    return faults


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
