"""What diff says that clients download is what a registry sends them."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.clients import Docker, Podman, call, fastlayers, place
from integration.registries import DockerRegistry


@pytest.fixture(scope="module")
def registry() -> Iterator[DockerRegistry]:
    with place() as folder, contextlib.closing(DockerRegistry(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def images(registry: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three images of a closure of twelve paths: the first, one with the eighth path rebuilt, and one with a new order
    of layers besides."""
    folder = tmp_path_factory.mktemp("store")
    chance = random.Random(6)
    paths = [f"/nix/store/{number:032}-path-{number}" for number in range(12)]
    changed = [path.replace("0-path-7", "1-path-7") for path in paths]
    changed[7] = f"/nix/store/{77:032}-path-7"
    for path in sorted({*paths, *changed}):
        file = Path(f"{folder}{path}/file")
        file.parent.mkdir(parents=True)
        file.write_bytes(chance.randbytes(10_000 + 30_000 * int(path.rpartition("-")[2])))
    order = [*changed[:3], changed[4], changed[3], *changed[5:]]
    found = []
    for number, (closure, layers) in enumerate([(paths, paths), (changed, changed), (changed, order)], 1):
        graph, plan = folder / f"{number}.json", folder / f"{number}.plan.json"
        graph.write_text(json.dumps({"graph": [{"path": path, "references": []} for path in closure]}))
        plan.write_text(json.dumps([[path] for path in layers[:10]] + [layers[10:]]))
        image = f"{registry.host}/lab/transfers:{number}"
        options = ("--plan", plan, "--store-root", folder, "--quiet")
        fastlayers("build", graph, *options, "--to", f"docker://{image}", "--cmd", f"/{number}")
        found.append(image)
    return found


def layers_of(image: str, skopeo: str) -> set[str]:
    manifest = json.loads(call(skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{image}"))
    return {layer["digest"] for layer in manifest["layers"]}


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("client", ["skopeo", "podman", "docker"])
def test_the_registry_sends_what_diff_says(
    client: str,
    step: int,
    images: list[str],
    registry: DockerRegistry,
    skopeo: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    old, new = images[step - 1], images[step]
    engine: Docker | Podman | None = None if client == "skopeo" else request.getfixturevalue(client)

    def skopeo_pulls(image: str) -> None:
        options = ("--quiet", "--insecure-policy", "--src-tls-verify=false")
        call(skopeo, "copy", *options, f"docker://{image}", f"oci:{tmp_path}/copy:{image.rpartition(':')[2]}")

    def engine_pulls(image: str) -> None:
        assert engine is not None
        engine.call("pull", *(["--tls-verify=false"] if client == "podman" else []), image)

    pull: Callable[[str], None] = engine_pulls if engine else skopeo_pulls
    try:
        pull(old)
        before = len(registry.blobs_sent())
        pull(new)
        sent = registry.blobs_sent()[before:]
    finally:
        if engine:
            engine.forget()
    names = layers_of(new, skopeo)
    told = json.loads(fastlayers("diff", f"docker://{old}", f"docker://{new}", "--json"))
    kind = "by_chain" if client == "docker" else "by_digest"
    assert sorted(digest for digest, _ in sent if digest in names) == sorted(
        layer["digest"] for layer in told["layers"] if layer[kind]
    )
    assert sum(size for digest, size in sent if digest in names) == told[kind]
    assert told["by_chain"] > told["by_digest"]
