"""The program ``fastlayers``; worker processes import this module too, so the command line is loaded when it runs."""

import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] == ["--version"]:
        from . import __version__

        try:
            print(f"fastlayers {__version__}", flush=True)
            return
        except OSError:  # as it is told of all commands
            pass
    from .cli import run

    run()


if __name__ == "__main__":
    main()
