"""Snapshots in an object store: S3 and what speaks like it, Google Cloud Storage, Azure, through obstore.

An object store makes an object durable before it answers, and shows it whole or not at all; so nothing has to be
settled, and what a killed upload leaves behind are at most parts that nobody sees. A bucket should have a lifecycle
rule that removes those ("abort incomplete multipart uploads").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from eventcore.snapshot.object_client import ObjectClient, connect
from eventcore.snapshot.object_lease import LIFE_S, Lease
from eventcore.types import Buffer

PATIENCE_S = 30.0
"""How long a request is tried again."""
_REMOVED_AT_A_TIME = 1000


def open_object_place(
    url: str,
    options: Mapping[str, str] | None = None,
    *,
    patience_s: float = PATIENCE_S,
    lease_s: float = LIFE_S,
) -> ObjectPlace:
    """The place at s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder.

    `options` are obstore's names, such as endpoint, region, access_key_id, secret_access_key, allow_http; what they do
    not say is taken from the environment (AWS_ACCESS_KEY_ID, ...) or from the machine's role. The object store must do
    conditional writes; for one without bulk deletes there is `disable_bulk_delete`. A request that fails for
    the network is tried again for `patience_s`; somebody else's lease counts until it is `lease_s` old.

    Nothing is sent yet. Raises UsageError for another kind of URL and InvalidConfig for an unknown option.
    """
    return ObjectPlace(connect(url, options or {}, patience_s), url, lease_s=lease_s)


class ObjectPlace:
    """A `Place` in an object store. Methods may be called by several threads at a time.

    All of them raise RemoteError where the object store cannot be reached or refuses, with `retriable`. Those that
    change something raise LogLocked if the lease of `holding` was lost. With file:// nothing is synced: what was stored
    survives a killed process, but a power cut only once the system has written it.
    """

    links = False
    threads = 8

    def __init__(self, store: Any, url: str, *, lease_s: float = LIFE_S) -> None:
        """`store` is one of obstore's; `url` is for messages."""
        self._client = ObjectClient(store, url)
        self._lease_s = lease_s
        self._lease: Lease | None = None
        self.url = self._client.url

    def sizes(self, prefix: str) -> dict[str, int]:
        """The objects whose names begin with `prefix`, and how many bytes each has."""
        return dict(self._client.sizes(prefix))

    def read(self, name: str, start: int, size: int) -> Buffer:
        """`size` bytes of an object from `start` on, or as many as there are. Raises MissingObject, RemoteError."""
        return self._client.read(name, start, size)

    def write(self, name: str, data: Buffer) -> None:
        """Store an object; it is durable on return. After an error it is there whole, or as it was before.

        `data` must not change meanwhile: it is sent from where it is. Raises RemoteError, LogLocked.
        """
        self._confirm()
        self._client.write(name, data)

    def create(self, name: str, data: Buffer) -> bool:
        """Store an object unless there is one of that name, durably: of several at once exactly one is told True.

        After a RemoteError it may be there: the answer may have been lost. Raises RemoteError, LogLocked.
        """
        self._confirm(now=True)
        return self._client.create(name, data)

    def link(self, name: str, path: Path) -> bool:
        """False: an object store has no files."""
        return False

    def settle(self) -> None:
        """Nothing: what was written is durable."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, durably; those that are not there are no error. Raises RemoteError, LogLocked."""
        left = iter(names)
        while some := list(islice(left, _REMOVED_AT_A_TIME)):
            self._confirm(now=True)
            self._client.remove(some)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Be the only one who makes or removes snapshots here, by a lease (`object_lease.py`).

        A lease that was not renewed for its whole life is taken over. Raises LogLocked while somebody else, or this
        process, has one; RemoteError.
        """
        lease = Lease(self._client, self._lease_s)
        lease.take()
        self._lease = lease
        try:
            yield
        finally:
            self._lease = None
            lease.give_back()

    def _confirm(self, *, now: bool = False) -> None:
        if self._lease is not None:
            self._lease.confirm(now=now)
