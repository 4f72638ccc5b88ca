"""What of a writer's log is durable, who waits for that, and what becomes of the writer when it cannot be had.

Nothing is kept by hand: each segment knows how far it is synced, and a sync takes those that are not, from the oldest
on. So a sync that is cut short, by an error or by Ctrl-C, leaves nothing out of the next one.

  | lock         | guards                                                                | taken                      |
  | `_sync_lock` | the disk: one sync at a time; no truncation, deletion, swap meanwhile | first                      |
  | `_lock`      | what the log is: segments, offsets, producers, epochs                 | second; never for a sync   |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventcore import _kernels as kernels
from eventcore.config import LogConfig
from eventcore.errors import StorageError, StorageFenced
from eventcore.log.checkpoints import Checkpoint, Checkpoints
from eventcore.log.group_commit import GroupCommit
from eventcore.log.subscribers import Subscribers
from eventcore.log.watermarks import Watermarks
from eventcore.log.writer import BatchWriter


class Durability(Watermarks):
    """A part of `PartitionLog`."""

    folder: Path
    config: LogConfig
    fsync: str
    _checkpoints: Checkpoints
    _commits: GroupCommit
    _subscribers: Subscribers
    _writer: BatchWriter

    def _publish(self) -> None:
        raise NotImplementedError

    def _show(self) -> None:
        raise NotImplementedError

    def acknowledge(self, end: int, wait: bool = True) -> None:
        """Return when what was appended below `end` is as durable as it has to be; tell those who want to know."""
        if wait and (self.fsync == "always" or end - self.durable_offset >= self.config.flush_messages):
            self.sync_to(end)
        if self._local.sealed:
            self.close_sealed()
        if self._subscribers.callbacks:
            self._subscribers.notify()

    def sync_to(self, end: int) -> None:
        """On return every offset below `end` survives a power cut. Waiting callers share one sync."""
        self._check_usable()
        if self.durable_offset < end:
            self._commits.wait_for(end)

    def close_sealed(self) -> None:
        """After a roll, without `_lock`: a sync under way is waited for, as its files must stay open so long."""
        if self._local.sealed and not self._sync_lock.held():
            with self._sync_lock:
                try:
                    self._local.close_sealed()
                except StorageError as error:
                    raise self._fence(error) from error

    def _sync(self) -> None:
        within = self._sync_lock.held()  # a signal handler's append, while this thread syncs
        with self._sync_lock:
            self._check_usable()
            try:
                with self._lock:
                    self._check_whole()
                    target, segments = self.log_end_offset, self._local.segments.unsynced()
                    checkpoint = None if within else self._checkpoint_if_due()
                for segment in segments:
                    segment.sync()
                if checkpoint:
                    self._checkpoints.write_if_possible(checkpoint, self.producer_store)
            except StorageError as error:
                raise self._fence(error) from error
            with self._lock:
                self._check_whole()
                self._raise_durable(max(target, self.durable_offset))

    def _checkpoint_if_due(self) -> Checkpoint | None:
        return self._checkpoints.take_if_due(self._local, self.producer_store, self.log_start_offset)

    def _raise_durable(self, end: int) -> None:
        self._cap = max(self.high_watermark, end)
        self.durable_offset = end
        self.state.set_mark(end)
        self._publish()

    # -- when it cannot be had ---------------------------------------------------------------------------------

    def _fence(self, error: StorageError) -> StorageFenced:
        """No second try: the system reports a failed sync once, and then takes the lost pages for written."""
        with self._lock:
            text = f"the storage failed ({error.message}); durable is everything below offset {self.durable_offset}"
            self._failure = StorageFenced(text, path=error.path or self.folder)
            self.state.fence()
            self._cap = min(self.high_watermark, self.durable_offset)
            self._writer.detach()
            self._show()
            return self._failure

    def _cut_short(self) -> StorageFenced:
        """What is on the disk is good, as after a kill; what this handle knows of it need not be."""
        text = "a change of the log was cut short, by Ctrl-C or another exception from outside"
        self._failure = StorageFenced(text, path=self.folder, hint="close it and open the partition again")
        self._writer.detach()
        return self._failure

    def undoing(self) -> kernels.write_lock.Whole:
        """Errors undo it; what an interrupt leaves of it is noticed by who takes `_lock` next. The caller has it."""
        return self._lock.whole

    @contextmanager
    def fencing(self) -> Iterator[None]:
        """A change that fails half-way leaves what only an opening can put in order.

        What cuts it short besides errors of the storage is noticed by who takes the same lock next: see `WriteLock`.
        A swap of segments has that of the syncs only: appends go on meanwhile, and behind one that was cut short.
        """
        with (self._lock if self._lock.held() else self._sync_lock).whole:
            try:
                yield
            except StorageError as error:
                raise self._fence(error) from error
