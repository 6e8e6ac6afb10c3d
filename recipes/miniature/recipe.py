"""Train the whole miniature from nothing: ``python -m recipes.miniature.recipe --out DIR``.

Three parts, each resumed where it was interrupted: the VAE, the VLM in three stages (pictures and English, edits, what
newcomers type), then the DiT with LAP
and refiner against the two frozen ones. Deterministic by ``--seed`` on one kind of machine. The result,
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
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unifusion.training.folder_lock import FolderLock
from unifusion.training.processes import start_child


@dataclass(frozen=True)
class Budget:
    """Length of the trainings on one kind of machine.

    Attributes:
        vae_steps, vlm_steps, refine_steps, dit_steps: optimizer steps; refine_steps and words_steps of the
            VLM's second and third stage.
        vlm_scale: times the VLM's examples of a step; dit_batch: conditions of a DiT step in one process.
        processes: of the DiT's training.
        hours: for the whole; fixed: of these, for what does not depend on steps (tokenizer, heads, compilation, scores).
        known: on what, and how it is known.
    """

    vae_steps: int
    vlm_steps: int
    refine_steps: int
    words_steps: int
    dit_steps: int
    vlm_scale: int
    dit_batch: int
    processes: int
    hours: float
    fixed: float
    known: str

    @property
    def expected(self) -> str:
        """The time in words."""
        return f"about {self.hours:.1f} hours, {self.fixed:.1f} of them whatever the number of steps, on {self.known}"


BUDGETS = {
    "cpu": Budget(
        1900, 1300, 2600, 2000, 6000, 1, 16, 2, 9.0, 0.4, "2 idle cores with bfloat16 (from times of a step)"
    ),
    "cuda": Budget(4000, 4000, 3000, 2000, 30000, 2, 128, 1, 3.0, 0.2, "one data-centre GPU (estimated, not measured)"),
}


def shortened(budget: Budget, share: float) -> Budget:
    """The same with fewer steps of everything, to try the recipe or a change of it."""
    steps = ("vae_steps", "vlm_steps", "refine_steps", "words_steps", "dit_steps")
    return replace(
        budget,
        hours=budget.fixed + share * (budget.hours - budget.fixed),
        **{name: max(2, round(share * getattr(budget, name))) for name in steps},
    )


def commands(out: Path, device: str, seed: int, budget: Budget) -> dict[str, list[str]]:
    """Command lines by part; vae and vlm need nothing of each other, refine follows vlm, words refine, dit needs all."""

    def module(name: str, *arguments: object) -> list[str]:
        return [f"recipes.miniature.{name}", *map(str, arguments)]

    vlm = ("--seed", seed, "--device", device, "--scale-batch", budget.vlm_scale, "--resume", "--compile")
    warm_up = budget.vlm_steps // 2  # of the vision tower alone
    launcher = [sys.executable, "-m"]
    if budget.processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={budget.processes}", "-m"]
    return {
        "vae": [
            sys.executable,
            "-m",
            *module(
                "vae_train",
                "--out",
                out / "vae",
                "--steps",
                budget.vae_steps,
                "--seed",
                seed,
                "--device",
                device,
                "--threads",
                1,
            ),
        ],
        "vlm": [
            sys.executable,
            "-m",
            *module("vlm_train", "--out", out / "vlm", "--steps", budget.vlm_steps, "--warm-up", warm_up, *vlm),
        ],
        "refine": [
            sys.executable,
            "-m",
            *module(
                "vlm_train",
                "--out",
                out / "vlm_refined",
                "--steps",
                budget.refine_steps,
                "--refine",
                out / "vlm/checkpoint.pt",
                *vlm,
            ),
        ],
        "words": [
            sys.executable,
            "-m",
            *module("vlm_words", "--out", out / "vlm_words", "--source", out / "vlm_english"),
            *("--steps", str(budget.words_steps), "--seed", str(seed), "--resume"),
        ],
        "dit": launcher
        + module(
            "dit_train",
            "--out",
            out / "dit",
            "--vlm",
            out / "weights/vlm",
            "--vae",
            out / "weights/vae.safetensors",
            "--steps",
            budget.dit_steps,
            "--batch",
            budget.dit_batch,
            "--seed",
            seed,
        ),
    }


def freeze_vlm(run: Path, folder: Path) -> None:
    """Write the VLM of a training run in the form that the pack loads.

    The tokenizer is the run's own: one built from the code of another day may number words differently.
    """
    from unifusion.miniature import VLMConfig

    from .frozen_vlm import save_vlm
    from .vlm_model import Qwen3VL

    saved = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    model = Qwen3VL(VLMConfig.from_dict(saved["config"]))
    model.load_state_dict(saved["model"])
    save_vlm(model, folder, run / "tokenizer")


def run(out: Path, device: str, seed: int, budget: Budget) -> Path:
    """Train what is not finished yet.

    Returns:
        The folder of weights.

    Raises:
        RuntimeError: if a training failed; the next run goes on from its checkpoint.
        ValueError: if another process trains in the folder.
    """
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if device == "cpu":
        environment["ACCELERATE_USE_CPU"] = "true"
    lines = commands(out, device, seed, budget)

    def start(part: str) -> subprocess.Popen:
        return start_child(lines[part], env=environment)

    def finish(*parts: subprocess.Popen) -> None:
        if any([part.wait() for part in parts]):
            raise RuntimeError(
                "a training failed; its message is above. Start the recipe again to go on from its checkpoint."
            )

    if not (weights / "vlm" / "model.safetensors").exists():
        vae = start("vae")
        if device != "cpu":
            finish(vae)
        finish(start("vlm"))
        finish(start("refine"))
        finish(vae)
        shutil.copyfile(out / "vae/vae.safetensors", weights / "vae.safetensors")
        freeze_vlm(out / "vlm_refined", out / "vlm_english")
        finish(start("words"))
        freeze_vlm(out / "vlm_words", weights / "vlm")
    finish(start("dit"))
    shutil.copyfile(out / "dit/dit.safetensors", weights / "dit.safetensors")
    lock.release()
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=sorted(BUDGETS), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of all steps, e.g. 0.01 to try the recipe")
    parser.add_argument("--plan", action="store_true", help="print the commands and the expected time, train nothing")
    given = parser.parse_args()
    budget = BUDGETS[given.device] if given.share == 1 else shortened(BUDGETS[given.device], given.share)
    print(f"expected: {budget.expected}", flush=True)
    if given.plan:
        print("\n".join(" ".join(line) for line in commands(given.out, given.device, given.seed, budget).values()))
        return
    print(f"weights: {run(given.out, given.device, given.seed, budget)}")


if __name__ == "__main__":
    main()
