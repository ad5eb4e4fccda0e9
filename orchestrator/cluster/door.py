"""Knocking at a cluster's door: does anybody answer, does it ask for a token, and is ours the one.

The first knock shows no token, so that none reaches a cluster that asks for none. All knocks end within seconds; Ray's
own attempts to connect last minutes where nobody answers, and say little of why.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from orchestrator.cluster.authentication import Caution, Door, Means, cautions, host_of, refusal

KNOCK_S = 10.0
_GCS_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_CLIENT_METHOD = "/ray.rpc.RayletDriver/ClusterInfo"


def knock(address: str, means: Means, *, timeout_s: float = KNOCK_S) -> Door | None:
    """How the cluster at an address answers; None: somebody is there who does not say.

    Args:
        address: `http(s)://…` of a job server, `host:port` of a head, or `ray://host:port` of its client server.
        means: the token to show where one is wanted, if Ray would show it there.
        timeout_s: seconds for each of at most two knocks.

    Raises:
        OSError: nobody opens.
    """
    if address.startswith(("http://", "https://")):
        return _door(lambda token: _lets_in_over_http(address, token, timeout_s), address, means)
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        return None
    socket.create_connection((parts.hostname, parts.port), timeout=timeout_s).close()
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return None  # the certificates are Ray's business
    method = _CLIENT_METHOD if parts.scheme == "ray" else _GCS_METHOD
    return _door(lambda token: _lets_in_over_grpc(parts.netloc, method, token, timeout_s), address, means)


def cautions_at(job_server: str, means: Means) -> tuple[Caution, ...]:
    """What works and is dangerous about the cluster behind a job server.

    Raises:
        OSError: nobody opens.
        AccessDenied: it does not let us in.
    """
    door = knock(job_server, means)
    if door is None:
        return ()
    denied = refusal(door, means, job_server)
    if denied is not None:
        raise denied
    return tuple(cautions(door, means, job_server, host_of(job_server) or ""))


def _door(lets_in: Callable[[str | None], bool | None], address: str, means: Means) -> Door | None:
    open_to_all = lets_in(None)
    if open_to_all is None:
        return None
    if open_to_all:
        return Door(wants_token=False)
    token = means.shown_to(address)
    return Door(wants_token=True, takes_ours=None if token is None else lets_in(token.value))


def _lets_in_over_http(address: str, token: str | None, timeout_s: float) -> bool | None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = Request(f"{address}/api/version", headers=headers)
    try:
        build_opener(_NoRedirect).open(request, timeout=timeout_s).close()
    except HTTPError as error:
        with error:
            return False if error.code in (401, 403) else None
    except HTTPException:
        return None
    return True


def _lets_in_over_grpc(target: str, method: str, token: str | None, timeout_s: float) -> bool | None:
    """Any answer to an empty request but one: it is looked at after the token."""
    import grpc  # type: ignore[import-untyped]

    metadata = [("authorization", f"Bearer {token}")] if token else []
    # Ray's own connections go past a proxy, too.
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            silent = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED)
            return None if error.code() in silent else True
    return True


class _NoRedirect(HTTPRedirectHandler):
    """A token is for the address that was named, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None
