"""``python -m unifusion.training run|plan|encode|export CONFIG.toml``: train on your own pictures (docs/training.md)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

COMMANDS = {
    "run": "encode what is not in the cache, train, export; a run found in the folder goes on",
    "plan": "check everything, time ten steps, say what it will take; writes no weights",
    "encode": "fill the cache alone; any number of machines may do it at the same time",
    "export": "write the weights of the newest checkpoint",
    "memory": "print what training Krea 2 itself takes, by settings; needs none of its files",
    "keys": "print every key of a configuration as a table",
}
NEEDS = ("accelerate", "pydantic")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m unifusion.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, says in COMMANDS.items():
        command = commands.add_parser(name, help=says, description=says)
        if name in ("keys", "memory"):
            continue
        command.add_argument("config", type=Path, help="TOML file; see training_configs/")
        if name in ("run", "encode"):
            command.add_argument("--processes", type=int, help="in place of the file's")
        if name == "run":
            command.add_argument("--until", type=int, help="stop after this step of the run; the next start goes on")
        if name == "export":
            command.add_argument("--to", type=Path, help="folder in place of the run's")
    return parser


def _check_installed() -> None:
    import importlib.util

    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if sys.version_info < (3, 11) and importlib.util.find_spec("tomli") is None:
        missing.append("tomli")
    if missing:
        raise ValueError(f"Training needs {', '.join(missing)}; run pip install {' '.join(missing)}.")


def run_command(given: argparse.Namespace, arguments: list[str]) -> None:
    """What a command line asks for.

    Raises:
        ValueError: naming what is wrong.
    """
    from . import processes
    from .config import keys_table, load

    if given.command == "keys":
        print(keys_table())
        return
    if given.command == "memory":
        from .memory import krea2_table

        print("\n".join(krea2_table()))
        return
    config = load(given.config)
    count = getattr(given, "processes", None) or config.processes
    if given.command in ("run", "encode") and count > 1 and not processes.launched():
        processes.launch("unifusion.training", arguments, count)
        return
    from . import runs

    if given.command == "run":
        runs.train(config, given.until)
    elif given.command == "encode":
        main = runs.start_processes(config).is_main_process
        say = print if main else lambda text: None
        runs.encode(runs.prepare(config, say), say)
    elif given.command == "plan":
        from .plan import print_plan

        print_plan(config)
    else:
        from .encode_once import load_encoder
        from .examples import Contract
        from .exporting import export_checkpoint

        path = export_checkpoint(config, Contract.of(load_encoder(config), config.vlm), given.to)
        print(f"weights: {path}")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 2 for something wrong with the configuration, the data or the folder."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(arguments)
    try:
        _check_installed()
        run_command(given, arguments)
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        print(f"error: {error}. Check the path, the rights and the room on the disk.", file=sys.stderr, flush=True)
        return 2
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        print(
            "error: The device's memory is full. Run plan with this file to see what takes it, and close what else uses the "
            "device.",
            file=sys.stderr,
            flush=True,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted; start it again to go on from the last checkpoint", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    import os

    if "WORLD_SIZE" in os.environ:
        # gloo's threads outlive the group; one that takes the interpreter's lock during its end would abort
        os._exit(code)
    sys.exit(code)
