"""The lease on a place in an object store: who has it, who may take it over, and who is told that it is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.snapshot.object_lease import LIFE_S, Lease
from eventcore.snapshot.object_place import ObjectPlace, open_object_place
from eventcore.snapshot.place import LOCK_NAME

from .s3_server import S3Server

pytest.importorskip("obstore")

SHORT_S = 1.5
"""S3 dates objects in whole seconds. No verdict may depend on whether somebody is as fast as that."""
PATIENCE_S = 120.0
Open = Callable[..., ObjectPlace]


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def open_place(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one and the same place again and again, as other processes would."""
    if request.param == "file":
        return lambda **named: open_object_place(f"file://{tmp_path}/place", **named)
    server: S3Server = request.getfixturevalue("s3_server")
    url, options = server.new_bucket()
    return lambda **named: open_object_place(url, options, **named)


def leases(place: ObjectPlace) -> list[str]:
    """The leases that are there, and what was left behind of the looks at them."""
    return [name for name in place.sizes("") if name.startswith(LOCK_NAME)]


def holder(place: ObjectPlace) -> dict[str, object]:
    found: dict[str, object] = json.loads(bytes(place.read(LOCK_NAME, 0, 1000)))
    return found


def leave_a_lease(place: ObjectPlace) -> None:
    """What a killed process leaves; by the store's clock it is from now."""
    assert place.create(LOCK_NAME, json.dumps({"host": "dead", "pid": 7, "time": "then", "token": "t"}).encode())


def test_a_second_holder_is_refused_and_told_who_has_it(open_place: Open) -> None:
    place, other = open_place(), open_place()
    with place.holding():
        with pytest.raises(ec.LogLocked, match=f"process {os.getpid()} on {socket.gethostname()}") as caught:
            other.holding().__enter__()
        assert caught.value.retriable
        assert place.url in str(caught.value)
        with pytest.raises(ec.LogLocked), place.holding():
            pass
        place.write("data/a", b"x")
        assert leases(place) == [LOCK_NAME]
    with other.holding():
        other.write("data/a", b"x")
    assert leases(place) == []


def test_the_lease_is_given_back_after_an_exception(open_place: Open) -> None:
    place = open_place()
    with pytest.raises(ec.MissingObject), place.holding():
        place.read("data/none", 0, 1)
    assert leases(place) == []


@contextmanager
def holding_in_time(place: ObjectPlace) -> Iterator[None]:
    """Hold it as soon as whoever has it now is out of date."""
    deadline = time.monotonic() + PATIENCE_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(place.holding())
                break
            except ec.LogLocked:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield


@pytest.mark.sampled
def test_a_stale_lease_is_taken_over(open_place: Open) -> None:
    """It is stale for whoever lets it live for a second or two, and fresh for whoever lets it live for a minute."""
    place, hasty = open_place(), open_place(lease_s=SHORT_S)
    leave_a_lease(place)
    with pytest.raises(ec.LogLocked, match="process 7 on dead"), place.holding():
        pass
    with holding_in_time(hasty):
        assert holder(place)["pid"] == os.getpid()
    assert leases(place) == []


def test_a_lease_that_nobody_can_read_is_one_all_the_same(open_place: Open) -> None:
    place = open_place()
    place.write(LOCK_NAME, b"\xff no JSON")
    with pytest.raises(ec.LogLocked, match="somebody else"), place.holding():
        pass


@pytest.mark.sampled
def test_a_lease_is_renewed_while_its_holder_waits(open_place: Open) -> None:
    place, other = open_place(lease_s=2 * SHORT_S), open_place()
    with place.holding():
        for _ in range(2):
            before, deadline = holder(other)["time"], time.monotonic() + PATIENCE_S
            while holder(other)["time"] == before:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        with pytest.raises(ec.LogLocked), other.holding():
            pass
        assert place.create("manifests/1", b"x")


@pytest.mark.nightly
def test_a_lease_is_renewed_in_time(open_place: Open) -> None:
    """A holder that waits for longer than its lease lives does not lose it, on a machine that lets its thread run."""
    place, other = open_place(lease_s=2 * SHORT_S), open_place(lease_s=2 * SHORT_S)
    with place.holding():
        time.sleep(2 * SHORT_S + 2)
        with pytest.raises(ec.LogLocked), other.holding():
            pass
        assert place.create("manifests/1", b"x")


@pytest.mark.sampled
@pytest.mark.parametrize("change", ["taken over", "removed"])
@pytest.mark.parametrize("call", ["write", "create", "remove"])
def test_a_lost_lease_is_noticed(open_place: Open, change: str, call: str) -> None:
    place, other = open_place(lease_s=SHORT_S), open_place()
    with place.holding():
        if change == "removed":
            other.remove([LOCK_NAME])
        else:
            other.write(LOCK_NAME, b'{"token": "another"}')
        calls = {
            "write": lambda: place.write("data/a", b"x"),
            "create": lambda: place.create("data/a", b"x"),
            "remove": lambda: place.remove(["kept/a"]),
        }
        time.sleep(SHORT_S / 2)
        for _ in range(2):
            with pytest.raises(ec.LogLocked, match="was taken over"):
                calls[call]()
    assert other.sizes("data/") == {}
    assert leases(other) == ([] if change == "removed" else [LOCK_NAME]), "it is the other's, and stays"


@pytest.mark.s3
def test_one_of_many_takes_a_stale_lease_over(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still: the dead one's lease is too old by a second, a new one never is."""
    url, options = s3_server.new_bucket()
    place = open_object_place(url, options)
    leave_a_lease(place)
    found = place._client.find(LOCK_NAME)
    assert found is not None
    late = found.modified + timedelta(seconds=LIFE_S + 1)
    monkeypatch.setattr(Lease, "_store_time", lambda lease: late)
    time.sleep(2.1)  # S3 dates objects in whole seconds: the new lease is one that is later
    start, done = threading.Barrier(6), threading.Barrier(6)

    def take(_: int) -> bool:
        place = open_object_place(url, options)
        start.wait()
        try:
            with place.holding():
                done.wait()
                return True
        except ec.LogLocked:
            done.wait()
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(6))) == 1


class Counting:
    """The client of a place, which counts how often the lease is written."""

    def __init__(self, place: ObjectPlace) -> None:
        self._client, self.url, self.renewals = place._client, place.url, 0
        self.create, self.find, self.write, self.remove = (
            self._client.create,
            self._client.find,
            self._client.write,
            self._client.remove,
        )

    def replace(self, name: str, data: bytes, version: dict[str, str]) -> bool:
        self.renewals += 1
        return self._client.replace(name, data, version)


def test_a_lease_is_renewed_when_a_third_of_its_life_is_over(open_place: Open) -> None:
    now = [1000.0]
    client = Counting(open_place())
    lease = Lease(client, 60, lambda: now[0])  # type: ignore[arg-type]
    lease.take()
    for moment, renewals in ((1019.0, 0), (1021.0, 1), (1040.0, 1), (1042.0, 2), (900.0, 3)):
        now[0] = moment
        lease.confirm()
        assert client.renewals == renewals, moment
    lease.confirm(now=True)
    assert client.renewals == 4
    lease.give_back()
    assert client.find(LOCK_NAME) is None


A_HOLDER_THAT_STOPS = """
import sys, eventcore as ec
from eventcore.snapshot.object_place import open_object_place
url, lease_s, *options = sys.argv[1:]
place = open_object_place(url, dict(option.split("=", 1) for option in options), lease_s=float(lease_s))
with place.holding():
    print("held", flush=True)
    sys.stdin.readline()
    try:
        place.create("manifests/1", b"late")
    except ec.LogLocked as error:
        print(error.message, flush=True)
"""


@pytest.mark.s3
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process")
def test_a_holder_that_was_stopped_finds_that_it_was_succeeded(s3_server: S3Server) -> None:
    url, options = s3_server.new_bucket()
    place = open_object_place(url, options, lease_s=SHORT_S)
    command = [sys.executable, "-c", A_HOLDER_THAT_STOPS, url, str(SHORT_S), *map("=".join, options.items())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline() == "held\n"
            process.send_signal(signal.SIGSTOP)
            with holding_in_time(place):
                process.send_signal(signal.SIGCONT)
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.readline() == "the place was taken over by somebody else\n"
                assert process.wait(PATIENCE_S) == 0
                assert place.create("manifests/1", b"mine"), "nothing was made, and the lease is still ours"
        finally:
            process.kill()
