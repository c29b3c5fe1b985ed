"""Update histories replayed: what clients download from step to step, over what changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..closure import Closure
from ..layering.plan import LayerPlan
from .stack import LayerStack, stack_of_plan, total
from .update import compare

__all__ = ["Planner", "Replay", "Step", "planned", "replay"]


class Planner(Protocol):
    """Plans one step of a history."""

    def __call__(self, closure: Closure, previous: LayerPlan | None, history: Sequence[Closure]) -> LayerPlan:
        """A plan for a closure; ``previous`` is the one before, ``history`` the closures before, oldest first."""


@dataclass(frozen=True, slots=True)
class Step:
    """One update, in bytes.

    Attributes:
        by_digest, by_chain: what clients download.
        bound: of the paths that are new.
        total: of the image.
    """

    by_digest: int
    by_chain: int
    bound: int
    total: int


@dataclass(frozen=True, slots=True)
class Replay:
    """The updates of a history.

    Attributes:
        steps: oldest first.
    """

    steps: tuple[Step, ...]

    @property
    def leaf(self) -> Replay:
        """The small updates: those that change something, but less than a tenth of the bytes."""
        return Replay(tuple(step for step in self.steps if 0 < 10 * step.bound < step.total))

    @property
    def bound(self) -> int:
        """Bytes of the paths that were new, of all updates."""
        return sum(step.bound for step in self.steps)

    @property
    def by_digest(self) -> int:
        """Bytes that a client that knows layers by digest downloads for all updates."""
        return sum(step.by_digest for step in self.steps)

    @property
    def by_chain(self) -> int:
        """The same for a client that knows layers by chain ID."""
        return sum(step.by_chain for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; ratios are None where nothing changed."""
        leaf = self.leaf

        def ratio(part: int, whole: int) -> float | None:
            return round(part / whole, 4) if whole else None

        return {
            "D": ratio(self.by_digest, self.bound),
            "C": ratio(self.by_chain, self.bound),
            "leaf": ratio(leaf.by_digest, leaf.bound),
            "leaf_steps": len(leaf.steps),
            "steps": [
                {"by_digest": s.by_digest, "by_chain": s.by_chain, "bound": s.bound, "total": s.total}
                for s in self.steps
            ],
        }


def replay(stacks: Iterable[LayerStack]) -> Replay | None:
    """Update from each stack to the next; None where a size is not known."""
    steps: list[Step] = []
    previous: LayerStack | None = None
    for stack in stacks:
        if previous is not None:
            update = compare(previous, stack)
            figures = (update.by_digest, update.by_chain, update.bound, total(layer.size for layer in stack.layers))
            by_digest, by_chain, bound, whole = figures
            if by_digest is None or by_chain is None or bound is None or whole is None or not update.bound_is_exact:
                return None
            steps.append(Step(by_digest, by_chain, bound, whole))
        previous = stack
    return Replay(tuple(steps))


def planned(closures: Sequence[Closure], planner: Planner) -> Iterator[LayerStack]:
    """Plan each closure of a history, as its builder would have at the time.

    Raises:
        PlanError: a closure cannot be planned, or a plan is none of its closure.
    """
    previous: LayerPlan | None = None
    for number, closure in enumerate(closures):
        plan = planner(closure, previous, closures[:number])
        plan.check(closure)
        sizes = dict(zip(closure.paths, closure.nar_sizes.tolist(), strict=True))
        yield stack_of_plan(f"step {number}", plan, sizes={p: s for p, s in sizes.items() if s >= 0}, closure=closure)
        previous = plan
