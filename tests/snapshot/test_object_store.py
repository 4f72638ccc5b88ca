"""Snapshots in an S3-compatible object store, end to end: what is sent, what a death on either side leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import eventcore as ec
from eventcore.snapshot.object_place import ObjectPlace
from eventcore.snapshot.place import LOCK_NAME
from tests.cli.conftest import Run
from tests.cli.conftest import run as run_fixture

from .network import CuttingProxy, answering
from .s3_server import Options, S3Server
from .worlds import look, look_at, open_store, tree

pytest.importorskip("obstore")
pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]

run = run_fixture
MIB = 1 << 20
TOPIC = {"segment.bytes": 8 * MIB}
SECOND = """
import sys, eventcore as ec
sys.stdin.readline()
options = dict(pair.split("=", 1) for pair in sys.argv[3:])
with ec.open(sys.argv[1], fsync="never", config={"store.housekeeping.enable": False}) as store:
    print("taking", flush=True)
    try:
        print(store.snapshot(sys.argv[2], options=options).number, flush=True)
    except ec.LogLocked:
        print("refused", flush=True)
"""
"""A process that takes a snapshot of a store."""


def grow(store: ec.Store, size: int) -> None:
    """Bytes that nobody can guess, so that none is like another."""
    if "large" not in store.topics:
        store.create_topic("large", 1, TOPIC)
    store.topic("large").extend([(b"k", os.urandom(1 << 16)) for _ in range(size >> 16)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ec.Store]:
    """6 segments and a tail, 52 MiB."""
    with open_store(tmp_path / "store") as store:
        grow(store, 52 * MIB)
        yield store


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(s3_server.port)
    yield proxy
    proxy.close()


def passed(proxy: CuttingProxy, way: str) -> int:
    """Bytes since `count`."""
    return (1 << 40) - proxy.limits[way]


def count(proxy: CuttingProxy) -> None:
    proxy.cut_after(up=1 << 40, down=1 << 40)


def pairs(options: Options) -> list[str]:
    return [f"{name}={value}" for name, value in options.items()]


def taker(path: Path, url: str, options: Options) -> subprocess.Popen[str]:
    """A process that waits for a line and takes a snapshot then."""
    command = [sys.executable, "-c", SECOND, str(path), url, *pairs(options)]
    environment = {**os.environ, "PYTHONPATH": str(Path(ec.__file__).parents[1])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "taking\n"


def test_a_later_one_sends_what_is_new(
    s3_server: S3Server, proxy: CuttingProxy, store: ec.Store, tmp_path: Path
) -> None:
    url, options = s3_server.new_bucket()
    options["endpoint"] = proxy.endpoint
    count(proxy)
    first = store.snapshot(url, options=options)
    assert first.size <= first.new_bytes + 1000
    assert first.new_bytes <= passed(proxy, "up") <= 1.05 * first.new_bytes
    before = look(store)
    grow(store, 10 * MIB)
    count(proxy)
    second = store.snapshot(url, options=options)
    assert second.parent == first.number
    assert 10 * MIB <= second.new_bytes <= 1.05 * 10 * MIB
    assert passed(proxy, "up") <= 1.05 * 10 * MIB
    archive = ec.snapshots(url, options=options)
    assert [archive.verify(number) for number in archive.numbers()] == [[], []]
    ec.restore(url, tmp_path / "first", number=1, options=options)
    ec.restore(url, tmp_path / "second", options=options)
    assert look_at(tmp_path / "first") == before
    assert look_at(tmp_path / "second") == look(store)
    assert archive.prune() == [1]
    assert archive.verify(2) == []
    assert set(archive.place.sizes("objects/")) == set(second.objects())


def test_a_snapshotter_that_is_killed(s3_server: S3Server, proxy: CuttingProxy, tmp_path: Path) -> None:
    url, direct = s3_server.new_bucket()
    with open_store(tmp_path / "store") as store:
        grow(store, 52 * MIB)
        world = look(store)
    process = taker(tmp_path / "store", url, direct | {"endpoint": proxy.endpoint})
    proxy.at_limit = lambda: process.send_signal(signal.SIGKILL)
    proxy.cut_after(up=30 * MIB)
    go(process)
    assert process.wait(120) == -signal.SIGKILL
    archive = ec.snapshots(url, options=direct)
    assert archive.numbers() == []
    sent = sum(archive.place.sizes("objects/").values())
    assert sent > 0
    proxy.heal()
    with open_store(tmp_path / "store") as store:
        assert store.problems == [], "the shelf it has left is a deleted partition's folder"
        assert look(store) == world
        count(proxy)
        options = direct | {"endpoint": proxy.endpoint}
        found = _after_the_lease(store, url, options)
        assert found.new_bytes <= found.size - sent + (1 << 16), "small files are sent again"
        assert passed(proxy, "up") <= 1.05 * (found.size - sent)
    ec.restore(url, tmp_path / "new", options=direct)
    assert look_at(tmp_path / "new") == world


def _after_the_lease(store: ec.Store, url: str, options: Options) -> ec.Manifest:
    """The dead one's lease runs out by itself."""
    end = time.monotonic() + 240
    while True:
        try:
            return store.snapshot(url, options=options)
        except ec.LogLocked:
            assert time.monotonic() < end
            time.sleep(0.5)


def test_the_server_dies_in_a_restore(
    own_s3_server: S3Server, store: ec.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectPlace, "threads", 1)  # of eight files at a time, none need be whole by then
    own_s3_server.make_bucket("bucket")
    url, direct = "s3://bucket/some/prefix", own_s3_server.options()
    found = store.snapshot(url, options=direct)
    place = ec.snapshots(url, options=direct).place
    content = {name: bytes(place.read(name, 0, size)) for name, size in place.sizes("").items()}
    proxy = CuttingProxy(own_s3_server.port)
    proxy.at_limit = own_s3_server.kill
    options = direct | {"endpoint": proxy.endpoint}
    proxy.cut_after(down=35 * MIB)
    try:
        with pytest.raises(ec.RemoteError) as caught:
            ec.restore(url, tmp_path / "new", options=options)
        assert caught.value.retriable
        assert not (tmp_path / "new").exists()
        own_s3_server.start()
        proxy.heal(own_s3_server.port)
        own_s3_server.make_bucket("bucket")
        place = ec.snapshots(url, options=own_s3_server.options()).place
        for name, data in content.items():  # its buckets are in memory: it gets back what it had
            place.write(name, data)
        count(proxy)
        assert ec.restore(url, tmp_path / "new", options=options) == found
        assert passed(proxy, "down") < found.size - 7 * MIB, "a segment at least was not fetched again"
    finally:
        proxy.close()
    assert look_at(tmp_path / "new") == look(store)


def test_two_at_once(s3_server: S3Server, proxy: CuttingProxy, tmp_path: Path) -> None:
    """One is held up in the midst of its work until the other has been refused."""
    url, options = s3_server.new_bucket()
    for name in ("store", "other"):
        with open_store(tmp_path / name) as store:
            grow(store, 52 * MIB)
    first = taker(tmp_path / "store", url, options | {"endpoint": proxy.endpoint})
    second = taker(tmp_path / "other", url, options)
    place = ec.snapshots(url, options=options).place
    proxy.go_on.clear()
    try:
        go(first)
        wait_until(lambda: LOCK_NAME in place.sizes(""))
        go(second)
        assert second.communicate(timeout=120)[0].strip() == "refused"
    finally:
        proxy.go_on.set()
    assert first.communicate(timeout=120)[0].strip() == "1"
    archive = ec.snapshots(url, options=options)
    assert archive.numbers() == [1]
    assert archive.verify(1) == []
    ec.restore(url, tmp_path / "new", options=options)
    assert look_at(tmp_path / "new") == look_at(tmp_path / "store")


def wait_until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_wrong_credentials(s3_server: S3Server, store: ec.Store, tmp_path: Path) -> None:
    body = "<Error><Code>InvalidAccessKeyId</Code></Error>"
    url, right = s3_server.new_bucket()
    with answering(403, body) as endpoint:
        options = right | {"endpoint": endpoint, "access_key_id": "wrong"}
        before = set(tree(tmp_path))
        with pytest.raises(ec.RemoteError, match="check the credentials"):
            store.snapshot(url, options=options)
        with pytest.raises(ec.RemoteError, match="check the credentials"):
            ec.restore(url, tmp_path / "new", options=options)
    assert set(tree(tmp_path)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_the_command_line(s3_server: S3Server, tmp_path: Path, run: Run) -> None:
    url, options = s3_server.new_bucket()
    given = [text for pair in pairs(options) for text in ("--option", pair)]
    with open_store(tmp_path / "store") as store:
        grow(store, MIB)
        world = look(store)
    for number in (1, 2):
        ended = run("snapshot", tmp_path / "store", url, *given, "--json")
        assert (ended.code, ended.objects[0]["number"]) == (0, number), ended.err
    listed = run("snapshots", "list", url, *given, "--json")
    assert [one["number"] for one in listed.objects[0]] == [1, 2]
    assert run("snapshots", "verify", url, *given).text == "snapshot 1: whole\nsnapshot 2: whole\n"
    assert run("snapshots", "prune", url, *given).text == "removed: 1\n"
    ended = run("restore", url, tmp_path / "new", *given, "--json")
    assert (ended.code, ended.objects[0]["number"]) == (0, 2), ended.err
    assert look_at(tmp_path / "new") == world
    assert options["secret_access_key"] not in listed.err + ended.err
