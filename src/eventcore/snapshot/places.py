"""Which kind of place a location is: a folder, or the URL of an object store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eventcore.disk import Disk
from eventcore.errors import UsageError
from eventcore.paths import absolute
from eventcore.snapshot.folder_place import FolderPlace
from eventcore.snapshot.object_place import open_object_place
from eventcore.snapshot.place import Place

_FILE = "file:///"
Location = str | os.PathLike[str]


def open_place(disk: Disk, location: Location, options: Mapping[str, str] | None = None) -> Place:
    """The place at a location. `options` are for object stores. Raises UsageError for a URL that is none of ours."""
    text = os.fspath(location)
    if text.startswith(_FILE):  # not by obstore: it syncs nothing, and links nothing
        text = unquote(urlsplit(text).path)
    if "://" in text:
        return open_object_place(text, options)
    if options:
        raise UsageError("options are for object stores", hint="give a URL, or leave them out")
    return FolderPlace(disk, absolute(text))


def check_outside(place: Place, folder: Path) -> None:
    """Raise UsageError for a place inside of a store, or around it: each would become part of the other."""
    if not isinstance(place, FolderPlace):
        return
    kept, store = place.folder.resolve(), folder.resolve()
    if kept == store or kept in store.parents or store in kept.parents:
        raise UsageError(f"{place.url} is inside of the store, or around it", hint="keep snapshots elsewhere")
