"""The command line: what it prints, and where, and what it does not load."""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import termios
from pathlib import Path
from typing import Any

import pytest

from fastlayers import __version__
from fastlayers.cli import COMMANDS
from fastlayers.cli.main import command_parser
from fastlayers.cli.options import size
from fastlayers.cli.planning import STRATEGY_NAMES
from fastlayers.layering.strategies import DEFAULT_STRATEGY, STRATEGIES
from nix_stores import make_database, registered
from required import require_tool, unavailable
from stores import APP, BASE, LIB, write_json


def fastlayers(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    check = options.pop("check", True)
    options = {"capture_output": True, "text": True, **options}
    return subprocess.run([sys.executable, "-m", "fastlayers", *arguments], check=check, **options)


BUILD = ("build", "graph.json", "--store-root", "root")


def modules_of(*arguments: str) -> set[str]:
    """The packages that a command loads."""
    program = (
        "import sys\n"
        "from fastlayers.__main__ import main\n"
        "sys.argv[1:] = sys.stdin.read().split()\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=" ".join(arguments), check=True, capture_output=True, text=True
    )
    return set(done.stderr.split())


def test_version() -> None:
    assert fastlayers("--version").stdout == f"fastlayers {__version__}\n"
    loaded = modules_of("--version")
    assert not loaded & {"numpy", "rich", "argparse", "msgspec"}
    assert "fastlayers" in loaded


@pytest.mark.parametrize("arguments", [("--help",), *((name, "--help") for name in COMMANDS)])
def test_help_loads_little(arguments: tuple[str, ...]) -> None:
    loaded = modules_of(*arguments)
    assert not loaded & {"numpy", "rich", "scipy", "msgspec"}
    assert "argparse" in loaded and "argcomplete" not in loaded


def test_closure_and_popularity_load_neither_rich_nor_scipy(folder: Path) -> None:
    for command in ("closure", "popularity"):
        assert not modules_of(command, "graph.json") & {"rich", "scipy", "isal"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    text = fastlayers(command, "--help").stdout
    assert "Examples:" in text
    assert f" fastlayers {command} " in text.partition("Examples:")[2]
    assert text == fastlayers(command, "-h").stdout
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)])
@pytest.mark.parametrize("columns", [80, 300])
def test_help_fits_the_terminal(columns: int, arguments: tuple[str, ...]) -> None:
    """A pseudo-terminal of so many columns, and no COLUMNS; lines of more than 100 would be hard to read."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        termios.tcsetwinsize(theirs, (24, columns))
        process = subprocess.Popen(
            [sys.executable, "-m", "fastlayers", *arguments, "-h"], stdout=theirs, env={**environment, "NO_COLOR": "1"}
        )
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # the other side is closed
            while block := terminal.read(4096):
                text += block
        assert process.wait() == 0
    widest = max(map(len, text.decode().splitlines()))
    assert widest <= min(columns, 100)
    if arguments == ("build",) and columns > 100:
        assert widest > 80


def test_help_to_a_full_device() -> None:
    for arguments in (["--help"], ["plan", "-h"], ["--version"], ["--version", "--version"]):
        with open("/dev/full", "wb") as full:
            done = fastlayers(*arguments, check=False, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (8, "fastlayers: standard output: No space left on device\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["plan", "--help"],
        ["closure", "graph.json"],
        ["plan", "graph.json"],
        ["plan", "graph.json", "--format", "json"],
        [*BUILD, "--to", "oci:image"],
    ],
)
def test_who_reads_has_enough(arguments: list[str], folder: Path) -> None:
    """As with others, which SIGPIPE ends: nothing is said, and what was made is there."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        done = fastlayers(*arguments, check=False, capture_output=False, stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, "")
    assert Path("image/index.json").exists() == ("oci:image" in arguments)


def test_help_tells_the_exit_statuses() -> None:
    from fastlayers import errors

    text = fastlayers("--help").stdout
    statuses = text.partition("Exit statuses:")[2]
    told = {int(line.split()[0]) for line in statuses.splitlines() if line.strip()[:1].isdigit()}
    raised = {getattr(errors, name).exit_status for name in errors.__all__}
    assert raised | {0, 2, 130} <= told
    assert len({getattr(errors, name).exit_status for name in errors.__all__}) == len(errors.__all__)


def completions(typed: str) -> list[str]:
    """What the shell is offered behind what was typed, as bash with argcomplete's function asks."""
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " ",
        "_ARGCOMPLETE_STDOUT_FILENAME": "completions",
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed.encode())),
    }
    fastlayers(env=environment)
    return Path("completions").read_text().split("\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fastlayers po", {"popularity"}),
        ("fastlayers ", {*COMMANDS, "-h", "--help", "--version"}),
        ("fastlayers plan --f", {"--format"}),
        ("fastlayers plan --format ", {"table", "layers", "json"}),
        ("fastlayers plan --strategy ", {"popularity", "auto", "expected-cost"}),
        (
            "fastlayers build --to ",
            {"docker-archive:", "oci:", "oci-archive:", "docker://", "docker-daemon:", "podman:", "containerd:"},
        ),
        ("fastlayers build --to oci:x --from docker", {"docker-archive:", "docker://"}),
        ("fastlayers index --to ", {"docker://"}),
        ("fastlayers index --tls-verify ", {"true", "false"}),
        ("fastlayers build --to oci:x --from oci", {"oci:", "oci-archive:"}),
        ("fastlayers build --compress z", {"zstd"}),
        ("fastlayers build --cmd ", {""}),
        ("fastlayers build --config gr", {"graph.json"}),
        ("fastlayers build --store-root ro", {"root/"}),
        ("fastlayers build --to oci:x gr", {"graph.json"}),
        ("fastlayers popularity gr", {"graph.json"}),
        ("fastlayers stream gr", {"graph.json"}),
    ],
)
def test_completion(typed: str, offered: set[str], folder: Path) -> None:
    assert set(completions(typed)) == offered


def test_bash_completes(folder: Path) -> None:
    """The line that the help tells, in a shell."""
    bash, register = require_tool("bash"), shutil.which("register-python-argcomplete", path=Path(sys.executable).parent)
    if not register:
        unavailable("argcomplete is not installed beside this Python")
    script = f"""
        fastlayers() {{ {shlex.quote(sys.executable)} -m fastlayers "$@"; }}
        eval "$({shlex.quote(register)} fastlayers)"
        COMP_LINE="fastlayers po" COMP_POINT=13 COMP_TYPE=9 COMP_WORDS=(fastlayers po) COMP_CWORD=1
        _python_argcomplete fastlayers po fastlayers
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["popularity"]


def test_options_stand_anywhere(folder: Path) -> None:
    sizes = f"{APP}\t816\n{LIB}\t520\n{BASE}\t456\n"
    (folder / "-x.json").symlink_to("graph.json")
    for arguments in (
        ["--sizes", "graph.json"],
        ["graph.json", "--sizes"],
        ["--key", "graph", "graph.json", "--sizes", "graph.json"],
        ["graph.json", "--key=graph", "graph.json", "--sizes"],
        ["--sizes", "--", "graph.json"],
        ["--sizes", "--", "-x.json"],
        ["graph.json", "--sizes", "--key", "graph", "--", "-x.json", "graph.json"],
    ):
        assert fastlayers("closure", *arguments).stdout == sizes, arguments
    for arguments in (["--counts", "graph.json", "graph"], ["graph.json", "--counts", "graph"]):
        assert fastlayers("popularity", *arguments).stdout.endswith(f"\t{APP}\n"), arguments


def test_values_that_begin_with_a_dash(folder: Path) -> None:
    config = config_of(folder, "--cmd=-c 'two words'", "--entrypoint=--", "--mtime=-5", "--user=-1", "--label=-a=-b")
    assert config["config"] == {
        "Cmd": ["-c", "two words"],
        "Entrypoint": ["--"],
        "User": "-1",
        "Labels": {"-a": "-b"},
    }


def test_closure(folder: Path) -> None:
    assert fastlayers("closure", "graph.json").stdout == f"{APP}\n{LIB}\n{BASE}\n"
    assert fastlayers("closure", "graph.json", "--sizes").stdout == f"{APP}\t816\n{LIB}\t520\n{BASE}\t456\n"
    referring = f"{APP}\n  {LIB}\n  {BASE}\n{LIB}\n  {BASE}\n{BASE}\n"
    assert fastlayers("closure", "graph.json", "--references").stdout == referring


def test_closure_of_unknown_sizes_from_standard_input(folder: Path) -> None:
    done = fastlayers("closure", "-", "--sizes", input=f"{BASE}\n\n0\n")
    assert done.stdout == f"{BASE}\t-\n"


def test_closure_of_several_sources(folder: Path) -> None:
    other = "/nix/store/1fxf4fycw8n4f0sj8j2wg936kkv1ajcz-other"
    write_json(folder / "other.json", [{"path": other, "references": []}])
    assert fastlayers("closure", "graph.json", "other.json").stdout.splitlines() == [APP, other, LIB, BASE]


def test_a_store_as_a_source(folder: Path) -> None:
    """Every command that takes a SOURCE takes its --store-root."""
    make_database(folder / "root/nix/var/nix/db", registered(folder / "root"))
    (folder / "result").symlink_to(APP)
    (folder / "result-2").symlink_to(BASE)
    commands = (["closure"], ["popularity"], ["plan", "--format", "layers"])
    expected = [fastlayers(*command, "graph.json").stdout for command in commands]
    assert expected[0] == f"{APP}\n{LIB}\n{BASE}\n"
    for source in (f"nix:{APP}", "nix:result", "result", f"root{APP}"):
        assert [fastlayers(*command, source, "--store-root", "root").stdout for command in commands] == expected
    assert fastlayers("closure", "nix:result-2", "nix:result", "--store-root", "root").stdout.split() == [
        APP,
        LIB,
        BASE,
    ]
    digests = []
    for source, *more in (["nix:result"], ["graph.json"], ["nix:result", "--verify-store"]):
        fastlayers("build", source, *more, "--store-root", "root", "--to", f"oci-archive:{len(digests)}.tar", "--quiet")
        digests.append((folder / f"{len(digests)}.tar").read_bytes())
    assert len(digests) == 3 and len(set(digests)) == 1


def test_empty_closure_prints_nothing(folder: Path) -> None:
    write_json(folder / "empty.json", {"graph": []})
    for command in ("closure", "popularity"):
        assert fastlayers(command, "empty.json").stdout == ""


def test_popularity(folder: Path) -> None:
    graph = {"A": "BG", "B": "CE", "C": "DE", "D": "F", "E": "F", "F": "", "G": ""}
    write_json(folder / "2018.json", {"k": [{"path": name, "references": list(refs)} for name, refs in graph.items()]})
    assert fastlayers("popularity", "2018.json", "k").stdout.split() == list("FEDCBGA")
    counted = fastlayers("popularity", "2018.json", "--counts").stdout
    assert counted == "9\tF\n5\tE\n4\tD\n3\tC\n2\tB\n2\tG\n1\tA\n"


def test_names_that_are_not_ascii(folder: Path) -> None:
    write_json(folder / "uni.json", [{"path": "/nix/store/é-😀", "references": []}])
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for command in ("closure", "popularity"):
        assert fastlayers(command, "uni.json", env=environment, encoding="utf-8").stdout == "/nix/store/é-😀\n"


def test_plan(folder: Path) -> None:
    table = fastlayers("plan", "graph.json", "--max-layers", "2").stdout
    assert table.splitlines()[0].startswith("expected-cost/1: 2 layers, 3 paths, ")
    assert "app-3.0" in table and "base-1.0, lib-2.0" in table and "45.5 %" in table and "54.5 %" in table
    layers = json.loads(fastlayers("plan", "graph.json", "--max-layers", "2", "--format", "layers").stdout)
    assert layers == [[BASE, LIB], [APP]]
    whole = json.loads(fastlayers("plan", "graph.json", "--max-layers", "2", "--format", "json").stdout)
    assert whole == {
        "version": 1,
        "strategy": "expected-cost/1",
        "max_layers": 2,
        "guided": False,
        "order": None,
        "excluded": [],
        "layers": [{"size": 456 + 520, "paths": [BASE, LIB]}, {"size": 816, "paths": [APP]}],
    }


PIPELINE = [["popularity_contest"], ["reverse"], ["limit_layers", 2]]


def test_plan_by_strategy_and_by_pipeline(folder: Path) -> None:
    def layers(*options: str) -> list[list[str]]:
        done = fastlayers("plan", "graph.json", "--format", "layers", *options)
        return json.loads(done.stdout)

    assert layers("--strategy", "auto", "--max-layers", "2") == [[BASE, LIB], [APP]]
    assert layers("--pipeline", json.dumps(PIPELINE)) == [[APP], [LIB, BASE]]
    assert layers("--pipeline", json.dumps(PIPELINE), "--order", "stable") == [[LIB, BASE], [APP]]
    assert layers("--pipeline", json.dumps(PIPELINE), "--order", "as-planned") == [[APP], [LIB, BASE]]
    write_json(folder / "before.json", [[APP], [LIB, BASE]])
    ordered = ["--pipeline", json.dumps(PIPELINE), "--order", "stable", "--previous", "before.json"]
    assert layers(*ordered) == [[APP], [LIB, BASE]]
    assert layers("--pipeline", "[]") == [[BASE, LIB, APP]]
    write_json(folder / "attrs.json", {"graph": [], "pipeline": PIPELINE, "exclude_paths": [LIB]})
    assert layers("--pipeline", "attrs.json") == [[APP], [BASE]]
    assert layers("--pipeline", "attrs.json", "--exclude", BASE) == [[APP]]
    assert layers("--exclude", BASE, "--exclude", APP) == [[LIB]]
    table = fastlayers("plan", "graph.json", "--pipeline", "[]").stdout
    assert table.startswith("plan: 1 layer, 3 paths, 1.8 kB\n")


def test_build_by_strategy_and_by_pipeline(folder: Path) -> None:
    def layers(*options: str) -> list[list[str]]:
        done = fastlayers(*BUILD, "--to", "oci:image", "--json", *options)
        return [layer["paths"] for layer in json.loads(done.stdout)["layers"]]

    assert layers("--strategy", "auto", "--max-layers", "3") == [[BASE, LIB], [APP]]
    assert layers("--pipeline", json.dumps(PIPELINE), "--exclude", LIB) == [[APP], [BASE]]
    assert layers("--pipeline", json.dumps(PIPELINE), "--order", "stable") == [[LIB, BASE], [APP]]
    write_json(folder / "layers.json", [[BASE], [APP]])
    assert layers("--plan", "layers.json", "--exclude", LIB) == [[BASE], [APP]]
    assert layers("--exclude", LIB) == [[BASE], [APP]]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["plan", "graph.json", "--pipeline", "[]", "--strategy", "auto"], 2, "--pipeline and --strategy exclude each"),
        (
            ["plan", "graph.json", "--pipeline", "[]", "--max-layers", "9"],
            2,
            "--pipeline and --max-layers exclude each",
        ),
        ([*BUILD, "--to", "oci:x", "--pipeline", "[]", "--plan", "p"], 2, "--plan and --pipeline exclude each other"),
        ([*BUILD, "--to", "oci:x", "--plan", "p", "--order", "stable"], 2, "--plan and --order exclude each other"),
        (["plan", "graph.json", "--order", "other"], 2, "--order: invalid choice: 'other'"),
        (
            ["plan", "graph.json", "--min-layer-size", "2MB", "--max-layer-size", "1MB"],
            2,
            "--min-layer-size is more than --max-layer-size",
        ),
        (["plan", "graph.json", "--pipeline", "absent"], 4, "absent: No such file or directory"),
        (["plan", "graph.json", "--pipeline", ""], 2, "--pipeline: pipeline: not valid: Input data was truncated"),
        (["plan", "graph.json", "--pipeline", "[["], 2, "--pipeline: pipeline: not valid: Input data was truncated"),
        (["plan", "graph.json", "--strategy", "foo"], 2, "--strategy: invalid choice: 'foo'"),
        (["simulate", "graph.json", "graph.json", "--strategy", "foo"], 2, "--strategy: invalid choice: 'foo'"),
        *(
            (
                [command, "graph.json", "--max-layers", number],
                2,
                f"--max-layers: {number}: expected a whole number of at ",
            )
            for command in ("plan", "explain", "report", "simulate")
            for number in ("0", "9" * 20)
        ),
        ([*BUILD, "--to", "oci:x", "--max-layers", "1"], 2, "--max-layers 1 leaves none for the closure"),
        ([*BUILD, "--to", "oci:x", "--max-layers", "1", "--client", "docker"], 2, "--max-layers 1 leaves none for"),
        (
            ["plan", "graph.json", "--strategy", "auto", "--previous", "absent"],
            2,
            "--strategy auto goes by the closure alone: --previous is for expected-cost and --order stable",
        ),
        (
            ["plan", "graph.json", "--strategy", "auto", "--order", "stable", "--rules", "absent"],
            2,
            "--strategy auto goes by the closure alone: --rules is for expected-cost\n",
        ),
        (["plan", "graph.json", "--min-layer-size", "1KB"], 2, "--min-layer-size: 1KB: expected a number of bytes, or"),
        (["plan", "nix:"], 2, "SOURCE nix: expected nix:PATH"),
        (["diff", "graph.json", "venv:"], 2, "SOURCE venv: expected venv:DIR"),
        (["explain", "graph.json", "--closure", "nix:"], 2, "SOURCE nix: expected nix:PATH"),
        ([*BUILD, "--to", "oci:x", "--mtime", "9" * 20], 2, f"--mtime {'9' * 20}: more seconds than a tar header can"),
        ([*BUILD, "--to", "oci:x", "--uid", "9" * 20], 2, f"--uid: {'9' * 20}: expected a whole number of at least 0"),
        (["plan", "graph.json", "--pipeline", '[["flatten"]]'], 4, "pipeline[0]: flatten takes a list or parts"),
        (
            [*BUILD, "--to", "oci:x", "--pipeline", '[["popularity_contest"]]', "--max-layers", "3"],
            4,
            "leave room for 2",
        ),
    ],
)
def test_options_of_plans_that_are_refused(folder: Path, arguments: list[str], status: int, says: str) -> None:
    done = fastlayers(*arguments, check=False)
    assert done.returncode == status
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (folder / "x").exists()


def test_build_prints_a_table(folder: Path) -> None:
    done = fastlayers(*BUILD, "--to", "oci:image", "--name", "app:1")
    lines = done.stdout.splitlines()
    image_id = json.loads((folder / "image/index.json").read_bytes())["manifests"][0]["digest"]
    manifest = json.loads((folder / "image/blobs/sha256" / image_id[7:]).read_bytes())
    assert lines[0].strip() == "image ID " + manifest["config"]["digest"]
    assert lines[1].strip() == "manifest " + image_id
    assert lines[2].startswith("3 layers, ")
    for layer, what in zip(manifest["layers"], ["base-1.0", "lib-2.0", "app-3.0"], strict=True):
        (row,) = [line for line in lines if what in line]
        assert layer["digest"][7:19] in row
    assert done.stderr == ""


def test_the_table_makes_way_for_an_archive(folder: Path) -> None:
    done = fastlayers(*BUILD, "--to", "docker-archive:-:app:1", text=False)
    assert b"base-1.0" in done.stderr and b"3 layers, " in done.stderr
    (folder / "piped.tar").write_bytes(done.stdout)
    with tarfile.open(folder / "piped.tar") as tar:
        assert tar.getnames()[-1] == "manifest.json"
    fastlayers(*BUILD, "--to", "docker-archive:file.tar:app:1")
    assert (folder / "file.tar").read_bytes() == done.stdout


def test_quiet(folder: Path) -> None:
    done = fastlayers(*BUILD, "--to", "oci:image", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_json(folder: Path) -> None:
    done = fastlayers(*BUILD, "--to", "oci:image", "--to", "oci-archive:image.tar", "--json")
    result = json.loads(done.stdout)
    assert result["destinations"] == ["oci:image", "oci-archive:image.tar"]
    assert [layer["paths"] for layer in result["layers"]] == [[BASE], [LIB], [APP]]
    assert result["written"] == 2 * sum(layer["size"] for layer in result["layers"])
    assert result["read"] == 40_032 and result["sent"] is None
    happened = {layer: [] for layer in (1, 2, 3)}
    for line in done.stderr.splitlines():
        event = json.loads(line)
        happened[event.pop("layer")].append(event)
    assert [happened[layer] for layer in (1, 2, 3)] == [layer["events"] for layer in result["layers"]]
    for layer in result["layers"]:
        assert [(event["event"], event.get("destination"), event["bytes"]) for event in layer["events"]] == [
            ("built", None, layer["tar_size"]),
            ("written", 1, layer["size"]),
            ("written", 2, layer["size"]),
        ]
    assert fastlayers(*BUILD, "--to", "oci:image", "--json", "--quiet").stderr == ""


def config_of(folder: Path, *options: str, **environment: str) -> dict[str, Any]:
    """The image config of a build with these options."""
    done = fastlayers(*BUILD, "--to", "oci:image", "--json", *options, env={**os.environ, **environment})
    config = folder / "image/blobs/sha256" / json.loads(done.stdout)["image_id"][7:]
    return json.loads(config.read_bytes())


def test_options_make_the_configuration(folder: Path) -> None:
    write_json(
        folder / "config.json", {"Cmd": ["old"], "Env": ["A=1", "B=1"], "Labels": {"a": "1"}, "StopSignal": "INT"}
    )
    options = ["--config", "config.json", "--cmd", f"{APP}/bin/app 'two words'", "--entrypoint", '["env", "-i"]']
    options += ["--env", "B=2", "--env", "C=3=4", "--workdir", "/w", "--user", "1:2", "--label", "b=x=y"]
    options += ["--expose", "80", "--expose", "53/udp", "--volume", "/data", "--arch", "arm", "--variant", "v7"]
    config = config_of(folder, *options)
    assert config["config"] == {
        "Cmd": [f"{APP}/bin/app", "two words"],
        "Entrypoint": ["env", "-i"],
        "Env": ["A=1", "B=2", "C=3=4"],
        "WorkingDir": "/w",
        "User": "1:2",
        "Labels": {"a": "1", "b": "x=y"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "INT",
    }
    assert (config["architecture"], config["variant"], config["os"]) == ("arm", "v7", "linux")


def test_dates_of_the_image_never_change_a_layer(folder: Path) -> None:
    plain = config_of(folder)
    epoch = config_of(folder, SOURCE_DATE_EPOCH="1700000000")
    dated = config_of(folder, "--created", "2024-05-06T07:08:09+02:00", SOURCE_DATE_EPOCH="1700000000")
    assert [config["created"] for config in (plain, epoch, dated)] == [
        "1970-01-01T00:00:01Z",
        "2023-11-14T22:13:20Z",
        "2024-05-06T05:08:09Z",
    ]
    assert plain["rootfs"] == epoch["rootfs"] == dated["rootfs"]


def test_owner_and_mtime_change_every_layer(folder: Path) -> None:
    plain = config_of(folder)["rootfs"]["diff_ids"]
    seen = set(plain)
    for options in (["--uid", "7"], ["--gid", "7"], ["--uname", "u"], ["--gname", "g"], ["--mtime", "2"]):
        seen |= set(config_of(folder, *options)["rootfs"]["diff_ids"])
    assert len(seen) == 6 * len(plain)
    assert config_of(folder, "--mtime", "1970-01-01T00:00:01Z")["rootfs"]["diff_ids"] == plain


def test_the_virtual_environment_that_is_active(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a source it is the source; here it is one that does not exist, which the message names."""
    for command in (["closure"], ["plan"], ["build", "--to", "oci:image"]):
        done = fastlayers(*command, check=False, env={**os.environ, "VIRTUAL_ENV": "/absent/environment"})
        assert done.returncode == 3
        assert "/absent/environment" in done.stderr
    done = fastlayers("closure", "graph.json", env={**os.environ, "VIRTUAL_ENV": "/absent/environment"})
    assert done.stdout.startswith(APP)


def test_the_installed_program_is_this_one() -> None:
    program = Path(sys.executable).parent / "fastlayers"
    if not program.exists():
        unavailable("fastlayers is not installed beside this Python")
    assert subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout == (
        f"fastlayers {__version__}\n"
    )


def test_strategies_are_those_that_there_are() -> None:
    assert set(STRATEGY_NAMES) == set(STRATEGIES)
    assert STRATEGY_NAMES[0] == DEFAULT_STRATEGY
    assert [name for name in STRATEGY_NAMES if STRATEGIES[name].guided] == ["expected-cost"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("0", 0), ("500", 500), ("1B", 1), ("2k", 2000), ("2kB", 2000), ("3MB", 3 * 10**6), ("1G", 10**9)],
)
def test_sizes(text: str, found: int) -> None:
    """One way to say a size, for layers and for the cache."""
    assert size(text) == found
    plan = command_parser("plan").parse(["x", "--min-layer-size", text, "--max-layer-size", text])
    assert (plan.min_layer_size, plan.max_layer_size) == (found, found)
    assert command_parser("cache").parse(["prune", "--max-size", text]).max_size == found
    for wrong in (f"{text}iB", f"-{text}", f"{text} ", "1.5MB", "1K", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number of bytes, or of kB, MB or GB"):
            size(wrong)
