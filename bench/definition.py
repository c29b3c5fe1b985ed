#!/usr/bin/env python3
"""The popularity order by its definition in plain Python, with as much work as nixpkgs' closure-graph.py does.

    python bench/definition.py GRAPH.json

Its facts are those that docs/architecture.md and the tests rest on: each path is looked for in the references of every
other to find the roots, each node has a dictionary of how often it reaches each node below, and what the roots do not
reach is looked for in the list of the ordered. Written for this benchmark alone: it is what a user waits for without
a kernel, so nothing here is clever.
"""

import json
import sys
from collections.abc import Iterable

Counts = dict[str, int]


def find_roots(references: dict[str, list[str]]) -> list[str]:
    """What no other node refers to."""
    roots = []
    for path in references:
        if not any(path in names for other, names in references.items() if other != path):
            roots.append(path)
    return roots


def reached(path: str, references: dict[str, list[str]], known: dict[str, Counts]) -> Counts:
    """How often each node below a path is reached from it."""
    if path not in known:
        known[path] = count((name for name in references[path] if name != path), references, known)
    return known[path]


def count(children: Iterable[str], references: dict[str, list[str]], known: dict[str, Counts]) -> Counts:
    """The same of something that refers to these children."""
    counts: Counts = {}
    for child in dict.fromkeys(children):
        counts[child] = counts.get(child, 0) + 1
        for name, times in reached(child, references, known).items():
            counts[name] = counts.get(name, 0) + times + 1
    return counts


def package_name(path: str) -> str:
    """What ties are broken by."""
    first, *rest = path.split("-")
    return "-".join([*rest, first])


def main() -> None:
    """Print the order."""
    with open(sys.argv[1]) as file:
        (nodes,) = json.load(file).values()
    references = {node["path"]: node["references"] for node in nodes}
    counts = count(find_roots(references), references, {})
    ordered = sorted(counts, key=lambda path: (-counts[path], package_name(path)))
    ordered += [path for path in references if path not in ordered]
    print("\n".join(ordered))


if __name__ == "__main__":
    main()
