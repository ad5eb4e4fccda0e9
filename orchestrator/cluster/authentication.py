"""What guards a Ray cluster, and what this process has for it: decisions, pure but for the reading of the token's file.

Ray knows two modes. With `token` every process of the cluster, and whoever talks to it, shows one token; with
`disabled` whoever reaches the cluster may run code on it. The effects, asking a cluster which it is, are in `door`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import AccessDenied

TOKEN_HINT = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (a file; default ~/.ray/auth_token) or RAY_AUTH_TOKEN "
    "to the token the cluster was started with"
)
POD_TOKEN = Path("/var/run/secrets/ray.io/serviceaccount/token")
"""Where Ray finds a pod's own token, where Kubernetes is the one that says who may come in."""

_GUARD_HINT = (
    "start the cluster with RAY_AUTH_MODE=token and a token (`ray get-auth-token --generate`), "
    "or keep its ports off the network: the dashboard on 127.0.0.1, a firewall, `ray dashboard` as the way in"
)


@dataclass(frozen=True)
class Token:
    """A token, and where it was found: the name of a variable or of a file."""

    value: str = field(repr=False)
    source: str


@dataclass(frozen=True)
class Means:
    """What this process has to show to a cluster.

    Attributes:
        mode: RAY_AUTH_MODE in small letters; empty where it is not set.
        token: the token that Ray finds; None where there is none, or where the mode is `disabled`.
    """

    mode: str
    token: Token | None

    def shown_to(self, address: str) -> Token | None:
        """The token that a client shows there.

        To a job server whatever is found, as a cluster without authentication ignores it. Everywhere else Ray shows it
        in mode `token` alone; without a mode, to a cluster that it finds by itself too.

        Args:
            address: `http://…` of a job server, or what `ray.init` takes.
        """
        if address.startswith(("http://", "https://")) or self.mode == "token":
            return self.token
        return self.token if self.mode == "" and address == "auto" else None


@dataclass(frozen=True)
class Door:
    """How a cluster answers.

    Attributes:
        wants_token: it answers nobody who shows none.
        takes_ours: it answers to the token that we show; None where none was shown.
    """

    wants_token: bool
    takes_ours: bool | None = None


@dataclass(frozen=True)
class Caution:
    """Something that works and is dangerous: what, where, and how to mend it."""

    what: str
    where: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n  → {self.hint}"


def read_means(environ: Mapping[str, str]) -> Means:
    """What there is to show, found where Ray looks: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, with RAY_ENABLE_K8S_TOKEN_AUTH
    a pod's own, `~/.ray/auth_token`.

    Raises:
        AccessDenied: RAY_AUTH_TOKEN_PATH names a file that cannot be read or is empty, or what was found is no token.
    """
    mode = environ.get("RAY_AUTH_MODE", "").strip().lower()
    token = None if mode == "disabled" else _token(environ)
    if token is not None and not (token.value.isascii() and token.value.isprintable()):
        what = "what stands there is no token: it has other than printable ASCII characters"
        raise AccessDenied(what, where=token.source, hint=TOKEN_HINT)
    return Means(mode, token)


def find_token(environ: Mapping[str, str]) -> str | None:
    """The token of `read_means`, for who shows it to a job server; errors as there."""
    token = read_means(environ).token
    return None if token is None else token.value


def refusal(door: Door, means: Means, address: str) -> AccessDenied | None:
    """Why a cluster does not let us in; None: it does. Arguments as for `refused`, besides how it answers."""
    if not door.wants_token or door.takes_ours:
        return None
    return refused(means, address, shown=door.takes_ours is False)


def refused(means: Means, address: str, *, shown: bool) -> AccessDenied:
    """Why a cluster refused us, each reason with its own remedy.

    Args:
        means: what we have.
        address: where it is, as for `Means.shown_to`.
        shown: whether a token was shown; it is wrong then.
    """
    if shown:
        source = f" in {means.token.source}" if means.token else ""
        return AccessDenied(
            f"the cluster refuses the token{source}: it is another cluster's, or an old one",
            where=address,
            hint=f"`ray get-auth-token` on the cluster's head shows the right one; then {TOKEN_HINT}",
        )
    if means.token is not None and means.shown_to(address) is None:
        return AccessDenied(
            f"the cluster wants a token, and Ray does not show the one in {means.token.source}: "
            f"RAY_AUTH_MODE is {means.mode or 'not set'}",
            where=address,
            hint="set RAY_AUTH_MODE=token",
        )
    why = "none was shown" if means.token else "none is found here"
    if means.mode == "disabled":
        why = "RAY_AUTH_MODE=disabled forbids to show one"
    return AccessDenied(f"the cluster wants a token, and {why}", where=address, hint=TOKEN_HINT)


def none_to_show(address: str) -> AccessDenied:
    """Ray itself asks nobody where it is told to show a token and finds none."""
    return AccessDenied(
        "RAY_AUTH_MODE is token, and no token is found here",
        where=address,
        hint=f"{TOKEN_HINT}; for a cluster that wants none, unset RAY_AUTH_MODE",
    )


def cautions(door: Door, means: Means, address: str, host: str) -> Iterator[Caution]:
    """What is dangerous about a cluster that lets us in.

    Args:
        door, means, address: as for `refusal`.
        host: of the head, as others reach it.
    """
    if is_loopback(host):
        return
    if not door.wants_token:
        yield Caution(
            f"the cluster asks for no token: whoever reaches {host} can run code on all its nodes, "
            "with their files, GPUs and credentials",
            address,
            _GUARD_HINT,
        )
    if address.startswith("http://") and means.shown_to(address) is not None:
        yield Caution(
            "the token travels in clear: who can listen on the way can use the cluster",
            address,
            "use https://, or forward the port (`ray dashboard cluster.yaml`) and name http://127.0.0.1:8265",
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone: `localhost`, 127.0.0.0/8, ::1. Other names are not looked up."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def host_of(address: str) -> str | None:
    """The host in `host:port`, `ray://host:port` or a URL; None for `auto`."""
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname if address != "auto" else None
    except ValueError:
        return None


def _token(environ: Mapping[str, str]) -> Token | None:
    if token := environ.get("RAY_AUTH_TOKEN", "").strip():
        return Token(token, "RAY_AUTH_TOKEN")
    if named := environ.get("RAY_AUTH_TOKEN_PATH"):
        try:
            token = Path(named).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AccessDenied("the token file cannot be read", where=named, hint=TOKEN_HINT) from error
        if not token:
            raise AccessDenied("the token file is empty", where=named, hint=TOKEN_HINT)
        return Token(token, named)
    of_a_pod = environ.get("RAY_ENABLE_K8S_TOKEN_AUTH", "").lower() in ("1", "true")
    for path in (*([POD_TOKEN] if of_a_pod else ()), Path(environ.get("HOME", "~")).expanduser() / ".ray/auth_token"):
        with suppress(OSError, UnicodeDecodeError):
            if token := path.read_text(encoding="utf-8").strip():
                return Token(token, str(path))
    return None
