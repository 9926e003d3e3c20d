"""Which data a run or a search began with: the fingerprints of the data set's files, in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mipnet.config.schema import DataConfig
from mipnet.data.dataset_formats import box_sources_by_split, boxes_location, split_location
from mipnet.data.fingerprints import changed_files, file_of, from_table, take_fingerprints, to_table
from mipnet.data.shards import MANIFEST
from mipnet.errors import UserError, first_few, first_line
from mipnet.run_folder import DATA_RECORD
from mipnet.storage import Folder, relative_name

if TYPE_CHECKING:
    from mipnet.data.coco import CocoKeypointFile


def note_data(
    folder: Folder, config: DataConfig, data: Folder, files: Mapping[str, CocoKeypointFile] | None = None
) -> None:
    """Keep the fingerprints of a data set's files, unless an earlier start has kept them.

    Args:
        folder: of the run or search.
        config: which splits and boxes it uses.
        data: the data set's folder.
        files: split -> its annotations, which name the pictures. Those of the generated benchmark are not
            looked at: its settings and the renderer's version are in the folder's name.
    """
    if folder.exists(DATA_RECORD):
        return
    sources = box_sources_by_split(config, training=True)
    labels = [data.path(split_location(config, data, split)[0]) for split in sources]
    for split, named in sources.items():
        places = [boxes_location(data, split, source) for source in named if source != "gt"]
        labels += [place.path(name) for place, name in places]
    opened = [] if config.generated else [*(files or {}).values()]
    labels += [file.images_folder.path(MANIFEST) for file in opened if file.images_folder.exists(MANIFEST)]
    pictures = {file_of(uri) for file in opened for uri in file.images().uris.tolist()}
    names = {uri: _name(data, uri) for uri in (*labels, *sorted(pictures))}
    prints = take_fingerprints({name: uri for uri, name in names.items()}, {names[uri] for uri in labels})
    folder.write(DATA_RECORD, to_table(prints))


def check_same_data(label: str, folder: Folder, data: Folder) -> None:
    """Check that a data set is the one that a run or search began with.

    Runs of versions that kept no fingerprints pass, and so does a data set that is gone: whoever needs it
    will say so.

    Args:
        label: kind and name of the run or search, for the message.
        folder: of the run or search.
        data: the data set's folder now.

    Raises:
        UserError: files have changed, come or gone.
    """
    if not folder.exists(DATA_RECORD) or not data.exists():
        return
    try:
        before = from_table(folder.read(DATA_RECORD))
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are these
        what = f"{folder.path(DATA_RECORD)} cannot be read ({first_line(error)})"
        raise UserError(what, "remove it to go on with the data as they are now") from None
    changed = changed_files(before, {name: _uri(data, name) for name in before})
    if changed:
        what = f"{label} began with other data: {len(changed)} of {len(before)} files have changed since"
        hint = "start another with --new, or bring the data back"
        raise UserError(f"{what} ({first_few(changed)})", hint, exit_code=1)


def _name(data: Folder, uri: str) -> str:
    name = relative_name(data, uri)
    return uri if _is_absolute(name) else name


def _uri(data: Folder, name: str) -> str:
    return name if _is_absolute(name) else data.path(name)


def _is_absolute(name: str) -> bool:
    return name.startswith("/") or "://" in name
