"""What may stand in a URL of the job: known schemes, no passwords, no address that leads to a cloud's metadata."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

_METADATA_HOSTS = {
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
}
_METADATA_ADDRESSES = {
    ipaddress.ip_address("100.100.100.200"),  # Alibaba Cloud
    ipaddress.ip_address("fd00:ec2::254"),  # AWS over IPv6
}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_UNSAFE = re.compile(r"[\s\\\x00-\x1f\x7f]")
_METADATA = "leads to link-local or metadata addresses, which could hand out the machine's credentials"


def storage_problem(url: str) -> str | None:
    """What is wrong with a storage URL, or None. The answer never repeats the URL: it may hold a password."""
    if "://" not in url:
        if not url.strip() or "\0" in url or _SCHEME.match(url):
            return "must be a folder or s3://bucket/prefix"
        return None
    parts = _split(url)
    if isinstance(parts, str):
        return parts
    if parts.scheme == "memory":
        return "memory:// is lost with its process and not shared between workers: use a folder or s3://bucket/prefix"
    if parts.scheme == "file":
        return "file:// takes an absolute path, such as file:///data/runs" if parts.netloc or not parts.path else None
    if parts.scheme != "s3":
        return f"the scheme {parts.scheme}:// is unknown: use a folder or s3://bucket/prefix"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "an s3:// URL has no `?` or `#`: options of the server belong in endpoint_url and region"
    if not _BUCKET.fullmatch(parts.netloc):
        return "must name a bucket: s3://bucket/prefix"
    if ".." in parts.path.split("/") or _is_metadata(parts.netloc):
        return "must be s3://bucket/prefix with a plain bucket name and without `..`"
    return None


def endpoint_problem(url: str) -> str | None:
    """What is wrong with the URL of an S3 server, or None."""
    parts = _split(url)
    if isinstance(parts, str):
        return parts
    if parts.scheme not in ("http", "https"):
        return "must start with http:// or https://"
    host = parts.hostname or ""
    try:
        port_is_good = parts.port != 0
    except ValueError:
        port_is_good = False
    if not port_is_good or not (_HOST.fullmatch(host) or ":" in host):
        return "must be like https://host or https://host:port"
    if parts.query or parts.fragment:
        return "must not have `?` or `#`"
    return _METADATA if _is_metadata(host) else None


def ray_address_problem(address: str) -> str | None:
    """What is wrong with a Ray address, or None."""
    if not address or _UNSAFE.search(address):
        return "must be host:port, ray://host:port or auto"
    if "@" in address:
        return "must not contain a user or password"
    scheme, separator, _ = address.partition("://")
    if separator and scheme != "ray":
        hint = ": the address of the job server is for `orchestrator submit`" if scheme in ("http", "https") else ""
        return f"must be host:port, ray://host:port or auto, not {scheme}://{hint}"
    return None


def _split(url: str) -> SplitResult | str:
    """The parts of a URL, or what is wrong with it."""
    if _UNSAFE.search(url):
        return "must not contain spaces, backslashes or control characters"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        return f"is not a URL: {error}"
    if "@" in parts.netloc:
        return "must not contain a user or password: give credentials by environment, profile or role"
    return parts


def _is_metadata(host: str) -> bool:
    host = host.rstrip(".").lower()
    address = _address(host)
    if address is None:
        return host in _METADATA_HOSTS
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or address
    return address.is_link_local or address in _METADATA_ADDRESSES


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host name is, in any notation that a C library reads (`0xa9fea9fe`, `169.254.43518`)."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None
