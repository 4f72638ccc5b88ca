"""The calls of an object store (extra `snapshots`: obstore), with errors of ours and without retries of ours.

obstore itself tries again what may be tried again, for a bounded time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from eventcore.errors import InvalidConfig, MissingObject, UsageError
from eventcore.snapshot.object_errors import is_beyond_end, typed
from eventcore.types import Buffer

SCHEMES = ("s3", "gs", "az", "file")
_PREFIXES = {"s3": "aws_", "gs": "google_", "az": "azure_"}
"""Of options and of variables of the environment."""
PART_SIZE = 8 << 20
PARTS_AT_A_TIME = 4
"""Of each object: with 8 objects at a time 256 MiB are on their way."""
_PAGE = 1000
_CONNECTION = {"timeout": "60 seconds", "connect_timeout": "5 seconds"}
"""A part of 8 MiB has a minute: what hangs longer than that counts as lost."""
_CONNECTION_OPTIONS = set(
    """
    allow_http allow_invalid_certificates connect_timeout default_content_type default_headers http1_only http2_only
    http2_keep_alive_interval http2_keep_alive_timeout http2_keep_alive_while_idle pool_idle_timeout
    pool_max_idle_per_host proxy_ca_certificate proxy_excludes proxy_url randomize_addresses read_timeout
    root_certificate timeout user_agent
    """.split()
)


class Found(NamedTuple):
    """An object as it is at one moment."""

    content: bytes
    modified: datetime
    """By the clock of the object store."""
    version: dict[str, str]
    """For `replace`."""


def load() -> Any:
    """The obstore package."""
    try:
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise UsageError("object stores need obstore", hint="pip install 'eventcore[snapshots]'") from None
    return obstore


def connect(url: str, options: Mapping[str, str], patience_s: float) -> Any:
    """obstore's store of a URL. Nothing is sent yet. Raises UsageError, RemoteError."""
    obstore = load()
    _check(url, options)
    scheme = urlsplit(url).scheme
    with typed(public(url)):
        if scheme == "file":
            return obstore.store.from_url(url, mkdir=True)
        config, connection = _sorted_out(_PREFIXES[scheme], options)
        try:
            return obstore.store.from_url(
                url, config=config, client_options=connection, retry_config=_retries(patience_s)
            )
        except obstore.exceptions.UnknownConfigurationKeyError:
            raise InvalidConfig(
                f"{scheme}:// does not have all of these options: {', '.join(sorted(options))}"
            ) from None


def _sorted_out(prefix: str, options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Options for the store, and those for its connections. obstore wants them apart, and forgets what the environment
    says about connections where it is told anything.
    """

    def connections(given: Mapping[str, str]) -> dict[str, str]:
        short = {name.lower().removeprefix(prefix): value for name, value in given.items()}
        return {name: value for name, value in short.items() if name in _CONNECTION_OPTIONS}

    config = {name: value for name, value in options.items() if not connections({name: value})}
    environment = {name: value for name, value in os.environ.items() if name.lower().startswith(prefix)}
    return config, _CONNECTION | connections(environment) | connections(options)


def _retries(patience_s: float) -> dict[str, object]:
    pause = timedelta(seconds=max(1.0, patience_s / 6))
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": pause, "base": 2}
    return {"max_retries": 10, "retry_timeout": timedelta(seconds=patience_s), "backoff": backoff}


def _check(url: str, options: Mapping[str, str]) -> None:
    parts = _split(url)
    if parts.scheme not in SCHEMES:
        allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"a snapshot cannot be kept at {public(url)!r}", hint=f"use one of {allowed}")
    if parts.scheme == "file":
        if options:
            raise InvalidConfig("file:// has no options", hint="leave them out")
        if parts.netloc or not parts.path.startswith("/"):
            raise UsageError(f"{public(url)!r} names no folder", hint="use file:///path/of/the/folder")
    elif not parts.hostname:
        raise UsageError(f"{public(url)!r} names no bucket", hint=f"use {parts.scheme}://bucket/prefix")
    for name, value in options.items():
        address = _split(value) if name.lower().endswith(("endpoint", "endpoint_url")) else None
        if address is not None and not (address.scheme in ("http", "https") and address.hostname):
            raise InvalidConfig(f"{name} is no URL", hint="it begins with https:// or http://")


def _split(url: str) -> SplitResult:
    """The parts of a URL; those of an empty one where there are none."""
    try:
        return urlsplit(url)
    except ValueError:  # with the text in it
        return urlsplit("")


def public(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = _split(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")


class ObjectClient:
    """Objects of one store by name. Every method raises RemoteError, and MissingObject where an object has to be."""

    def __init__(self, store: Any, url: str) -> None:
        self._obstore = load()
        self._store = store
        self.url = public(url)

    def url_of(self, name: str) -> str:
        """For messages."""
        return f"{self.url}/{name}"

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Name and size of the objects whose names begin with `prefix`, in no order."""
        with typed(self.url_of(prefix)):
            for page in self._obstore.list(self._store, prefix or None, chunk_size=_PAGE):
                yield from ((found["path"], found["size"]) for found in page)

    def read(self, name: str, start: int, size: int) -> Buffer:
        """Up to `size` bytes of an object from `start` on; a view of what was received."""
        with typed(self.url_of(name)):
            if size == 0:
                self._obstore.head(self._store, name)
                return b""
            try:
                got = self._obstore.get(self._store, name, options={"range": (start, start + size)})
                return memoryview(got.bytes())
            except self._obstore.exceptions.BaseError as error:
                if is_beyond_end(error) and self._obstore.head(self._store, name)["size"] <= start:
                    return b""
                raise

    def write(self, name: str, data: Buffer) -> None:
        """Store an object, in parts if it is large; it is there whole or not at all."""
        with typed(self.url_of(name)):
            self._obstore.put(self._store, name, _bytes_of(data), chunk_size=PART_SIZE, max_concurrency=PARTS_AT_A_TIME)

    def create(self, name: str, data: Buffer) -> bool:
        """Store an object unless there is one of that name: the object store itself sees to it."""
        with typed(self.url_of(name)):
            return self._put_if(name, data, "create")

    def replace(self, name: str, data: Buffer, version: dict[str, str]) -> bool:
        """Store an object if it is as it was found; files have no such thing, and are replaced."""
        with typed(self.url_of(name)):
            with suppress(NotImplementedError):
                return self._put_if(name, data, version)
            self.write(name, data)
            return True

    def _put_if(self, name: str, data: Buffer, mode: object) -> bool:
        exceptions = self._obstore.exceptions
        try:
            self._obstore.put(self._store, name, _bytes_of(data), mode=mode)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            return False
        return True

    def find(self, name: str) -> Found | None:
        """A small object as it is now."""
        try:
            with typed(self.url_of(name)):
                got = self._obstore.get(self._store, name)
                meta, content = got.meta, bytes(got.bytes())
        except MissingObject:
            return None
        version = {key: meta[key] for key in ("e_tag", "version") if meta[key]}
        return Found(content, meta["last_modified"], version)

    def remove(self, names: Sequence[str]) -> None:
        """Remove up to 1,000 objects; those that are not there are no error."""
        try:
            self._delete(list(names))
        except MissingObject:  # not every store has a bulk delete; what became of the others is not told
            for name in names:
                with suppress(MissingObject):
                    self._delete([name])

    def _delete(self, names: list[str]) -> None:
        with typed(self.url_of(names[0])):
            self._obstore.delete(self._store, names)


def _bytes_of(data: Buffer) -> Buffer:
    """obstore takes buffers of unsigned bytes in one dimension, as they are."""
    view = memoryview(data)
    return data if view.format == "B" and view.ndim == 1 else view.cast("B")
