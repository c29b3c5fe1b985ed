"""What the images of an OCI layout name: manifests, indexes within indexes, configs and layers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..digest import sha256
from ..errors import DestinationError
from ..image import blob_path

__all__ = ["LayoutReader", "descriptors_in"]

_LARGEST = 64 << 20  # bytes of a blob that may be a manifest or an index
_DIGEST = re.compile("sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})")


def descriptors_in(value: object) -> list[Mapping[str, Any]]:
    """The descriptors in a list of a manifest's or an index's; none where it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


class LayoutReader:
    """Reads manifests and indexes of the layout in a folder; what is not whole names nothing."""

    def __init__(self, path: str) -> None:
        self._path = path

    def named(self) -> set[str]:
        """The digests of all that the layout's index names, and of all that is named there.

        Raises:
            DestinationError: a manifest or an index cannot be read, so that nobody knows what it names.
        """
        path = os.path.join(self._path, "index.json")
        with open(path, "rb") as file:
            index = json.load(file)
        found = set(_digests_in(index))
        for descriptor, data in self._reachable(descriptors_in(index["manifests"])):
            document = _parse(data)
            if document is not None:
                found.update(_digests_in(document))
            elif any(word in str(descriptor.get("mediaType")) for word in ("manifest", "index")):
                raise DestinationError(
                    f"{self._path}: {descriptor.get('digest')}: not a manifest, so what it names is not known: "
                    "nothing is removed"
                )
        return found

    def documents(self, descriptors: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The manifests and indexes that are described, and those that these name, as far as they are whole.

        Raises:
            OSError: a file cannot be read.
        """
        for descriptor, data in self._reachable(descriptors):
            document = _parse(data)
            if document is not None and sha256(data) == descriptor.get("digest"):
                yield document

    def _reachable(self, descriptors: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], bytes]]:
        """Blobs that are described, and those that indexes among them describe, each once."""
        todo = list(descriptors)
        seen: set[str] = set()
        while todo:
            descriptor = todo.pop()
            digest = str(descriptor.get("digest"))
            if digest in seen or not _DIGEST.fullmatch(digest):
                continue
            seen.add(digest)
            try:
                with open(os.path.join(self._path, blob_path(digest)), "rb") as file:
                    data = file.read(_LARGEST)
            except FileNotFoundError:
                continue
            yield descriptor, data
            todo += descriptors_in((_parse(data) or {}).get("manifests"))


def _parse(data: bytes) -> Mapping[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _digests_in(value: object) -> Iterator[str]:
    """Every digest that a descriptor anywhere in a document has."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            if isinstance(each.get("digest"), str):
                yield each["digest"]
            todo += each.values()
        elif isinstance(each, list):
            todo += each
