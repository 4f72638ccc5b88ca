"""A device fails under a writer: nothing is acknowledged any more, and an opening reads what the device has.

The device is an ext4 in an image file on a tmpfs that has no memory left: each write-back of a new block then is an
I/O error, as Linux has it on thin-provisioned and dying disks. `test_failing_calls.py` asks the same of every single
call; `lying_disk.py` shows what happens to pages that a failed sync has left behind.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

import eventcore as ec
from tests.crash.mounts import fill, need_root, run, tmpfs

pytestmark = pytest.mark.mounts

VALUE = b"x" * 900
CONFIG = {"segment.bytes": 64 << 20}


class Device(NamedTuple):
    """An ext4 whose image can be made to fail."""

    memory: Path
    image: Path
    root: Path

    def fail(self) -> None:
        """From here on no block of the image that was never written can be written."""
        fill(self.memory)

    def mount(self) -> None:
        """A request is one page: of a larger one that gets half-way Linux's loop device says that all is well."""
        run("mount", "-o", "loop", self.image, self.root)
        mounts = Path("/proc/mounts").read_text().splitlines()
        source = next(line.split()[0] for line in mounts if str(self.root) in line.split())
        (Path("/sys/block") / Path(source).name / "queue/max_sectors_kb").write_text("4")

    def remount_whole(self) -> None:
        """The device works again; what the page cache remembers goes."""
        gc.collect()  # an error's traceback may hold a map, and that keeps the file system busy
        (self.memory / "ballast").unlink(missing_ok=True)
        run("umount", self.root)
        self.mount()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    need_root("an ext4 on a loop device")
    with tmpfs(96 << 20) as memory:
        device = Device(memory, memory / "image", tmp_path / "root")
        device.root.mkdir()
        device.image.touch()
        with device.image.open("r+b") as image:
            image.truncate(64 << 20)
            run("mkfs.ext4", "-q", "-F", "-J", "size=4", device.image)
            os.posix_fallocate(image.fileno(), 0, 64 << 20)
        device.mount()
        run("fstrim", device.root)  # journal and tables have their memory: from here on only data can fail
        yield device
        subprocess.run(["umount", "-l", str(device.root)], capture_output=True, check=False)
        shutil.rmtree(device.root, ignore_errors=True)


def test_a_failed_sync_fences_every_caller_and_the_disk_is_believed(device: Device) -> None:
    folder = device.root / "events-0"
    p = ec.open_partition(folder, "rw", "always", CONFIG)
    r = ec.open_partition(folder, "r", config=CONFIG)
    for _ in range(20):
        p.extend([VALUE] * 50)
    device.fail()
    acknowledged, failures = append_from_threads(p)
    assert failures == [ec.StorageFenced] * THREADS
    durable = p.durable_offset
    assert max(acknowledged, default=0) < durable <= p.log_end_offset
    for refused in (lambda: p.append(b"more"), p.sync, p.roll, lambda: p.truncate(0), lambda: p.delete_records(5)):
        with pytest.raises(ec.StorageFenced):
            refused()
    assert p.high_watermark == r.high_watermark == durable
    assert len(list(r)) == durable
    p.close()
    r.close()
    del p, r, refused
    device.remount_whole()
    with ec.open_partition(folder, "rw", "always", CONFIG) as p:
        assert p.recovery.damage == []
        assert p.log_end_offset >= durable
        found = {record.offset: record.value for record in p}
        assert all(found[offset] == value for offset, value in SENT.items() if offset in acknowledged)
        assert set(found) == set(range(p.log_end_offset))
        assert p.append(b"goes on") == len(found)
        assert p.verify().ok


THREADS = 6
SENT: dict[int, bytes] = {}


def append_from_threads(p: ec.Partition) -> tuple[set[int], list[type[Exception]]]:
    """Until each has got an error: the offsets that were acknowledged, and the errors' types."""
    acknowledged: set[int] = set()
    failures: list[type[Exception]] = []
    SENT.clear()

    def append(number: int) -> None:
        try:
            for count in range(100_000):
                value = b"%d-%d " % (number, count) + VALUE
                offset = p.append(value)
                SENT[offset] = value
                acknowledged.add(offset)
        except Exception as error:
            failures.append(type(error))

    threads = [threading.Thread(target=append, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return acknowledged, failures


def open_or_remount(device: Device, folder: Path) -> ec.Partition:
    """The partition on the working device; should the file system itself have given up, after another mount."""
    with suppress(ec.StorageError):
        return ec.open_partition(folder, "rw", "always", CONFIG)
    device.remount_whole()
    return ec.open_partition(folder, "rw", "always", CONFIG)


def test_what_was_never_durable_is_read_from_the_device_without_a_remount(device: Device) -> None:
    """The same machine, a new process: the page cache shows records that the device does not have."""
    folder = device.root / "events-0"
    p = ec.open_partition(folder, "rw", "never", CONFIG)
    p.extend([VALUE] * 1000)
    p.sync()
    device.fail()
    p.extend([b"lost" + VALUE] * 8_000)
    with pytest.raises(ec.StorageFenced):
        p.sync()
    assert p.high_watermark == 1000
    p.close()
    del p
    (device.memory / "ballast").unlink()
    with open_or_remount(device, folder) as p:
        assert p.log_end_offset >= 1000
        assert [record.value for record in p][:1000] == [VALUE] * 1000
        end = p.append(b"after")
        assert p.durable_offset == end + 1
    device.remount_whole()
    with ec.open_partition(folder, "rw", "always", CONFIG) as p:
        assert p.log_end_offset == end + 1, "what was acknowledged after the fence was not on the disk"
        assert p[end].value == b"after"
        assert p.verify().ok
