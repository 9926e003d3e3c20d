"""Object stores: pyarrow's file system of a bucket, and S3's objects read with one request each.

pyarrow asks S3 for the size of an object before it reads it, and Python has no way to tell it: two round
trips of 20 to 40 ms for a picture that is decoded in 4. So objects of S3 are read by obstore, with the
credentials that boto3 finds.
"""

from __future__ import annotations

import functools
import logging
import posixpath
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from mipnet.errors import StoreError, UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

logger = logging.getLogger(__name__)

PUTS_AT_ONCE, PIECE_BYTES = 4, 16 * 1024 * 1024
RETRIES = 30
"""Of a request that was lost, or that S3 asked to come later: the waits grow to 15 s, some minutes in all."""
RETRY_TIMEOUT = timedelta(minutes=5)
CREDENTIALS_KEPT = timedelta(minutes=15)
"""boto3's may be valid for no longer; obstore asks for them 5 minutes earlier."""
METADATA_ATTEMPTS, METADATA_TIMEOUT = 3, 3
"""Tries, and seconds for each, to get credentials of a machine of AWS: many of its processes ask at once."""
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
        StoreError: S3 does not give it.
        OSError: another store does not.
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
    from botocore.exceptions import BotoCoreError
    from obstore.exceptions import BaseError

    try:
        return _S3Bucket(uri)
    except (
        BotoCoreError,
        BaseError,
        OSError,
        ValueError,
    ) as error:  # no such profile, or file of certificates
        raise StoreError(f"{uri.partition('?')[0]} cannot be used ({_cause(str(error))})") from error


class _S3Bucket:
    """Reads objects of a bucket.

    Args:
        uri: as for ``remote_filesystem``; what it does not say, boto3 finds where AWS's tools do.
    """

    def __init__(self, uri: str) -> None:
        import boto3
        import botocore.session
        from obstore.auth.boto3 import Boto3CredentialProvider
        from obstore.store import S3Store

        fs, self.name = remote_filesystem(uri)
        address, certificates = urlsplit(uri), uri_options(uri).get("tls_ca_file_path")
        user, password = (unquote(text) if text else None for text in (address.username, address.password))
        core = botocore.session.Session()
        core.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
        core.set_config_variable("metadata_service_timeout", METADATA_TIMEOUT)
        session = boto3.session.Session(
            botocore_session=core, aws_access_key_id=user, aws_secret_access_key=password
        )
        self.signed = session.get_credentials() is not None  # those of a public bucket are not
        client = session.client("s3", region_name=fs.region, endpoint_url=s3_endpoint(uri))
        endpoint = urlsplit(client.meta.endpoint_url)
        by_host = ".amazonaws.com" in endpoint.netloc and "." not in self.name  # as its wildcard certificate
        self.store = S3Store(
            self.name,
            # ``endpoint`` would give way to this one, which may be in the environment.
            aws_endpoint_url_s3=f"{endpoint.scheme}://{f'{self.name}.' * by_host}{endpoint.netloc}",
            virtual_hosted_style_request=by_host,
            region=fs.region,
            skip_signature=not self.signed,
            credential_provider=Boto3CredentialProvider(session, ttl=CREDENTIALS_KEPT)
            if self.signed
            else None,
            client_options={
                "allow_http": endpoint.scheme == "http",
                "connect_timeout": "10s",
                "read_timeout": "60s",  # without a byte; of the whole, only that there must be one
                "timeout": "1h",
                **({"root_certificate": Path(certificates).read_bytes()} if certificates else {}),
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": RETRY_TIMEOUT,
                "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=15)},
            },
        )

    def read(self, key: str, offset: int, size: int | None) -> bytes:
        """As ``read_object``."""
        from obstore.exceptions import BaseError

        what = f"s3://{self.name}/{key}"
        try:
            if size is not None:
                return bytes(self.store.get_range(key, start=offset, length=size))
            if offset:
                return bytes(self.store.get(key, options={"range": {"offset": offset}}).bytes())
            return bytes(self.store.get(key).bytes())
        except FileNotFoundError:
            raise FileNotFoundError(f"{what} does not exist") from None
        except (BaseError, ValueError) as error:
            reason = _cause(str(error))
            if reason.startswith("status 416"):  # it ends before the range
                return b""
            if not self.signed and reason.startswith("status 403"):
                _s3_bucket.cache_clear()  # credentials may be there by now
            raise StoreError(f"{what} cannot be read ({reason})") from error


def _cause(message: str) -> str:
    """The cause in obstore's message: a line, then the nested errors in Rust's notation."""
    status = re.search(r"status code: (\d+ [^:\n]+)(?:.*?<Code>(\w+))?", message)
    if status:
        return "status " + ", ".join(filter(None, status.groups()))
    line, _, nested = message.partition("\n")
    cause = line.rpartition(" - ")[2]
    if not cause.startswith("HTTP error"):
        return cause
    innermost = re.findall(r'(?:message|error): "([^"]+)"', nested) or re.findall(r"\w+", nested) or [""]
    return f"{cause}: {innermost[-1]}"
