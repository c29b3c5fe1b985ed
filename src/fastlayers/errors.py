"""One tree of exceptions; each class has the exit status that the command line ends with.

Every message is one line and names the place: a file, a key, a store path, an entry, a layer.
"""

__all__ = [
    "ClosureError",
    "ConfigError",
    "DestinationError",
    "FastlayersError",
    "ImageError",
    "LayerError",
    "PlanError",
    "RegistryError",
]


class FastlayersError(Exception):
    """Any failure that fastlayers foresees."""

    exit_status = 1


class ClosureError(FastlayersError):
    """A source cannot be read, or what it gives is no closure."""

    exit_status = 3


class PlanError(FastlayersError):
    """A layer plan cannot be made, read or used for this closure."""

    exit_status = 4


class ConfigError(FastlayersError):
    """The image's configuration is wrong, or names store paths that are not in the closure."""

    exit_status = 5


class LayerError(FastlayersError):
    """A file cannot go into a layer: unreadable, changed while it was read, of no kind that tar has, or owned twice.

    Or a store path is not what Nix registered.
    """

    exit_status = 6


class ImageError(FastlayersError):
    """An image cannot be read, is not whole, or has faults."""

    exit_status = 7


class DestinationError(FastlayersError):
    """A destination cannot be written: a file, or an engine that cannot be reached or refuses."""

    exit_status = 8


class RegistryError(FastlayersError):
    """A registry cannot be reached, refuses, or does not do what the protocol says."""

    exit_status = 9
