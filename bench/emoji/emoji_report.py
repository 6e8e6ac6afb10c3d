"""Table and plots from whatever runs are finished."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np

from recipes.emoji.emoji_words import TEST, TRAINING
from recipes.emoji.icon_sets import STYLES

from .emoji_reading import fit_reader, main_colours, mean_colours
from .emoji_runs import DONE, VARIANTS, Run, better_rate, finished, losses_on_validation
from .emoji_scores import DRAWN, SCORES, items, read_pictures
from .emoji_set import Comparison, EmojiSet
from .emoji_statistics import LEAST_SEEDS, Figure, difference, figure

matplotlib.use("Agg")
MEASURES = {  # name: (unit, digits, whether less is better)
    "flow loss": ("", 4, True),
    "gained by the words": ("flow loss without them - with them", 4, False),
    "colour error": ("of 255", 1, True),
    "main colour right": ("", 3, False),
    "category right": ("", 3, False),
}
LAP = VARIANTS[0].name
SHOWN = 12  # held-out words of the grid
LEAST_OF_A_CATEGORY = 40  # training names; smaller categories are not read


def rounds_of(comparison: Comparison, runs: list[Run]) -> dict[int, dict[str, list[Run]]]:
    """Steps -> variant -> its finished runs by seed: of the pooling rate with most seeds, and of several such the better."""
    rounds: dict[int, dict[str, list[Run]]] = {}
    for variant in VARIANTS:
        better = better_rate(comparison, variant)
        for steps in comparison.rounds:
            own = [
                [r for r in runs if (r.variant, r.pooling_rate, r.steps) == (variant, rate, steps)]
                for rate in comparison.pooling_rates
            ]
            most = max(own, key=lambda found: (len(found), bool(found) and found[0].pooling_rate == better))
            if most:
                rounds.setdefault(steps, {})[variant.name] = most
    return dict(sorted(rounds.items()))


def shown_round(rounds: dict[int, dict[str, list[Run]]]) -> int:
    """The longest round that every variant has a seed of; without one, the first."""
    whole = [steps for steps, chosen in rounds.items() if len(chosen) == len(VARIANTS)]
    return max(whole, default=min(rounds))


def measured(comparison: Comparison, emoji: EmojiSet, chosen: dict[str, list[Run]]) -> tuple[dict, dict]:
    """(measure -> variant -> seed -> values of items), and what the readers say of real pictures."""
    classes = sorted(
        {g for g in emoji.groups if g and sum(emoji.groups[t] == g for t in emoji.of(TRAINING)) >= LEAST_OF_A_CATEGORY}
    )
    reader = fit_reader(emoji, classes)
    things, styles = items(emoji)
    real = read_pictures(emoji.pictures[things, styles].numpy(), emoji, reader, classes)
    colours, main = (read(emoji.pictures[things, styles].numpy()) for read in (mean_colours, main_colours))
    groups = [emoji.groups[thing] for thing in things]
    common = max(classes, key=lambda c: sum(emoji.groups[t] == c for t in emoji.of(TRAINING)))
    known = [group for group in groups if group in classes]
    facts = {
        "categories": classes,
        "category right on real pictures": float(np.nanmean(real["category right"])),
        "category right by the commonest": known.count(common) / len(known),
        "colour error of their mean colour": float(np.abs(colours - colours.mean(0)).mean()),
        "main colour right by the commonest": float(np.bincount(main[main >= 0]).max() / len(main)),
    }
    values: dict = {measure: defaultdict(dict) for measure in MEASURES}
    for name, runs in chosen.items():
        for run in runs:
            scores = json.loads(run.file(comparison.out, SCORES).read_text())
            read = read_pictures(np.load(run.file(comparison.out, DRAWN)), emoji, reader, classes)
            values["flow loss"][name][run.seed] = whole = np.array(scores["losses"]).mean(1)
            values["gained by the words"][name][run.seed] = np.array(scores["without_words"]) - whole
            for measure, found in read.items():
                values[measure][name][run.seed] = found
    return values, facts


def _interval(ends: tuple[float, float], digits: int, sign: str = "") -> str:
    return f"{ends[0]:{sign}.{digits}f} to {ends[1]:{sign}.{digits}f}" if np.isfinite(ends[0]) else "one seed"


def table(values: dict, about: dict) -> str:
    """Markdown: every variant, then every difference to LAP."""
    lines = [
        "| measure | variant | parameters that read text | seeds | result | 95% over items | 95% over seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for measure, (unit, digits, less) in MEASURES.items():
        for name, own in values[measure].items():
            f = figure(np.stack(list(own.values())))
            title = f"{measure}{' (' + unit + ')' if unit else ''}, {'less' if less else 'more'} is better"
            lines.append(
                f"| {title} | {name} | {about[name]['pooling_parameters'] / 1e6:.1f} M | {f.count} | {f.value:.{digits}f} | "
                f"{_interval(f.items, digits)} | {_interval(f.seeds, digits)} |"
            )
    lines += [
        "",
        "| measure | difference | seeds | result | 95% over items | 95% over seeds | claimed |",
        "|---|---|---|---|---|---|---|",
    ]
    for measure, (_, digits, _) in MEASURES.items():
        for name, f in differences(values[measure]).items():
            lines.append(
                f"| {measure} | {name} - {LAP} | {f.count} | {f.value:+.{digits}f} | {_interval(f.items, digits, '+')} | "
                f"{_interval(f.seeds, digits, '+')} | {'yes' if f.clear else 'no'} |"
            )
    return "\n".join(lines)


def over_rounds(comparison: Comparison, rounds: dict[int, dict[str, list[Run]]]) -> str:
    """Markdown: flow loss of held-out words, and what the words gain, of every variant after every round."""
    header = " | ".join(f"{steps} steps" for steps in rounds)
    lines = [f"| variant | {header} |", "|---" * (1 + len(rounds)) + "|"]
    for variant in VARIANTS:
        cells = []
        for chosen in rounds.values():
            own = [json.loads(r.file(comparison.out, SCORES).read_text()) for r in chosen.get(variant.name, [])]
            loss = [np.mean(scores["losses"]) for scores in own]
            gain = [np.mean(scores["without_words"]) - value for scores, value in zip(own, loss)]
            cells.append(f"{np.mean(loss):.4f}, {np.mean(gain):+.4f} ({len(own)})" if own else "")
        lines.append(f"| {variant.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(values: dict[str, dict[int, np.ndarray]]) -> dict[str, Figure]:
    """Each variant's difference to LAP, over the seeds that both have."""
    if LAP not in values:
        return {}
    found = {name: difference(own, values[LAP]) for name, own in values.items() if name != LAP}
    return {name: f for name, f in found.items() if f is not None}


def silenced(comparison: Comparison, runs: list[Run], taps: tuple[int, ...]) -> dict:
    """What LAP reads, and what its loss gains where one layer is silenced: means over seeds and differences."""
    scores = {run.seed: json.loads(run.file(comparison.out, SCORES).read_text()) for run in runs}
    whole = {seed: np.array(s["losses"]).mean(1) for seed, s in scores.items()}
    shares = np.array([s["layers_read"] for s in scores.values()])
    return {
        "layers_read": {str(tap): [round(v, 4) for v in shares[:, i].tolist()] for i, tap in enumerate(taps)},
        "silenced": {
            str(tap): difference({seed: np.array(s["silenced"][str(tap)]) for seed, s in scores.items()}, whole)
            for tap in taps
        },
    }


def plot_curves(comparison: Comparison, chosen: dict[str, list[Run]], path: Path) -> None:
    """Loss on validation's words over the steps: every seed a line."""
    import matplotlib.pyplot as plt

    figure_, axes = plt.subplots(figsize=(8, 5))
    for number, (name, runs) in enumerate(chosen.items()):
        for run in runs:
            steps, losses = zip(*losses_on_validation(comparison.out / run.folder).items())
            label = f"{name} ({len(runs)} seed{'s' * (len(runs) > 1)})" if run is runs[0] else None
            axes.plot(steps, losses, color=plt.get_cmap("tab10")(number), linewidth=1.2, alpha=0.8, label=label)
    axes.set(xlabel="step", ylabel="flow loss on the words of validation")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    figure_.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure_)


def plot_words(comparison: Comparison, emoji: EmojiSet, chosen: dict[str, list[Run]], path: Path) -> None:
    """Held-out words, evenly spread over the test part: the real picture, and what each variant's first seed draws."""
    import matplotlib.pyplot as plt

    things, styles = items(emoji)
    places = np.linspace(0, len(things) - 1, SHOWN).astype(int)
    rows = {"real": emoji.pictures[things, styles].numpy()}
    rows |= {name: np.load(runs[0].file(comparison.out, DRAWN)) for name, runs in chosen.items()}
    figure_, axes = plt.subplots(len(rows), SHOWN, figsize=(SHOWN * 0.9, len(rows) * 0.95), squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items()):
        for cell, place in zip(line, places):
            cell.imshow(pictures[place], interpolation="nearest")
            cell.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=8)
    for cell, place in zip(axes[0], places):
        words = emoji.labels[things[place]].replace(" ", "\n", 2)
        cell.set_title(f"{words}\n({list(STYLES)[styles[place]]})", fontsize=6)
    figure_.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure_)


def plot_layers(found: dict, probes: dict[str, float], path: Path) -> None:
    """By layer: what a linear probe reads, what LAP reads, what silencing the layer costs it."""
    import matplotlib.pyplot as plt

    figure_, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
    layers = list(found["layers_read"])
    axes[0].bar(layers, [probes[f"layer {layer}"] for layer in layers], color="0.6")
    axes[0].axhline(probes["side by side"], color="0.3", linestyle="--", linewidth=1)
    axes[0].set_title("R2 of a linear probe (dashed: side by side)", fontsize=8)
    for seed in range(len(next(iter(found["layers_read"].values())))):
        axes[1].plot(layers, [found["layers_read"][layer][seed] for layer in layers], "o-", alpha=0.7)
    axes[1].set_ylim(bottom=0)
    axes[1].set_title("share of the layer in LAP's tokens, a line a seed", fontsize=8)
    costs = [found["silenced"][layer] for layer in layers]
    errors = [[c.value - c.items[0] for c in costs], [c.items[1] - c.value for c in costs]]
    axes[2].bar(layers, [c.value for c in costs], yerr=np.maximum(errors, 0), capsize=3, color="0.6")
    axes[2].set_title("flow loss gained where it is silenced (95% over items)", fontsize=8)
    for cell in axes:
        cell.set_xlabel("layer")
        cell.spines[["top", "right"]].set_visible(False)
    figure_.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure_)


def heading(comparison: Comparison, emoji: EmojiSet, chosen: dict[str, list[Run]], facts: dict, probes: dict) -> str:
    """What stands behind the table, in words."""
    steps = next(iter(chosen.values()))[0].steps
    counts = {name: len(runs) for name, runs in chosen.items()}
    rates = {name: f"{runs[0].pooling_rate:g}" for name, runs in chosen.items()}
    missing = [variant.name for variant in VARIANTS if variant.name not in chosen]
    tried = {run.pooling_rate for run in finished(comparison)}
    rate = (
        f"One pooling rate was tried ({min(tried):g}), so a variant may have a better one."
        if len(tried) == 1
        else f"Pooling rate of each (after {comparison.rates_at} steps the better one on validation's words): "
        + ", ".join(f"{name} {value}" for name, value in rates.items())
        + "."
    )
    read = ", ".join(f"{name} {value:.3f}" for name, value in probes.items())
    seeds = ", ".join(f"{name} {count}" for name, count in counts.items())
    lines = [
        f"{steps} steps of {comparison.conditions} captions with {comparison.levels} noise levels "
        f"({steps * comparison.conditions * comparison.levels:,} noise samples) a run, {comparison.side} x {comparison.side} "
        f"pixels, drawing model of {comparison.blocks} blocks of width {comparison.features}, layers "
        f"{', '.join(map(str, emoji.taps))} of SmolLM2-135M. {len(emoji.of(TRAINING))} names in {len(STYLES)} styles are "
        f"trained on; {len(emoji.of(TEST))} names, whose words no training caption has, are scored, each in one style.",
        "",
        f"Finished seeds: {seeds or 'none'}.{' Not run yet: ' + ', '.join(missing) + '.' if missing else ''} {rate}",
        f"A difference is claimed with {LEAST_SEEDS} seeds or more, where the intervals over items and over seeds both leave out "
        "zero.",
        "",
        f"The reader of categories is right on {facts['category right on real pictures']:.1%} of the real pictures of these "
        f"names. Without looking at the words: the commonest category is right on "
        f"{facts['category right by the commonest']:.1%}, the commonest colour on "
        f"{facts['main colour right by the commonest']:.1%}, and their mean colour is off by "
        f"{facts['colour error of their mean colour']:.1f}.",
        "",
        f"Linear probes before any training (R2 of the pictures at 6 x 6 pixels, words of validation): {read}.",
    ]
    return "\n".join(lines)


def _layers_words(found: dict) -> str:
    lines = [
        "| layer | share in LAP's tokens, by seed | loss gained where it is silenced | 95% over items |",
        "|---|---|---|---|",
    ]
    for layer, shares in found["layers_read"].items():
        f = found["silenced"][layer]
        lines.append(
            f"| {layer} | {', '.join(f'{v:.2f}' for v in shares)} | {f.value:+.4f} | {_interval(f.items, 4, '+')} |"
        )
    return "\n".join(lines)


def write(comparison: Comparison, emoji: EmojiSet, probes: dict[str, float], out: Path) -> str:
    """Everything into ``out``; the Markdown.

    Raises:
        ValueError: if no run is finished.
    """
    runs = [run for run in finished(comparison) if run.file(comparison.out, SCORES).is_file()]
    if not runs:
        raise ValueError(f"No run in {comparison.out.name} is finished yet; start python -m bench.emoji run first.")
    rounds = rounds_of(comparison, runs)
    steps = shown_round(rounds)
    chosen = rounds[steps]
    out.mkdir(parents=True, exist_ok=True)
    values, facts = measured(comparison, emoji, chosen)
    done = {run: json.loads(run.file(comparison.out, DONE).read_text()) for run in runs}
    text = [
        heading(comparison, emoji, chosen, facts, probes),
        "",
        table(values, {n: done[r[0]] for n, r in chosen.items()}),
    ]
    kept = {
        "comparison": {k: v for k, v in asdict(comparison).items() if k != "runs"},
        "steps": steps,
        "probes": probes,
        "facts": facts,
        "runs": list(done.values()),
        "figures": {
            m: {n: asdict(figure(np.stack(list(o.values())))) for n, o in v.items()} for m, v in values.items()
        },
        "differences": {m: {n: asdict(f) for n, f in differences(v).items()} for m, v in values.items()},
        "curves": {run.folder: losses_on_validation(comparison.out / run.folder) for run in runs},
    }
    plot_curves(comparison, chosen, out / "curves.png")
    plot_words(comparison, emoji, chosen, out / "words.png")
    text += [
        "",
        "Flow loss, what the words gain of it, and (seeds), after every round:",
        "",
        over_rounds(comparison, rounds),
    ]
    if LAP in chosen:
        found = silenced(comparison, chosen[LAP], emoji.taps)
        plot_layers(found, probes, out / "layers.png")
        page = chosen[LAP][0].file(comparison.out, DRAWN).with_suffix(".png")
        if page.is_file():
            shutil.copyfile(page, out / "inspector.png")
        text += ["", _layers_words(found)]
        kept["layers"] = {
            "read": found["layers_read"],
            "silenced": {k: asdict(f) for k, f in found["silenced"].items()},
        }
    (out / "emoji.json").write_text(json.dumps(_plain(kept), indent=1) + "\n")
    (out / "emoji.md").write_text("\n".join(text) + "\n")
    return "\n".join(text)


def _plain(value):
    """Infinite ends, which JSON has no number for, as null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
