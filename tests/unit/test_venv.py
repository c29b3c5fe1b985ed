"""Virtual environments as closures, on small environments with hand-written metadata."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fastlayers.closure import Closure
from fastlayers.contents import FileList, Generated
from fastlayers.errors import ClosureError
from fastlayers.sources import venv
from fastlayers.sources.distributions import Installed, requirements
from fastlayers.sources.elf import Elf, Loader, read_elf
from fastlayers.sources.filelists import resolve, walk
from required import require_tool

BASE = os.path.realpath(str(getattr(sys, "_base_executable", sys.executable)))
LIB = "lib/python{}.{}/site-packages".format(*sys.version_info[:2])


class Environment:
    """A virtual environment that is written by hand."""

    def __init__(self, prefix: Path, settings: str = "") -> None:
        self.prefix = prefix
        self.site = prefix / LIB
        self.site.mkdir(parents=True)
        (prefix / "bin").mkdir()
        (prefix / "bin" / "python").symlink_to(BASE)
        (prefix / "pyvenv.cfg").write_text(f"home = {os.path.dirname(BASE)}\n{settings}")

    def install(
        self,
        name: str,
        files: Mapping[str, str] | None = None,
        *,
        requires: Sequence[str] = (),
        version: str = "1",
        listed: Sequence[str] = (),
        digests: Mapping[str, str] | None = None,
    ) -> Path:
        """Install files (paths relative to site-packages); ``listed`` are further lines of RECORD."""
        info = self.site / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = [f"Requires-Dist: {line}" for line in requires]
        (info / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, "", "A description"])
        )
        files = {f"{name}.py": f"# {name}"} if files is None else files
        for path, text in files.items():
            (self.site / path).parent.mkdir(parents=True, exist_ok=True)
            (self.site / path).write_text(text)
        rows = [
            f"{path},{(digests or {}).get(path, 'sha256=' + text.encode().hex())},{len(text)}"
            for path, text in files.items()
        ]
        rows += [f"{info.name}/METADATA,sha256=1,1", f"{info.name}/RECORD,,", *(f"{path},," for path in listed)]
        (info / "RECORD").write_text("\n".join(rows) + "\n")
        return info

    def read(self) -> Closure:
        closure = venv.read(str(self.prefix), interpreter=False)
        check(closure)
        return closure

    @property
    def root(self) -> str:
        return f"venv:{self.prefix}"


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "env")


def paths(closure: Closure, node: str) -> set[str]:
    contents = closure.contents(closure.index(node))
    assert isinstance(contents, FileList)
    assert contents.owner == node
    found = list(contents.paths())
    assert len(found) == len(set(found))
    return set(found)


def check(closure: Closure) -> None:
    """Every promise of FileList, one owner for each path, and sizes."""
    owners: dict[str, str] = {}
    for node, size in zip(closure.paths, closure.nar_sizes.tolist(), strict=True):
        found = paths(closure, node)
        for path in found:
            assert owners.setdefault(path, node) == node, path
            assert os.path.normpath(path) == path
            assert "__pycache__" not in path
            parent = os.path.dirname(path)
            assert os.path.realpath(parent) == parent
            if os.path.isdir(path) and not os.path.islink(path):
                assert set(os.listdir(path)) <= {"__pycache__"}
        regular = [path for path in found if stat.S_ISREG(os.lstat(path).st_mode)]
        assert size == sum(os.path.getsize(path) for path in regular)


def within(env: Environment, closure: Closure, node: str) -> set[str]:
    return {os.path.relpath(path, env.site) for path in paths(closure, node)}


def test_distributions_and_the_rest(env: Environment) -> None:
    env.install(
        "Foo.Bar", {"foo/__init__.py": "", "foo/a.py": "a = 1"}, requires=["baz>=1"], listed=["../../../bin/foo"]
    )
    (env.prefix / "bin/foo").write_text("#!")
    env.install("baz")
    (env.site / "app.py").write_text("import foo")
    closure = env.read()
    assert closure.paths == ["baz==1", "foo-bar==1", env.root]
    assert closure.references(0) == []
    assert closure.references(1) == ["baz==1"]
    assert closure.references(2) == ["baz==1", "foo-bar==1"]
    info = {"Foo.Bar-1.dist-info/METADATA", "Foo.Bar-1.dist-info/RECORD"}
    assert within(env, closure, "foo-bar==1") == {"foo/__init__.py", "foo/a.py", "../../../bin/foo", *info}
    assert within(env, closure, env.root) == {"app.py", "../../../bin/python", "../../../pyvenv.cfg"}
    assert closure.environment["VIRTUAL_ENV"] == str(env.prefix)
    assert closure.environment["PATH"].split(":")[0] == f"{env.prefix}/bin"
    assert set(closure.environment) == {"VIRTUAL_ENV", "PATH"}
    assert closure.extra == ()


def test_markers_are_evaluated_for_the_environment(env: Environment) -> None:
    env.install(
        "a",
        requires=[
            "b; sys_platform == 'linux'",
            "c; sys_platform == 'win32'",
            "d; python_version < '3'",
            "e (>=1) ; python_full_version >= '3.11'",
            "not-there",
            "f; extra == 'more'",
        ],
    )
    for name in "bcdef":
        env.install(name)
    assert env.read().references(0) == ["b==1", "e==1"]


def test_an_extra_counts_where_another_asks_for_it() -> None:
    def installed(name: str, *requires: str) -> Installed:
        return Installed(name, "1", "", requires)

    found = [
        installed("a", "b[Big_Extra]"),
        installed(
            "b", "c; extra == 'big-extra'", "d; extra == 'other'", "b[all]; extra == 'big-extra'", "e; extra == 'all'"
        ),
        installed("c"),
        installed("d"),
        installed("e"),
    ]
    references = requirements(found, {"sys_platform": "linux"})
    assert references == {
        "a==1": {"b==1"},
        "b==1": {"b==1", "c==1", "e==1"},
        "c==1": set(),
        "d==1": set(),
        "e==1": set(),
    }


def test_unreadable_requirement(env: Environment) -> None:
    env.install("a", requires=["b >=1.*.x"])
    env.install("b")
    with pytest.raises(ClosureError, match=r"^a==1: Requires-Dist: b >=1\.\*\.x: "):
        env.read()


def test_cycles_are_merged(env: Environment) -> None:
    env.install("a", requires=["b"])
    env.install("b", requires=["c", "d"])
    env.install("c", requires=["a"])
    env.install("d", requires=["e"])
    env.install("e", requires=["d"])
    env.install("f", requires=["a"])
    closure = env.read()
    merged, other = "a==1+b==1+c==1", "d==1+e==1"
    assert closure.paths == [merged, other, "f==1", env.root]
    assert closure.references(0) == [other]
    assert closure.references(2) == [merged]
    assert closure.references(3) == [merged, other, "f==1"]
    assert {"a.py", "b.py", "c.py"} < within(env, closure, merged)


def test_shared_file_with_the_same_digest_is_the_first_ones(env: Environment) -> None:
    env.install("nv-b", {"nv/__init__.py": "", "nv/b.py": ""}, digests={"nv/__init__.py": "sha256=x"})
    env.install("nv-a", {"nv/__init__.py": "", "nv/a.py": ""}, digests={"nv/__init__.py": "sha256=x"})
    closure = env.read()
    assert "nv/__init__.py" in within(env, closure, "nv-a==1")
    assert "nv/__init__.py" not in within(env, closure, "nv-b==1")


@pytest.mark.parametrize("digests", [("sha256=x", "sha256=y"), ("", ""), ("sha256=x", "")])
def test_shared_file_with_another_digest(env: Environment, digests: tuple[str, str]) -> None:
    for name, digest in zip("ab", digests, strict=True):
        env.install(name, {"same.py": ""}, digests={"same.py": digest})
    with pytest.raises(ClosureError, match=rf"^{env.site}/same\.py: both a==1 and b==1 list it"):
        env.read()


def test_missing_file(env: Environment) -> None:
    env.install("a", listed=["gone.py"])
    with pytest.raises(ClosureError, match=rf"^a==1: {env.site}/gone\.py: in its RECORD, but not there"):
        env.read()


def test_bytecode_may_be_missing_and_caches_are_left_out(env: Environment) -> None:
    env.install("a", listed=["__pycache__/a.cpython-311.pyc", "gone.pyc", "there.pyc", "sub/__pycache__/x.pyc", "d/"])
    (env.site / "there.pyc").write_text("")
    for directory in ("__pycache__", "sub/__pycache__", "app/__pycache__"):
        (env.site / directory).mkdir(parents=True)
        (env.site / directory / "a.cpython-311.pyc").write_text("")
    (env.site / "d").mkdir()
    closure = env.read()
    assert within(env, closure, "a==1") == {"a.py", "there.pyc", "a-1.dist-info/METADATA", "a-1.dist-info/RECORD"}
    # Directories that have nothing but a cache are as empty as before Python ran.
    assert {"app", "sub", "d"} < within(env, closure, env.root)


def test_file_outside_the_environment(env: Environment) -> None:
    (env.prefix.parent / "outside.py").write_text("")
    env.install("a", listed=["../../../../outside.py"])
    with pytest.raises(ClosureError, match=r"^a==1: .*/outside\.py: outside the environment"):
        env.read()


def test_symlinked_file_outside_the_environment(env: Environment) -> None:
    (env.prefix.parent / "outside.py").write_text("")
    (env.site / "linked.py").symlink_to(env.prefix.parent / "outside.py")
    env.install("a", listed=["linked.py"])
    with pytest.raises(ClosureError, match=r"^a==1: .*/linked\.py: a symlink to .*outside\.py, outside"):
        env.read()


def test_symlinked_directories_in_the_environment(env: Environment) -> None:
    (env.prefix / "lib64").symlink_to("lib")
    (env.site / "real").mkdir()
    (env.site / "alias").symlink_to("real")
    for name in ("one.py", "two.py"):
        (env.site / "real" / name).write_text("")
    env.install("a", listed=["alias/one.py", "real/one.py", f"../../../lib64/{LIB[4:]}/real/two.py"])
    closure = env.read()
    assert {"real/one.py", "real/two.py"} < within(env, closure, "a==1")
    assert {"alias", "../../../lib64"} < within(env, closure, env.root)


def test_environment_below_a_symlink(env: Environment) -> None:
    env.install("a")
    link = env.prefix.parent / "link"
    link.symlink_to(env.prefix.parent)
    alias = env.prefix / "alias"
    alias.symlink_to("../env")
    directory = str(link / "env" / "alias")
    closure = venv.read(directory, interpreter=False)
    check(closure)
    assert {str(link), str(alias)} < paths(closure, f"venv:{directory}")
    assert f"{env.site}/a.py" in paths(closure, "a==1")


def test_installed_twice(env: Environment) -> None:
    env.install("a.b", {})
    env.install("A_B", {}, version="2")
    with pytest.raises(ClosureError, match=r"^a-b: installed twice: .*/A_B-2\.dist-info and .*/a\.b-1\.dist-info$"):
        env.read()


def test_editable(env: Environment) -> None:
    info = env.install("a")
    (info / "direct_url.json").write_text(json.dumps({"url": "file:///src", "dir_info": {"editable": True}}))
    with pytest.raises(ClosureError, match=r"^a: .*a-1\.dist-info: an editable install.*without -e$"):
        env.read()
    (info / "direct_url.json").write_text(json.dumps({"url": "file:///src", "dir_info": {}}))
    env.read()


@pytest.mark.parametrize("name", ["__editable__.a-1.pth", "a.egg-link"])
def test_editable_without_direct_url(env: Environment, name: str) -> None:
    (env.site / name).write_text("/src\n")
    with pytest.raises(ClosureError, match=r"^a(-1)?: .*: an editable install"):
        env.read()


def test_a_pth_file_may_not_lead_out_of_the_environment(env: Environment, tmp_path: Path) -> None:
    env.install("a")
    (env.site / "inside").mkdir()
    (env.site / "x.pth").write_text(f"# a comment\nimport sys\n\ninside\n{tmp_path}/not-there\n")
    env.read()
    (tmp_path / "outside").mkdir()
    (env.site / "x.pth").write_text(f"{tmp_path}/outside\n")
    with pytest.raises(ClosureError, match=r"x\.pth: .*outside is outside the environment"):
        env.read()


@pytest.mark.parametrize("name", ["a-1.egg-info", "a-1-py3.11.egg"])
def test_no_record(env: Environment, name: str) -> None:
    (env.site / name).mkdir()
    with pytest.raises(ClosureError, match=rf"^{env.site}/{name}: no RECORD"):
        env.read()


def test_dist_info_without_record_or_metadata(env: Environment) -> None:
    info = env.install("a")
    (info / "RECORD").unlink()
    with pytest.raises(ClosureError, match=r"a-1\.dist-info: no RECORD"):
        env.read()
    (info / "METADATA").write_text("Name: a\n")
    with pytest.raises(ClosureError, match=r"METADATA: no Version"):
        env.read()
    (info / "METADATA").unlink()
    with pytest.raises(ClosureError, match=r"METADATA: No such file"):
        env.read()


def test_what_pip_failed_to_remove_is_no_distribution(env: Environment) -> None:
    (env.site / "~a-1.dist-info").mkdir()
    assert env.read().paths == [env.root]


def test_no_environment(tmp_path: Path) -> None:
    with pytest.raises(ClosureError, match=rf"^{tmp_path}: not a virtual environment: it has no pyvenv\.cfg$"):
        venv.read(str(tmp_path))


def test_system_site_packages(tmp_path: Path) -> None:
    Environment(tmp_path / "env", "include-system-site-packages = true\n")
    with pytest.raises(ClosureError, match=r"include-system-site-packages = true"):
        venv.read(str(tmp_path / "env"))


def test_python_does_not_run(env: Environment) -> None:
    python = env.prefix / "bin/python"
    python.unlink()
    with pytest.raises(ClosureError, match=r"/bin/python: No such file or directory$"):
        env.read()
    python.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(ClosureError, match=r"/bin/python: failed with status 3: broken$"):
        env.read()
    python.write_text("#!/bin/sh\necho '{}'\n")
    with pytest.raises(ClosureError, match=r"/bin/python: its answer cannot be read: "):
        env.read()


def test_interpreter_and_libraries(env: Environment) -> None:
    env.install("a")
    closure = venv.read(str(env.prefix))
    check(closure)
    python = f"python:{BASE}"
    assert closure.references(closure.index("a==1")) == [python]
    assert {"a==1", python} <= set(closure.references(closure.index(env.root)))
    mine = paths(closure, python)
    assert BASE in mine
    assert os.path.realpath(os.__file__) in mine
    tops = {os.path.relpath(path, os.path.dirname(os.path.realpath(os.__file__))).split("/")[0] for path in mine}
    assert not tops & {"site-packages", "dist-packages", "test"}
    libraries = closure.references(closure.index(python))
    assert libraries and all(name.startswith(("deb:", "lib:")) for name in libraries)
    everything = {path for node in closure.paths for path in paths(closure, node)}
    for path in everything:  # what a symlink points to is there, unless the machine does not have it either
        if os.path.islink(path) and os.path.exists(path):
            target, links = resolve(path)
            assert set(links) <= everything
            assert target in everything or os.path.isdir(target), path
    elf = read_elf(BASE)
    if elf is not None and elf.interpreter:
        assert os.path.realpath(elf.interpreter) in everything
    (extra,) = closure.extra
    assert isinstance(extra, Generated)
    assert [(entry.path, entry.mode) for entry in extra.entries] == [
        ("/tmp", 0o1777),
        ("/etc/passwd", 0o644),
        ("/etc/group", 0o644),
    ]


def test_contents_are_listed_without_heavy_imports(env: Environment) -> None:
    env.install("a", requires=["b"])
    env.install("b", requires=["a"])
    closure = venv.read(str(env.prefix))
    contents = [closure.contents(i) for i in range(len(closure))]
    program = """
import pickle, sys
print(sum(len(list(one.paths())) for one in pickle.load(sys.stdin.buffer)))
print(*sorted({"numpy", "packaging", "elftools", "argparse", "msgspec", "scipy"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(contents), capture_output=True, check=True)
    count = sum(len(paths(closure, node)) for node in closure.paths)
    assert run.stdout.decode().split() == [str(count)]


def write_wheel(folder: Path, name: str, requirement: str = "") -> Path:
    """A wheel of one module with a script of its own and an entry point."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"def main(): print('{name}')\n",
        f"{name}-1.0.data/scripts/{name}-script": "#!python\nprint('hi')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requirement}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return wheel


def test_a_real_environment_with_wheels(tmp_path: Path) -> None:
    """As venv makes it and pip fills it."""
    prefix = tmp_path / "env"
    subprocess.run([BASE, "-m", "venv", "--without-pip", str(prefix)], check=True, capture_output=True)
    wheels = [write_wheel(tmp_path, "hello", "Requires-Dist: there\n"), write_wheel(tmp_path, "there")]
    pip = [sys.executable, "-m", "pip", "--python", str(prefix), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, *map(str, wheels)], check=True, capture_output=True)
    closure = venv.read(str(prefix), interpreter=False)
    check(closure)
    hello = paths(closure, "hello==1.0")
    assert {str(prefix / name) for name in ("bin/hello", "bin/hello-script", f"{LIB}/hello.py")} < hello
    assert closure.references(closure.index("hello==1.0")) == ["there==1.0"]
    rest = paths(closure, f"venv:{prefix}")
    assert str(prefix / "pyvenv.cfg") in rest
    assert not any("site-packages" in path for path in rest)


def test_resolve(tmp_path: Path) -> None:
    top = Path(os.path.realpath(tmp_path))
    (top / "real/deep").mkdir(parents=True)
    (top / "a").symlink_to("real")
    (top / "real/b").symlink_to(f"{top}/a/deep/../deep")
    assert resolve(f"{top}/a/./b/file") == (f"{top}/real/deep/file", [f"{top}/a", f"{top}/real/b"])
    assert resolve("/") == ("/", [])
    (top / "circle").symlink_to("circle")
    with pytest.raises(ClosureError, match="too many symlinks"):
        resolve(f"{top}/circle")


def test_walk_of_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClosureError, match=rf"^{tmp_path}/gone: No such file"):
        list(walk(f"{tmp_path}/gone"))


def compile_library(place: Path, *flags: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    command = [require_tool("cc"), "-shared", "-nostdlib", "-Wl,--no-as-needed", "-o", str(place)]
    subprocess.run([*command, "-x", "c", "/dev/null", "-x", "none", *flags], check=True)


def test_libraries_are_found_by_their_paths(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Path(os.path.realpath(env.prefix.parent)) / "away"
    third = away / "third"
    compile_library(third / "libthird.so.1", "-Wl,-soname,libthird.so.1")
    compile_library(away / "libsecond.so.1", "-Wl,-soname,libsecond.so.1", str(third / "libthird.so.1"))
    (away / "libsecond.so").symlink_to("libsecond.so.1")
    module = env.site / "a.abi3.so"
    old = "-Wl,--disable-new-dtags"
    compile_library(module, old, f"-Wl,-rpath,$ORIGIN/../nothing:{away}", f"-L{away}", "-lsecond")
    elf = read_elf(str(module))
    assert elf is not None
    assert (elf.needed, elf.rpath[-1], elf.runpath) == (("libsecond.so.1",), str(away), ())
    env.install("a", listed=["a.abi3.so"])
    closure = venv.read(str(env.prefix))
    check(closure)
    node = f"lib:{away}"
    assert node in closure.references(closure.index("a==1"))
    assert paths(closure, node) == {f"{away}/libsecond.so.1"}
    assert "LD_LIBRARY_PATH" not in closure.environment
    assert f"lib:{third}" not in closure  # nothing says where it is: the machine's loader does not find it either

    monkeypatch.setenv("LD_LIBRARY_PATH", str(third))
    closure = venv.read(str(env.prefix))
    check(closure)
    assert closure.references(closure.index(node)) == [f"lib:{third}"]
    assert closure.environment["LD_LIBRARY_PATH"] == str(third)


def test_other_kinds_and_broken_files_are_no_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libx.so"
    compile_library(library)
    elf = read_elf(str(library))
    assert elf is not None
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert Loader("").find("libx.so", elf) == (str(library), True)
    assert Loader("").find("libx.so", Elf(b"\x01\x01\x03\x00", (), (), (), None)) is None
    monkeypatch.delenv("LD_LIBRARY_PATH")
    loader = Loader("")
    assert loader.find("libx.so", elf) is None
    loader = Loader("")
    loader.cached = {"libx.so": [str(tmp_path / "gone.so"), str(library)]}
    assert loader.find("libx.so", elf) == (str(library), True)
    data = library.read_bytes()
    if data[4] == 2:  # 64 bits: where the program headers are
        library.write_bytes(data[:32] + b"\xff" * 8 + data[40:])
        assert read_elf(str(library)) is None
    for length in (3, 4, 16, 40, 64, 100, 200, len(data) // 2):
        library.write_bytes(data[:length])
        assert read_elf(str(library)) is None or length > 200
