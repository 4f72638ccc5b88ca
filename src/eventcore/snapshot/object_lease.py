"""The lease on a place in an object store: an object that says who has it, for as long as its holder renews it.

A lease can be lost: a process that was stopped for longer than the lease lives finds that somebody else has it. It is
told so at its next write. What holds even between two looks at the lease is the object store's own conditional write:
a manifest is made by `create`, so of two that make the same snapshot one is refused.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone

from eventcore import fork_safe
from eventcore.errors import EventCoreError, LogLocked, RemoteError
from eventcore.snapshot.object_client import Found, ObjectClient
from eventcore.snapshot.place import LOCK_NAME

LIFE_S = 60.0


class Lease:
    """Taken by `take`, renewed by a thread, and by `confirm` when the thread did not come to it."""

    def __init__(self, client: ObjectClient, life_s: float, clock: Callable[[], float] = time.time) -> None:
        self._client, self._life_s, self._clock = client, life_s, clock
        self._token = uuid.uuid4().hex
        self._renewed = 0.0
        self._turn = fork_safe.lock()
        self._over = threading.Event()
        """The lease was given back, or lost."""

    def take(self) -> None:
        """Have the lease. Raises LogLocked while somebody else has it, RemoteError."""
        now = self._clock()
        try:
            if self._client.create(LOCK_NAME, self._content()):
                self._refuse_a_store_without_conditions()
            else:
                found = self._client.find(LOCK_NAME)
                if not self._is_ours(found) and not self._take_over(found):
                    raise self._refusal(f"is held by {_holder(found)}")
        except RemoteError:
            self.give_back()  # it may have been taken, and only the answer lost
            raise
        self._renewed = now
        threading.Thread(target=self._renew_again_and_again, name="eventcore-lease", daemon=True).start()

    def _refuse_a_store_without_conditions(self) -> None:
        """Some servers that speak S3 overlook a condition they do not know, and would overwrite whatever there is."""
        if self._client.create(LOCK_NAME, self._content()):
            raise RemoteError(
                "the object store writes without regard to a condition (If-None-Match): snapshots could be overwritten",
                path=self._client.url,
                retriable=False,
                hint="use one that does conditional writes",
            )

    def _take_over(self, found: Found | None) -> bool:
        if found is None:  # given back meanwhile
            return self._client.create(LOCK_NAME, self._content())
        age_s = (self._store_time() - found.modified).total_seconds()
        return age_s > self._life_s and self._client.replace(LOCK_NAME, self._content(), found.version)

    def _store_time(self) -> datetime:
        """The time by the object store's own clock, which is what leases are dated by: it dates a new object."""
        name = f"{LOCK_NAME}.{self._token}"
        self._client.write(name, b"")
        try:
            probe = self._client.find(name)
        finally:
            self._client.remove([name])
        return probe.modified if probe else datetime.now(timezone.utc)

    def confirm(self, *, now: bool = False) -> None:
        """Renew the lease if a third of its life is over, or anyhow. Raises LogLocked if it is lost, RemoteError."""
        if now or self._is_due():
            with self._turn:
                if now or self._is_due():  # another thread may have renewed it while this one waited
                    self._renew()
        if self._over.is_set():
            raise self._refusal("was taken over by somebody else")

    def _is_due(self) -> bool:
        return not 0 <= self._clock() - self._renewed < self._life_s / 3  # a clock may be set back

    def _renew(self) -> None:
        if self._over.is_set():
            return
        now = self._clock()
        found = self._client.find(LOCK_NAME)
        renewed = found is not None and self._is_ours(found)
        if found is not None and renewed and not self._client.replace(LOCK_NAME, self._content(), found.version):
            renewed = self._is_ours(self._client.find(LOCK_NAME))  # the answer to a first try may have been lost
        if renewed:
            self._renewed = now
        else:
            self._over.set()

    def _renew_again_and_again(self) -> None:
        """A single large object may take longer than the lease lives."""
        while not self._over.wait(self._life_s / 3):
            with suppress(EventCoreError):  # `confirm` tells those who write
                self.confirm(now=True)

    def give_back(self) -> None:
        """Let others have it. What fails here is no error: the lease runs out by itself."""
        with self._turn, suppress(EventCoreError):
            lost = self._over.is_set()
            self._over.set()
            if not lost and self._is_ours(self._client.find(LOCK_NAME)):
                self._client.remove([LOCK_NAME])

    def _content(self) -> bytes:
        """New at each renewal: whoever would take over what was old a moment ago must find another version."""
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "time": _now(), "token": self._token}
        return json.dumps(holder).encode()

    def _is_ours(self, found: Found | None) -> bool:
        return found is not None and _parsed(found).get("token") == self._token

    def _refusal(self, what: str) -> LogLocked:
        hint = f"wait until it is done; whoever died is succeeded after {self._life_s:.0f} s"
        return LogLocked(f"the place {what}", path=self._client.url, hint=hint)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _parsed(found: Found) -> dict[str, object]:
    try:
        parsed = json.loads(found.content)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _holder(found: Found | None) -> str:
    parsed = _parsed(found) if found else {}
    if not parsed:
        return "somebody else"
    return f"process {parsed.get('pid')} on {parsed.get('host')} (heard of at {parsed.get('time')})"
