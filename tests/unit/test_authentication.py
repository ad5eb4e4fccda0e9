"""What guards a cluster and what we have for it: who is refused and why, and what is dangerous though it works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.cluster import authentication
from orchestrator.cluster.authentication import (
    Door,
    Means,
    Token,
    cautions,
    find_token,
    host_of,
    is_loopback,
    read_means,
    refusal,
    refused,
)
from orchestrator.errors import AccessDenied

SECRET = "0123456789abcdef-the-token-itself"
HTTP, GCS, CLIENT = "http://head:8265", "10.0.0.1:6379", "ray://head:10001"
FOUND = Token(SECRET, "/home/me/.ray/auth_token")
OPEN, GUARDED = Door(wants_token=False), Door(wants_token=True)


def test_the_token_is_looked_for_where_ray_looks_and_its_source_is_told(tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.write_text("from-path\n", encoding="utf-8")
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("from-home", encoding="utf-8")
    environ = {"HOME": str(home), "RAY_AUTH_TOKEN_PATH": str(named), "RAY_AUTH_TOKEN": "from-env"}
    assert read_means(environ).token == Token("from-env", "RAY_AUTH_TOKEN")
    assert read_means({**environ, "RAY_AUTH_TOKEN": ""}).token == Token("from-path", str(named))
    assert read_means({"HOME": str(home)}).token == Token("from-home", str(home / ".ray" / "auth_token"))
    assert find_token({"HOME": str(home)}) == "from-home"
    assert find_token({"HOME": str(tmp_path)}) is None
    assert find_token({**environ, "RAY_AUTH_MODE": "disabled"}) is None


def test_a_pods_own_token_is_found_where_kubernetes_says_who_may_come_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from-home", encoding="utf-8")
    pod = tmp_path / "pod"
    monkeypatch.setattr(authentication, "POD_TOKEN", pod)
    environ = {"HOME": str(tmp_path), "RAY_ENABLE_K8S_TOKEN_AUTH": "true"}
    assert find_token(environ) == "from-home"
    pod.write_text("from-pod\n", encoding="utf-8")
    assert read_means(environ).token == Token("from-pod", str(pod))
    assert find_token({**environ, "RAY_ENABLE_K8S_TOKEN_AUTH": "false"}) == "from-home"


@pytest.mark.parametrize("content", [b"two\nlines", "schlüssel".encode(), b"\xff\xfe"])
def test_a_file_that_holds_something_else_is_told_and_its_content_is_not(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(AccessDenied, match=re.escape(str(path))) as refused_:
        read_means({"RAY_AUTH_TOKEN_PATH": str(path)})
    assert content.decode(errors="replace")[:3] not in refused_.value.what


def test_a_named_token_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        with pytest.raises(AccessDenied, match="RAY_AUTH_TOKEN_PATH"):
            find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / name)})


@pytest.mark.parametrize(
    ("mode", "address", "shown"),
    [
        ("", HTTP, True),
        ("token", HTTP, True),
        ("token", GCS, True),
        ("token", CLIENT, True),
        ("token", "auto", True),
        ("", "auto", True),
        ("", GCS, False),
        ("", CLIENT, False),
    ],
)
def test_ray_shows_a_token_to_a_named_cluster_only_in_token_mode(mode: str, address: str, shown: bool) -> None:
    assert Means(mode, FOUND).shown_to(address) == (FOUND if shown else None)


@pytest.mark.parametrize("address", [HTTP, GCS, CLIENT, "auto"])
@pytest.mark.parametrize(
    ("means", "says", "mend"),
    [
        (Means("token", None), "wants a token, and none is found here", "RAY_AUTH_TOKEN_PATH"),
        (Means("disabled", None), "RAY_AUTH_MODE=disabled forbids", "RAY_AUTH_MODE=token"),
        (Means("token", FOUND), "refuses the token in /home/me/.ray/auth_token", "ray get-auth-token"),
        (Means("token", Token(SECRET, "RAY_AUTH_TOKEN")), "refuses the token in RAY_AUTH_TOKEN", "ray get-auth-token"),
    ],
    ids=["none", "disabled", "wrong file", "wrong variable"],
)
def test_a_missing_and_a_wrong_token_are_told_apart_with_their_remedies(
    address: str, means: Means, says: str, mend: str
) -> None:
    shown = means.shown_to(address)
    error = refusal(Door(True, takes_ours=None if shown is None else False), means, address)
    assert error is not None
    assert (says in error.what, mend in str(error.hint)) == (True, True), error
    assert (error.exit_code, error.where) == (2, address)
    assert SECRET not in str(error) + repr(means)


def test_a_token_that_is_there_and_that_ray_does_not_show_is_a_case_of_its_own() -> None:
    error = refusal(GUARDED, Means("", FOUND), GCS)
    assert error is not None
    assert "does not show the one in /home/me/.ray/auth_token: RAY_AUTH_MODE is not set" in error.what
    assert error.hint == "set RAY_AUTH_MODE=token"


def test_a_token_that_was_not_given_to_a_job_server_client_is_not_laid_at_rays_door() -> None:
    error = refused(Means("", FOUND), HTTP, shown=False)
    assert error.what == "the cluster wants a token, and none was shown"
    assert "RAY_AUTH_TOKEN_PATH" in str(error.hint)


@pytest.mark.parametrize("door", [OPEN, Door(False, True), Door(True, True)])
def test_a_cluster_that_answers_us_refuses_nothing(door: Door) -> None:
    assert refusal(door, Means("token", FOUND), HTTP) is None


@pytest.mark.parametrize(
    ("door", "means", "address", "host", "said"),
    [
        (OPEN, Means("", None), HTTP, "head", ["asks for no token"]),
        (OPEN, Means("", None), GCS, "10.0.0.1", ["asks for no token"]),
        (OPEN, Means("", None), "auto", "192.168.1.7", ["asks for no token"]),
        (OPEN, Means("", None), "http://127.0.0.1:8265", "127.0.0.1", []),
        (OPEN, Means("", None), "[::1]:6379", "::1", []),
        (OPEN, Means("", FOUND), HTTP, "head", ["asks for no token", "travels in clear"]),
        (Door(True, True), Means("", FOUND), HTTP, "head", ["travels in clear"]),
        (Door(True, True), Means("", FOUND), "https://head", "head", []),
        (Door(True, True), Means("", FOUND), "http://localhost:8265", "localhost", []),
        (Door(True, True), Means("token", FOUND), GCS, "10.0.0.1", []),
    ],
)
def test_what_works_and_is_dangerous_is_told(
    door: Door, means: Means, address: str, host: str, said: list[str]
) -> None:
    found = list(cautions(door, means, address, host))
    assert len(found) == len(said)
    assert all(words in caution.what for words, caution in zip(said, found, strict=True))
    assert all(SECRET not in str(caution) and caution.hint for caution in found)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.0.0.2", "::1", "[::1]", "a.localhost"])
def test_this_machine_is_told_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["head", "10.0.0.1", "0.0.0.0", "::", "localhost.example.org", "127.0.0.1.nip.io"])
def test_other_machines_are_not_this_one(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("auto", None),
        ("10.0.0.1:6379", "10.0.0.1"),
        ("[::1]:6379", "::1"),
        ("ray://head:10001", "head"),
        ("https://head/x", "head"),
    ],
)
def test_the_host_of_an_address_of_any_kind(address: str, host: str | None) -> None:
    assert host_of(address) == host
