"""Topics that must not be there: how a topic is made and removed as a whole, whatever a crash leaves of it.

A topic has many folders, and no file system makes or removes many at once. So before the first folder is made, and
before the first one is renamed to be removed, a note of the topic and its id is made durable; an opening that finds
the note removes what there is of the topic. A topic is there once the note of its making is gone, and gone once the
note of its removal is there. Only folders with the noted id, or those whose making did not come as far as to have
one, are touched: somebody else's topic of that name stays.

A folder that is removed gets Kafka's name for that first, `<topic>-<partition>.<32 hex>-delete`.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from eventcore.disk import Disk
from eventcore.errors import CorruptFile, StorageError, StorageFenced
from eventcore.files import checkpoint, json_file, names

NAME = "eventcore.doomed"
METADATA_NAME = "partition.metadata"


def note(disk: Disk, folder: Path, topic: str, topic_id: uuid.UUID | None) -> None:
    """From here on an opening removes the topic. Durable on return. What an error has left of another goes first.

    If it fails there is no note. Raises StorageFenced if it failed, and may be there all the same.
    """
    finish(disk, folder)
    try:
        json_file.write(disk, folder / NAME, {"topic": topic, "topic_id": topic_id.hex if topic_id else ""})
        disk.sync_dir(folder)
    except StorageError as error:
        try:
            forget(disk, folder)
        except StorageError:
            text = f"topic {topic!r} may be gone after the next opening: {error.message}"
            raise StorageFenced(text, path=folder, hint="look at the disk, then open the store again") from error
        raise


def forget(disk: Disk, folder: Path) -> None:
    """What the folder holds counts again. Durable on return, and with it all names made or changed before."""
    disk.sync_dir(folder)
    if disk.exists(folder / NAME):
        disk.unlink(folder / NAME)
        disk.sync_dir(folder)


def finish(disk: Disk, folder: Path) -> list[str]:
    """Remove what a crash has left of a topic that is doomed; the new names of its folders."""
    found = json_file.read(disk, folder / NAME)
    if found is None:
        return []
    try:
        topic = names.check_topic_name(found["topic"])
        topic_id = uuid.UUID(hex=found["topic_id"]) if found["topic_id"] else None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptFile(f"a note that names no topic: {error}", path=folder / NAME) from None
    removed = rename_folders(disk, folder, topic, topic_id)
    forget(disk, folder)
    return removed


def noted(disk: Disk, folder: Path) -> str:
    """The topic that is just being made or removed, or was when its writer died; "" if there is none."""
    try:
        return str((json_file.read(disk, folder / NAME) or {}).get("topic", ""))
    except StorageError:
        return ""  # it is just being replaced; what is wrong with it the writer will say


def rename_folders(disk: Disk, folder: Path, topic: str, topic_id: uuid.UUID | None) -> list[str]:
    """Give the topic's folders the names of those that are to be removed; the answer are these names."""
    removed = []
    for name in disk.list_folders(folder):
        parsed = names.parse_partition_folder(name)
        if parsed is None or parsed[0] != topic or topic_id_of(disk, folder / name) not in (topic_id, None):
            continue
        doomed = names.deleted_folder(topic, parsed[1], uuid.uuid4().hex)
        disk.rename(folder / name, folder / doomed)
        removed.append(doomed)
    return removed


def topic_id_of(disk: Disk, folder: Path) -> uuid.UUID | None:
    """The topic id of a partition's folder; None if it has none that can be read."""
    try:
        return checkpoint.read_topic_id(disk, folder / METADATA_NAME)
    except CorruptFile:
        return None
