"""Test nodes inside a real server: a Krea 2 CLIP of small random weights, which the stock CLIPLoader cannot build
(it takes the sizes of a Qwen3-VL from a table). MODEL, VAE and LoRA come from files through the stock loaders."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # behind the host's own modules


class RandomKrea2Clip:
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"seed": ("INT", {"default": 0})}, "optional": {"layers": ("INT", {"default": 36})}}
    )
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load"
    CATEGORY = "tests"

    def load(self, seed, layers=36):
        from harness.random_krea2 import LANGUAGE, make_clip

        return (make_clip(seed, language={**LANGUAGE, "num_hidden_layers": layers}),)


class Memory:
    """Resident memory in MB, the models the host holds and bytes that the pack keeps for reuse, after a collection."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"after": ("*",), "number": ("INT", {"default": 0})}})
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"
    CATEGORY = "tests"

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def look(self, after, number):
        import gc

        import comfy.model_management
        import psutil

        gc.collect()
        loaded = [
            type(entry.model.model).__name__
            for entry in comfy.model_management.current_loaded_models
            if entry.model is not None
        ]
        stores = [
            store for name, kept in list(sys.modules.items()) if name.endswith(".encoders.kept") for store in kept.ALIVE
        ]
        return {
            "ui": {
                "kept": [sum(store.nbytes for store in stores)],
                "rss": [psutil.Process().memory_info().rss / 2**20],
                "loaded": sorted(loaded),
                "objects": [len(gc.get_objects())],
            }
        }


NODE_CLASS_MAPPINGS = {"TestRandomKrea2Clip": RandomKrea2Clip, "TestMemory": Memory}
