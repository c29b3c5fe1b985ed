"""Virtual environments: each installed distribution is a node, and so are the interpreter and the libraries they need.

The root is ``venv:DIR``, what is in the environment and in none of its distributions: the application. Nodes that
refer to each other in a cycle are merged into one.
"""

from __future__ import annotations

import graphlib
import os
from collections.abc import Mapping
from operator import attrgetter

from ..closure import Closure
from ..contents import Generated, GeneratedEntry, Merged
from ..errors import ClosureError
from . import distributions
from .filelists import Unowned, resolve, walk
from .interpreter import ask
from .runtime import Node, Runtime, regular_size

__all__ = ["read"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EXTRA = Generated(
    "venv",
    (
        GeneratedEntry("/tmp", mode=0o1777),
        GeneratedEntry(
            "/etc/passwd",
            mode=0o644,
            data=b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        GeneratedEntry("/etc/group", mode=0o644, data=b"root:x:0:\nnobody:x:65534:\n"),
    ),
)


def read(directory: str, *, interpreter: bool = True) -> Closure:
    """Read the closure of the virtual environment at ``directory``.

    Without ``interpreter`` neither the interpreter nor shared libraries are in it: a base image has them.

    Raises:
        ClosureError: it is no virtual environment, its files cannot be told apart, or they are elsewhere.
    """
    try:
        return _read(os.path.abspath(directory), interpreter)
    except OSError as error:
        raise ClosureError(f"{error.filename}: {error.strerror}") from None


def _read(directory: str, with_interpreter: bool) -> Closure:
    python = ask(directory)
    prefix, links = resolve(directory)
    # Every file is looked at once; which node has it is then a matter of names.
    entries = sorted(walk(prefix), key=attrgetter("path"))  # not in the order of the folders on this disk
    found = {entry.path: entry.stat(follow_symlinks=False) for entry in entries}
    sites = dict.fromkeys(os.path.realpath(site) for site in (python.purelib, python.platlib))
    installed = distributions.find(sites, prefix)
    shared, owners = distributions.share(installed, prefix, found)
    root = f"venv:{directory}"
    nodes = {one.owner: Node(one) for one in shared}
    for name, references in distributions.requirements(installed, python.markers).items():
        nodes[name].references |= references
    nodes[root] = Node(Unowned(root, prefix, tuple(shared)), references=set(nodes))
    for path, status in found.items():
        nodes[owners.get(path, root)].size += regular_size(status)
    environment = {"VIRTUAL_ENV": directory, "PATH": f"{directory}/bin:{_PATH}"}
    claimed: dict[str, str] = {}
    if with_interpreter:
        runtime = Runtime(python, prefix)
        for path, status in found.items():
            runtime.look_into(owners.get(path, root), path, status)
        claimed = runtime.add_to(nodes)
        if runtime.library_path:
            environment["LD_LIBRARY_PATH"] = ":".join(sorted(runtime.library_path))
    outside = tuple(sorted(link for link in links if link not in claimed and not link.startswith(f"{prefix}/")))
    nodes[root].contents = Unowned(root, prefix, tuple(shared), outside)
    nodes = _merge_cycles(nodes)
    return Closure(
        list(nodes),
        [node.references for node in nodes.values()],
        nar_sizes=[node.size for node in nodes.values()],
        contents=[node.contents for node in nodes.values()],
        environment=environment,
        extra=(_EXTRA,) if with_interpreter else (),
    )


def _merge_cycles(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes, sorted by name, with those that refer to each other in a cycle made one (``a==1+b==2``)."""
    names = sorted(nodes)
    try:
        graphlib.TopologicalSorter({name: nodes[name].references - {name} for name in names}).prepare()
        return {name: nodes[name] for name in names}
    except graphlib.CycleError:
        pass
    # Cycles are rare, and scipy takes longer to import than most environments take to read.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    index = {name: i for i, name in enumerate(names)}
    edges = [(index[name], index[reference]) for name in names for reference in nodes[name].references]
    rows, columns = zip(*edges, strict=True)
    matrix = csr_array(([1] * len(edges), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(matrix, connection="strong")
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        groups.setdefault(label, []).append(name)
    joined = {name: "+".join(group) for group in groups.values() for name in group}
    merged = {}
    for group in groups.values():
        parts = [nodes[name] for name in group]
        owner = joined[group[0]]
        merged[owner] = Node(
            parts[0].contents if len(parts) == 1 else Merged(owner, tuple(part.contents for part in parts)),
            sum(part.size for part in parts),
            {joined[reference] for part in parts for reference in part.references} - {owner},
        )
    return {name: merged[name] for name in sorted(merged)}
