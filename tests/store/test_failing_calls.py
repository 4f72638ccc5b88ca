"""A system call that fails while a topic is made, configured or deleted, or a view is saved: an error, and a store as
before or after.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

import eventcore as ec
from tests.crash.failing_disk import Fault, SystemCalls, open_descriptors

from .conftest import OpenStore

ACTS: dict[str, Callable[[ec.Store], object]] = {
    "create": lambda store: store.create_topic("new", 2, {"retention.ms": 5}),
    "configure": lambda store: store.configure_topic("old", {"retention.ms": 5}),
    "delete": lambda store: store.delete_topic("old"),
}
State = dict[str, tuple[object, ...]]


def state(store: ec.Store) -> State:
    found: State = {}
    for name in store.topics:
        topic = store.topic(name)
        found[name] = (len(topic), store.own_config(name), *(record.value for one in topic for record in one))
    return found


def prepared(open_store: OpenStore) -> ec.Store:
    store = open_store()
    store.create_topic("old", 2)[1].append(b"1")
    return store


@pytest.mark.sampled
@pytest.mark.parametrize("name", list(ACTS))
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_every_call(memory_path: Path, name: str, error: int) -> None:
    at, failed = 1, 0
    while True:
        folder = memory_path / f"{at}"

        def open_store(folder: Path = folder) -> ec.Store:
            return ec.open(folder, fsync="never", config={"store.housekeeping.enable": False})

        store = prepared(open_store)
        before = state(store)
        with SystemCalls(Fault(at, error)) as calls:
            try:
                ACTS[name](store)
                refused = False
            except ec.StorageError:
                refused = True
        if not calls.failed:
            break
        failed += refused
        try:
            during: State | None = state(store)
        except ec.StorageFenced:  # a partition could not be closed, to be opened with another configuration
            during = None
        after = _closed_and_opened(store, open_store)
        assert during in (None, after), f"{calls.failed} changed it with the next opening"
        assert (after != before) or refused
        assert after.keys() <= {"old", "new"}
        at += 1
    assert failed > 3
    assert at < 200


def _closed_and_opened(store: ec.Store, open_store: OpenStore) -> State:
    with suppress(ec.EventCoreError):
        store.close()
    with open_store() as again:
        assert again.problems == []
        again.create_topic("later").append(b"x")
        again.delete_topic("later")
        return state(again)


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_every_call_while_a_view_is_saved(memory_path: Path, mode: Literal["rw", "r"], error: int) -> None:
    """The old pair or the new one, and the next try succeeds; unless the log is fenced, as its sync failed."""
    at, failed = 1, 0
    while True:
        folder = memory_path / f"{at}"
        config = {"store.housekeeping.enable": False}
        with (
            suppress(ec.StorageFenced),
            ec.open(folder, fsync="never", config=config) as writer,
            ec.open(folder, "r", config=config) as reader,
        ):
            writer.create_topic("old", 2)[1].append(b"1")
            checkpoint = (writer if mode == "rw" else reader).checkpoint("view")
            old, new = {("old", 1): 0}, {("old", 1): 1}
            checkpoint.save(b"old", old)
            with SystemCalls(Fault(at, error)) as calls:
                try:
                    checkpoint.save(lambda file: file.write(b"new"), new)
                    refused = False
                except ec.StorageError:
                    refused = True
            if not calls.failed:
                break
            failed += refused
            at += 1
            left = [path for path in open_descriptors().values() if path.endswith((".view.lock", ".view.tmp"))]
            assert not left, calls.failed
            saved = reader.checkpoint("view").load()
            assert saved is not None
            pair = bytes(saved.data), saved.offsets
            assert pair == (b"new", new) or (refused and pair == (b"old", old)), calls.failed
            checkpoint.save(b"again", new)
            saved = reader.checkpoint("view").load()
            assert saved is not None
            assert (bytes(saved.data), saved.offsets) == (b"again", new)
    assert failed > 3
    assert at < 100
