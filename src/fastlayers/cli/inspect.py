"""``fastlayers inspect``: what an image says of itself."""

from __future__ import annotations

import argparse

from .parser import Parser, checked, complete, complete_words
from .registry import add_access, read_access

__all__ = ["IMAGES", "add_image", "define", "run"]

IMAGES = """\
Images:
  docker-archive:FILE[:NAME:TAG]            what docker save writes
  oci-archive:FILE[:TAG]                    an OCI layout in a tar
  oci:DIR[:TAG]                             an OCI layout
  docker://HOST/REPOSITORY[:TAG][@DIGEST]   an image in a registry
"""


def add_image(parser: Parser) -> None:
    """Add ``IMAGE``."""
    image = parser.add_argument("image", metavar="IMAGE", help="The image.")
    complete(image, complete_words("docker-archive:", "oci-archive:", "oci:", "docker://"))


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] IMAGE"
    parser.description = (
        "Show an image's digests, platform, configuration and layers. Nothing of the layers is read; verify does that."
    )
    parser.epilog = f"""\
{IMAGES}
Examples:
  fastlayers inspect oci:image:1
  fastlayers inspect --json docker-archive:app.tar
  fastlayers inspect docker://registry.example.org/app:1 --arch arm64
"""
    add_image(parser)
    parser.add_argument("--arch", metavar="NAME", help="Which image of an index. [default: this machine's]")
    parser.add_argument("--variant", metavar="NAME", help="Its variant, such as v8.")
    parser.add_argument("--json", action="store_true", help="Print everything as JSON.")
    add_access(parser, "of IMAGE")


def run(options: argparse.Namespace) -> None:
    """Print what the image says."""
    import json

    from ..base import parse_reference
    from ..inspection.inspect import inspect_image
    from ..report import print_data, print_image

    checked("IMAGE", parse_reference, options.image)
    facts = inspect_image(options.image, read_access(options), architecture=options.arch or "", variant=options.variant)
    if options.json:
        print_data([json.dumps(facts.to_dict(), indent=2, ensure_ascii=False)])
    else:
        print_image(facts)
