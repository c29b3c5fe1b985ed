"""From a closure to an image: the whole program, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from .base import BaseImage
from .base_tree import fit_on_base
from .closure import Closure, normalise_nar_hash
from .compression import Codec
from .contents import Contents, FileList, Tree
from .customisation import Customisation, customise, named_store_paths
from .destinations import Destination
from .errors import ClosureError, ConfigError, LayerError, PlanError
from .image import Image, Settings, check_config, make_image, merge_env
from .layer import LayerDescriptor, LayerRecipe, LayerTask, MeasuredLayer, Profile, Sink
from .layering.plan import LayerPlan, plan_layers
from .parallel import available_cores, make_layers, measure_all

__all__ = ["DEFAULT_MAX_LAYERS", "BuildResult", "BuiltLayer", "build_image"]

DEFAULT_MAX_LAYERS = 100

_UPLOADS = 4  # layers at once, at least, where a destination waits for a network


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """A layer of a finished image.

    Attributes:
        kind: "closure" (nodes of it) or "customisation".
        paths: the names of its nodes.
        descriptor: digests and sizes.
    """

    kind: str
    paths: tuple[str, ...]
    descriptor: LayerDescriptor


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made.

    Attributes:
        image: configuration and manifest.
        plan: the plan that was used.
        layers: bottom first, without the base image's.
        sent: bytes of layers that went to registries; None where no destination is one.
        seconds: time that it took.
    """

    image: Image
    plan: LayerPlan
    layers: tuple[BuiltLayer, ...]
    seconds: float
    sent: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""
        return {
            "image_id": self.image.config_digest,
            "manifest": {"digest": self.image.manifest_digest, "size": len(self.image.manifest)},
            "strategy": self.plan.strategy,
            "excluded": list(self.plan.excluded),
            "base_layers": [{"diff_id": b.diff_id, "digest": b.digest, "size": b.size} for b in self.image.base],
            "layers": [
                {
                    "kind": layer.kind,
                    "paths": list(layer.paths),
                    "diff_id": layer.descriptor.diff_id,
                    "tar_size": layer.descriptor.tar_size,
                    "digest": layer.descriptor.digest,
                    "size": layer.descriptor.size,
                    "codec": layer.descriptor.codec,
                    "entries": layer.descriptor.entries,
                    "seconds": round(layer.descriptor.seconds, 4),
                    "sent": layer.descriptor.sent,
                }
                for layer in self.layers
            ],
            "seconds": round(self.seconds, 4),
        }


def build_image(
    closure: Closure,
    destinations: Sequence[Destination],
    *,
    layer_plan: LayerPlan | None = None,
    max_layers: int = DEFAULT_MAX_LAYERS,
    strategy: str | None = None,
    exclude: Collection[str] = (),
    base: BaseImage | None = None,
    settings: Settings = Settings(),  # noqa: B008  frozen
    customisation: Customisation = Customisation(),  # noqa: B008
    profile: Profile = Profile(),  # noqa: B008
    xattrs: bool = False,
    codec: Codec = Codec(),  # noqa: B008
    store_root: str = "",
    store_dir: str | None = None,
    verify_store: bool = False,
    jobs: int | None = None,
    executor: Executor | None = None,
    remembered: Callable[[LayerRecipe, Codec], LayerDescriptor | None] = lambda recipe, codec: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> BuildResult:
    """Build an image of a closure and write it to every destination.

    Larger images are made by processes that :mod:`multiprocessing` spawns: a script calls this below
    ``if __name__ == "__main__":``, or with a ``jobs`` of 1.

    Args:
        closure: what goes in.
        destinations: where the image goes; see :func:`fastlayers.parse_destination`.
        layer_plan: exactly this plan; otherwise one is made with ``strategy`` for ``max_layers`` - 1 - base layers.
        max_layers: of the whole image. One layer is always kept for the customisation, also when there is none, so
            that adding one never moves a store layer.
        strategy: how to plan, None for the default.
        exclude: nodes that are to be in no layer of the plan that is made; a given plan says this itself.
        base: the image below.
        settings: the image's configuration.
        customisation: what goes into the image besides the closure.
        profile: owner and mtime of all files.
        xattrs: keep Linux capabilities and ``user.*`` attributes of what is on disk.
        codec: how layers are compressed.
        store_root: the folder below which the files are.
        store_dir: the store directory: paths below it that the configuration or the customisation names must be in the
            closure. They are not looked for where there is a base, which may have them.
        verify_store: check every store path, before its layer is made, against the NAR hash that the closure tells, or
            else that the store has registered. Nothing that is remembered is trusted then.
        jobs: how many worker processes, default all cores (and at least four for a registry); the bytes never
            depend on it.
        executor: makes the layers instead of worker processes of our own; it must see the same files.
        remembered: what a recipe and a codec gave before. A layer that is remembered, and that all destinations have,
            is not made, and nothing of it is looked at.
        progress: is told, ten times a second, how many bytes of tar are made, and how many there will be.

    Raises:
        FastlayersError: one of its classes. No destination has a half-made image then, and none has a new one, unless
            it was another destination that could not finish.
    """
    start = time.perf_counter()
    waits = any(destination.waits for destination in destinations)
    jobs = jobs or max(available_cores(), _UPLOADS if waits else 1)

    # Decide: the configuration and the plan.
    config = _full_config(closure, settings.config)
    check_config(config, "configuration")
    if store_dir and base is None:
        named = named_store_paths(customisation, config, store_dir)
        _check_store_paths(named, closure, "not in the closure")
    room = _store_layers(max_layers, base)
    if layer_plan is None:
        layer_plan = plan_layers(closure, room, strategy, exclude=exclude)
    _check_plan(layer_plan, closure, room, max_layers)
    if store_dir and base is None:
        _check_store_paths(named, set(chain.from_iterable(layer_plan.layers)), "excluded")

    # Describe: a recipe for each layer, and the exact size of its tar.
    kinds: list[tuple[str, tuple[str, ...]]] = [("closure", layer) for layer in layer_plan.layers]
    contents: list[tuple[Contents, ...]] = [
        tuple(closure.contents(closure.index(path)) for path in layer) for layer in layer_plan.layers
    ]
    own = closure.extra if base is None else ()
    custom = fit_on_base(
        base,
        contents,
        customise(
            customisation,
            closure,
            own,
            store_dir=store_dir,
            store_root=store_root,
            time=profile.mtime,
            excluded=frozenset(layer_plan.excluded),
        ),
        asked=customisation.modes,
    )
    if custom:
        kinds.append(("customisation", ()))
        contents.append(custom)
    if store_root and any(isinstance(item, FileList) for items in contents for item in items):
        raise ConfigError(f"{store_root}: a store root is for store paths, and this closure has other files too")
    recipes = [LayerRecipe(items, profile, store_root, xattrs=xattrs) for items in contents]
    known = [None if verify_store else remembered(recipe, codec) for recipe in recipes]
    measured = _measure(recipes, known, jobs)
    expected = _expected_nar_hashes(closure, store_root) if verify_store else {}

    # Make: every layer once, into all destinations that lack it.
    try:
        base_layers = base.layers if base else ()
        sinks = [
            destination.begin(base_layers, measured, codec, local=executor is None) for destination in destinations
        ]
        tasks, made = _tasks(destinations, measured, known, sinks, codec, expected)
        for index, layer in enumerate(made):
            if layer is not None:
                for destination in destinations:
                    destination.add(index, layer)
        total = sum(measured[index].size for index in tasks)
        work = _make(tasks, measured, jobs, executor, waits, lambda done: progress(done, total))
        with closing(work):  # whatever happens, nobody writes any more when destinations are aborted
            for index, layer in work:
                made[index] = layer
                for destination in destinations:
                    destination.add(index, layer)

        # Finish: config and manifest.
        layers = [layer for layer in made if layer is not None]
        described = [(layer, kind, paths) for layer, (kind, paths) in zip(layers, kinds, strict=True)]
        annotations = {"dev.fastlayers.codec": codec.profile, "dev.fastlayers.tar": _tar_profile(xattrs)}
        if layer_plan.strategy:
            annotations["dev.fastlayers.strategy"] = layer_plan.strategy
        image = make_image(replace(settings, config=config), described, base=base, annotations=annotations)
        for destination in destinations:
            destination.finish(image)
    finally:
        for destination in destinations:
            destination.abort()
    return BuildResult(
        image,
        layer_plan,
        tuple(BuiltLayer(kind, paths, layer) for layer, kind, paths in described),
        time.perf_counter() - start,
        sum(layer.sent for layer in layers) if waits else None,
    )


def _measure(recipes: Sequence[LayerRecipe], known: Sequence[LayerDescriptor | None], jobs: int) -> list[MeasuredLayer]:
    """Look at the entries of all layers but those that are known."""
    unknown = iter(measure_all([recipe for recipe, layer in zip(recipes, known, strict=True) if layer is None], jobs))
    return [
        next(unknown) if layer is None else MeasuredLayer(recipe, layer.tar_size, None)
        for recipe, layer in zip(recipes, known, strict=True)
    ]


def _tasks(
    destinations: Sequence[Destination],
    measured: Sequence[MeasuredLayer],
    known: Sequence[LayerDescriptor | None],
    sinks: Sequence[Sequence[Sink | None]],
    codec: Codec,
    nar_hashes: Mapping[str, str],
) -> tuple[dict[int, LayerTask], list[LayerDescriptor | None]]:
    """What is to be made, by the layers' numbers; and the layers that are known and everywhere."""
    tasks: dict[int, LayerTask] = {}
    made: list[LayerDescriptor | None] = [None] * len(measured)
    for number, (look, layer, *to) in enumerate(zip(measured, known, *sinks, strict=True)):
        wanted = [layer is None or not destination.has(layer) for destination in destinations]
        if layer is None or any(wanted):
            lacking = tuple(sink for sink, want in zip(to, wanted, strict=True) if want and sink is not None)
            tasks[number] = LayerTask(
                look.recipe,
                codec,
                lacking,
                table=look.table,
                nar_hashes=_nar_hashes(look.recipe, nar_hashes),
                known=layer,
            )
        else:
            made[number] = replace(layer, seconds=0.0, sent=0)
    return tasks, made


def _make(
    tasks: Mapping[int, LayerTask],
    measured: Sequence[MeasuredLayer],
    jobs: int,
    executor: Executor | None,
    waits: bool,
    progress: Callable[[int], object],
) -> Generator[tuple[int, LayerDescriptor], None, None]:
    """Make layers, and give each with its number as soon as it is done."""
    todo = sorted(tasks)
    work = make_layers(
        [tasks[index] for index in todo],
        [measured[index].size for index in todo],
        jobs=jobs,
        executor=executor,
        waits=waits,
        progress=progress,
    )
    with closing(work):
        for number, layer in work:
            index = todo[number]
            if layer.tar_size != measured[index].size:  # it would not end where the next one begins
                items = tasks[index].recipe.contents
                raise LayerError(
                    f"the layer from {items[0].owner} to {items[-1].owner}: its files changed while the image was built"
                )
            yield index, layer


def _check_plan(layer_plan: LayerPlan, closure: Closure, room: int, max_layers: int) -> None:
    layer_plan.check(closure)
    if len(layer_plan.layers) > room:
        raise PlanError(f"the plan has {len(layer_plan.layers)} layers; {max_layers} leave room for {room}")
    if len(closure) and not layer_plan.layers:
        raise PlanError("every path is excluded: there is nothing to build")


def _store_layers(max_layers: int, base: BaseImage | None) -> int:
    """How many layers the plan may have: one is kept for the customisation, and the base has its own."""
    below = len(base.layers) if base else 0
    if max_layers - 1 - below < 1:
        counted = (
            f"the base image has {below}, one is kept for the customisation"
            if below
            else "one is kept for the customisation"
        )
        raise PlanError(f"{max_layers} layers leave none for the closure: {counted}")
    return max_layers - 1 - below


def _expected_nar_hashes(closure: Closure, store_root: str) -> dict[str, str]:
    """Of each store path of the closure, the NAR hash that it must have."""
    told = {path: closure.nar_hashes[i] for i, path in enumerate(closure.paths) if closure.contents(i) == Tree(path)}
    if not told:
        raise ConfigError("no store path is in the closure: there is nothing to verify")
    missing = [path for path, text in told.items() if not text]
    if missing:
        from .sources import nix_store

        told |= zip(missing, nix_store.nar_hashes(missing, store_root=store_root), strict=True)
    expected = {}
    for path, text in told.items():
        try:
            expected[path] = normalise_nar_hash(text or "")
        except ClosureError as error:
            raise ClosureError(f"{path}: {error}") from None
    return expected


def _nar_hashes(recipe: LayerRecipe, expected: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    paths = [contents.path for contents in recipe.contents if isinstance(contents, Tree)]
    return tuple((path, expected[path]) for path in paths if path in expected)


def _full_config(closure: Closure, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the variables that the closure needs, where it does not set them itself."""
    if not closure.environment:
        return dict(config)
    needed = [f"{name}={value}" for name, value in closure.environment.items()]
    return {**config, "Env": merge_env(needed, config.get("Env") or ())}


def _check_store_paths(named: Sequence[str], known: Container[str], otherwise: str) -> None:
    missing = [path for path in named if path not in known]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: named in the configuration or the contents, but {otherwise}")


def _tar_profile(xattrs: bool) -> str:
    return "nixpkgs/1+xattrs" if xattrs else "nixpkgs/1"
