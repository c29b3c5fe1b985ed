"""Packages that are released anew at random, the closures that they give, and what may guide a plan of each."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastlayers import Closure, PlanError, plan_layers
from fastlayers.layering.guidance import Guidance, Rule, Rules
from fastlayers.layering.history import ChangeHistory
from fastlayers.layering.plan import LayerPlan

PLACES = ("own", "together", "bottom", "volatile")


@dataclass
class Package:
    """One output of a source; its path changes with it and with all that it refers to."""

    name: str
    size: int
    below: list[Package] = field(default_factory=list)
    version: int = 1

    @property
    def path(self) -> str:
        inputs = "\n".join([self.name, str(self.version), str(self.size), *(each.path for each in self.below)])
        base, _, output = self.name.partition("-")
        suffix = f"-{output}" if output else ""
        return f"/nix/store/{hashlib.sha256(inputs.encode()).hexdigest()[:32]}-{base}-{self.version}{suffix}"


class Packages:
    """Up to thirty at first; sizes are often equal, and some versions belong to two outputs."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.number = 0
        self.all: list[Package] = []
        for _ in range(rng.randrange(1, 31)):
            self.add()

    def add(self) -> None:
        base, output = divmod(self.number, 3)
        self.number += 1
        below = [each for each in self.all if self.rng.random() < 0.12]
        name = f"p{base}" + ("", "-lib", "-dev")[output]
        self.all.append(Package(name, self.rng.randrange(self.rng.choice([3, 50, 10**9])), below))

    def update(self) -> None:
        """Some are released; one may come, and one that nothing refers to may go; or nothing happens at all."""
        for package in self.rng.sample(self.all, min(len(self.all), self.rng.randrange(3))):
            package.version += 1
            if self.rng.random() < 0.5:
                package.size = self.rng.randrange(1000)
        if self.rng.random() < 0.3:
            self.add()
        free = [each for each in self.all if not any(each in other.below for other in self.all)]
        if len(self.all) > 1 and self.rng.random() < 0.3:
            self.all.remove(self.rng.choice(free))

    def closure(self, order: random.Random | None = None) -> Closure:
        """Of a document in which nodes, and references of a node, stand in their order or in a random one."""
        nodes = list(self.all)
        if order is not None:
            order.shuffle(nodes)
        references = [[other.path for other in node.below] for node in nodes]
        for each in references if order is not None else ():
            order.shuffle(each)
        return Closure([node.path for node in nodes], references, nar_sizes=[node.size for node in nodes])


@dataclass(frozen=True)
class Wish:
    """What a plan is asked for."""

    limit: int
    strategy: str
    order: str | None
    excluded: tuple[str, ...]
    guidance: Guidance

    def plan(self, closure: Closure) -> LayerPlan:
        return plan_layers(
            closure, self.limit, self.strategy, exclude=self.excluded, guidance=self.guidance, order=self.order
        )


def random_wish(rng: random.Random, closure: Closure, previous: LayerPlan | None, history: ChangeHistory) -> Wish:
    """Any strategy, and whatever may guide it."""
    strategy = rng.choice(["expected-cost"] * 4 + ["auto", "popularity"])
    order = None if strategy == "expected-cost" else rng.choice([None, "stable"])
    guidance = Guidance(
        previous.layers if previous is not None and rng.random() < 0.7 else None,
        history if rng.random() < 0.6 else ChangeHistory(),
    )
    total = sum(closure.nar_sizes.tolist())
    if strategy != "expected-cost":
        guidance = guidance if order else Guidance()
    elif rng.random() < 0.6:
        patterns = [f"p{rng.randrange(11)}*", f"*-{rng.randrange(1, 4)}", "*-lib", rng.choice(closure.paths)]
        rules = tuple(Rule(rng.choice(patterns), rng.choice(PLACES)) for _ in range(rng.randrange(3)))
        least = rng.choice([0, 0, total // rng.randrange(2, 20)])
        most = rng.choice([0, 0, total // rng.randrange(1, 5) + 1])
        guidance = Guidance(guidance.previous, guidance.history, Rules(rules), least, most)
    excluded = rng.sample(closure.paths, rng.randrange(len(closure.paths) + 1)) if rng.random() < 0.2 else []
    return Wish(rng.randrange(1, 13), strategy, order, tuple(excluded), guidance)


def random_wishes(seed: int, updates: int = 5) -> Iterator[tuple[Packages, Closure, Wish, LayerPlan | PlanError]]:
    """A history: its packages after each update, the closure, what is asked of it, and what that gives."""
    rng = random.Random(seed)
    packages = Packages(rng)
    history, previous = ChangeHistory(), None
    for _ in range(updates):
        closure = packages.closure()
        history = history.followed_by(closure.paths)
        wish = random_wish(rng, closure, previous, history)
        try:
            made: LayerPlan | PlanError = wish.plan(closure)
            previous = made
        except PlanError as error:
            made = error
        yield packages, closure, wish, made
        packages.update()


def digest_of_plans(count: int) -> str:
    """The SHA-256 of all that so many histories are answered, plans as JSON."""
    told = hashlib.sha256()
    for seed in range(count):
        for _, _, wish, made in random_wishes(seed):
            answer = made.to_json() if isinstance(made, LayerPlan) else str(made)
            told.update(json.dumps([wish.strategy, wish.limit, answer]).encode())
    return told.hexdigest()
