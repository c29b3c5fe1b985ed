"""``fastlayers build``: an image of a closure."""

from __future__ import annotations

import argparse
import os
import re
import sys

from ..errors import ClosureError, FastlayersError
from .customisation import add_customisation, read_customisation
from .options import (
    add_cache,
    add_client,
    add_jobs,
    add_max_layers,
    add_quiet,
    add_sources,
    add_verify_store,
    not_negative,
    read_cache,
    read_sources,
)
from .parser import Parser, UsageError, checked, complete, complete_file, complete_words
from .planning import add_planning, check_planning, read_guidance, read_order, read_pipeline_option
from .registry import add_access, add_push, read_access, read_push
from .settings import add_settings, read_settings

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..base import BaseImage
    from ..closure import Closure
    from ..compression import Codec
    from ..destinations import Destination
    from ..image import Settings
    from ..layer import Profile
    from ..layering.guidance import Guidance
    from ..layering.pipeline import Pipeline
    from ..layering.plan import LayerPlan
    from ..registry.access import RegistryAccess

__all__ = ["define", "run"]

_ARCHIVES = ("docker-archive:", "oci-archive:")
_REGISTRY = "docker://"
_IMAGES = (*_ARCHIVES, "oci:", _REGISTRY)
_DESTINATIONS = (*_IMAGES, "docker-daemon:", "podman:", "containerd:")


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] --to DESTINATION [SOURCE]..."
    parser.description = "Build an image of a closure. Several sources are united."
    parser.epilog = """\
Destinations (several are fine):
  docker-archive:FILE[:NAME:TAG]   for docker load, podman load, ctr, skopeo
  oci-archive:FILE[:TAG]           the same archive, named as OCI names it
  oci:DIR[:TAG]                    an OCI layout
  docker://HOST[:PORT]/REPO[:TAG]  a registry
  docker-daemon:NAME[:TAG]         Docker's engine, where docker finds it
  podman:NAME[:TAG]                podman load, without what podman has
  containerd:NAME[:TAG]            ctr or nerdctl, for k3s and kind too
FILE may be -, standard output. An engine gets only the layers that it lacks.

Examples:
  fastlayers build graph.json --to docker-archive:app.tar:app:1 \\
    --cmd /nix/store/.../bin/app
  fastlayers build venv:.venv --to docker-archive:-:app:1 \\
    --cmd 'python -m app' | docker load
  fastlayers build nix:./result --to oci:image:v1 --compress zstd
  fastlayers build nix:./result --to docker://registry.example.org/app:1
  fastlayers build nix:./result --to docker-daemon:app:1 && docker run app:1
"""
    add_sources(parser)
    to = parser.add_argument(
        "--to",
        dest="destinations",
        action="append",
        required=True,
        metavar="DESTINATION",
        help="Where the image goes.",
    )
    complete(to, complete_words(*_DESTINATIONS))
    add_max_layers(parser, None, "Layers of the image, a base's included. [default: 100]")
    add_client(parser, "docker, podman or containerd: as many layers as are good for it, which is 120.")
    add_planning(parser)
    plan = parser.add_argument(
        "--plan", metavar="FILE", help="Build exactly this plan, as plan --format json prints it."
    )
    complete(plan, complete_file)
    base = parser.add_argument(
        "--from",
        dest="base",
        metavar="IMAGE",
        help="Build on docker-archive:FILE, oci:DIR[:TAG], oci-archive:FILE or docker://HOST/REPO[:TAG].",
    )
    complete(base, complete_words(*_IMAGES))
    compress = parser.add_argument(
        "--compress",
        metavar="CODEC",
        help="none, gzip[:0-3] or zstd[:1-19]. [default: gzip for registries, else none]",
    )
    complete(compress, complete_words("none", "gzip", "zstd"))
    add_settings(parser)
    add_customisation(parser)
    parser.add_argument("--name", metavar="NAME[:TAG]", help="The image's name, where a destination has none.")
    parser.add_argument("--tag", metavar="TAG", help="Its tag.")
    _add_profile(parser)
    add_access(parser)
    add_push(parser)
    add_verify_store(parser)
    add_cache(parser)
    parser.add_argument("--prune", action="store_true", help="Remove from OCI layouts what none of their images names.")
    add_jobs(parser)
    add_quiet(parser, "No progress, no table.")
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print what was built as JSON instead of the table, and what happens as a line of JSON each on standard "
        "error instead of the progress.",
    )


def _add_profile(parser: Parser) -> None:
    """Add what all files have in common; :func:`_profile` reads it."""
    parser.add_argument(
        "--mtime",
        default="1",
        metavar="DATE",
        help="Of all files: a date, or seconds since 1970. [default: %(default)s]",
    )
    parser.add_argument(
        "--uid", type=not_negative, default=0, metavar="N", help="Owner of all files. [default: %(default)s]"
    )
    parser.add_argument(
        "--gid", type=not_negative, default=0, metavar="N", help="Group of all files. [default: %(default)s]"
    )
    parser.add_argument("--uname", default="root", metavar="NAME", help="The owner's name. [default: %(default)s]")
    parser.add_argument("--gname", default="root", metavar="NAME", help="The group's name. [default: %(default)s]")


def run(options: argparse.Namespace) -> None:
    """Build the image."""
    from ..base import parse_reference
    from ..build import build_image
    from ..customisation import named_store_paths
    from ..report import print_build, print_data, print_event, print_notes, start_progress
    from ..sources.nix_json import store_dir

    to_stdout = _to_stdout(options)
    if not options.interpreter and not options.base:
        raise UsageError("--no-interpreter leaves an image that runs on nothing: say --from which base")
    check_planning(options, "plan", "pipeline", "strategy")
    if options.base:
        checked("--from", parse_reference, options.base)
    access = read_access(options)
    cache = read_cache(options)
    registries = _registries(options)
    targets = _destinations(options, access)
    codec = _codec(options.compress or ("gzip" if registries else "none"))
    profile = _profile(options)
    settings = read_settings(options)
    pipeline = read_pipeline_option(options)
    customisation = read_customisation(options)
    guidance = read_guidance(options, access)
    max_layers = _max_layers(options)
    base = _base(options, access, registries, settings)
    closure = _closure(options, named_store_paths(customisation, settings.config, store_dir()))
    if not len(closure):
        raise ClosureError("the closure is empty: there is nothing to build")
    layer_plan = _layer_plan(options, closure, pipeline, guidance)
    progress = start_progress("building", quiet=options.quiet or options.json)
    try:
        result = build_image(
            closure,
            targets,
            layer_plan=layer_plan,
            max_layers=max_layers,
            strategy=options.strategy,
            exclude=options.exclude,
            guidance=guidance,
            order=read_order(options),
            base=base,
            settings=settings,
            customisation=customisation,
            profile=profile,
            xattrs=options.xattrs,
            codec=codec,
            store_root=options.store_root,
            store_dir=store_dir(),
            verify_store=options.verify_store,
            jobs=options.jobs,
            cache=cache,
            verify=options.verify,
            trust_previous=not options.no_cache,
            progress=progress,
            on_event=print_event if options.json and not options.quiet else lambda event: None,
        )
    finally:
        progress.close()
    print_notes(result.notes)
    if options.json:
        import json

        document = {"destinations": options.destinations, **result.to_dict()}
        print_data([json.dumps(document, indent=2, ensure_ascii=False)])
    elif not options.quiet:
        print_build(result, sys.stderr if to_stdout else sys.stdout)


def _to_stdout(options: argparse.Namespace) -> bool:
    """Whether an archive goes to standard output.

    Raises:
        UsageError: two things go there, or two archives into one file.
    """
    archives = [text.split(":")[1] for text in options.destinations if text.startswith(_ARCHIVES)]
    if archives.count("-") > 1 or ("-" in archives and options.json):
        raise UsageError("standard output is wanted twice")
    if len(set(map(os.path.realpath, archives))) < len(archives):
        raise UsageError("two destinations are one file: an archive holds one image")
    return "-" in archives


def _layer_plan(
    options: argparse.Namespace, closure: Closure, pipeline: Pipeline | None, guidance: Guidance
) -> LayerPlan | None:
    """The plan that the options give; None where one is to be made by a strategy."""
    from ..layering.strategies import plan_pipeline, read_plan

    if options.plan is not None:
        return read_plan(options.plan, closure, exclude=options.exclude)
    if pipeline is None:
        return None
    return plan_pipeline(closure, pipeline, exclude=options.exclude, guidance=guidance, order=read_order(options))


def _max_layers(options: argparse.Namespace) -> int:
    from ..build import DEFAULT_MAX_LAYERS
    from ..clients import layer_limit

    if options.max_layers == 1:
        raise UsageError("--max-layers 1 leaves none for the closure: one is kept for the customisation")
    if options.client is not None:
        return checked("--max-layers", layer_limit, options.client, options.max_layers)
    return DEFAULT_MAX_LAYERS if options.max_layers is None else int(options.max_layers)


def _closure(options: argparse.Namespace, named: Sequence[str]) -> Closure:
    """The closure of the sources; where one of them is in the store, with those of the store paths that are named."""
    from ..closure import unite
    from ..sources import in_store, nix_store

    closure = read_sources(options)
    if not any(in_store(source, store_root=options.store_root) for source in options.sources):
        return closure
    found = [closure]
    for path in named:
        try:
            found += [] if path in closure else [nix_store.read([path], store_root=options.store_root)]
        except ClosureError:
            if not options.base:  # which may have it
                raise
    return unite(found)


def _host(reference: str) -> str:
    from ..registry.reference import Reference

    return Reference.parse(reference).host


def _registries(options: argparse.Namespace) -> set[str]:
    """The hosts that are pushed to."""
    hosts = {checked("--to", _host, text) for text in options.destinations if text.startswith(_REGISTRY)}
    for name in ("creds", "push_base", "mount_from"):
        if getattr(options, name) is not None and not hosts:
            raise UsageError(f"--{name.replace('_', '-')} is for a destination {_REGISTRY}...")
    if options.creds is not None and len(hosts) > 1:
        raise UsageError(f"--creds is for one registry, not for {' and '.join(sorted(hosts))}: use --authfile")
    return hosts


def _base(
    options: argparse.Namespace, access: RegistryAccess, registries: set[str], settings: Settings
) -> BaseImage | None:
    from dataclasses import replace

    from ..base import read_base

    if not options.base:
        return None
    if not (options.base.startswith(_REGISTRY) and _host(options.base) in registries):
        access = replace(access, credentials=None)  # --creds are for the registry that is pushed to, and no other
    return read_base(options.base, access, architecture=settings.architecture, variant=settings.variant)


def _destinations(options: argparse.Namespace, access: RegistryAccess) -> list[Destination]:
    from ..destinations import parse_destination
    from ..engines import NoEngine
    from ..image import ImageName

    name = checked("--name", ImageName.parse, options.name) if options.name else ImageName()
    if options.tag:
        name = checked("--tag", ImageName, name.repository, options.tag)
    push = read_push(options)
    if options.prune and not any(text.startswith("oci:") for text in options.destinations):
        raise UsageError("--prune is for a destination oci:...")
    found = []
    for text in options.destinations:
        try:
            found.append(parse_destination(text, name, access, push, prune=options.prune, verify=options.verify))
        except NoEngine:  # of which the command line knows nothing
            raise
        except FastlayersError as error:
            raise UsageError(f"--to {error}") from None
    return found


def _codec(compress: str) -> Codec:
    from ..compression import Codec

    name, colon, level = compress.partition(":")
    try:
        return Codec(name, int(level) if colon else None)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"--compress {compress}: {error}") from None


def _profile(options: argparse.Namespace) -> Profile:
    from ..layer import Profile

    return Profile(options.uid, options.gid, options.uname, options.gname, _mtime(options.mtime))


def _mtime(text: str) -> int:
    from ..image import parse_date

    if re.fullmatch("-?[0-9]{1,20}", text):
        if not -(1 << 63) <= int(text) < 1 << 63:
            raise UsageError(f"--mtime {text}: more seconds than a tar header can hold")
        return int(text)
    return int(checked("--mtime", parse_date, text).timestamp())
