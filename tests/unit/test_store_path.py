"""Names of store paths, and which path is a new version of which: for the planner and for those who explain it."""

from __future__ import annotations

import pytest

from fastlayers.layering.guidance import Rule
from fastlayers.layering.history import learn
from fastlayers.layering.plan import LayerPlan
from fastlayers.reuse.stack import stack_of_plan
from fastlayers.reuse.update import change_counts, compare, replaced_paths
from fastlayers.store_path import Succession, package_name, package_version, store_name, successions

HASH = "7z8xw1hq3sj929nd42amzfprnamgmbkz"


def path(name: str, build: int = 0) -> str:
    return f"/nix/store/{build:032d}-{name}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"/nix/store/{HASH}-lib-2.0", "lib-2.0"),
        (f"/my-store/of-mine/{HASH}-lib-2.0", "lib-2.0"),
        (f"{HASH}-lib-2.0", "lib-2.0"),
        (f"/nix/store/{HASH}-with\nline", "with\nline"),
        (f"/nix/store/{HASH[:-1]}e-lib-2.0", f"/nix/store/{HASH[:-1]}e-lib-2.0"),  # no letter of Nix's
        (f"/nix/store/{HASH[1:]}-lib-2.0", f"/nix/store/{HASH[1:]}-lib-2.0"),
        (f"/nix/store/{HASH}lib-2.0", f"/nix/store/{HASH}lib-2.0"),
        (f"/nix/store/{HASH}-", f"/nix/store/{HASH}-"),
        (f"/nix/store/{HASH}-lib/file", f"/nix/store/{HASH}-lib/file"),
        ("python:/usr/bin/python3", "python:/usr/bin/python3"),
        ("", ""),
    ],
)
def test_names(text: str, name: str) -> None:
    assert store_name(text) == name


@pytest.mark.parametrize(
    ("name", "package", "version"),
    [
        ("openssl-3.0.2-dev", "openssl-dev", "3.0.2"),
        ("git-man-2.39", "git-man", "2.39"),
        ("git-2.39.5-0+deb12u2", "git", "2.39.5-0+deb12u2"),
        ("python3.11-wheel", "python3.11-wheel", "python3.11-wheel"),
        ("x", "x", "x"),
        ("-1", "-1", "1"),
    ],
)
def test_packages(name: str, package: str, version: str) -> None:
    for text in (path(name), name):
        assert (package_name(text), package_version(text)) == (package, version)


def test_distributions_of_pythons() -> None:
    assert (package_name("numpy==2.4.6"), package_version("numpy==2.4.6")) == ("numpy", "numpy==2.4.6")
    assert package_name("==1") == "==1"


def test_rules_take_the_name_that_all_others_take() -> None:
    named = f"/my-store/{HASH}-app-1"
    assert all(Rule(match, "own").matches(named) for match in ("app-*", f"{HASH}-app-1", "/my-store/*-app-1"))
    assert not Rule("store/*", "own").matches(named)


OLD = [path("a-1", 1), path("a-1", 2), path("b-1"), path("b-lib-1"), path("c-1"), path("e-1"), path("e-2")]
NEW = [path("a-1", 3), path("a-2", 4), path("b-2"), path("b-lib-2"), path("d-1"), path("e-3"), path("b-3")]


def test_successions() -> None:
    groups = [
        Succession([OLD[0], OLD[1]], [NEW[0]]),
        Succession([OLD[2]], [NEW[2], NEW[6]]),
        Succession([OLD[3]], [NEW[3]]),
        Succession([OLD[5], OLD[6]], [NEW[5]]),
    ]
    assert list(successions(OLD, NEW)) == groups
    pairs = sorted(pair for each in groups for pair in each.pairs())
    assert sorted(pair for each in successions(OLD[::-1], NEW[::-1]) for pair in each.pairs()) == pairs
    assert list(successions(OLD, [])) == list(successions([], NEW)) == []
    assert Succession(["c", "a", "b"], ["y", "x"]).pairs() == [("a", "x"), ("b", "y"), ("c", "y")]
    assert Succession(["a"], ["x", "y"]).pairs() == [("a", "x"), ("a", "y")]


def test_all_agree_on_what_replaces_what() -> None:
    """The planner's history and the reasons of diff: what has no past is what is added, and nothing else."""
    history = learn([[path("z")], OLD, NEW])
    assert history.updates == 2
    replaced = replaced_paths(OLD, NEW)
    assert {new for new, bits in history.changed.items() if bits == 0b11} == set(replaced)
    stacks = [stack_of_plan(name, LayerPlan((tuple(paths),))) for name, paths in (("old", OLD), ("new", NEW))]
    (layer,) = compare(*stacks).layers
    assert {reason.path: reason.old for reason in layer.reasons if reason.change == "replaced"} == replaced
    assert {reason.path for reason in layer.reasons if reason.change == "added"} == set(NEW) - set(replaced)
    assert {reason.path for reason in layer.reasons if reason.change == "removed"} == {OLD[4]}
    assert replaced[NEW[0]] == OLD[1] and replaced[NEW[5]] == OLD[6]


def test_an_update_counts_once_for_a_path_that_became_two() -> None:
    one, two, three = path("a-1"), path("a-2"), path("a-3")
    stacks = [stack_of_plan("x", LayerPlan((tuple(paths),))) for paths in ([one], [two, three])]
    assert change_counts(stacks) == {one: 1, two: 1, three: 1}


def test_paths_named_twice_and_closures_twice_in_a_row() -> None:
    one, two = path("a-1"), path("a-2")
    plain = learn([[one], [two]])
    assert learn([[one, one], [one], [one, one], [two, two], [two]]) == plain
    assert plain.followed_by([two, two]) is plain
    assert plain.bits([two, two]) == [1, 1]
