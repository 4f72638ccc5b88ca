"""`meta.properties`: which cluster and node a log directory belongs to. A Java properties file.

Version 1 is what Kafka writes since it has no ZooKeeper; version 0 had `broker.id`, and perhaps no cluster.
"""

from __future__ import annotations

import base64
import re
import uuid
from pathlib import Path
from typing import NamedTuple

from eventcore.disk import Disk
from eventcore.errors import CorruptFile, UnsupportedFormat

NAME = "meta.properties"
VERSION = 1
_SIZE_MAX = 1 << 16
_LINE = re.compile(r"\s*((?:\\.|[^\\=:\s])+)\s*[=:\s]\s*(.*?)\s*")
_INT32_MAX = (1 << 31) - 1


class MetaProperties(NamedTuple):
    """What the file says; an empty text stands for what it does not."""

    cluster_id: str
    node_id: int
    directory_id: str = ""
    version: int = VERSION


def random_id() -> str:
    """A new id as Kafka writes them: 22 characters of base64 that do not begin with a hyphen."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def read(disk: Disk, path: Path) -> MetaProperties:
    """Raises NotALog if the file is missing, CorruptFile, and UnsupportedFormat for a version that is not known."""
    values = _parse(disk.read_file(path, _SIZE_MAX), path)
    version = _number(values, "version", path)
    if version not in (0, VERSION):
        raise UnsupportedFormat(f"a log directory of version {version}", path=path)
    node = _number(values, "node.id" if version else "broker.id", path)
    cluster = values.get("cluster.id", "")
    if version and not cluster:
        raise CorruptFile("meta.properties without cluster.id", path=path, hint="restore the file from a copy")
    return MetaProperties(cluster, node, values.get("directory.id", ""), version)


def _parse(data: bytes, path: Path) -> dict[str, str]:
    values = {}
    for line in data.decode("latin-1").splitlines():
        if not line.strip() or line.lstrip()[0] in "#!":
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise CorruptFile(f"{line[:40]!r} is no property", path=path, hint="restore the file from a copy")
        name, value = (re.sub(r"\\(.)", r"\1", text) for text in match.groups())
        values[name] = value
    return values


def _number(values: dict[str, str], name: str, path: Path) -> int:
    text = values.get(name, "")
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _INT32_MAX:
        raise CorruptFile(f"meta.properties with {name}={text[:20]!r}", path=path, hint="restore the file from a copy")
    return int(text)


def write(disk: Disk, path: Path, meta: MetaProperties) -> None:
    """Replace the file; durable after `sync_dir`."""
    lines = [
        f"cluster.id={meta.cluster_id}",
        f"directory.id={meta.directory_id}",
        f"node.id={meta.node_id}",
        f"version={meta.version}",
    ]
    disk.replace_file(path, "".join(f"{line}\n" for line in lines).encode("latin-1"))
