"""Writes ``docs/models.md`` from the rows of ``unifusion/profiles.py``: ``python tools/build_models_doc.py``."""

from __future__ import annotations

import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
sys.path.append(str(PACK))

from unifusion.profiles import EXACT, LAP, NOT_SERVED, PROFILES, SAMPLER_PRESETS, Profile  # noqa: E402

PAGE = PACK / "docs" / "models.md"

HEAD = """# Models

Made from the rows of `unifusion/profiles.py` by `tools/build_models_doc.py`; edit the rows, not this page.

Load the encoder with the stock *Load CLIP* node under the type given here, and the drawing model with *Load Diffusion
Model*. *VLM Encode* and *VERIFI Rewrite* recognise the encoder by its class, *Layerwise Attention Pool* and *DiT Sampler*
the drawing model by its class and shape; titles and file names play no part. One encoder file may serve two models
(Qwen3-VL-4B: Krea 2 and Mage-Flow; Qwen3-4B: FLUX.2 klein and Z-Image): the type chosen in *Load CLIP* decides.

"""

NOTES = """
## How surely it was checked

Every row is compared with ComfyUI 0.30's own text encoding, in ComfyUI's own classes with small random weights
(`tests/host/test_models_contract.py`): tensor, attention mask and pooled output are equal bit for bit, and a small random
drawing model of the family draws the same latent through KSampler. What VERIFI writes and its states:
`tests/host/test_models_verifi.py`. Weights, layer gains, files and presets: `tests/host/test_models_nodes.py`; files read
by another process: `tests/host/test_models_restart.py`; weights and schedules behind stock nodes such as Set Timestep
Range, Concat, Average and Set Mask: `tests/host/test_models_travel.py`. Apart from the miniature, no picture of a full-size
model was looked at here.

## What the columns mean

- **Layers**: k is the input of decoder layer k; -k is the output of the k-th layer from the end.
- **Pictures**: whether the encoder is shown pictures in the way the model was trained with. Reference latents come from
  stock nodes behind the pool.
- **Writes**: whether *VERIFI Rewrite* can write with this encoder. Where it cannot, write with another CLIP and connect
  the text to *VLM Encode*.
- **Weights**: *exact*: a weight of 2 is the word given twice. *near*: it acts, but a word given twice would also move the
  words behind it. *none*: weights other than 0 and 1 are refused.

## Single models

- **Ideogram 4** has two encoder files. Twelve layers are equal; the last is taken behind the final norm with the
  vision-language file and without it with the language-model file, which cannot write. It was trained on JSON captions:
  VERIFI's system prompt for it asks for one.
- **FLUX.2 klein** is trained with padding to 512 tokens, which *VLM Encode* gives it. States of the pass that wrote a
  text have none; *encode the rewritten text as a prompt* stays closest to the training.
- **Qwen-Image** and its Edit versions share one row: with pictures it is asked as Edit is.
- **Ovis-Image** is trained with padding to 284 tokens, which *VLM Encode* gives it; ComfyUI's template has the stock node
  *ModelSamplingAuraFlow* (shift 3) in front of the sampler.
- **OmniGen2** is shown pictures as reference latents from stock nodes, not through its encoder.
- **Lumina 2** is asked with the system prompt "superior" of ComfyUI's own node.

## Not in the table

Their encoders are refused by name:

"""

OTHERS = """
LTX 2 and other models of ComfyUI are not compared with its own encoding yet and are refused by name too.
"""


def _layers(row: Profile) -> str:
    if not row.taps:
        return "every third"
    return ", ".join(map(str, row.taps))


def _line(row: Profile) -> str:
    cannot = row.cannot_write != ""
    cells = (
        row.title,
        f"`{row.key}`",
        row.loader or "-",
        _layers(row),
        row.combination if row.combination == LAP or len(row.taps) > 1 else "as it is",
        "yes" if row.pictures else "no",
        "no" if cannot else "yes",
        {"": "none", EXACT: "exact"}.get(row.weights, row.weights),
        row.rewrite_system,
        ", ".join(row.presets) or "-",
    )
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """The whole page."""
    names = (
        "Model",
        "Profile",
        "Load CLIP type",
        "Layers",
        "Combined",
        "Pictures",
        "Writes",
        "Weights",
        "Rewrites with",
        "Presets",
    )
    table = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names), *map(_line, PROFILES.values())]
    presets = [
        f"| {p.key} | {p.steps} | {p.cfg:g} | {p.sampler} | {p.scheduler} | {p.shift}"
        + (f" ({p.mu:g})" if p.shift == "fixed" else "")
        + " |"
        for p in SAMPLER_PRESETS.values()
    ]
    files = [f"- {row.title}: {', '.join(f'`{name}`' for name in row.files)}" for row in PROFILES.values() if row.files]
    return (
        HEAD
        + "\n".join(table)
        + "\n"
        + NOTES
        + "\n".join(f"- **{model.title}** {model.reason}." for model in NOT_SERVED)
        + "\n"
        + OTHERS
        + "\n## Presets of DiT Sampler\n\n| Preset | Steps | CFG | Sampler | Scheduler | Shift |\n| --- | --- | --- | --- |"
        + " --- | --- |\n"
        + "\n".join(presets)
        + "\n\n## Files of ComfyUI's own templates\n\nEncoder, drawing model, VAE.\n\n"
        + "\n".join(files)
        + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
