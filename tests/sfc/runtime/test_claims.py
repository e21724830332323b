"""Claims in a bucket, on a real S3 server on this machine: one at a time, nobody waits for another key."""

from __future__ import annotations

import threading
import time

from sfc.runtime.bucket import Bucket
from sfc.runtime.remote_store import claimed


def test_a_claim_lets_one_in_at_a_time_however_many_ask(address: str) -> None:
    inside, most, entered = [0], [0], []

    def ask(me: str) -> None:
        bucket = Bucket(address)
        for _ in range(3):
            with claimed(bucket, "cam-k", me, 4):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.02)
                entered.append(me)
                inside[0] -= 1

    threads = [threading.Thread(target=ask, args=(f"host-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and len(entered) == 18 and not Bucket(address).names("claims")


def test_one_that_looks_early_and_writes_late_does_not_come_in_beside_another(address: str) -> None:
    class Slow(Bucket):
        def names(self, folder: str) -> dict[str, float]:
            found = super().names(folder)
            time.sleep(0.4)
            return found

    inside, order = threading.Lock(), []

    def ask(bucket: Bucket, me: str) -> None:
        with claimed(bucket, "cam-k", me, 4):
            assert inside.acquire(blocking=False)
            order.append(me)
            time.sleep(1.0)
            inside.release()

    first = threading.Thread(target=ask, args=(Slow(address), "a"))
    first.start()
    time.sleep(0.6)  # the slow one has looked for tickets, and not drawn its own
    ask(Bucket(address), "b")
    first.join()
    assert sorted(order) == ["a", "b"]


def test_claims_of_different_keys_do_not_wait_for_each_other(address: str) -> None:
    bucket = Bucket(address)
    with claimed(bucket, "cam-a", "one"), claimed(bucket, "cam-b", "two"):
        assert len(bucket.names("claims")) == 2


def test_one_that_is_drawing_its_ticket_is_waited_for(address: str) -> None:
    bucket, order = Bucket(address), []

    def ask() -> None:
        with claimed(bucket, "cam-k", "second", 4):
            order.append("entered")

    bucket.write("claims/cam-k-00000000-first", b"claimed")
    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.6)
    order.append("drawn")
    bucket.remove("claims/cam-k-00000000-first")
    thread.join()
    assert order == ["drawn", "entered"]
