"""Claims in a bucket, on a real S3 server on this machine: one at a time, and no waiting for the dead or for others."""

from __future__ import annotations

import threading

import pytest

from sfc.runtime.bucket import Bucket, Version
from sfc.runtime.claims import claimed

EXPIRY = 1.0


class Clock:
    """A monotonic clock that goes on by 0.4 s at each look, without waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.4
        return self.now


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfc.runtime.claims.time", Clock())


def test_a_claim_lets_one_in_at_a_time_however_many_ask(address: str) -> None:
    inside, entered = threading.Lock(), []

    def ask(me: str) -> None:
        bucket = Bucket(address)
        for _ in range(3):
            with claimed(bucket, "cam-k", me, 4):
                assert inside.acquire(blocking=False)
                entered.append(bucket.names("claims"))
                inside.release()

    threads = [threading.Thread(target=ask, args=(f"host-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entered == [["claims/cam-k"]] * 18 and not Bucket(address).names("claims")


def test_claims_of_different_keys_do_not_wait_for_each_other(address: str) -> None:
    bucket = Bucket(address)
    with claimed(bucket, "cam-a", "one"), claimed(bucket, "cam-b", "two"):
        assert bucket.names("claims") == ["claims/cam-a", "claims/cam-b"]


def test_a_claim_that_does_not_change_is_taken_over(address: str, fast: None, caplog: pytest.LogCaptureFixture) -> None:
    bucket = Bucket(address)
    bucket.write("claims/cam-k", b"dead 1")
    caplog.set_level("INFO", "sfc")
    with claimed(bucket, "cam-k", "me", EXPIRY):
        claim = bucket.read("claims/cam-k")
        assert claim and claim[0].startswith(b"me ")
    assert "waiting for another machine (dead)" in caplog.text and not bucket.names("claims")


def test_a_claim_that_changes_is_waited_for_however_long(address: str, fast: None) -> None:
    reads: list[str] = []

    class Renewed(Bucket):
        """Another machine renews its claim between two looks, and gives it back in the end."""

        def read(self, name: str) -> tuple[bytes, Version] | None:
            reads.append(name)
            if len(reads) == 12:
                self.remove(name)
            elif len(reads) < 12:
                self.write(name, f"other {len(reads)}".encode())
            return super().read(name)

    bucket = Renewed(address)
    bucket.write("claims/cam-k", b"other 0")
    with claimed(bucket, "cam-k", "me", EXPIRY):
        assert len(reads) == 12


def test_a_claim_that_is_renewed_at_the_last_moment_is_not_taken_over(address: str, fast: None) -> None:
    class Late(Bucket):
        """The owner renews its claim after the look, before the take-over; later it is done."""

        renewed = False

        def write(self, name: str, content: bytes, mode: object = "overwrite") -> bool:
            if isinstance(mode, dict) and not self.renewed:
                self.renewed = True
                super().write(name, b"other 2")
                written = super().write(name, content, mode)
                self.remove(name)
                assert not written
                return written
            return super().write(name, content, mode)  # type: ignore[arg-type]

    bucket = Late(address)
    bucket.write("claims/cam-k", b"other 1")
    with claimed(bucket, "cam-k", "me", EXPIRY):
        assert bucket.renewed


def test_a_claim_of_an_earlier_process_of_the_same_owner_is_not_waited_for(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = Bucket(address)
    bucket.write("claims/cam-k", b"me 1")
    caplog.set_level("INFO", "sfc")
    with claimed(bucket, "cam-k", "me", 1e9):
        assert "waiting" not in caplog.text


def test_a_claim_is_renewed_while_its_owner_works(address: str) -> None:
    renewed = threading.Event()

    class Watched(Bucket):
        def write(self, name: str, content: bytes, mode: object = "overwrite") -> bool:
            written = super().write(name, content, mode)  # type: ignore[arg-type]
            if mode == "overwrite":
                renewed.set()
            return written

    with claimed(Watched(address), "cam-k", "me", EXPIRY):
        assert renewed.wait(30)


def test_a_claim_is_given_back_when_the_work_fails(address: str) -> None:
    bucket = Bucket(address)
    with pytest.raises(ZeroDivisionError), claimed(bucket, "cam-k", "me"):
        raise ZeroDivisionError
    assert not bucket.names("claims")
