"""What is remembered of layers: the keys of recipes, and where their digests come from.

A key is the SHA-256 of all that decides a layer's bytes. Where every content is a store path whose NAR hash is known,
the NAR hashes stand for the files, and the key is the same on every machine. Otherwise the entries on disk do, as they
were seen (:class:`~fastlayers.layer.Look`): size, mtime, ctime and inode change when a file does, and mean nothing
elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from .cache import DigestCache
from .compression import Codec
from .contents import Tree
from .layer import Contradiction, LayerDescriptor, LayerRecipe, Look, MeasuredLayer, parents_of

__all__ = ["Memory", "annotations_of", "layers_in", "measured_key", "recipe_key", "tar_profile", "tar_sizes_in"]

_VERSION = 1  # of keys
_UNSETTLED = 3 * 10**9  # nanoseconds before a build in which a change need not show in a ctime
_PREFIX = "dev.fastlayers."
_KEY = re.compile("[0-9a-f]{64}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_NUMBER = re.compile("[0-9]{1,18}")


def tar_profile(*, xattrs: bool) -> str:
    """The name of the tar profile of layers with or without extended attributes."""
    return "nixpkgs/1+xattrs" if xattrs else "nixpkgs/1"


def recipe_key(recipe: LayerRecipe, nar_hashes: Mapping[str, str]) -> str | None:
    """A recipe's key by NAR hashes: 64 hexadecimal digits, the same on every machine.

    A NAR hash tells neither extended attributes nor modes: of those Nix has but two, as :class:`Look` says.

    Args:
        recipe: the recipe.
        nar_hashes: NAR hashes of store paths, each as "sha256:" and 64 hexadecimal digits.

    Returns:
        The key; None where NAR hashes are not known of all contents or do not tell all, or files are below a root.
    """
    if recipe.root or recipe.xattrs:
        return None
    contents = []
    for item in recipe.contents:
        known = nar_hashes.get(item.path) if isinstance(item, Tree) else None
        if known is None:
            return None
        contents.append([item.owner, known])
    return _digest(recipe, {"parents": parents_of(recipe), "contents": contents})


def measured_key(recipe: LayerRecipe, look: Look) -> str:
    """A recipe's key by what was seen of its entries: 64 hexadecimal digits, of this machine alone."""
    return _digest(recipe, {"root": recipe.root, "entries": look.fingerprint})


def _digest(recipe: LayerRecipe, contents: Mapping[str, object]) -> str:
    profile = recipe.profile
    document = {
        "version": _VERSION,
        "tar": tar_profile(xattrs=recipe.xattrs),
        "owner": [profile.uid, profile.gid, profile.uname, profile.gname],
        "mtime": profile.mtime,
        "whiteouts": recipe.whiteouts,
        **contents,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def annotations_of(key: str | None, layer: LayerDescriptor) -> dict[str, str]:
    """What a manifest's descriptor of a layer says; others know the layer by its recipe's key, if it has one."""
    return {
        **({} if key is None else {f"{_PREFIX}recipe": key}),
        f"{_PREFIX}diff-id": layer.diff_id,
        f"{_PREFIX}tar-size": str(layer.tar_size),
        f"{_PREFIX}entries": str(layer.entries),
        f"{_PREFIX}codec": layer.codec,
    }


def layers_in(descriptors: Iterable[Mapping[str, object]], codec: Codec) -> dict[str, LayerDescriptor]:
    """Layers by their recipes' keys, as descriptors in a manifest tell them; those of this codec profile alone."""
    found = {}
    for descriptor in descriptors:
        annotations = descriptor.get("annotations")
        if not isinstance(annotations, Mapping):
            continue

        def told(name: str, pattern: re.Pattern[str], told: Mapping[str, object] = annotations) -> str | None:
            text = told.get(_PREFIX + name)
            return text if isinstance(text, str) and pattern.fullmatch(text) else None

        key, diff_id = told("recipe", _KEY), told("diff-id", _DIGEST)
        tar_size, entries = told("tar-size", _NUMBER), told("entries", _NUMBER)
        digest, size = descriptor.get("digest"), descriptor.get("size")
        if (
            key is not None
            and diff_id is not None
            and tar_size is not None
            and entries is not None
            and annotations.get(f"{_PREFIX}codec") == codec.profile
            and isinstance(digest, str)
            and _DIGEST.fullmatch(digest)
            and type(size) is int
            and size >= 0
            and (codec.name != "none" or (digest, size) == (diff_id, int(tar_size)))
        ):
            found[key] = LayerDescriptor(
                diff_id, int(tar_size), digest, size, codec.profile, codec.media_type_suffix, int(entries)
            )
    return found


def tar_sizes_in(descriptors: Iterable[Mapping[str, object]], codec: Codec) -> set[int]:
    """Sizes of layers' tars in bytes, as descriptors in a manifest tell them; those of this codec profile alone."""
    found = set()
    for descriptor in descriptors:
        annotations = descriptor.get("annotations")
        if isinstance(annotations, Mapping) and annotations.get(f"{_PREFIX}codec") == codec.profile:
            text = annotations.get(f"{_PREFIX}tar-size")
            if isinstance(text, str) and _NUMBER.fullmatch(text):
                found.add(int(text))
        elif codec.name == "none" and type(size := descriptor.get("size")) is int:
            found.add(size)
    return found


class Memory:
    """What is remembered of one image's layers.

    Attributes:
        recipes: of each layer its key by NAR hashes, or None; after :meth:`look_up`.
    """

    def __init__(
        self,
        cache: DigestCache | None,
        codec: Codec,
        before: Callable[[], Iterable[Mapping[str, object]]] = lambda: (),
    ) -> None:
        """Remember layers as ``codec`` compresses them.

        Args:
            cache: asked first, and told of every layer that is made.
            codec: the codec.
            before: gives descriptors of layers of images that the user named; asked once, if the cache does not know
                everything.
        """
        self._cache = cache
        self._codec = codec
        self._before = before
        self._settled = time.time_ns() - _UNSETTLED
        self.told: set[int] = set()  # layers that a manifest alone knows
        self._known: dict[int, LayerDescriptor] = {}
        self._keys: dict[int, str] = {}  # of layers, as they are remembered or shall be
        self._looks: dict[int, Look] = {}
        self.recipes: list[str | None] = []

    def look_up(
        self, recipes: Sequence[LayerRecipe], nar_hashes: Mapping[str, str], *, trust: bool = True
    ) -> list[LayerDescriptor | None]:
        """What is known of layers before anybody looks at a file. Without ``trust`` nothing is."""
        self.recipes = [recipe_key(recipe, nar_hashes) for recipe in recipes]
        previous: Mapping[str, LayerDescriptor] | None = None
        for number, key in enumerate(self.recipes):
            if key is None:
                continue
            self._keys[number] = key
            if not trust:
                continue
            found = self._cached(key)
            if found is None:
                previous = layers_in(self._before(), self._codec) if previous is None else previous
                found = previous.get(key)
                if found is not None:
                    self.told.add(number)
            if found is not None:
                self._known[number] = found
        return [self._known.get(number) for number in range(len(recipes))]

    def look_up_measured(self, number: int, measured: MeasuredLayer, *, trust: bool = True) -> LayerDescriptor | None:
        """What is known of a layer after its entries were looked at; to be asked of each that was not known before."""
        look = measured.look
        if look is None:
            return None
        self._looks[number] = look
        if number < len(self.recipes) and self.recipes[number] is not None:
            if look.canonical:
                return None
            # Not as Nix leaves a store path: the NAR hash does not tell all.
            self.recipes[number] = None
            del self._keys[number]
        if look.newest >= self._settled:
            return None  # a change from now on might leave the ctime as it is
        key = self._keys[number] = measured_key(measured.recipe, look)
        found = self._cached(key) if trust else None
        if found is None:
            return None
        self._known[number] = found
        return replace(found, look=look)

    def remember(self, number: int, made: LayerDescriptor) -> None:
        """Put a layer into the cache that was made of the files that were looked at."""
        look, key = self._looks.get(number), self._keys.get(number)
        if self._cache is None or key is None or look is None or made.look is None:
            return
        if made.look.fingerprint == look.fingerprint:
            self._cache.put(key, made)

    def forget(self, contradiction: Contradiction) -> None:
        """Drop from the cache all that it told of this image, if it told what has turned out to be wrong.

        A cache that was wrong once may be so again: no further build shall have to fail for each of its errors. Where a
        manifest was wrong the cache keeps what it has.
        """
        told = {number: layer for number, layer in self._known.items() if number not in self.told}
        if self._cache is not None and any(layer.digest == contradiction.digest for layer in told.values()):
            for number in told:
                self._cache.drop(self._keys[number])

    def _cached(self, key: str) -> LayerDescriptor | None:
        return None if self._cache is None else self._cache.get(key, self._codec)
