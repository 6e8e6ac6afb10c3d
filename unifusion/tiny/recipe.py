"""Train the whole miniature from nothing: ``python -m unifusion.tiny.recipe --out DIR``.

Three parts, each resumed where it was interrupted: the VAE, the VLM, then the DiT with LAP and
refiner against the two frozen ones. Deterministic by ``--seed`` on one kind of machine. The result,
``DIR/weights``, has the form of the bundled folder and loads in UniFusionLoadModel.

Time: see :data:`BUDGETS`. On a CPU the VAE and the VLM train side by side on one core each, the DiT
in two processes. On a GPU the parts follow each other; encoding and training run on the GPU in
bfloat16 with fixed shapes and compiled blocks, drawing stays on the CPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Budget:
    """Length of the three trainings on one kind of machine.

    Attributes:
        vae_steps, vlm_steps, dit_steps: optimizer steps.
        vlm_scale: times the VLM's examples of a step; dit_batch: conditions of a DiT step in one process.
        processes: of the DiT's training.
        expected: hours for the whole; how it is known.
    """

    vae_steps: int
    vlm_steps: int
    dit_steps: int
    vlm_scale: int
    dit_batch: int
    processes: int
    expected: str


BUDGETS = {
    "cpu": Budget(1900, 2500, 6000, 1, 16, 2, "about 6 hours on 2 idle cores with AMX (from measured times of a step)"),
    "cuda": Budget(4000, 6000, 30000, 2, 128, 1, "about 1.5 hours on one data-centre GPU (estimated, not measured)"),
}


def commands(out: Path, device: str, seed: int) -> tuple[list[list[str]], list[str]]:
    """Command lines of the VAE's and the VLM's training, which need nothing of each other, and of the DiT's."""
    budget = BUDGETS[device]

    def module(name: str, *arguments: object) -> list[str]:
        return [f"unifusion.tiny.{name}", *map(str, arguments)]

    vae = module("vae_train", "--out", out / "vae", "--steps", budget.vae_steps, "--seed", seed, "--device", device,
                 "--threads", 1)
    vlm = module("train_vlm", "--out", out / "vlm", "--steps", budget.vlm_steps, "--seed", seed, "--device", device,
                 "--scale-batch", budget.vlm_scale, "--resume")
    dit = module("dit_train", "--out", out / "dit", "--vlm", out / "weights/vlm", "--vae", out / "weights/vae.safetensors",
                 "--steps", budget.dit_steps, "--batch", budget.dit_batch, "--seed", seed)
    launcher = [sys.executable, "-m"]
    if budget.processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={budget.processes}", "-m"]
    return [[sys.executable, "-m", *vae], [sys.executable, "-m", *vlm]], launcher + dit


def freeze_vlm(run: Path, folder: Path) -> None:
    """Write the VLM of a training run in the form that the pack loads.

    The tokenizer is the run's own: one built from the code of another day may number words differently.
    """
    from .qwen3vl import Qwen3VL, VLMConfig
    from .vlm import save_vlm

    saved = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    model = Qwen3VL(VLMConfig.from_dict(saved["config"]))
    model.load_state_dict(saved["model"])
    save_vlm(model, folder, run / "tokenizer")


def run(out: Path, device: str, seed: int) -> Path:
    """Train what is not finished yet.

    Returns:
        The folder of weights.
    """
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if device == "cpu":
        environment["ACCELERATE_USE_CPU"] = "true"
    first, dit = commands(out, device, seed)
    if not (weights / "vlm" / "model.safetensors").exists():
        running = []
        for command in first:
            running.append(subprocess.Popen(command, env=environment))
            if device != "cpu":
                running[-1].wait()
        if any([process.wait() for process in running]):
            raise RuntimeError("a training failed; its message is above. Start the recipe again to go on from its checkpoint.")
        shutil.copyfile(out / "vae/vae.safetensors", weights / "vae.safetensors")
        freeze_vlm(out / "vlm", weights / "vlm")
    subprocess.run(dit, env=environment, check=True)
    shutil.copyfile(out / "dit/best.safetensors", weights / "dit.safetensors")
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=sorted(BUDGETS), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", action="store_true", help="print the commands and the expected time, train nothing")
    arguments = parser.parse_args()
    print(f"expected: {BUDGETS[arguments.device].expected}", flush=True)
    if arguments.plan:
        first, dit = commands(arguments.out, arguments.device, arguments.seed)
        print("\n".join(" ".join(command) for command in [*first, dit]))
        return
    print(f"weights: {run(arguments.out, arguments.device, arguments.seed)}")


if __name__ == "__main__":
    main()
