"""Object stores: pyarrow's file system of a bucket, and S3's objects read with one request each.

pyarrow asks S3 for the size of an object before it reads it, and Python has no way to tell it: two round
trips of 20 to 40 ms for a picture that is decoded in 4. So objects of S3 are read by plain requests, which
botocore signs.
"""

from __future__ import annotations

import functools
import logging
import posixpath
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

from mipnet.errors import UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

logger = logging.getLogger(__name__)

CONNECTIONS = 32
"""Connections to a bucket that are kept open."""
PUTS_AT_ONCE, PIECE_BYTES = 4, 16 * 1024 * 1024
RETRIES = 8
"""Of a request that was lost, or that S3 asked to come later; the waits double from 0.2 to 13 s."""
RETRY_STATUSES = (429, 500, 502, 503, 504)
_OPENING = threading.Lock()  # lru_cache would let each of several threads open the bucket


@functools.lru_cache(maxsize=16)
def remote_filesystem(uri: str) -> tuple[FileSystem, str]:
    """The file system of a bucket, cached: connecting for every file would cost more than reading it.

    Args:
        uri: of the bucket, with the parameters of ``pyarrow.fs.FileSystem.from_uri``.

    Raises:
        UserError: it cannot be used.
    """
    from pyarrow.fs import FileSystem

    try:
        filesystem: tuple[FileSystem, str] = FileSystem.from_uri(with_single_put(uri))
        return filesystem
    except Exception as error:
        logger.info("cannot connect to %s", uri.partition("?")[0], exc_info=True)
        if "Unrecognized" in str(error):
            raise UserError(
                f"{uri}: no such kind of storage ({error})", "use a path, file://, s3:// or gs://"
            ) from None
        raise UserError(f"{uri} cannot be used ({error})", "check its name and your access to it") from None


def with_single_put(uri: str) -> str:
    """A URI with pyarrow's parameter by which a small object of S3 is put by one request instead of three."""
    single_put = f"{'&' if '?' in uri else '?'}allow_delayed_open=true"
    return uri + single_put if uri.startswith("s3://") else uri


def read_object(bucket_uri: str, path: str, offset: int = 0, size: int | None = None) -> bytes:
    """Bytes of an object; fewer than ``size`` if it ends before.

    Args:
        bucket_uri: as for ``remote_filesystem``.
        path: of the object on that file system.
        offset: of the first byte.
        size: number of bytes; None is all to the end.

    Raises:
        FileNotFoundError: no such object.
        OSError: it cannot be read.
    """
    if size == 0:
        return b""
    if bucket_uri.startswith("s3://"):
        with _OPENING:
            bucket = _s3_bucket(bucket_uri)
        return bucket.read(path.partition("/")[2], offset, size)
    fs, _ = remote_filesystem(bucket_uri)
    if not offset:
        with fs.open_input_stream(path, compression=None) as stream:
            content: bytes = stream.read(size)
        return content
    with fs.open_input_file(path) as file:
        file.seek(offset)
        content = file.read(size)
    return content


def make_parents(fs: FileSystem, target: str) -> None:
    """Make the folders above a file, unless each would be an object of its own, and a request."""
    if fs.type_name not in ("s3", "gcs"):
        fs.create_dir(posixpath.dirname(target), recursive=True)


def put_files(fs: FileSystem, files: Mapping[str, Path]) -> None:
    """Put local files into a store, several at once, each in pieces.

    Args:
        fs: of the store.
        files: path on that file system -> local file.

    Raises:
        OSError: a file cannot be read or put.
    """

    def put(target: str) -> None:
        make_parents(fs, target)
        with files[target].open("rb") as source, fs.open_output_stream(target) as stream:
            while piece := source.read(PIECE_BYTES):
                stream.write(piece)

    with ThreadPoolExecutor(PUTS_AT_ONCE) as pool:
        for done in [pool.submit(put, target) for target in files]:
            done.result()


def s3_endpoint(uri: str) -> str | None:
    """The URL of the S3-compatible store that a URI names by ``endpoint_override``; None if it names none."""
    options = uri_options(uri) if uri.startswith("s3://") else {}
    host = options.get("endpoint_override")
    return f"{options.get('scheme', 'https')}://{host}" if host else None


def uri_options(uri: str) -> dict[str, str]:
    """The parameters of a URI, of those that are there again the last."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(uri).query).items()}


@functools.lru_cache(maxsize=16)
def _s3_bucket(uri: str) -> _S3Bucket:
    return _S3Bucket(uri)


class _S3Bucket:
    """Reads objects of a bucket.

    Args:
        uri: as for ``remote_filesystem``; what it does not say, boto3 finds where AWS's tools do.
    """

    def __init__(self, uri: str) -> None:
        import boto3
        import urllib3
        from botocore import UNSIGNED
        from botocore.config import Config

        fs, self.name = remote_filesystem(uri)
        self.region = fs.region
        address, options, endpoint = urlsplit(uri), uri_options(uri), s3_endpoint(uri)
        user, password = (unquote(text) if text else None for text in (address.username, address.password))
        session = boto3.session.Session(aws_access_key_id=user, aws_secret_access_key=password)
        self.credentials = session.get_credentials()
        signature = "s3v4" if self.credentials else UNSIGNED  # of a public bucket
        client = session.client(
            "s3",
            region_name=self.region,
            endpoint_url=endpoint,
            config=Config(signature_version=signature, s3={"addressing_style": "path"} if endpoint else {}),
        )
        example = client.generate_presigned_url("get_object", {"Bucket": self.name, "Key": "k"})
        found = urlsplit(example)
        self.origin, self.root = f"{found.scheme}://{found.netloc}", found.path.removesuffix("k")
        self.pool = urllib3.connection_from_url(
            self.origin,
            maxsize=CONNECTIONS,
            **({"ca_certs": options["tls_ca_file_path"]} if "tls_ca_file_path" in options else {}),
            timeout=urllib3.Timeout(connect=10, read=60),
            retries=urllib3.Retry(
                RETRIES, backoff_factor=0.1, backoff_jitter=0.1, status_forcelist=RETRY_STATUSES
            ),
        )

    def read(self, key: str, offset: int, size: int | None) -> bytes:
        """As ``read_object``."""
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from urllib3.exceptions import HTTPError

        what = f"s3://{self.name}/{key}"
        path = self.root + quote(key, safe="/~")
        request = AWSRequest("GET", self.origin + path, _byte_range(offset, size))
        if self.credentials:
            S3SigV4Auth(self.credentials.get_frozen_credentials(), "s3", self.region).add_auth(request)
        try:
            response = self.pool.urlopen("GET", path, headers=dict(request.headers), redirect=False)
        except HTTPError as error:
            raise OSError(f"{what} cannot be read ({getattr(error, 'reason', error)})") from error
        if response.status == 404:
            raise FileNotFoundError(f"{what} does not exist")
        if response.status == 416:  # it ends before the range
            return b""
        if response.status not in (200, 206):
            raise OSError(f"{what} cannot be read (status {response.status} {response.reason})")
        return response.data


def _byte_range(offset: int, size: int | None) -> dict[str, str]:
    if not offset and size is None:
        return {}
    return {"Range": f"bytes={offset}-{'' if size is None else offset + size - 1}"}
