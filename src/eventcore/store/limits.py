"""How many partitions may be open at a time: what the process may have of descriptors and of maps."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import NamedTuple

from eventcore import _kernels as kernels

_MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")
_USUAL_MAP_COUNT = 65_530
_DESCRIPTORS_OF_ONE = 7
"""Of a partition that is being written: lock, state, recovery point, log, two indexes; and one while it is opened."""
_MOST_DESCRIPTORS = 896
"""Enough to be fast; and a process has other uses for them."""
_FEWEST = 4


class Limits(NamedTuple):
    """What all open partitions together may have."""

    partitions: int
    maps: int


def process_limits() -> Limits:
    """Half of what the system gives this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft // 2, _MOST_DESCRIPTORS)
    try:
        maps = int(_MAX_MAP_COUNT.read_text("ascii"))
    except (OSError, ValueError):
        maps = _USUAL_MAP_COUNT
    if kernels.KERNELS == "pure":  # Python's own maps keep a descriptor each
        maps = min(maps, 2 * descriptors)
    each = _DESCRIPTORS_OF_ONE + (maps_of(1) if kernels.KERNELS == "pure" else 0)
    return Limits(max(descriptors // each, _FEWEST), maps // 2)


def maps_of(segments: int) -> int:
    """The maps of one open partition: its state page, and of each segment the log and two indexes."""
    return 1 + 3 * segments
