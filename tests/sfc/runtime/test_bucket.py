"""A bucket, on a real S3 server on this machine: addresses, credentials, conditional writes, errors without secrets."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest

from sfc.errors import UserError
from sfc.runtime.bucket import CLIENT, Bucket, aws_profile, check_address


@pytest.fixture
def no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without keys, whose home folder is this one."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def test_an_object_is_created_once_and_replaced_only_in_the_state_that_was_read(address: str) -> None:
    bucket = Bucket(address)
    assert bucket.read("a/b") is None
    assert bucket.write("a/b", b"1", "create") and not bucket.write("a/b", b"2", "create")
    first = bucket.read("a/b")
    assert first and first[0] == b"1"
    assert bucket.write("a/b", b"2", first[1]) and not bucket.write("a/b", b"3", first[1])
    assert not bucket.write("a/other", b"3", first[1])
    assert bucket.read("a/b") == Bucket(address).read("a/b") != first
    assert bucket.names("a") == ["a/b"] and bucket.names("") == ["a/b"] and bucket.names("b") == []
    bucket.remove("a/b")
    bucket.remove("a/b")
    assert bucket.names("a") == []


def test_files_of_any_size_and_name_come_back(address: str, tmp_path: Path) -> None:
    made, bucket = tmp_path / "made", Bucket(address)
    (made / "below" / "deep").mkdir(parents=True)
    (made / "below" / "deep" / "ü#%20 ~.npy").write_bytes(os.urandom(100))
    (made / "empty").touch()
    (made / "several parts").write_bytes(os.urandom(12_000_000))
    bucket.upload(made, "x/up")
    bucket.download("x/up", tmp_path / "copy")
    for path in (path for path in made.rglob("*") if path.is_file()):
        assert (tmp_path / "copy" / path.relative_to(made)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("s3://me:very-secret@bucket/a", "s3://bucket/a holds credentials"),
        ("s3://me:very-s@ecret@bucket/a?region=x", "s3://bucket/a holds credentials"),
        ("s3://bucket/a?secret_key=very-secret", "s3://bucket/a holds credentials or options"),
        ("s3://me:very-s/ecret@bucket/a", "s3://bucket/a holds credentials or options"),
        ("gs://bucket/a?region=x", "gs://bucket/a holds credentials or options"),
        ("https://bucket/a?sig=very-secret", "https://bucket/a: give a folder, s3://BUCKET"),
        ("s3:///a", "give a folder, s3://BUCKET"),
    ],
)
def test_addresses_with_secrets_or_of_another_kind_are_refused(wrong: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        Bucket(wrong)
    assert message in str(error.value) and "secret" not in str(error.value).replace("secret_key", "")
    assert "ecret@" not in str(error.value)


def test_an_address_ends_without_a_slash() -> None:
    assert check_address("s3://bucket/a/b/") == "s3://bucket/a/b"


def test_keys_and_region_of_a_profile_are_read(no_keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert aws_profile() == {}
    (no_keys / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = 50%\n[b]\n")
    (no_keys / "config").write_text("[default]\nregion = r\noutput = json\n[profile b]\nregion = s\n")
    assert aws_profile() == {"access_key_id": "a", "secret_access_key": "50%", "region": "r"}
    monkeypatch.setenv("AWS_DEFAULT_REGION", "t")
    assert "region" not in aws_profile()
    monkeypatch.setenv("AWS_PROFILE", "b")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert aws_profile() == {"region": "s"}
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    assert aws_profile() == {"region": "r"}


def test_a_bucket_is_reached_by_a_profile(
    address: str, s3_server: str, no_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (no_keys / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    assert Bucket(address).write("a", b"1")


def test_a_bucket_of_google_is_reached_by_its_own_client(
    address: str, s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The S3 server takes requests of Google's XML interface too, except for conditions."""
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
    monkeypatch.setitem(CLIENT, "base_url", s3_server)
    with urllib.request.urlopen(urllib.request.Request(f"{s3_server}/google", method="PUT")):
        bucket = Bucket("gs://google/a/store")
    monkeypatch.delitem(CLIENT, "base_url")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").write_text("content")
    bucket.upload(tmp_path / "made", "up")
    bucket.download("up", tmp_path / "copy")
    assert (tmp_path / "copy" / "file").read_text() == "content" and Bucket("s3://google/a").names("") == [
        "store/up/file"
    ]
    bucket.remove("up/file")
    assert bucket.read("up/file") is None


def test_errors_are_one_line_without_queries_which_may_hold_tokens(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="there is no bucket nowhere; make it first"):
        Bucket("s3://nowhere/store")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the store s3://bucket/store: .*127.0.0.1:9/bucket .*error") as error:
        Bucket("s3://bucket/store")
    assert "very-secret" not in str(error.value) and "prefix=" not in str(error.value)
    assert "\n" not in str(error.value)
