"""One page about a run: what was trained on what, its curve, its pictures, what was left out."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

from .config import Config
from .curves import read_log
from .data.sample import Notes
from .encode_once import Encoded
from .examples import Contract
from .trainer import HELD_OUT, Trainer

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "img{max-width:100%;image-rendering:auto}table{border-collapse:collapse}td{padding:.15em .8em;border-bottom:1px solid #ddd}"
    "pre{background:#f4f4f4;padding:1em;overflow:auto}"
)


def _picture(path: Path, alternative: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alternative)}">'


def _table(rows: list[tuple[str, object]]) -> str:
    cells = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def _losses(out: Path) -> list[tuple[str, object]]:
    log = out / "log.jsonl"
    lines = read_log(log) if log.exists() else []
    rows: list[tuple[str, object]] = []
    for key, title in (("flow", "training loss"), (HELD_OUT, "held-out loss")):
        values = [(line["step"], line[key]) for line in lines if key in line]
        if values:
            (first, before), (last, after) = values[0], values[-1]
            rows.append((title, f"{before:.4f} at step {first}, {after:.4f} at step {last}"))
    return rows


def write_report(
    config: Config, contract: Contract, notes: Notes, done: Encoded, trainer: Trainer, weights: Path, seconds: float
) -> Path:
    """Write ``report.html`` into the run's folder; it needs no other file."""
    out = config.out_folder
    trained = sum(p.numel() for p in trainer.dit.parameters() if p.requires_grad)
    rows = [
        ("weights", weights),
        ("steps", f"{trainer.position.step} of {config.schedule.steps}"),
        ("trained", f"{config.train.what}, {trained / 1e6:,.2f} M parameters"),
        ("VLM", f"{contract.vlm}, layers {', '.join(map(str, contract.taps))}, as {contract.profile.title}"),
        ("encoded by this start", f"{done.latents} pictures, {done.states} conditions; {done.found} were in the cache"),
        ("time of this start", f"{seconds / 60:.1f} minutes"),
        ("processes", trainer.accelerator.num_processes),
        *_losses(out),
    ]
    parts = [f"<h1>{html.escape(out.name)}</h1>", _table(rows)]
    if (out / "curve.png").exists():
        parts += ["<h2>Curve</h2>", _picture(out / "curve.png", "losses over steps")]
    samples = sorted(out.glob("samples_*.png"), key=lambda path: int(path.stem.split("_")[1]))
    if samples:
        shown = samples if len(samples) <= 4 else [samples[i * (len(samples) - 1) // 3] for i in range(4)]
        listed = [*config.watch.prompts, *(edit.instruction for edit in config.watch.edits)]
        parts += ["<h2>Previews</h2>", "<ol>", *(f"<li>{html.escape(text)}</li>" for text in listed), "</ol>"]
        for path in shown:
            step = path.stem.split("_")[1]
            parts += [f"<h3>Step {step}</h3>", _picture(path, f"previews at step {step}")]
    left = "".join(f"<li>{html.escape(line)}</li>" for line in notes.lines())
    if left:
        parts += ["<h2>Left out or changed</h2>", f"<ul>{left}</ul>"]
    settings = json.dumps(config.model_dump(), indent=2, ensure_ascii=False)
    parts += ["<h2>Configuration</h2>", f"<pre>{html.escape(settings)}</pre>"]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(out.name)}</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
