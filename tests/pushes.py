"""Images pushed to a registry of fake_registry, and who may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry, Reply, Seen
from fastlayers import (
    Credentials,
    PushOptions,
    RegistryAccess,
    build_image,
    parse_destination,
    read_closure,
)
from fastlayers.build import BuildResult
from stores import NODES

SECRET = "hunter2-in-secret"
WHO = Credentials("user", SECRET)
LAYERS = len(NODES)


def push(
    store: Path,
    registry: FakeRegistry,
    *,
    to: str = "lab/app:1",
    access: RegistryAccess = RegistryAccess(),  # noqa: B008
    options: PushOptions = PushOptions(),  # noqa: B008
    **build: Any,
) -> BuildResult:
    """With a cache, an image of store paths whose NAR hashes are known, else of files below a root."""
    verify = build.get("verify", False)
    destination = parse_destination(f"docker://{registry.host}/{to}", access=access, push=options, verify=verify)
    closure = read_closure(str(store / ("named.json" if "cache" in build else "graph.json")))
    root = "" if "cache" in build else str(store / "root")
    return build_image(closure, [destination], **{"store_root": root, "jobs": 1, **build})


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert text and "\n" not in text and SECRET not in text
    return text


def happened(made: BuildResult) -> set[tuple[str, ...]]:
    return {tuple(event.event for event in layer.events) for layer in made.layers}


class TokenServer:
    """Gives tokens that are good for some requests."""

    def __init__(self, registry: FakeRegistry, uses: int) -> None:
        self.good: dict[str, int] = {}
        self.asked: list[tuple[dict[str, str], dict[str, list[str]]]] = []
        self.uses = uses
        self.expires: dict[str, object] = {}
        registry.challenge = f'Bearer realm="{registry.url}/token",service="the, service",scope="x"'
        registry.authorize = self.authorize
        registry.tokens = self.answer

    def answer(self, headers: dict[str, str], form: dict[str, list[str]]) -> Reply:
        self.asked.append((headers, form))
        token = f"{SECRET}-{len(self.asked)}"
        self.good[token] = self.uses
        return Reply(200, {}, json.dumps({"token": token, **self.expires}).encode())

    def authorize(self, seen: Seen) -> bool:
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        self.good[token] = self.good.get(token, 0) - 1
        return self.good[token] >= 0
