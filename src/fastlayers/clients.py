"""How many layers clients take: hard limits, and those to plan with."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import PlanError

__all__ = ["CLIENTS", "Client", "check_layer_count", "client_named", "layer_limit"]


@dataclass(frozen=True, slots=True)
class Client:
    """What a client takes.

    Attributes:
        name: docker, podman or containerd.
        most: layers of an image that it loads and runs; with one more it refuses.
        planned: layers to plan with, which leave room for images that are built on this one.
    """

    name: str
    most: int
    planned: int


# docker 20.10 with graph drivers, podman 4.3 on overlay and containerd 1.6, each tried.
CLIENTS = {
    "docker": Client("docker", 125, 120),
    "podman": Client("podman", 128, 120),
    "containerd": Client("containerd", 500, 120),
}


def client_named(name: str) -> Client:
    """The client of this name.

    Raises:
        PlanError: there is none.
    """
    if name not in CLIENTS:
        raise PlanError(f"no client {name}; there are: {', '.join(CLIENTS)}")
    return CLIENTS[name]


def layer_limit(client: str, wanted: int | None = None) -> int:
    """How many layers an image for a client may have, a base image's included.

    Args:
        client: its name.
        wanted: how many the user wants, None for as many as are good to plan with.

    Raises:
        PlanError: there is no such client, or it takes fewer.
    """
    found = client_named(client)
    if wanted is None:
        return found.planned
    check_layer_count(client, wanted)
    return wanted


def check_layer_count(client: str, layers: int) -> None:
    """Check that a client takes an image of so many layers, a base image's included, before it is built.

    Raises:
        PlanError: there is no such client, or it takes fewer.
    """
    most = client_named(client).most
    if layers > most:
        raise PlanError(f"{layers} layers: {client} takes at most {most}")
