"""From a URL to a store: the only place that knows which adapters exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from orchestrator.errors import UnsupportedStore
from orchestrator.planning.ports import Store
from orchestrator.storage.local import LocalStore
from orchestrator.storage.s3 import S3Store

if TYPE_CHECKING:
    from orchestrator.spec import Job

_SUPPORTED = "use s3://bucket/prefix, a folder, or file:///folder"


def open_store_of(job: Job) -> Store:
    """The store that a job names. Raises as `open_store`."""
    return open_store(job.storage.url, endpoint_url=job.storage.endpoint_url, region=job.storage.region)


def open_store(url: str, *, endpoint_url: str | None = None, region: str | None = None) -> Store:
    """The store at `url`. Nothing is contacted, created or checked yet: `probe` does that.

    Args:
        url: `s3://bucket/prefix`, a folder (`runs`, `~/runs`) or `file:///folder`.
        endpoint_url: an S3-compatible server other than AWS, for instance `http://127.0.0.1:9000`; s3 only.
        region: the bucket's region where the environment does not say it; s3 only.

    Raises:
        UnsupportedStore: any other scheme, or a URL that names no place.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        if not url.strip():
            raise UnsupportedStore("the storage location is empty", hint=_SUPPORTED)
        return LocalStore(Path(url).expanduser())
    if scheme == "s3":
        return S3Store(url, endpoint_url=endpoint_url, region=region)
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise UnsupportedStore(f"{url!r} names no folder of this machine", hint="write file:///absolute/folder")
        return LocalStore(Path(unquote(parts.path)))
    if scheme == "memory":
        raise UnsupportedStore(
            "memory:// is a dictionary inside one process: workers would each see their own", hint=_SUPPORTED
        )
    raise UnsupportedStore(f"{scheme}:// is no supported storage", hint=_SUPPORTED)
