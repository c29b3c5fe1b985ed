"""Which links the contents of an image get, told from the paths of all files at once: slow."""

import os
from pathlib import Path


def links(root: Path, trees: list[tuple[str, int]]) -> dict[str, str | None] | None:
    """By path in the image: where a link leads, or None for a directory. None as a whole where two trees clash.

    Trees have no symlinks here; of each path, all trees that have it are looked at together.
    """
    found: dict[str, list[tuple[int, int, str]]] = {}
    for number, (tree, priority) in enumerate(trees):
        top = f"{root}{tree}"
        for folder, folders, files in os.walk(top):
            for name in folders + files:
                path = f"{folder}/{name}".removeprefix(top)
                found.setdefault(path, []).append((priority, number, f"{tree}{path}"))
    made: dict[str, str | None] = {}
    for path in sorted(found, key=lambda path: path.split("/")):
        above = path.rpartition("/")[0]
        candidates = [one for one in found[path] if not above or made.get(above, "") is None]
        candidates = [one for one in candidates if not hidden(root, trees, path, one, made)]
        if not candidates:
            continue
        first = min(priority for priority, _, _ in candidates)
        winners = [one for one in sorted(candidates, key=lambda one: one[1]) if one[0] == first]
        kinds = {os.path.isdir(f"{root}{at}") for _, _, at in winners}
        if kinds == {True}:
            made[path] = None
        elif kinds == {False}:
            texts = {(Path(f"{root}{at}").read_bytes(), os.access(f"{root}{at}", os.X_OK)) for _, _, at in winners}
            if len(texts) > 1:
                return None
            made[path] = winners[0][2]
        else:
            return None
    return made


def hidden(root: Path, trees: list[tuple[str, int]], path: str, one: tuple[int, int, str], made: dict) -> bool:
    """Whether what is above an entry in its own tree is not among the directories that were merged."""
    tree = trees[one[1]][0]
    parts = path.split("/")[1:-1]
    for end in range(1, len(parts) + 1):
        above = "/" + "/".join(parts[:end])
        if made.get(above, "") is not None or not os.path.isdir(f"{root}{tree}{above}"):
            return True
    return False
