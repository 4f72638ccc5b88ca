"""How a store is looked after, as programs see it: a round by hand, and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventcore.disk import Disk
from eventcore.errors import StorageError
from eventcore.files import json_file
from eventcore.store.catalog import Catalog
from eventcore.store.housekeeping import NAME as HOUSEKEEPING_NAME
from eventcore.store.housekeeping import Housekeeper, HousekeepingReport
from eventcore.store.open_logs import OpenLogs


class Care:
    """A part of `Store`."""

    disk: Disk
    path: Path
    write: bool
    _catalog: Catalog
    _logs: OpenLogs
    _housekeeper: Housekeeper

    def _check_open(self) -> None:
        raise NotImplementedError

    def _check_writable(self) -> None:
        raise NotImplementedError

    def housekeep(self) -> HousekeepingReport:
        """Do now what the housekeeping thread does from time to time: retention, and removal of what was deleted.

        What goes wrong with a partition is in the report, and in `metrics`, and keeps it from no other.
        """
        self._check_writable()
        return self._housekeeper.run()

    def metrics(self) -> dict[str, Any]:
        """Numbers about the store, and of each partition that housekeeping has done something for, or failed to; plain
        values for JSON. A reader gets what the writer's last rounds have left word of.
        """
        self._check_open()
        return {
            "topics": len(self._catalog.partitions),
            "partitions": sum(len(numbers) for numbers in self._catalog.partitions.values()),
            "open_partitions": len(self._logs),
            "housekeeping": self._housekeeper.metrics() if self.write else self._told(),
        }

    def _told(self) -> dict[str, Any]:
        """What the writer's housekeeping has left word of."""
        try:
            found = json_file.read(self.disk, self.path / HOUSEKEEPING_NAME) or {}
        except StorageError:
            return {}
        return {name: value for name, value in found.items() if name != "version"}
