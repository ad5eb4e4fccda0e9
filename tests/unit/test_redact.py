"""Secrets are blotted out of what goes to storage, and ordinary text is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.redact import BLOT, redact
from orchestrator.training.publish import cause_of

KEY_ID = "AKIA" + "IOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

SECRETS = {
    "an access key": (f"key {KEY_ID}.", f"key {BLOT}."),
    "a temporary access key": (f"'{KEY_ID.replace('AKIA', 'ASIA')}'", f"'{BLOT}'"),
    "two on one line": (f"{KEY_ID},{KEY_ID}", f"{BLOT},{BLOT}"),
    "a URL with credentials": ("s3://user:pass@host/bucket", f"s3://{BLOT}@host/bucket"),
    "a password with an @": ("https://user:p@ss@host/x", f"https://{BLOT}@host/x"),
    "a password with signs": ("https://user:p%2F:s!$&'"[:-1] + "@host:80/x", f"https://{BLOT}@host:80/x"),
    "a password without a user": ("redis://:secret@host:6379/0", f"redis://{BLOT}@host:6379/0"),
    "a signed URL": (
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=x%2F2026&X-Amz-Date=2026&X-Amz-Security-Token=tt&"
        "X-Amz-Signature=0123abcd rest",
        f"https://b.s3.amazonaws.com/k?X-Amz-Credential={BLOT}&X-Amz-Date=2026&X-Amz-Security-Token={BLOT}&"
        f"X-Amz-Signature={BLOT} rest",
    ),
    "a signed URL in small letters and quotes": (
        'get("https://h/k?x-amz-signature=01ab")',
        f'get("https://h/k?x-amz-signature={BLOT}")',
    ),
    "a URL signed in the older way": (
        "http://h/k?Expires=1&Signature=ab%2B&x=1",
        f"http://h/k?Expires=1&Signature={BLOT}&x=1",
    ),
}


@pytest.mark.parametrize(("text", "expected"), SECRETS.values(), ids=SECRETS.keys())
def test_secrets_of_known_shapes_are_blotted_out(text: str, expected: str) -> None:
    assert redact(text, {}) == expected
    assert redact(expected, {}) == expected


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "DB_PASSWORD",
        "MYSQL_ROOT_PASSWD",
        "openai_api_key",
        "GPG_PASSPHRASE",
        "SSH_PRIVATE_KEY",
        "MY_CREDENTIALS",
    ],
)
def test_the_value_of_a_variable_that_speaks_of_a_secret_is_blotted_out_everywhere(name: str) -> None:
    text = f"env: {SECRET}; {{'key': '{SECRET}'}}\n{SECRET}"
    assert redact(text, {name: SECRET, "HOME": "/root"}) == f"env: {BLOT}; {{'key': '{BLOT}'}}\n{BLOT}"


def test_a_secret_of_several_lines_is_blotted_out() -> None:
    assert redact("<BEGIN\nabcdef\nEND>", {"PRIVATE_KEY": "BEGIN\nabcdef\nEND"}) == f"<{BLOT}>"


def test_of_two_secrets_the_longer_goes_first_so_that_nothing_of_it_is_left() -> None:
    environ = {"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefgh-and-more"}
    assert redact("abcdefgh-and-more abcdefgh", environ) == f"{BLOT} {BLOT}"


def test_short_values_and_other_variables_are_left_alone() -> None:
    environ = {"TOKENIZERS_PARALLELISM": "false", "A_PASSWORD": "", "HOME": "/home/somebody", "PATH": "/usr/bin:/bin"}
    text = "false /home/somebody /usr/bin:/bin"
    assert redact(text, environ) == text


ORDINARY = [
    "epoch 3/9 {'loss': 0.1234, 'accuracy': 0.97}",
    "s3://bucket/prefix/key.keras",
    "http://127.0.0.1:8333/bucket?list-type=2",
    "http://[::1]:8333/bucket",
    "git@github.com:owner/repo.git and ssh://git@host/repo",
    "mail to a.b@example.org at 10:30",
    "see http://host:80/path and mail a@b.org",
    '{"url": "http://host:80","mail":"a@b.org"}',
    "MAKIATOS1234567890ABCDEF AKIA AKIAshort",
    "def f(x): return x @ w  # a: b@c",
    "2026-11-21 09:11:48,123 INFO member 0, seed 7, term 1: starts from the beginning",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "Signature=of a function",
    "äöü 你好 \x1b[1m\r\n",
    "",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_untouched(text: str) -> None:
    assert redact(text, {}) == text


@given(before=st.text(max_size=30), after=st.text(max_size=30), secret=st.text(min_size=8, max_size=40))
def test_no_secret_of_the_environment_survives_whatever_stands_around_it(before: str, after: str, secret: str) -> None:
    assert secret not in redact(f"{before}{secret}{after}", {"THE_TOKEN": secret}).replace(BLOT, "\0") or "\0" in secret


@given(st.text(st.characters(exclude_characters=":=") | st.just("@"), max_size=200))
def test_text_without_the_shape_of_a_secret_is_untouched(text: str) -> None:
    if "AKIA" not in text and "ASIA" not in text:
        assert redact(text, {}) == text


def test_what_is_recorded_of_an_error_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET_KEY", "hunter2hunter2")
    _, message = cause_of(RuntimeError("no login with hunter2hunter2"))
    assert message == "RuntimeError: no login with ***"
