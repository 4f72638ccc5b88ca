"""What every place in an object store does: files through obstore, and a server that speaks S3."""

from __future__ import annotations

import builtins
import mmap
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import eventcore as ec
from eventcore.snapshot.object_client import PART_SIZE
from eventcore.snapshot.object_place import ObjectPlace, open_object_place
from eventcore.snapshot.place import Place

from .s3_server import S3Server

pytest.importorskip("obstore")


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectPlace:
    """An empty place that is there."""
    if request.param == "file":
        return open_object_place(f"file://{tmp_path}/place")
    server: S3Server = request.getfixturevalue("s3_server")
    return open_object_place(*server.new_bucket())


def everything(place: ObjectPlace, name: str) -> bytes:
    return bytes(place.read(name, 0, 1 << 40))


def test_it_is_a_place(place: ObjectPlace, tmp_path: Path) -> None:
    a_place: Place = place
    assert not a_place.links
    assert a_place.threads > 1
    assert a_place.link("data/x", tmp_path) is False
    a_place.settle()


def test_an_empty_place_has_no_objects(place: ObjectPlace) -> None:
    assert place.sizes("data/") == {}


def test_an_object_is_read_as_it_was_written(place: ObjectPlace) -> None:
    place.write("data/a", b"0123456789")
    assert bytes(place.read("data/a", 0, 10)) == b"0123456789"
    assert bytes(place.read("data/a", 3, 4)) == b"3456"
    assert bytes(place.read("data/a", 8, 100)) == b"89"


@pytest.mark.parametrize(("start", "size"), [(10, 1), (11, 5), (0, 0), (10, 0)])
def test_a_range_without_bytes_is_empty(place: ObjectPlace, start: int, size: int) -> None:
    place.write("data/a", b"0123456789")
    assert bytes(place.read("data/a", start, size)) == b""


def test_an_object_of_no_bytes(place: ObjectPlace) -> None:
    place.write("data/empty", b"")
    assert place.sizes("data/") == {"data/empty": 0}
    assert everything(place, "data/empty") == b""
    assert place.create("data/empty", b"x") is False


@pytest.mark.parametrize("size", [0, 1])
def test_an_absent_object_is_missing(place: ObjectPlace, size: int) -> None:
    with pytest.raises(ec.MissingObject, match="data/none") as caught:
        place.read("data/none", 0, size)
    assert not caught.value.retriable


def test_a_listing_keeps_to_its_prefix(place: ObjectPlace) -> None:
    for name in ("data/a", "data/sub/b", "database/c", "other/data/d"):
        place.write(name, name.encode())
    assert place.sizes("data/") == {"data/a": 6, "data/sub/b": 10}
    assert place.sizes("data/sub/") == {"data/sub/b": 10}


def test_a_second_write_replaces(place: ObjectPlace) -> None:
    place.write("data/a", b"old and longer")
    place.write("data/a", b"new")
    assert everything(place, "data/a") == b"new"


def test_create_leaves_what_is_there(place: ObjectPlace) -> None:
    assert place.create("manifests/1", b"first") is True
    assert place.create("manifests/1", b"second") is False
    assert everything(place, "manifests/1") == b"first"


def test_of_many_that_create_at_once_one_does(place: ObjectPlace) -> None:
    start = threading.Barrier(8)

    def create(number: int) -> int | None:
        start.wait()
        return number if place.create("manifests/1", b"%d" % number) else None

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert len(winners) == 1
    assert everything(place, "manifests/1") == b"%d" % winners[0]


@pytest.fixture
def large() -> bytes:
    """More than two parts, none like the other."""
    return b"".join(os.urandom(1 << 16) * 16 + b"%d" % number for number in range(2 * PART_SIZE // (1 << 20) + 1))


def test_a_large_object_goes_in_parts(place: ObjectPlace, large: bytes) -> None:
    assert len(large) > 2 * PART_SIZE
    place.write("data/large", large)
    assert place.sizes("data/") == {"data/large": len(large)}
    assert everything(place, "data/large") == large
    start = PART_SIZE - 10
    assert bytes(place.read("data/large", start, 20)) == large[start : start + 20]


def buffers(data: bytes, path: Path) -> Iterator[tuple[str, Any]]:
    yield "bytearray", bytearray(data)
    yield "view", memoryview(data)
    yield "part of a view", memoryview(b"xx" + data + b"y")[2:-1]
    yield "signed view", memoryview(data).cast("b")
    path.write_bytes(data)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    yield "read-only map", memoryview(mapped)


def test_any_buffer_can_be_written(place: ObjectPlace, tmp_path: Path) -> None:
    data = os.urandom(PART_SIZE + 1000)
    for kind, buffer in buffers(data, tmp_path / "source"):
        place.write("data/a", buffer)
        assert everything(place, "data/a") == data, kind
        assert place.create(f"data/{kind.replace(' ', '-')}", buffer), kind


def test_objects_are_written_and_read_in_parallel(place: ObjectPlace) -> None:
    contents = {f"data/{number}": os.urandom(50_000 + number) for number in range(24)}
    with ThreadPoolExecutor(place.threads) as pool:
        list(pool.map(place.write, contents, contents.values()))
        assert place.sizes("data/") == {name: len(data) for name, data in contents.items()}
        assert list(pool.map(lambda name: everything(place, name), contents)) == list(contents.values())


def test_1500_objects_are_listed_and_removed(place: ObjectPlace) -> None:
    names = [f"data/{number:04}" for number in range(1500)]
    with ThreadPoolExecutor(place.threads) as pool:
        list(pool.map(lambda name: place.write(name, b"x"), names))
    place.write("kept/a", b"x")
    assert place.sizes("data/") == dict.fromkeys(names, 1)
    place.remove(names)
    assert place.sizes("data/") == {}
    assert place.sizes("kept/") == {"kept/a": 1}


def test_what_is_not_there_can_be_removed(place: ObjectPlace) -> None:
    place.write("data/a", b"x")
    place.write("data/b", b"x")
    place.remove(iter(["data/none", "data/a", "data/neither", "data/b"]))
    assert place.sizes("data/") == {}
    place.remove([])


@pytest.mark.s3
def test_places_of_one_bucket_are_apart(s3_server: S3Server) -> None:
    url, options = s3_server.new_bucket()
    bucket = url.removesuffix("/some/prefix")
    place, other, whole = (open_object_place(bucket + end, options) for end in ("/some/prefix", "/some/pre/", ""))
    place.write("data/a", b"1")
    other.write("data/a", b"22")
    assert (place.url, other.url) == (f"{bucket}/some/prefix", f"{bucket}/some/pre")
    assert everything(place, "data/a") == b"1"
    assert whole.sizes("some/") == {"some/prefix/data/a": 1, "some/pre/data/a": 2}


@pytest.mark.s3
def test_the_environment_tells_the_rest(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url, options = s3_server.new_bucket()
    for name, value in options.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    place = open_object_place(url)
    place.write("data/a", b"x")
    assert open_object_place(url, {"timeout": "7 seconds"}).sizes("data/") == {"data/a": 1}


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "http://host/x", "/a/folder", "memory:///", "s3a://b", "http://[x", ""]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ec.UsageError, match="s3://, gs://, az://, file://"):
        open_object_place(url)


@pytest.mark.parametrize("url", ["s3://", "s3:///path", "gs:bucket", "file://host/folder", "file:folder"])
def test_a_url_needs_a_bucket_or_a_folder(url: str) -> None:
    with pytest.raises(ec.UsageError, match="names no"):
        open_object_place(url)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket", {"no_such_option": "the-secret"}),
        ("s3://bucket", {"endpoint": "the-secret"}),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "http://[the-secret"}),
        ("file:///tmp", {"region": "the-secret"}),
    ],
)
def test_bad_options_are_refused_without_their_values(url: str, options: dict[str, str]) -> None:
    with pytest.raises(ec.InvalidConfig) as caught:
        open_object_place(url, options)
    assert "the-secret" not in str(caught.value)


def test_bad_values_are_refused_without_showing_them() -> None:
    with pytest.raises(ec.RemoteError, match="an option has a value") as caught:
        open_object_place("s3://bucket", {"timeout": "the-secret"})
    assert not caught.value.retriable
    assert "the-secret" not in str(caught.value)


def test_the_url_has_no_credentials() -> None:
    place = open_object_place("s3://user:password@bucket/pre?X-Amz-Signature=secret#secret", {"region": "x"})
    assert place.url == "s3://bucket/pre"


def test_without_obstore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "obstore":
            raise ImportError(name)
        return really(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ec.UsageError, match=r"pip install 'eventcore\[snapshots\]'"):
        open_object_place("s3://bucket")
