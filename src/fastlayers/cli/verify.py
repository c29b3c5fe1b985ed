"""``fastlayers verify``: whether an image is what it says."""

from __future__ import annotations

import argparse

from ..errors import ImageError
from .inspect import IMAGES, add_image
from .options import add_client, add_quiet, positive
from .parser import Parser, checked
from .registry import add_access, read_access

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] IMAGE"
    parser.description = (
        "Read an image whole, and see whether it is what it says: digests, sizes and diff IDs, config and manifest, "
        "entries of layers. Every fault is a line. Where no tag is named, all images are verified. "
        "The status is 0 for a good image and 7 for one with faults."
    )
    parser.epilog = f"""\
{IMAGES}
Examples:
  fastlayers verify oci:image:1
  fastlayers verify docker-archive:app.tar --client docker
  fastlayers verify docker://registry.example.org/app:1 --json
"""
    add_image(parser)
    add_client(parser, "docker, podman or containerd: more layers than it takes are a fault. [default: a note]")
    parser.add_argument("--json", action="store_true", help="Print the verdict as JSON.")
    parser.add_argument("--jobs", type=positive, metavar="N", help="Layers that are read at once. [default: all cores]")
    add_quiet(parser, "No progress, and nothing about a good image.")
    add_access(parser, "of IMAGE")


def run(options: argparse.Namespace) -> None:
    """Verify the image and print the verdict.

    Raises:
        ImageError: it has faults.
    """
    import json

    from ..base import parse_reference
    from ..inspection.verify import verify_image
    from ..report import counted, print_data, print_verdict, start_progress

    checked("IMAGE", parse_reference, options.image)
    progress = start_progress("verifying", quiet=options.quiet)
    try:
        verdict = verify_image(
            options.image, read_access(options), client=options.client, jobs=options.jobs, progress=progress
        )
    finally:
        progress.close()
    if options.json:
        print_data([json.dumps(verdict.to_dict(), indent=2, ensure_ascii=False)])
    else:
        print_verdict(verdict, quiet=options.quiet)
    if verdict.faults:
        raise ImageError(f"{options.image}: {counted(len(verdict.faults), 'fault')}")
