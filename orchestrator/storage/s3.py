"""An S3 bucket as a store, through s3fs: AWS, MinIO, SeaweedFS, Ceph RGW and others with conditional writes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from orchestrator.errors import DamagedStore, StoreUnavailable, UnsupportedStore
from orchestrator.storage import s3_errors
from orchestrator.storage.layout import check_key
from orchestrator.storage.limits import check_size
from orchestrator.storage.local import explained
from orchestrator.storage.retry import REREADS

T = TypeVar("T")

MAX_CREATE_BYTES = 8 * 2**20
_PART_BYTES = 16 * 2**20
_PARTS_AT_ONCE = 4
_SLOWEST_BYTES_PER_S = 2**20
_CHUNK_BYTES = 2**20
_DOWNLOAD_TRIES = 1 + REREADS
_REQUEST_TRIES = 5
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}\Z")


@dataclass(frozen=True)
class _Clients:
    """The s3fs file systems of one process: neither their event loop nor their sockets survive a fork."""

    pid: int
    once: Any
    """Repeats no request that was answered or timed out. Below it, aiohttp still repeats one whose connection broke: a
    refused create may then be its own success, which only the object itself can tell."""
    patient: Any
    """Repeats what may be repeated."""


_INHERITED: list[_Clients] = []
"""What a forked child was born with: letting go of it would close connections that the parent still uses."""


class S3Store:
    """Objects in a bucket, below a prefix; implements the `Store` port.

    Credentials come from the environment, profile or role of each process; they are never held or pickled here.
    Nothing is contacted before the first call.

    Args:
        url: `s3://bucket` or `s3://bucket/prefix`.
        endpoint_url: an S3-compatible server other than AWS.
        region: the bucket's region where the environment does not say it.
        timeout_s: deadline of one call in seconds. Transfers get one more second for every MiB.

    Raises:
        UnsupportedStore: the URL names no bucket, or carries credentials.
    """

    def __init__(
        self, url: str, *, endpoint_url: str | None = None, region: str | None = None, timeout_s: float = 30.0
    ) -> None:
        self._bucket, self._prefix = _parse(url)
        if endpoint_url and "@" in endpoint_url:
            raise UnsupportedStore("the S3 endpoint carries credentials", hint="give them by environment or profile")
        self._endpoint_url = endpoint_url
        self._region = region
        self._timeout_s = timeout_s
        self._clients: _Clients | None = None

    def __reduce__(self) -> tuple[object, ...]:
        rebuild = partial(S3Store, endpoint_url=self._endpoint_url, region=self._region, timeout_s=self._timeout_s)
        return rebuild, (self.url,)

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def create(self, key: str, body: bytes) -> bool:
        if len(body) > MAX_CREATE_BYTES:
            # Conditional multipart uploads are not portable, and a record is small.
            raise ValueError(f"{key}: {len(body)} bytes are more than a create may have ({MAX_CREATE_BYTES})")
        path = f"{self._bucket}/{self._key(key)}"
        try:
            self._call(self._fs().once._pipe_file, path, body, mode="create", about=key, permission="s3:PutObject")
        except _PreconditionFailedError:
            return False
        return True

    def put(self, key: str, body: bytes) -> None:
        timeout_s = self._timeout_s + len(body) / _SLOWEST_BYTES_PER_S
        self._request("put_object", key, "s3:PutObject", timeout_s=timeout_s, Key=self._key(key), Body=body)

    def put_file(self, key: str, path: str) -> None:
        size = Path(path).stat().st_size
        self._call(
            self._fs().patient._put_file,
            path,
            f"{self._bucket}/{self._key(key)}",
            chunksize=_PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
            about=key,
            permission="s3:PutObject",
            timeout_s=self._timeout_s + size / _SLOWEST_BYTES_PER_S,
        )

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        chunks: list[bytes] = []
        self._download(key, max_bytes, restart=chunks.clear, write=chunks.append)
        return b"".join(chunks)

    def get_file(self, key: str, path: str, *, max_bytes: int | None = None) -> None:
        with explained(path), Path(path).open("wb") as file:
            self._download(key, max_bytes, restart=partial(_empty, file), write=file.write)

    def list(self, prefix: str) -> list[str]:
        return [*self.sizes(prefix)]

    def sizes(self, prefix: str) -> dict[str, int]:
        folder = "/".join(filter(None, (self._prefix, check_key(prefix) if prefix else "")))
        found: dict[str, int] = {}
        page: dict[str, Any] = {}
        while True:
            more = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
            start = f"{folder}/" if folder else ""
            page = self._request("list_objects_v2", prefix, "s3:ListBucket", Prefix=start, **more)
            found |= {entry["Key"]: entry["Size"] for entry in page.get("Contents", ())}
            if not page.get("IsTruncated"):
                break
        skipped = len(self._prefix) + 1 if self._prefix else 0
        # `…/` are folder marks of browsers.
        return {key[skipped:]: size for key, size in sorted(found.items()) if not key.endswith("/")}

    def delete(self, key: str) -> None:
        self._request("delete_object", key, "s3:DeleteObject", Key=self._key(key))

    def server_time(self) -> float:
        """The server's clock in UTC epoch seconds, to the second: the date of its answer. Needs s3:ListBucket."""
        answer = self._request("list_objects_v2", "", "s3:ListBucket", Prefix=f"{self._prefix}/probe", MaxKeys=1)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def _key(self, key: str) -> str:
        check_key(key)
        return f"{self._prefix}/{key}" if self._prefix else key

    def _download(
        self, key: str, max_bytes: int | None, *, restart: Callable[[], object], write: Callable[[bytes], object]
    ) -> None:
        """Read an object to its end, within one deadline.

        From the start again when the connection breaks, or when the bytes are not those of the store's own checksum.
        """
        deadline = time.monotonic() + self._timeout_s
        for tries_left in reversed(range(_DOWNLOAD_TRIES)):
            restart()
            remaining = deadline - time.monotonic()
            answer = self._request("get_object", key, "s3:GetObject", timeout_s=remaining, Key=self._key(key))
            size = answer["ContentLength"]  # the client ends a body there, and fails when it ends before
            try:
                check_size(size, max_bytes, where=f"{self.url}/{key}")
            except DamagedStore:
                answer["Body"].close()
                raise
            remaining = deadline - time.monotonic() + size / _SLOWEST_BYTES_PER_S
            try:
                self._call(_drain, answer["Body"], write, about=key, permission="s3:GetObject", timeout_s=remaining)
                return
            except (StoreUnavailable, DamagedStore):
                if not tries_left or time.monotonic() >= deadline:
                    raise

    def _request(self, method: str, about: str, permission: str, timeout_s: float | None = None, **request: Any) -> Any:
        call = partial(self._fs().patient._call_s3, method, Bucket=self._bucket, **request)
        return self._call(call, about=about, permission=permission, timeout_s=timeout_s)

    def _call(
        self,
        start: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        about: str,
        permission: str,
        timeout_s: float | None = None,
        **kwargs: Any,
    ) -> T:
        """Run a coroutine on the client's event loop, under a deadline that holds even when the client hangs."""
        from fsspec.asyn import sync

        timeout_s = self._timeout_s if timeout_s is None else max(timeout_s, 0.001)  # fsspec takes 0 for "no limit"
        try:
            return sync(self._fs().patient.loop, start, *args, timeout=timeout_s, **kwargs)  # type: ignore[no-any-return]
        except Exception as error:
            if s3_errors.is_precondition_failed(error):
                raise _PreconditionFailedError from None
            where = f"{self.url}/{about}"
            explained = s3_errors.explain(error, where=where, bucket=self._bucket, permission=permission)
            if explained is error:
                raise
            # `from None`: what the client says may quote parts of a signed request.
            raise explained from None

    def _fs(self) -> _Clients:
        clients = self._clients
        if clients is None or clients.pid != os.getpid():
            if clients is not None:
                _INHERITED.append(clients)
            from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # it ships no types

            session = AioSession()  # shared: each would read S3's description of 0.2 s again
            once, patient = self._filesystem(session, 1), self._filesystem(session, _REQUEST_TRIES)
            clients = self._clients = _Clients(os.getpid(), once, patient)
        return clients

    def _filesystem(self, session: Any, tries: int) -> Any:
        """An s3fs file system of this process; it connects on its first call.

        Args:
            session: the library's, with the credentials that it finds.
            tries: how often botocore tries a request; s3fs' own loop above it is always switched off, because the two
                multiply.
        """
        import s3fs

        filesystem = s3fs.S3FileSystem(
            session=session,
            endpoint_url=self._endpoint_url,
            client_kwargs={"region_name": self._region} if self._region else {},
            config_kwargs={
                "connect_timeout": min(5.0, self._timeout_s),
                "read_timeout": min(15.0, self._timeout_s),
                "retries": {"total_max_attempts": tries, "mode": "standard"},
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        filesystem.retries = 1
        return filesystem


class _PreconditionFailedError(Exception):
    """S3 said 412."""


async def _drain(body: Any, write: Callable[[bytes], object]) -> None:
    try:
        while chunk := await body.read(_CHUNK_BYTES):
            write(chunk)
    finally:
        body.close()


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _parse(url: str) -> tuple[str, str]:
    """Bucket and prefix of an s3 URL. The message does not repeat a URL with credentials in it."""
    location = url.removeprefix("s3://")
    if "@" in location:
        raise UnsupportedStore("the storage URL carries credentials", hint="give them by environment or profile")
    bucket, _, prefix = location.partition("/")
    prefix = prefix.rstrip("/")
    try:
        if not _BUCKET.match(bucket) or (prefix and not check_key(prefix)):
            raise ValueError(url)
    except ValueError:
        raise UnsupportedStore(f"{url!r} names no bucket and prefix", hint="write s3://bucket/prefix") from None
    return bucket, prefix
