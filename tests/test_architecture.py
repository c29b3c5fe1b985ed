"""Who may import whom, who prints, and what worker processes load: as docs/architecture.md says."""

import ast
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayers

ROOT = Path(fastlayers.__file__).parent

# Stages from left to right; a module imports only modules of its own stage or of stages before it. A stage of several
# modules is a folder.
STAGES = [
    ["errors"],
    ["_archive", "_core"],
    ["store_path"],
    ["contents"],
    ["digest"],
    ["disk"],
    ["waiting"],
    ["compression"],
    ["entries"],
    ["nar"],
    ["layer"],
    ["cache"],
    ["memory"],
    ["registry"],
    ["outer"],
    ["clients"],
    ["closure"],
    ["sources"],
    ["popularity"],
    ["layering"],
    ["base"],
    ["base_tree"],
    ["image"],
    ["customisation"],
    ["engines"],
    ["destinations"],
    ["parallel"],
    ["build", "index", "inspection", "stream"],
    ["reuse"],
    ["report"],
    ["cli"],
    ["__main__"],
]
ORDER = {name: number for number, names in enumerate(STAGES) for name in names}
LIGHT = [
    "errors",
    "_archive",
    "_core",
    "store_path",
    "contents",
    "digest",
    "disk",
    "waiting",
    "compression",
    "entries",
    "clients",
    "nar",
    "layer",
    "cache",
    "memory",
    "outer",
    "registry.sink",
    "parallel",
    "sources.filelists",
]
HEAVY = {"numpy", "scipy", "argparse", "argcomplete", "rich", "msgspec", "elftools", "packaging"}
LINUX = {"layer", "outer"}  # read trees and write tars
LINUX_CALLS = {"splice", "copy_file_range", "sched_getaffinity", "memfd_create", "posix_fadvise", "posix_fallocate",
               "sendfile", "eventfd", "pidfd_open", "unshare", "setns", "F_SETPIPE_SZ", "O_TMPFILE"}  # fmt: skip


def modules() -> dict[str, ast.Module]:
    """Every Python module of the package but ``__init__``, by its name below the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = ast.parse(path.read_text(), str(path))
    return found


MODULES = modules()
NATIVE = {path.stem for path in ROOT.glob("*.pyx")}
PRINTING = {"report", "__main__", *(name for name in MODULES if name.partition(".")[0] == "cli")}


def package_of(name: str) -> str:
    """What a relative import in a module is relative to."""
    return name if (ROOT / name.replace(".", "/")).is_dir() else name.rpartition(".")[0]


def imports(name: str, node: ast.AST, *, lazy: bool = True, types: bool = False) -> Iterator[str]:
    """Modules that code imports: of this package as ".closure", others as "numpy"; ``types``: and type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            if child.level == 0:
                yield child.module or ""
                continue
            base = package_of(name).split(".") if package_of(name) else []
            base = base[: len(base) - (child.level - 1)]
            whole = ".".join([*base, *(child.module.split(".") if child.module else [])])
            for alias in child.names:
                inner = f"{whole}.{alias.name}" if whole else alias.name
                yield "." + (inner if inner in MODULES or inner in NATIVE else whole)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in [*child.orelse, *(child.body if types else ())]:
                yield from imports(name, ast.Module([other], []), lazy=lazy, types=types)
        elif lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(name, child, lazy=lazy, types=types)


def stage(module: str) -> int:
    return ORDER[module.partition(".")[0]]


def test_every_module_has_a_stage() -> None:
    assert {name.partition(".")[0] for name in MODULES} | NATIVE == set(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_to_the_left(name: str) -> None:
    for target in imports(name, MODULES[name]):
        if target == ".":  # the package itself: its version
            assert name in ("cli.main", "__main__")
        elif target.startswith("."):
            same_folder = target[1:].partition(".")[0] == name.partition(".")[0]
            assert same_folder or stage(target[1:]) < stage(name), f"{name} imports {target}"


def test_imports_are_understood() -> None:
    """What the tests above see is what is there."""
    assert {".closure", ".image", ".parallel", ".layering.plan"} <= set(imports("build", MODULES["build"]))
    assert {"numpy", "._core", ".contents"} <= set(imports("closure", MODULES["closure"]))
    assert "scipy.sparse" not in set(imports("closure", MODULES["closure"], lazy=False))
    assert {"..closure"[1:], ".errors"} <= set(imports("sources.nix_json", MODULES["sources.nix_json"]))


def test_nothing_imports_in_a_circle_within_a_folder() -> None:
    """Nor for types."""
    inside = {
        name: {target[1:] for target in imports(name, MODULES[name], lazy=False, types=True) if target[1:] in MODULES}
        for name in MODULES
    }
    done: set[str] = set()
    while left := [name for name in inside if name not in done]:
        free = [name for name in left if not inside[name] - done - {name}]
        assert free, left
        done.update(free)


@pytest.mark.parametrize("name", sorted(set(MODULES) - PRINTING))
def test_only_the_command_line_prints(name: str) -> None:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("print", "input", "logging.getLogger", "warnings.warn")
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("sys.stdout", "sys.stderr")
    for target in imports(name, MODULES[name]):
        assert target.partition(".")[0] not in ("argparse", "rich", "logging"), f"{name} imports {target}"


@pytest.mark.parametrize("name", LIGHT)
def test_what_workers_load_is_light(name: str) -> None:
    """By reading, with all that comes with it; and by doing it."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        module = todo.pop()
        if module in seen or module not in MODULES:
            continue
        seen.add(module)
        for target in imports(module, MODULES[module], lazy=False):
            if target.startswith("."):
                todo += [target[1:], target[1:].rpartition(".")[0]]
            else:
                assert target.partition(".")[0] not in HEAVY, f"{module} imports {target}"
    program = f"import sys, fastlayers.{name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    assert not {loaded.partition(".")[0] for loaded in done.stdout.split()} & HEAVY


def guarded(tree: ast.Module) -> set[ast.AST]:
    """What stands below an if or a conditional expression that asks with hasattr, or that knows the platform."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp):
            test = ast.unparse(node.test)
            if "hasattr" in test or "sys.platform" in test:
                found.update(ast.walk(node))
    return found


@pytest.mark.parametrize("name", sorted(set(MODULES) - LINUX))
def test_what_linux_alone_has_is_asked_for_first(name: str) -> None:
    allowed = guarded(MODULES[name])
    for node in ast.walk(MODULES[name]):
        if node in allowed:
            continue
        if isinstance(node, ast.Attribute):
            assert node.attr not in LINUX_CALLS, f"{name}: {ast.unparse(node)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith(("/proc/", "/sys/")), f"{name}: {node.value}"


def test_public_names_resolve_and_are_documented() -> None:
    assert sorted(fastlayers.__all__) == sorted(set(fastlayers.__all__))
    for name in fastlayers.__all__:
        value = getattr(fastlayers, name)
        assert name in dir(fastlayers)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
            assert value.__module__.startswith("fastlayers."), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fastlayers.nothing


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_modules_say_what_they_are_and_what_is_public(name: str) -> None:
    tree = MODULES[name]
    assert ast.get_docstring(tree)
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    if name in ("inspection", "layering", "registry", "reuse"):
        assert not public
        return
    (names,) = listed
    assert set(names) <= {getattr(node, "id", getattr(node, "name", None)) for node in ast.walk(tree)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in names:
            assert ast.get_docstring(node), f"{name}.{node.name}"


def test_what_speaks_http_is_loaded_by_those_who_do() -> None:
    program = "import sys, fastlayers.build; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    assert not {"urllib3", "ssl"} & set(done.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    program = "import sys; before = set(sys.modules); import fastlayers; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    loaded = {name for name in done.stdout.split() if name.startswith("fastlayers")}
    assert loaded == {"fastlayers"}
    assert not {name.partition(".")[0] for name in done.stdout.split()} & HEAVY


def test_all_packages_are_in_the_wheel() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT.parent) for path in ROOT.rglob("*.py")}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(".".join(folder.parts) for folder in folders)
