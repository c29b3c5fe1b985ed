"""Turn package closures into layered, reproducible container images.

    closure = fastlayers.read_closure("graph.json")
    destination = fastlayers.parse_destination("oci:image", fastlayers.ImageName("app", "1"))
    made = fastlayers.build_image(closure, [destination])

Everything is imported when it is first used: a program that only plans never loads what builds.
"""

TYPE_CHECKING = False  # importing it from typing takes as long as the rest of --version
if TYPE_CHECKING:
    from .base import BaseImage, read_base
    from .build import BuildResult, BuiltLayer, LayerEvent, build_image
    from .cache import DigestCache
    from .clients import check_layer_count, layer_limit
    from .closure import Closure, unite
    from .compression import Codec
    from .customisation import Customisation, LinkedTree, named_store_paths, read_folder, read_tar
    from .destinations import Destination, parse_destination
    from .errors import (
        ClosureError,
        ConfigError,
        DestinationError,
        FastlayersError,
        ImageError,
        LayerError,
        PlanError,
        RegistryError,
    )
    from .image import Image, ImageName, Settings, read_config
    from .index import PushedIndex, push_index
    from .inspection.inspect import ImageFacts, inspect_image
    from .inspection.verify import Verdict, verify_image
    from .layer import Contradiction, LayerDescriptor, LayerRecipe, LayerTask, Profile, make_layer
    from .layering.pipeline import Pipeline, read_pipeline
    from .layering.plan import LayerPlan
    from .layering.strategies import plan_layers, plan_pipeline, read_plan
    from .popularity import Popularity, order_by_popularity
    from .registry.access import Credentials, PushOptions, RegistryAccess
    from .registry.reference import Reference
    from .sources import read_closure
    from .stream import stream_image

__version__ = "0.1.0"

_HOMES = {
    "base": ("BaseImage", "read_base"),
    "build": ("BuildResult", "BuiltLayer", "LayerEvent", "build_image"),
    "cache": ("DigestCache",),
    "clients": ("check_layer_count", "layer_limit"),
    "closure": ("Closure", "unite"),
    "compression": ("Codec",),
    "customisation": ("Customisation", "LinkedTree", "named_store_paths", "read_folder", "read_tar"),
    "destinations": ("Destination", "parse_destination"),
    "errors": (
        "ClosureError",
        "ConfigError",
        "DestinationError",
        "FastlayersError",
        "ImageError",
        "LayerError",
        "PlanError",
        "RegistryError",
    ),
    "image": ("Image", "ImageName", "Settings", "read_config"),
    "index": ("PushedIndex", "push_index"),
    "inspection.inspect": ("ImageFacts", "inspect_image"),
    "inspection.verify": ("Verdict", "verify_image"),
    "layer": ("Contradiction", "LayerDescriptor", "LayerRecipe", "LayerTask", "Profile", "make_layer"),
    "layering.pipeline": ("Pipeline", "read_pipeline"),
    "layering.plan": ("LayerPlan",),
    "layering.strategies": ("plan_layers", "plan_pipeline", "read_plan"),
    "popularity": ("Popularity", "order_by_popularity"),
    "registry.access": ("Credentials", "PushOptions", "RegistryAccess"),
    "registry.reference": ("Reference",),
    "sources": ("read_closure",),
    "stream": ("stream_image",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BaseImage",
    "BuildResult",
    "BuiltLayer",
    "Closure",
    "ClosureError",
    "Codec",
    "ConfigError",
    "Contradiction",
    "Credentials",
    "Customisation",
    "Destination",
    "DestinationError",
    "DigestCache",
    "FastlayersError",
    "Image",
    "ImageError",
    "ImageFacts",
    "ImageName",
    "LayerDescriptor",
    "LayerError",
    "LayerEvent",
    "LayerPlan",
    "LayerRecipe",
    "LayerTask",
    "LinkedTree",
    "Pipeline",
    "PlanError",
    "Popularity",
    "Profile",
    "PushOptions",
    "PushedIndex",
    "Reference",
    "RegistryAccess",
    "RegistryError",
    "Settings",
    "Verdict",
    "build_image",
    "check_layer_count",
    "inspect_image",
    "layer_limit",
    "make_layer",
    "named_store_paths",
    "order_by_popularity",
    "parse_destination",
    "plan_layers",
    "plan_pipeline",
    "push_index",
    "read_base",
    "read_closure",
    "read_config",
    "read_folder",
    "read_pipeline",
    "read_plan",
    "read_tar",
    "stream_image",
    "unite",
    "verify_image",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
