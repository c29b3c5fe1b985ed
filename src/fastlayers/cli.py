"""The command line. Commands are thin; what they do is in the API, and their tables are in report."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .errors import ClosureError, ConfigError, DestinationError, FastlayersError, PlanError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from click.shell_completion import CompletionItem

    from .closure import Closure

__all__ = ["commands", "run"]

_STATUSES = """
\b
Exit statuses:
  0   done
  1   another failure
  2   the command line is wrong
  3   a source cannot be read, or is no closure
  4   a plan cannot be made, read or used
  5   the configuration is wrong, or names paths that are not in the closure
  6   a file cannot go into a layer, or changed while it was read
  7   a base image cannot be read, or is not whole
  8   a destination cannot be written
  130 interrupted (143: terminated)
"""


class _Stopped(BaseException):
    """SIGINT or SIGTERM."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def _stop(signum: int, frame: FrameType | None) -> None:
    # What is half-made is being removed from now on; more signals must not end that half-way.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise _Stopped(signum)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its status; errors are one line on standard error."""
    if sys.stdout is None:  # closed by who started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    signal.signal(signal.SIGTERM, _stop)
    # Who started us may want these ignored, as nohup does.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _stop)
    # No linear algebra is done here: numpy need not start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        status = commands.main(arguments, prog_name="fastlayers", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except FastlayersError as error:
        status = _fail(str(error), error.exit_status)
    except click.Abort:
        status = _fail("interrupted", 130)
    except _Stopped as stopped:
        status = _fail("interrupted" if stopped.signum == signal.SIGINT else "terminated", 128 + stopped.signum)
    except BrokenPipeError:
        # The reader has gone, and with it the way to tell; Python must not try once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = _fail("standard output: Broken pipe", 8)
    except RecursionError:
        status = _fail("a document is nested too deeply", 1)
    except MemoryError:
        status = _fail("out of memory", 1)
    except OSError as error:
        # Files are named where they are opened; what is left is the output.
        status = _fail(f"{error.filename or 'standard output'}: {error.strerror}", 1 if error.filename else 8)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status or 0)


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split("\n"))
    print("fastlayers: " + line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
    return status


def _sources(sources: tuple[str, ...]) -> tuple[str, ...]:
    """The sources that were named, or the virtual environment that is active."""
    if sources:
        return sources
    active = os.environ.get("VIRTUAL_ENV")
    if not active:
        raise click.UsageError("name a SOURCE: a file that Nix made, - or venv:DIR (no virtual environment is active)")
    return (f"venv:{active}",)


def _read(sources: tuple[str, ...], key: str | None, interpreter: bool = True) -> Closure:
    from .closure import unite
    from .sources import read_closure

    if sum(source == "-" for source in sources) > 1:
        raise click.UsageError("standard input can be read once")
    return unite([read_closure(source, key=key, interpreter=interpreter) for source in _sources(sources)])


def _complete_file(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _complete_words(*words: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    return lambda context, parameter, incomplete: [word for word in words if word.startswith(incomplete)]


source_argument = click.argument("sources", metavar="[SOURCE]...", nargs=-1, shell_complete=_complete_file)
key_option = click.option(
    "--key", metavar="KEY", help="Which list of nodes to take from an exportReferencesGraph document."
)
interpreter_option = click.option(
    "--no-interpreter",
    "interpreter",
    flag_value=False,
    default=True,
    help="Of a virtual environment, leave out the interpreter and the shared libraries: the base image has them.",
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"""
\b
Sources:
  FILE or -   what Nix wrote: exportReferencesGraph, nix path-info --json -r
  venv:DIR    a virtual environment of Python's; the active one if none is named
\b
Shell completion (bash; also zsh and fish):
  eval "$(_FASTLAYERS_COMPLETE=bash_source fastlayers)"
{_STATUSES}""",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """Turn package closures into layered, reproducible container images."""


@commands.command(
    short_help="Print a closure's paths, the most popular first.",
    epilog="""
\b
Examples:
  fastlayers popularity graph.json
  fastlayers popularity .attrs.json graph
""",
)
@click.argument("file", metavar="FILE", shell_complete=_complete_file)
@click.argument("key", metavar="[KEY]", required=False)
@click.option("--counts", is_flag=True, help="Print each path's popularity before it.")
def popularity(file: str, key: str | None, counts: bool) -> None:
    """Print the paths of a closure, the most popular first, as nixpkgs' closure-graph.py does.

    FILE holds a closure that Nix wrote (- is standard input); any names are taken, not store paths alone.
    """
    from .popularity import order_by_popularity
    from .sources import read_closure

    closure = read_closure(file, key=key, any_names=True)
    result = order_by_popularity(closure)
    paths = [closure.paths[i] for i in result.order.tolist()]
    if counts:
        exact = result.counts()
        paths = [f"{exact[i]}\t{path}" for i, path in zip(result.order.tolist(), paths, strict=True)]
    _print_lines(paths)


def _print_lines(lines: Sequence[str]) -> None:
    if lines:
        sys.stdout.buffer.write(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


@commands.command(
    short_help="Print a closure's paths, sorted.",
    epilog="""
\b
Examples:
  fastlayers closure graph.json
  nix path-info --json -r ./result | fastlayers closure - --sizes
""",
)
@source_argument
@key_option
@interpreter_option
@click.option("--sizes", is_flag=True, help="Print each path's NAR size (in bytes; - where unknown) behind it.")
@click.option("--references", is_flag=True, help="Print each path's references below it, indented.")
def closure(sources: tuple[str, ...], key: str | None, interpreter: bool, sizes: bool, references: bool) -> None:
    """Print the paths of a closure in plain ASCII order, as writeReferencesToFile does."""
    read = _read(sources, key, interpreter)
    lines = []
    for i, path in enumerate(read.paths):
        size = int(read.nar_sizes[i])
        lines.append(f"{path}\t{size if size >= 0 else '-'}" if sizes else path)
        if references:
            lines += [f"  {reference}" for reference in read.references(i)]
    _print_lines(lines)


strategy_option = click.option(
    "--strategy", metavar="NAME", help="How to distribute paths over layers. [default: popularity]"
)


@commands.command(
    short_help="Show which paths go into which layer.",
    epilog="""
\b
Examples:
  fastlayers plan graph.json
  fastlayers plan graph.json --max-layers 20 --format json > plan.json
  fastlayers build graph.json --plan plan.json --to oci:image
""",
)
@source_argument
@key_option
@interpreter_option
@click.option("--max-layers", default=99, show_default=True, metavar="N", help="Layers of the plan.")
@strategy_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "layers", "json"]),
    default="table",
    show_default=True,
    help="A table, a JSON list of lists of paths, or everything as JSON.",
)
def plan(
    sources: tuple[str, ...], key: str | None, interpreter: bool, max_layers: int, strategy: str | None, form: str
) -> None:
    """Show how a closure's paths are distributed over layers, the bottom layer first."""
    from .layering.plan import plan_layers
    from .report import print_plan

    made = plan_layers(_read(sources, key, interpreter), max_layers, strategy)
    if form == "table":
        print_plan(made)
    else:
        _print_lines([made.to_layers() if form == "layers" else made.to_json()])


jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Worker processes. [default: all cores]"
)
store_root_option = click.option(
    "--store-root",
    default="",
    metavar="DIR",
    shell_complete=_complete_file,
    help="Read /nix/store/... from DIR/nix/store/...",
)


@commands.command(
    short_help="Write the archive that nixpkgs' streamLayeredImage writes.",
    epilog="""
\b
Examples:
  fastlayers stream conf.json | docker load
  fastlayers stream $(nix-build -A image.conf) | podman load
""",
)
@click.argument("conf", metavar="CONF", shell_complete=_complete_file)
@click.option("-t", "--repo_tag", "--repo-tag", metavar="TAG", help="The image's NAME:TAG, other than in CONF.")
@jobs_option
@store_root_option
@click.option("--quiet", is_flag=True, help="Say nothing on standard error.")
def stream(conf: str, repo_tag: str | None, jobs: int | None, store_root: str, quiet: bool) -> None:
    """Write a docker archive to standard output: the bytes that nixpkgs' streamLayeredImage writes.

    CONF is the conf.json of nixpkgs' image. --store-root also maps its from_image and customisation_layer.
    """
    from .stream import stream_image

    if sys.stdout.isatty():
        raise click.UsageError("an archive is not written to a terminal: redirect it")
    try:
        stream_image(
            conf,
            1,
            repo_tag=repo_tag,
            store_root=_root(store_root),
            jobs=jobs,
            log=(lambda line: None) if quiet else lambda line: print(line, file=sys.stderr),
        )
    except OSError as error:
        raise DestinationError(f"standard output: {error.strerror}") from None


def _root(store_root: str) -> str:
    return os.path.abspath(store_root).rstrip("/") if store_root else ""


def _pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not name or not equals:
            raise click.UsageError(f"{option} {value}: expected NAME=VALUE")
        pairs[name] = content
    return pairs


def _port(text: str) -> str:
    number, _, protocol = text.partition("/")
    if (
        not re.fullmatch("[0-9]{1,5}", number)
        or not 0 < int(number) < 65536
        or protocol not in ("", "tcp", "udp", "sctp")
    ):
        raise click.UsageError(f"--expose {text}: expected PORT or PORT/tcp, PORT/udp, PORT/sctp")
    return f"{int(number)}/{protocol or 'tcp'}"


def _command_words(option: str, text: str) -> list[str]:
    """A JSON list of words, or a line as a shell would split it."""
    import json
    import shlex

    if text.lstrip().startswith("["):
        try:
            words = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"{option} {text[:100]}: not a JSON list: {error}") from None
        if not all(isinstance(word, str) for word in words):
            raise click.UsageError(f"{option} {text}: a word that is no text")
        return list(words)
    try:
        return shlex.split(text)
    except ValueError as error:
        raise click.UsageError(f"{option} {text}: {error}") from None


def _codec(compress: str) -> Any:
    from .compression import Codec

    name, colon, level = compress.partition(":")
    try:
        return Codec(name, int(level) if colon else None)  # type: ignore[arg-type]
    except ValueError as error:
        raise click.UsageError(f"--compress {compress}: {error}") from None


def _created(text: str | None) -> str:
    """The image's date: --created, SOURCE_DATE_EPOCH, or always the same."""
    import datetime

    from .image import EPOCH, parse_date

    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if text is not None:
        date = parse_date(text)
    elif epoch:
        try:
            date = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
        except (ValueError, OverflowError, OSError):
            raise ConfigError(f"SOURCE_DATE_EPOCH: {epoch}: not a number of seconds") from None
    else:
        return EPOCH
    try:
        return date.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise ConfigError(f"--created {text}: before the first or after the last date of all") from None


def _mtime(text: str) -> int:
    from .image import parse_date

    if re.fullmatch("-?[0-9]{1,20}", text):
        return int(text)
    return int(parse_date(text).timestamp())


@commands.command(
    epilog="""
\b
Destinations (several are fine):
  docker-archive:FILE[:NAME:TAG]   for docker load, podman load, ctr, skopeo
  oci-archive:FILE[:TAG]           the same archive, named as OCI names it
  oci:DIR[:TAG]                    an OCI layout
FILE may be -, standard output.
\b
Examples:
  fastlayers build graph.json --to docker-archive:app.tar:app:1 --cmd /nix/store/.../bin/app
  fastlayers build venv:.venv --to docker-archive:-:app:1 --cmd 'python -m app' | docker load
  fastlayers build graph.json --to oci:image:v1 --compress zstd --config config.json
"""
)
@source_argument
@click.option(
    "--to",
    "destinations",
    multiple=True,
    required=True,
    metavar="DESTINATION",
    shell_complete=_complete_words("docker-archive:", "oci:", "oci-archive:"),
    help="Where the image goes.",
)
@key_option
@interpreter_option
@click.option(
    "--max-layers", default=100, show_default=True, metavar="M", help="Layers of the image, a base's included."
)
@strategy_option
@click.option(
    "--plan",
    "plan_file",
    metavar="FILE",
    shell_complete=_complete_file,
    help="Build exactly this plan, as plan prints it.",
)
@click.option(
    "--from", "base", metavar="IMAGE", help="Build on docker-archive:FILE, oci:DIR[:TAG] or oci-archive:FILE."
)
@click.option(
    "--compress",
    default="none",
    show_default=True,
    metavar="CODEC",
    shell_complete=_complete_words("none", "gzip", "zstd"),
    help="none, gzip[:0-3] or zstd[:1-19].",
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    shell_complete=_complete_file,
    help="An OCI or Docker config object; the options below add to it.",
)
@click.option("--cmd", metavar="WORDS", help="The command: a JSON list, or words as in a shell.")
@click.option("--entrypoint", metavar="WORDS", help="The entrypoint, likewise.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable.")
@click.option("--workdir", metavar="DIR", help="Where the command starts.")
@click.option("--user", metavar="USER", help="Who runs the command.")
@click.option("--label", multiple=True, metavar="NAME=VALUE", help="A label.")
@click.option("--expose", multiple=True, metavar="PORT[/udp]", help="A port.")
@click.option("--volume", multiple=True, metavar="DIR", help="A volume.")
@click.option("--name", metavar="NAME[:TAG]", help="The image's name, where a destination has none.")
@click.option("--tag", metavar="TAG", help="Its tag.")
@click.option("--arch", metavar="ARCH", help="Architecture, as Go names it. [default: this machine's]")
@click.option("--variant", metavar="VARIANT", help="Of the architecture, such as v8.")
@click.option(
    "--created", metavar="DATE", help="The image's date. [default: SOURCE_DATE_EPOCH, or 1970-01-01T00:00:01Z]"
)
@click.option(
    "--mtime", default="1", show_default=True, metavar="DATE", help="Of all files: a date, or seconds since 1970."
)
@click.option("--uid", type=int, default=0, show_default=True, metavar="N", help="Owner of all files.")
@click.option("--gid", type=int, default=0, show_default=True, metavar="N", help="Group of all files.")
@click.option("--uname", default="root", show_default=True, metavar="NAME", help="The owner's name.")
@click.option("--gname", default="root", show_default=True, metavar="NAME", help="The group's name.")
@store_root_option
@jobs_option
@click.option("--quiet", is_flag=True, help="No progress, no table.")
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON instead of the table.")
def build(sources: tuple[str, ...], destinations: tuple[str, ...], quiet: bool, as_json: bool, **options: Any) -> None:
    """Build an image of a closure.

    SOURCE is a file that Nix made, - or venv:DIR; the active virtual environment if there is none. Several are united.
    """
    from .build import build_image
    from .destinations import parse_destination
    from .image import ImageName, Settings
    from .layer import Profile
    from .layering.plan import read_plan
    from .report import print_build, start_progress
    from .sources.nix_json import store_dir

    archives = [text.split(":")[1] for text in destinations if text.startswith(("docker-archive:", "oci-archive:"))]
    to_stdout = "-" in archives
    if archives.count("-") > 1 or (to_stdout and as_json):
        raise click.UsageError("standard output is wanted twice")
    if len(set(map(os.path.realpath, archives))) < len(archives):
        raise click.UsageError("two destinations are one file: an archive holds one image")
    if not options["interpreter"] and not options["base"]:
        raise click.UsageError("--no-interpreter leaves an image that runs on nothing: say --from which base")
    name = ImageName.parse(options["name"]) if options["name"] else ImageName()
    if options["tag"]:
        name = ImageName(name.repository, options["tag"])
    targets = [parse_destination(text, name) for text in destinations]
    codec = _codec(options["compress"])
    config = _config(options)
    settings = Settings(config, options["arch"] or "", options["variant"], _created(options["created"]))
    profile = Profile(options["uid"], options["gid"], options["uname"], options["gname"], _mtime(options["mtime"]))
    base = None
    if options["base"]:
        from .base import read_base

        base = read_base(options["base"])
    read = _read(sources, options["key"], options["interpreter"])
    if not len(read):
        raise ClosureError("the closure is empty: there is nothing to build")
    layer_plan = read_plan(options["plan_file"], read) if options["plan_file"] else None
    if layer_plan and options["strategy"]:
        raise PlanError("--plan and --strategy exclude each other")
    progress = start_progress("building", quiet=quiet)
    try:
        result = build_image(
            read,
            targets,
            layer_plan=layer_plan,
            max_layers=options["max_layers"],
            strategy=options["strategy"],
            base=base,
            settings=settings,
            profile=profile,
            codec=codec,
            store_root=_root(options["store_root"]),
            store_dir=store_dir(),
            jobs=options["jobs"],
            progress=progress,
        )
    finally:
        progress.close()
    if as_json:
        import json

        print(json.dumps({"destinations": list(destinations), **result.to_dict()}, indent=2, ensure_ascii=False))
    elif not quiet:
        print_build(result, sys.stderr if to_stdout else sys.stdout)


def _config(options: dict[str, Any]) -> dict[str, Any]:
    from .image import merge_env, read_config

    config = read_config(options["config_file"]) if options["config_file"] else {}
    if options["cmd"] is not None:
        config["Cmd"] = _command_words("--cmd", options["cmd"])
    if options["entrypoint"] is not None:
        config["Entrypoint"] = _command_words("--entrypoint", options["entrypoint"])
    if options["env"]:
        _pairs("--env", options["env"])
        config["Env"] = merge_env(config.get("Env") or (), options["env"])
    if options["workdir"] is not None:
        config["WorkingDir"] = options["workdir"]
    if options["user"] is not None:
        config["User"] = options["user"]
    if options["label"]:
        config["Labels"] = {**(config.get("Labels") or {}), **_pairs("--label", options["label"])}
    if options["expose"]:
        config["ExposedPorts"] = {
            **(config.get("ExposedPorts") or {}),
            **{_port(port): {} for port in options["expose"]},
        }
    if options["volume"]:
        config["Volumes"] = {**(config.get("Volumes") or {}), **{volume: {} for volume in options["volume"]}}
    return config
