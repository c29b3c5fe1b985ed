"""Credentials where docker, podman and skopeo keep them: files, and helper programs that the files name."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import RegistryError
from .access import Credentials, RegistryAccess
from .reference import Reference

__all__ = ["find_credentials"]

_PATIENCE = 60  # seconds that a helper may take; some ask a server
_HUB_KEY = "https://index.docker.io/v1/"  # what Docker's own registry is called in files and by helpers


def find_credentials(reference: Reference, access: RegistryAccess) -> Credentials | None:
    """Credentials for a repository, None for none.

    Those that were named come first, else the first of the usual files that has some: the helper that it names for
    this host, the entry with the longest path that the repository begins with, the helper for all hosts.

    Raises:
        RegistryError: a file is damaged, the one that is named is not there, or a helper fails.
    """
    if access.credentials is not None:
        return access.credentials
    access.check()
    for path, legacy in _files(access):
        document = _read(path)
        if document is None:
            continue
        helpers, entries = ({}, document) if legacy else (document.get("credHelpers"), document.get("auths"))
        found = None
        if isinstance(helpers, dict) and (helper := _helper_of(helpers, reference)):
            found = _ask(helper, reference, path)
        if found is None and isinstance(entries, dict):
            found = _entry(entries, reference, path)
        store = document.get("credsStore")
        if found is None and isinstance(store, str) and store and not legacy:
            found = _ask(store, reference, path)
        if found is not None:
            return found
    return None


def _files(access: RegistryAccess) -> Iterator[tuple[str, bool]]:
    """The files in their order, and whether one is of the oldest form: entries alone. None of them has to be there."""
    named = access.authfile or os.environ.get("REGISTRY_AUTH_FILE")  # which may name a file that a login will make
    if named:
        yield named, False
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    docker = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    yield f"{runtime}/containers/auth.json" if runtime else f"/run/containers/{os.getuid()}/auth.json", False
    yield f"{config}/containers/auth.json", False
    yield f"{docker}/config.json", False
    yield os.path.expanduser("~/.dockercfg"), True


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read() or b"{}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):  # whose text quotes the file
        raise RegistryError(f"{path}: not JSON") from None
    if not isinstance(document, dict):
        raise RegistryError(f"{path}: not a JSON object")
    return document


def _keys(reference: Reference) -> list[str]:
    """What a repository may be found by, the most specific first: HOST/a/b, HOST/a, HOST."""
    parts = reference.repository.split("/")
    keys = ["/".join([reference.host, *parts[:count]]) for count in range(len(parts), 0, -1)]
    keys.append(reference.host)
    if reference.host == "docker.io":
        keys += ["index.docker.io", "registry-1.docker.io"]
    return keys


def _helper_of(helpers: Mapping[str, Any], reference: Reference) -> str | None:
    for host in _keys(reference):
        if isinstance(helper := helpers.get(host), str) and helper:
            return helper
    return None


def _entry(entries: Mapping[str, Any], reference: Reference, path: str) -> Credentials | None:
    normalised: dict[str, Any] = {}
    for key, entry in entries.items():
        # Older files have "https://HOST/v1/".
        plain = re.sub("^https?://", "", key)
        normalised.setdefault(plain if plain == key else plain.partition("/")[0], entry)
    for key in _keys(reference):
        entry = entries.get(key) or normalised.get(key)
        if isinstance(entry, dict) and (found := _decode(entry, path, key)):
            return found
    return None


def _decode(entry: Mapping[str, Any], path: str, key: str) -> Credentials | None:
    def text(name: str) -> str:
        value = entry.get(name) or ""
        if not isinstance(value, str):
            raise RegistryError(f"{path}: auths: {key}: {name} is no text")
        return value

    username, password = text("username"), text("password")
    if auth := text("auth"):
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except ValueError:
            colon = ""
        if not colon:
            raise RegistryError(f"{path}: auths: {key}: auth is not USER:PASSWORD in base64") from None
        password = password.rstrip("\0")
    found = Credentials(username, password, text("identitytoken"), text("registrytoken"), path)
    return found if found.username or found.identity_token or found.registry_token else None


def _ask(helper: str, reference: Reference, path: str) -> Credentials | None:
    """Ask a helper; the host goes to its standard input, so that nothing is in the list of processes."""
    program = f"docker-credential-{helper}"
    host = _HUB_KEY if reference.host == "docker.io" else reference.host
    try:
        done = subprocess.run(
            [program, "get"], input=host, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except OSError as error:
        raise RegistryError(f"{program}: {error.strerror} ({path} names it)") from None
    except subprocess.TimeoutExpired:
        raise RegistryError(f"{program}: no answer in {_PATIENCE} s ({path} names it)") from None
    except UnicodeDecodeError:
        raise RegistryError(f"{program}: its answer is not text") from None
    if done.returncode:
        if "credentials not found" in done.stdout + done.stderr:  # what the protocol says it prints
            return None
        raise RegistryError(f"{program}: status {done.returncode} for {host} ({path} names it)")
    try:
        answer = json.loads(done.stdout)
        username, secret = answer["Username"], answer["Secret"]
        if not isinstance(username, str) or not isinstance(secret, str):
            raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError):  # whose text quotes the answer
        raise RegistryError(f"{program}: its answer is not what the protocol of helpers says") from None
    if username == "<token>":
        return Credentials(identity_token=secret, place=program)
    return Credentials(username, secret, place=program) if username or secret else None
