"""Processes that train together: how many there are and were asked for, and that none outlives its parent."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
LOOK_EVERY = 1.0  # seconds


def running() -> int:
    """Processes that a launcher has started together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Number of this process among them."""
    return int(os.environ.get("RANK", 0))


def launched() -> bool:
    """Whether torchrun, accelerate or MPI started this process as one of a group."""
    return "WORLD_SIZE" in os.environ


def _commands_above() -> list[list[str]]:
    import psutil  # comes with accelerate

    try:
        return [parent.cmdline() for parent in psutil.Process().parents()[:3]]
    except psutil.Error:
        return []


def asked_for() -> int | None:
    """Processes that ``accelerate launch --num_processes N`` above this process was told to start; None if none was."""
    for command in _commands_above():
        line = " ".join(command)
        if "accelerate" in line and "launch" in line:
            found = re.search(r"--num[_-]processes[= ](\d+)", line)
            return int(found[1]) if found else None
    return None


def check_asked_for() -> str:
    """How many processes run, in words.

    Raises:
        ValueError: if a launcher was asked for more than it started.
    """
    count, asked = running(), asked_for()
    if asked is not None and asked > count:
        raise ValueError(
            f"{count} process runs and {asked} were asked for: accelerate launch starts several processes on a CPU through "
            f"MPI only. Start it as python -m unifusion.training run CONFIG --processes {asked}, or through torchrun."
        )
    return f"{count} process{'es' if count > 1 else ''}, as asked for"


def die_with_parent() -> None:
    """End this process soon after the one that started it, even where that was killed."""
    parent = os.getppid()

    def watch() -> None:
        import psutil

        while os.getppid() == parent and psutil.pid_exists(parent):
            time.sleep(LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, name="watch the parent", daemon=True).start()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start_child(command: Sequence[str], **options) -> subprocess.Popen:
    """``subprocess.Popen`` of a process that the system ends with this one (Linux; elsewhere it has to watch itself)."""
    if sys.platform == "linux":
        options["preexec_fn"] = _end_with_parent
    return subprocess.Popen(list(command), **options)


def launch(module: str, arguments: Sequence[str], count: int) -> None:
    """Run a module in several processes of this machine, and wait for them.

    Raises:
        SystemExit: if one of them failed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(["--standalone", f"--nproc-per-node={count}", "-m", module, *arguments])
    except ChildFailedError:
        raise SystemExit(1) from None
