"""Object stores that refuse, die or cannot be reached: what is raised, and what is there afterwards."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator

import pytest

import eventcore as ec
from eventcore.snapshot.object_client import PART_SIZE
from eventcore.snapshot.object_errors import translated
from eventcore.snapshot.object_place import ObjectPlace, open_object_place
from eventcore.snapshot.place import LOCK_NAME

from .network import CuttingProxy, answering, nobody, silent
from .s3_server import S3Server

pytest.importorskip("obstore")

SECRETS = ("the-secret-key", "the-session-token", "the-string-to-sign", "the-payload")
PAYLOAD = SECRETS[3].encode()
CALLS = {
    "sizes": lambda place: place.sizes("data/"),
    "read": lambda place: place.read("data/a", 0, 10),
    "write": lambda place: place.write("data/a", PAYLOAD),
    "write in parts": lambda place: place.write("data/a", PAYLOAD * PART_SIZE),
    "create": lambda place: place.create("data/a", PAYLOAD),
    "remove": lambda place: place.remove(["data/a"]),
    "holding": lambda place: place.holding().__enter__(),
}


def place_at(endpoint: str, **options: str) -> ObjectPlace:
    keys = {"access_key_id": "key", "secret_access_key": SECRETS[0], "token": SECRETS[1], "region": "us-east-1"}
    return open_object_place(
        "s3://bucket/pre", {"endpoint": endpoint, "allow_http": "true", **keys, **options}, patience_s=0.3
    )


def refusal(place: ObjectPlace, call: str) -> ec.RemoteError:
    with pytest.raises(ec.RemoteError) as caught:
        CALLS[call](place)
    error = caught.value
    assert error.path is not None
    assert error.path.startswith("s3://bucket/pre")
    shown = "".join(traceback.format_exception(error))
    assert [secret for secret in SECRETS if secret in shown] == []
    return error


def answer(code: str) -> str:
    """As S3 answers, with everything in it that it may say."""
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>...</Message><Token-0>{SECRETS[1]}</Token-0>"
        f"<StringToSign>{SECRETS[2]}</StringToSign></Error>"
    )


ANSWERS = [
    (403, "AccessDenied", False, "check the credentials"),
    (403, "InvalidAccessKeyId", False, "check the credentials"),
    (403, "SignatureDoesNotMatch", False, "check the credentials"),
    (401, "Unauthorized", False, "check the credentials"),
    (400, "ExpiredToken", False, "renew the credentials"),
    (403, "ExpiredToken", False, "renew the credentials"),
    (403, "RequestTimeTooSkewed", False, "set the clock"),
    (404, "NoSuchBucket", False, "create the bucket"),
    (400, "AuthorizationHeaderMalformed", False, "set `region`"),
    (400, "SomethingElse", False, "check the URL and the options"),
    (501, "NotImplemented", False, "use another one"),
    (500, "InternalError", True, "try again"),
    (503, "SlowDown", True, "try again"),
]


@pytest.mark.sampled
@pytest.mark.parametrize("call", [call for call in CALLS if call != "write in parts"])
@pytest.mark.parametrize(("status", "code", "retriable", "hint"), ANSWERS)
def test_a_refusal_says_what_to_do(call: str, status: int, code: str, retriable: bool, hint: str) -> None:
    with answering(status, answer(code)) as endpoint:
        error = refusal(place_at(endpoint), call)
    assert error.retriable is retriable
    assert not isinstance(error, ec.MissingObject)
    assert hint in str(error)
    assert f"it answered {status}" in str(error)
    assert code in str(error) or status >= 500, "not every version of obstore tells the code of these"


def test_a_store_that_overlooks_conditions_is_refused() -> None:
    with answering(200, "") as endpoint:
        error = refusal(place_at(endpoint), "holding")
    assert not error.retriable
    assert "use one that does conditional writes" in str(error)


@pytest.mark.sampled
@pytest.mark.parametrize("call", CALLS)
def test_nobody_listens(call: str) -> None:
    with nobody() as endpoint:
        error = refusal(place_at(endpoint), call)
    assert error.retriable
    assert "refuses connections" in str(error)


def test_a_name_that_nobody_knows() -> None:
    error = refusal(place_at("http://no-such-host.invalid"), "write")
    assert error.retriable
    assert "check the `endpoint`" in str(error)


@pytest.mark.sampled
@pytest.mark.parametrize("call", ["write", "read"])
def test_a_server_that_never_answers(call: str) -> None:
    with silent() as endpoint:
        error = refusal(place_at(endpoint, timeout="1 second"), call)
    assert error.retriable
    assert "did not answer in time" in str(error)


@pytest.mark.nightly
@pytest.mark.parametrize("call", ["write", "read"])
def test_a_server_that_never_answers_is_given_up_in_time(call: str) -> None:
    with silent() as endpoint:
        began = time.monotonic()
        refusal(place_at(endpoint, timeout="1 second"), call)
    assert time.monotonic() - began < 20


def test_plain_http_has_to_be_allowed() -> None:
    with nobody() as endpoint:
        error = refusal(place_at(endpoint, allow_http="false"), "write")
    assert not error.retriable
    assert "allow_http" in str(error)


def test_a_full_disk_is_one() -> None:
    text = 'Generic LocalFileSystem error\n source: Os {\n code: 28,\n kind: StorageFull,\n message: "No space left"'
    assert isinstance(translated(OSError(text), "file:///a/b"), ec.DiskFull)


def test_a_file_system_that_refuses(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("place")
    place = open_object_place(f"file://{folder}")
    place.write("data/a", b"x")
    with pytest.raises(ec.RemoteError) as caught:
        place.write("data", b"x")
    assert not caught.value.retriable
    (folder / "file").write_bytes(b"")
    with pytest.raises(ec.RemoteError, match="the folder cannot be used"):
        open_object_place(f"file://{folder}/file/below")


@pytest.fixture
def large() -> bytes:
    return os.urandom(1 << 20) * (3 * PART_SIZE >> 20)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(s3_server.port)
    yield proxy
    proxy.close()


def is_there(place: ObjectPlace, name: str) -> bool:
    return name in place.sizes("data/")


@pytest.mark.s3
@pytest.mark.parametrize("passed", [0, 1000, PART_SIZE + 5000, 2 * PART_SIZE])
def test_a_write_that_is_cut_leaves_nothing_and_can_be_done_again(
    s3_server: S3Server, proxy: CuttingProxy, large: bytes, passed: int
) -> None:
    url, options = s3_server.new_bucket()
    place = open_object_place(url, options | {"endpoint": proxy.endpoint}, patience_s=0.3)
    direct = open_object_place(url, options)
    proxy.cut_after(up=passed)
    buffer = bytearray(large)
    with pytest.raises(ec.RemoteError) as caught:
        place.write("data/large", buffer)
    buffer.append(0)  # a BufferError if the failed upload still had a hold on it
    assert caught.value.retriable
    assert proxy.was_cut
    assert not is_there(direct, "data/large")
    proxy.heal()
    place.write("data/large", large)
    assert bytes(direct.read("data/large", 0, len(large))) == large


@pytest.mark.s3
@pytest.mark.parametrize("passed", [0, 100, PART_SIZE])
def test_a_read_that_is_cut_is_no_short_one(
    s3_server: S3Server, proxy: CuttingProxy, large: bytes, passed: int
) -> None:
    url, options = s3_server.new_bucket()
    open_object_place(url, options).write("data/large", large)
    place = open_object_place(url, options | {"endpoint": proxy.endpoint}, patience_s=0.3)
    proxy.cut_after(down=passed)
    with pytest.raises(ec.RemoteError) as caught:
        place.read("data/large", 0, len(large))
    assert caught.value.retriable
    proxy.heal()
    assert bytes(place.read("data/large", 0, len(large))) == large


@pytest.mark.s3
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_connection_that_is_cut_once_is_not_noticed(
    s3_server: S3Server, proxy: CuttingProxy, large: bytes, way: str
) -> None:
    url, options = s3_server.new_bucket()
    place = open_object_place(url, options | {"endpoint": proxy.endpoint}, patience_s=120)
    place.write("data/large", large)
    proxy.at_limit = proxy.heal
    proxy.cut_after(**{way: PART_SIZE if way == "up" else 0})
    place.write("data/again", large)
    proxy.cut_after(**{way: 0 if way == "up" else PART_SIZE})
    assert bytes(place.read("data/again", 0, len(large))) == large
    assert proxy.was_cut


@pytest.mark.s3
def test_the_server_dies_in_a_large_write(own_s3_server: S3Server, large: bytes) -> None:
    own_s3_server.make_bucket("bucket")
    proxy = CuttingProxy(own_s3_server.port)
    proxy.at_limit = own_s3_server.kill
    place = open_object_place("s3://bucket", own_s3_server.options(proxy.endpoint), patience_s=0.5)
    proxy.cut_after(up=2 * PART_SIZE)
    try:
        with pytest.raises(ec.RemoteError) as caught:
            place.write("data/large", large)
        assert caught.value.retriable
        own_s3_server.start()
        proxy.heal(own_s3_server.port)
        own_s3_server.make_bucket("bucket")
        assert not is_there(place, "data/large")
        place.write("data/large", large)
        assert bytes(place.read("data/large", 0, len(large))) == large
    finally:
        proxy.close()


@pytest.mark.s3
def test_a_lease_that_cannot_be_given_back_hides_no_error(s3_server: S3Server, proxy: CuttingProxy) -> None:
    url, options = s3_server.new_bucket()
    place = open_object_place(url, options | {"endpoint": proxy.endpoint}, patience_s=0.3)
    with place.holding():
        place.write("data/a", b"x")
        proxy.cut_after(up=0, down=0)
    assert LOCK_NAME in open_object_place(url, options).sizes(""), "it runs out by itself"


@pytest.mark.s3
def test_no_bucket(s3_server: S3Server) -> None:
    place = open_object_place("s3://there-is-none/x", s3_server.options())
    for call in CALLS.values():
        with pytest.raises(ec.RemoteError, match="create the bucket") as caught:
            call(place)
        assert not isinstance(caught.value, ec.MissingObject)
        assert not caught.value.retriable
