"""From a closure to an image: the whole program, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

from .base import BaseImage
from .base_tree import fit_on_base
from .cache import DigestCache
from .closure import Closure, normalise_nar_hash
from .compression import Codec
from .contents import Contents, FileList, Tree
from .customisation import Customisation, customise, named_store_paths
from .destinations import Destination
from .errors import ClosureError, ConfigError, LayerError, PlanError
from .image import Image, Settings, check_config, make_image, merge_env
from .layer import Contradiction, Delivery, LayerDescriptor, LayerRecipe, LayerTask, MeasuredLayer, Profile, Sink
from .layering.carried import ORDER, STRATEGY
from .layering.guidance import Guidance
from .layering.plan import LayerPlan
from .layering.strategies import plan_layers
from .memory import Memory, tar_profile
from .parallel import available_cores, make_layers, measure_each

__all__ = ["DEFAULT_MAX_LAYERS", "BuildResult", "BuiltLayer", "LayerEvent", "build_image"]

DEFAULT_MAX_LAYERS = 100

_UPLOADS = 4  # layers at once, at least, where a destination waits for a network


@dataclass(frozen=True, slots=True)
class LayerEvent:
    """What happened to a layer.

    Attributes:
        layer: its number, from 1 at the bottom; a base image's layers are not counted.
        event: "built", or "reused" where it is remembered; then for each destination "written", "uploaded", "mounted"
            from another repository, "skipped": it was there, or "offered" to an engine, which may turn out to have it.
        bytes: of the tar that was built or reused; that were written or sent.
        destination: which one, from 1; 0 for what is not about one.
        seconds: that the layer took until then.
    """

    layer: int
    event: str
    bytes: int
    destination: int = 0
    seconds: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The event as plain values, for JSON."""
        where = {"destination": self.destination} if self.destination else {}
        return {"event": self.event, **where, "bytes": self.bytes, "seconds": round(self.seconds, 4)}


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """A layer of a finished image.

    Attributes:
        kind: "closure" (nodes of it) or "customisation".
        paths: the names of its nodes.
        descriptor: digests and sizes.
        events: what happened to it.
    """

    kind: str
    paths: tuple[str, ...]
    descriptor: LayerDescriptor
    events: tuple[LayerEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made.

    Attributes:
        image: configuration and manifest.
        plan: the plan that was used.
        layers: bottom first, without the base image's.
        seconds: time that it took.
        sent: bytes of layers that went to registries, and of archives to engines; None where no destination is one.
        read: bytes of files that were read for layers; what was read twice counts twice.
        written: bytes of layers that were written to files and pipes.
        notes: what the user should know of how it went, a line each.
    """

    image: Image
    plan: LayerPlan
    layers: tuple[BuiltLayer, ...]
    seconds: float
    sent: int | None = None
    read: int = 0
    written: int = 0
    notes: tuple[str, ...] = ()

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
                    "events": [event.to_dict() for event in layer.events],
                }
                for layer in self.layers
            ],
            "read": self.read,
            "written": self.written,
            "sent": self.sent,
            "notes": list(self.notes),
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
    guidance: Guidance = Guidance(),  # noqa: B008  frozen
    order: str | None = None,
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
    cache: DigestCache | None = None,
    verify: bool = False,
    trust_previous: bool = True,
    progress: Callable[[int, int], object] = lambda done, total: None,
    on_event: Callable[[LayerEvent], object] = lambda event: None,
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
        guidance: what the strategy and the order go by besides the closure.
        order: in which order to put the layers of the plan that is made, None for the strategy's own.
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
        jobs: how many layers are made at once, by as many processes; default all cores. For a registry at least four,
            by no more processes than cores. The bytes never depend on it.
        executor: makes the layers instead of worker processes of our own; it must see the same files.
        cache: what recipes gave before, and what they give now. A layer that is remembered is not hashed again; where
            all destinations have it, it is not made. None remembers nothing.
        verify: make and hash all layers again, also those that are remembered.
        trust_previous: remember layers of the image that a destination had under the name that it was given.
        progress: is told, ten times a second, how many bytes of tar are made, and how many there will be.
        on_event: is told what happens to layers, as soon as it has.

    Raises:
        Contradiction: a layer is not what was remembered of it; the cache has forgotten it.
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
        layer_plan = plan_layers(closure, room, strategy, exclude=exclude, guidance=guidance, order=order)
    _check_plan(layer_plan, closure, room, max_layers)
    if store_dir and base is None:
        _check_store_paths(named, set(chain.from_iterable(layer_plan.layers)), "excluded")

    # Describe: a recipe for each layer, and the exact size of its tar.
    kinds, recipes = _describe(
        closure,
        layer_plan,
        base,
        customisation,
        profile,
        xattrs=xattrs,
        store_root=store_root,
        store_dir=store_dir,
    )
    expected = _expected_nar_hashes(closure, store_root) if verify_store else {}
    memory = Memory(cache, codec, partial(_previous_layers, destinations if trust_previous else ()))
    known = memory.look_up(recipes, _told_nar_hashes(closure), trust=not verify_store)
    measured = _measure(recipes, known, memory, jobs, trust=not verify_store)

    # Make: every layer once, into all destinations that lack it.
    try:
        base_layers = base.layers if base else ()
        sinks = [
            destination.begin(base_layers, measured, codec, local=executor is None) for destination in destinations
        ]
        routes = _routes(destinations, measured, known, sinks, codec, expected, verify=verify, told=memory.told)
        tasks = {number: route.task for number, route in enumerate(routes) if route.task is not None}
        total = sum(measured[number].size for number in tasks)
        ready = [(number, layer) for number, layer in enumerate(known) if layer is not None and number not in tasks]
        work = _make(tasks, measured, jobs, executor, waits, lambda done: progress(done, total))
        layers: dict[int, LayerDescriptor] = {}
        events: dict[int, tuple[LayerEvent, ...]] = {}
        with closing(work):  # whatever happens, nobody writes any more when destinations are aborted
            for number, layer in chain(ready, work):
                layers[number] = layer
                for destination in destinations:
                    destination.add(number, layer)
                memory.remember(number, layer)
                events[number] = tuple(_events(number, layer, routes[number]))
                for event in events[number]:
                    on_event(event)

        # Finish: config and manifest.
        described = [(layers[number], kind, paths) for number, (kind, paths) in enumerate(kinds)]
        image = make_image(
            replace(settings, config=config),
            described,
            base=base,
            annotations=_annotations(codec, layer_plan, xattrs=xattrs),
            recipes=memory.recipes,
        )
        for destination in destinations:
            destination.finish(image)
    except Contradiction as error:
        memory.forget(error)
        raise
    finally:
        for destination in destinations:
            destination.abort()
    return BuildResult(
        image,
        layer_plan,
        tuple(BuiltLayer(kind, paths, layer, events[i]) for i, (layer, kind, paths) in enumerate(described)),
        time.perf_counter() - start,
        _sent(destinations, events),
        sum(layer.read for layer in layers.values()) + sum(destination.read for destination in destinations),
        _bytes_of("written", events),
        tuple(chain.from_iterable(destination.notes for destination in destinations)),
    )


def _sent(destinations: Sequence[Destination], events: Mapping[int, Sequence[LayerEvent]]) -> int | None:
    sent = [destination.sent for destination in destinations if destination.sent is not None]
    return sum(sent) + _bytes_of("uploaded", events) if sent else None


def _describe(
    closure: Closure,
    layer_plan: LayerPlan,
    base: BaseImage | None,
    customisation: Customisation,
    profile: Profile,
    *,
    xattrs: bool,
    store_root: str,
    store_dir: str | None,
) -> tuple[list[tuple[str, tuple[str, ...]]], list[LayerRecipe]]:
    """Of each layer its kind and the names of its nodes, and its recipe; the customisation's comes last."""
    kinds: list[tuple[str, tuple[str, ...]]] = [("closure", layer) for layer in layer_plan.layers]
    contents: list[tuple[Contents, ...]] = [
        tuple(closure.contents(closure.index(path)) for path in layer) for layer in layer_plan.layers
    ]
    custom = customise(
        customisation,
        closure,
        closure.extra if base is None else (),
        store_dir=store_dir,
        store_root=store_root,
        time=profile.mtime,
        excluded=frozenset(layer_plan.excluded),
    )
    if custom := fit_on_base(base, contents, custom, asked=customisation.modes):
        kinds.append(("customisation", ()))
        contents.append(custom)
    return kinds, _recipes(contents, profile, store_root, xattrs=xattrs)


def _recipes(
    contents: Sequence[tuple[Contents, ...]], profile: Profile, store_root: str, *, xattrs: bool
) -> list[LayerRecipe]:
    if store_root and any(isinstance(item, FileList) for items in contents for item in items):
        raise ConfigError(f"{store_root}: a store root is for store paths, and this closure has other files too")
    return [LayerRecipe(items, profile, store_root, xattrs=xattrs) for items in contents]


def _annotations(codec: Codec, layer_plan: LayerPlan, *, xattrs: bool) -> dict[str, str]:
    """What the manifest says of how the image was made."""
    annotations = {"dev.fastlayers.codec": codec.profile, "dev.fastlayers.tar": tar_profile(xattrs=xattrs)}
    if layer_plan.strategy:
        annotations[STRATEGY] = layer_plan.strategy
    if layer_plan.order:
        annotations[ORDER] = layer_plan.order
    return annotations


def _bytes_of(event: str, events: Mapping[int, Sequence[LayerEvent]]) -> int:
    return sum(each.bytes for each in chain.from_iterable(events.values()) if each.event == event)


def _previous_layers(destinations: Sequence[Destination]) -> list[Mapping[str, Any]]:
    return [layer for destination in destinations for layer in destination.previous]


def _measure(
    recipes: Sequence[LayerRecipe],
    known: list[LayerDescriptor | None],
    memory: Memory,
    jobs: int,
    *,
    trust: bool,
) -> list[MeasuredLayer]:
    """Look at the entries of all layers but those that are known; some are known then."""
    unlooked = [recipe for recipe, layer in zip(recipes, known, strict=True) if layer is None]
    unknown = iter(list(measure_each(unlooked, jobs)) if unlooked else ())
    measured = []
    for number, (recipe, layer) in enumerate(zip(recipes, known, strict=True)):
        if layer is None:
            measured.append(next(unknown))
            known[number] = memory.look_up_measured(number, measured[number], trust=trust)
        else:
            measured.append(MeasuredLayer(recipe, layer.tar_size, None))
    return measured


@dataclass(frozen=True, slots=True)
class _Route:
    """Where a layer goes.

    Attributes:
        task: how it is made; None where nobody has to.
        sinks: for each destination a sink, None where it writes layers itself, "offered" where it sends those that turn
            out to be wanted; "has" where it has the layer.
    """

    task: LayerTask | None
    sinks: tuple[Sink | Literal["has", "offered"] | None, ...]

    def deliveries(self, layer: LayerDescriptor) -> list[Delivery]:
        """What became of the layer, for each destination."""
        by_workers = iter(layer.deliveries)
        return [
            Delivery("skipped")
            if sink == "has"
            else Delivery("offered")
            if sink == "offered"
            else Delivery("written", layer.size)
            if sink is None
            else next(by_workers)
            for sink in self.sinks
        ]


def _routes(
    destinations: Sequence[Destination],
    measured: Sequence[MeasuredLayer],
    known: Sequence[LayerDescriptor | None],
    sinks: Sequence[Sequence[Sink | None]],
    codec: Codec,
    nar_hashes: Mapping[str, str],
    *,
    verify: bool,
    told: Container[int],
) -> list[_Route]:
    """Where each layer goes. One that is known is made where it is verified, or where a sink wants it.

    One that a manifest ``told`` is made where any destination lacks it: nobody here has hashed it.
    """
    routes = []
    for number, (look, layer, *to) in enumerate(zip(measured, known, *sinks, strict=True)):
        wanted: tuple[Sink | Literal["has", "offered"] | None, ...] = tuple(
            "has"
            if layer is not None and destination.has(layer)
            else "offered"
            if sink is None and destination.sent is not None
            else sink
            for destination, sink in zip(destinations, to, strict=True)
        )
        lacking = tuple(sink for sink in wanted if sink is not None and not isinstance(sink, str))
        task = None
        hearsay = number in told
        if layer is None or lacking or verify or (hearsay and any(sink != "has" for sink in wanted)):
            expected = _nar_hashes(look.recipe, nar_hashes)
            task = LayerTask(
                look.recipe,
                codec,
                lacking,
                table=look.table,
                nar_hashes=expected,
                known=layer,
                verify=verify,
                trust=not hearsay,
            )
        routes.append(_Route(task, wanted))
    return routes


def _events(number: int, layer: LayerDescriptor, route: _Route) -> Iterator[LayerEvent]:
    """What happened to a layer, in order."""
    yield LayerEvent(number + 1, "built" if layer.made else "reused", layer.tar_size, seconds=layer.seconds)
    for place, delivery in enumerate(route.deliveries(layer), 1):
        yield LayerEvent(number + 1, delivery.how, delivery.bytes, place, layer.seconds)


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
        raise PlanError(f"a limit of {max_layers} leaves no layer for the closure: {counted}")
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


def _told_nar_hashes(closure: Closure) -> dict[str, str]:
    """NAR hashes of store paths as the closure tells them; a text that is none tells nothing."""
    told = {}
    for i, (path, text) in enumerate(zip(closure.paths, closure.nar_hashes, strict=True)):
        if text and closure.contents(i) == Tree(path):
            with suppress(ClosureError):
                told[path] = normalise_nar_hash(text)
    return told


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
