"""A restored store as it was at an earlier moment: everything later is cut off its partitions.

A transaction of which the moment lets some partitions see the end and others not is left out of all of them: it is cut
before its first marker there, with all that stands behind it. What is open then is aborted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain

from eventcore import _kernels as kernels
from eventcore.errors import OffsetOutOfRange, UnknownTopic
from eventcore.format import transaction_log
from eventcore.log.reader import batches
from eventcore.store.store import Store
from eventcore.store.store_partition import StorePartition
from eventcore.types import Record

Key = tuple[str, int]
_MARGIN = 128
"""More than a batch's header and a record's lengths take."""
Transaction = tuple[int, int]
"""Producer id and epoch: each transaction has its own (KIP-890)."""


def rewind(store: Store, until: Mapping[Key, int] | int) -> None:
    """Cut a store that nobody else has open at an offset by partition (others stay whole), or at a time in ms: before
    the first record that is not older. Raises UnknownTopic and OffsetOutOfRange.
    """
    ends = _ends(store, until)
    _leave_out_torn(store, ends)
    for key, end in ends.items():
        partition = store.partition(*key)
        if end < partition.log_end_offset:
            _cut(partition, end)
    _abort_open(store)
    store.groups.settle(was_clean=False)


def _cut(partition: StorePartition, end: int) -> None:
    """A truncation drops whole batches: what is wanted of the last one is appended again, at the same offsets. Of a
    transaction nothing is: its marker is cut off, too.
    """
    kept: list[Record] = []
    for _, _, header in batches(partition.segments, end - 1, end):
        if header.next_offset > end and not header.transactional:
            kept = list(partition.read(max(header.base_offset, partition.log_start_offset), end))
    partition.truncate(kept[0].offset if kept else end)
    for record in kept:  # each a batch: compaction may have left gaps between them
        partition.append_batches(_encoded(record, partition.leader_epoch), origin="replica")


def _encoded(record: Record, leader_epoch: int) -> memoryview:
    parts = [record.key, record.value, *chain.from_iterable((name.encode(), value) for name, value in record.headers)]
    batch = bytearray(_MARGIN + sum(_MARGIN + len(part) for part in parts if part is not None))
    size, _, _ = kernels.encode.encode(batch, 0, len(batch), [record], 0, record.offset, leader_epoch, 0, 0)
    return memoryview(batch)[:size]


def _ends(store: Store, until: Mapping[Key, int] | int) -> dict[Key, int]:
    """Where each partition is cut. The coordinator's log stays whole: it must know of every epoch that was given."""
    found = {key: store.partition(*key).log_end_offset for key in store.partitions()}
    if isinstance(until, Mapping):
        for key, end in until.items():
            if key not in found:
                raise UnknownTopic(f"the snapshot has no partition {key[0]}-{key[1]}")
            start = store.partition(*key).log_start_offset
            if not start <= end <= found[key]:
                raise OffsetOutOfRange(f"{key[0]}-{key[1]} has offsets {start} to {found[key]}, not {end}")
            found[key] = end
        return found
    for key in found:
        if key[0] != transaction_log.TOPIC:
            partition = store.partition(*key)
            later = partition.offset_for_time(until)
            found[key] = partition.log_end_offset if later is None else later
    return found


def _leave_out_torn(store: Store, ends: dict[Key, int]) -> None:
    """Lower the ends until no transaction has markers on both sides of them."""
    markers = _without_reused({key: _markers(store, key) for key in ends})
    changed = True
    while changed:
        cut_off = {one for key, found in markers.items() for one, at in found if at >= ends[key]}
        changed = False
        for key, found in markers.items():
            torn = min((at for one, at in found if at < ends[key] and one in cut_off), default=None)
            if torn is not None:
                ends[key], changed = torn, True


def _markers(store: Store, key: Key) -> list[tuple[Transaction, int]]:
    """The transactions that end in a partition, and the offsets of their markers."""
    partition = store.partition(*key)
    found = []
    for _, _, header in batches(partition.segments, partition.log_start_offset, partition.log_end_offset):
        if header.control and header.transactional and header.record_count:
            found.append(((header.producer_id, header.producer_epoch), header.base_offset))
    return found


def _without_reused(markers: dict[Key, list[tuple[Transaction, int]]]) -> dict[Key, list[tuple[Transaction, int]]]:
    """Old clients end many transactions under one epoch: which markers belong together cannot be told then."""
    reused: set[Transaction] = set()
    for found in markers.values():
        counts = Counter(one for one, _ in found)
        reused.update(one for one, count in counts.items() if count > 1)
    return {key: [one for one in found if one[0] not in reused] for key, found in markers.items()}


def _abort_open(store: Store) -> None:
    for topic, number in store.partitions():
        partition = store.partition(topic, number)
        for one in partition.producers():
            if one.txn_first_offset >= 0:
                partition.end_transaction(one.producer_id, one.epoch, commit=False)
