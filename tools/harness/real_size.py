"""Krea 2 at its own sizes on a GPU that is not there (see ``fake_cuda``): 4.4 billion weights of text encoder, 12.8 of MODEL.

``python tools/harness/real_size.py encoding writing drawing`` drives nodes and prints as JSON what they did, ``... table`` the
memory they need beside the stock graph's. A process of its own, since the GPU stays until the process ends.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from harness.fake_cuda import GIB, TO_DEVICE, TO_HOST, WAIT, WEIGHTS, FakeCuda, Record, install  # noqa: E402

DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
MEGAPIXEL = 1024  # tokens of a picture of 1 MP
SMALL = 144  # tokens that Krea 2's own window of 512 gives a picture
TOKENS = (128, 512, 2048)  # of the table's prompts; its pictures are the same in each, so new in the first alone
WRITTEN = 4  # tokens that VERIFI writes in the tests

# Values of the device that the host waits for, each with its reason. Any other place is an error.
REASONS = {
    "comfy/text_encoders/qwen35.py:fast_pos_embed_interpolate": "ComfyUI makes the positions of a picture's patches on "
    "the device and reads them back; once a picture, not when its features are kept",
    "comfy/text_encoders/llama.py:forward": "ComfyUI finds the picture tokens by a mask, in the first three layers",
    "comfy/text_encoders/llama.py:generate": "ComfyUI reads the drawn token",
    "comfy/samplers.py:inner_sample": "ComfyUI asks whether the latent is empty, once a run",
    "comfy/samplers.py:max_denoise": "ComfyUI compares noise levels, once a run",
    "unifusion/comfy_bridge/encoders/writing.py:draw_all": "the drawn token: whether it ends the text, and what is said",
    "unifusion/comfy_bridge/encoders/prefix.py:_read": "the position behind the pictures, from ComfyUI's own rule; once for "
    "every set of pictures that is read",
    "unifusion/comfy_bridge/drawers/pooled_context.py:at_this_step": "the noise level of the step, only where a reference "
    "or words count for a part of the schedule",
    "unifusion/attribution.py:look": "the share of every layer, for Inspect's table",
}


def start(capacity: int = 48 * GIB):
    """The GPU, ComfyUI on it and the pack in ComfyUI; for the beginning of a process.

    Returns:
        (gpu, function that imports a module of the pack by its name)
    """
    gpu = install(capacity)
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    import comfy.options  # noqa: F401
    from comfy.cli_args import args

    args.disable_async_offload = args.disable_pinned_memory = True  # they need the driver itself
    spec = importlib.util.spec_from_file_location(
        "unifusion_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["unifusion_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["unifusion_pack"])
    return gpu, lambda name: importlib.import_module(f"unifusion_pack.{name}")


def make_clip(gpu: FakeCuda, weights: str = "bf16"):
    """Krea 2's own CLIP; with fp8 its vision tower and embeddings stay bf16, as in the files that creators load."""
    import comfy.sd
    import comfy.text_encoders.krea2 as krea2

    class Target:
        params = {}
        clip = staticmethod(krea2.te())
        tokenizer = krea2.Krea2Tokenizer

    with gpu.models():
        clip = comfy.sd.CLIP(Target, model_options={"dtype": torch.bfloat16})
        if weights == "fp8":
            for module in clip.cond_stage_model.qwen3vl_4b.transformer.model.layers.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight = torch.nn.Parameter(module.weight.to(DTYPES[weights]), requires_grad=False)
    return clip


def make_model(gpu: FakeCuda, weights: str = "bf16"):
    """Krea 2's own MODEL, as the stock loader makes it."""
    import comfy.ldm.krea2.model
    import comfy.model_base
    import comfy.ops
    import comfy.sd

    with gpu.models():
        network = comfy.ldm.krea2.model.SingleStreamDiT(dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init)
        options = {"dtype": DTYPES[weights]}
        model = comfy.sd.load_diffusion_model_state_dict(network.state_dict(), model_options=options)
    # Noise levels are numbers that the sampler reads, not weights.
    model.model.model_sampling = comfy.model_base.model_sampling(model.model.model_config, model.model.model_type)
    model.model.model_sampling.stays_in_main_memory = True
    return model


def words(tokens: int) -> str:
    """A prompt of ``tokens`` tokens."""
    return " ".join("fox snow red cat blue house tree lake stone bird".split()[i % 10] for i in range(tokens))


def pictures(count: int, first: int = 0) -> list[torch.Tensor]:
    """Different pictures of 1 MP."""
    return [torch.full((1, 1024, 1024, 3), (first + number) % 97 / 97) for number in range(count)]


def latent() -> dict:
    """An empty latent of 1024 x 1024 pixels."""
    return {"samples": torch.zeros(1, 16, 128, 128)}


class Scene:
    """The pack's nodes on the models."""

    def __init__(self, weights: str = "bf16", capacity: int = 48 * GIB):
        self.gpu, self.pack = start(capacity)
        self.nodes = {cls.define_schema().node_id: cls for cls in self.pack("nodes.extension").NODES}
        self.clip, self.model = make_clip(self.gpu, weights), make_model(self.gpu, weights)
        self.gpu.values |= dict.fromkeys(REASONS, 0)
        self.gpu.values["comfy/samplers.py:max_denoise"] = 1.0
        self.gpu.values["unifusion/comfy_bridge/drawers/pooled_context.py:at_this_step"] = 0.7
        self.see(0)
        self.written()

    def see(self, tokens: int) -> None:
        """How many tokens of pictures the next prompts hold: what ComfyUI's mask of them would say."""
        self.gpu.values["comfy/text_encoders/llama.py:forward"] = tokens

    def written(self, tokens: int = WRITTEN) -> None:
        """The tokens that the encoder draws next: words, then the end."""
        config = self.clip.cond_stage_model.qwen3vl_4b.transformer.model.config
        drawn = 0

        def token(_tensor) -> int:
            nonlocal drawn
            drawn += 1
            return 1000 + drawn if drawn % (tokens + 1) else config.stop_tokens[0]

        for place in ("unifusion/comfy_bridge/encoders/writing.py:draw_all", "comfy/text_encoders/llama.py:generate"):
            self.gpu.values[place] = token

    def run(self, node: str, **inputs):
        """Outputs of a node; what it puts off until another takes it is computed at once."""
        return tuple(
            one.value() if hasattr(one, "unifusion_later") else one for one in self.nodes[node].execute(**inputs).args
        )

    def references(self, count: int, tokens: int, first: int = 0, **more) -> list | None:
        self.see(count * tokens)
        reference = self.pack("unifusion.references").Reference
        return [
            reference(picture, label=f"Image {number}", tokens=tokens, **more)
            for number, picture in enumerate(pictures(count, first), 1)
        ] or None

    def encode(self, tokens: int = 128, count: int = 0, first: int = 0, prompt: str = "", **more):
        return self.run(
            "UniFusionVLMEncode",
            clip=self.clip,
            prompt=prompt or words(tokens),
            profile="auto",
            selection="as the profile",
            references=self.references(count, MEGAPIXEL, first, **more),
        )

    def rewrite(self, tokens: int = 32, count: int = 0, first: int = 0, written: int = WRITTEN, sampling=None):
        self.written(written)
        return self.run(
            "UniFusionVerifiRewrite",
            clip=self.clip,
            prompt=words(tokens),
            profile="auto",
            system_prompt="as the profile",
            custom_system_prompt="",
            selection="as the profile",
            sampling=sampling or {"sampling": "greedy"},
            seed=1,
            min_length=0,
            max_length=written + 8,
            prefill="",
            edited_text="",
            references=self.references(count, SMALL, first),
        )

    def pool(self, positive, negative=None, **more):
        return self.run(
            "UniFusionLayerwiseAttentionPool",
            model=self.model,
            positive=positive,
            negative=negative,
            **{"gain_preset": "off", **more},
        )

    def draw(self, model, positive, negative, *, steps: int = 1, cfg: float = 4.0, **more):
        preset = dict(
            preset="custom", steps=steps, cfg=cfg, sampler="euler", scheduler="simple", shift="fixed", mu=1.15
        )
        return self.run(
            "UniFusionDiTSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent(),
            seed=1,
            preset=preset,
            denoise=1.0,
            **more,
        )


def found(record: Record) -> dict:
    """What a record says, for JSON."""
    return {
        "ours": record.of(TO_DEVICE, TO_HOST, WAIT, ours=True),
        "host": record.of(TO_DEVICE, TO_HOST, WAIT, ours=False),
        "weights": sum(record.of(WEIGHTS).values()),
        "peak": record.peak,
        "before": record.before,
    }


class Drive:
    """Drives nodes and keeps what each did."""

    def __init__(self):
        self.scene = Scene()
        self.seen: dict[str, dict] = {}

    def did(self, name: str, call: Callable, *args, **kwargs):
        with self.scene.gpu.recording() as record:
            out = call(*args, **kwargs)
        self.seen[name] = found(record)
        return out

    def writing(self) -> None:
        scene = self.scene
        self.did("verifi", scene.rewrite)
        self.did("verifi, twice the tokens", scene.rewrite, tokens=33, written=2 * WRITTEN)
        self.did("verifi, 1 picture", scene.rewrite, count=1)
        sampled = {"temperature": 0.7, "top_k": 64, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05}
        self.did("verifi, sampled", scene.rewrite, tokens=34, sampling={"sampling": "sample", **sampled})

    def encoding(self) -> None:
        import comfy.model_management

        scene, did = self.scene, self.did
        did("encode", scene.encode)
        did("encode, 1 picture", scene.encode, count=1)
        did("encode, 3 pictures", scene.encode, count=3)
        did("encode, 3 pictures, another prompt", scene.encode, count=3, prompt="a cat beside the second")
        comfy.model_management.unload_all_models()
        self.seen["encoder unloaded"] = {"live": scene.gpu.live}
        did("encode, loaded again", scene.encode, prompt="after it was unloaded")

    def drawing(self) -> None:
        import comfy.model_management

        scene, did = self.scene, self.did
        hidden, negative = scene.encode(tokens=64)[:2]
        weighted = did("encode, weights", scene.encode, prompt="a (red:1.4) fox and a (cat:-0.5)")[0]
        ranged = did("encode, schedule", scene.encode, count=1, start=0.0, end=0.5, strength=1.5)[:2]
        mask = torch.zeros(1, 64, 64)
        mask[:, :, :32] = 1
        placed = did("region", scene.run, "UniFusionRegion", hidden_states=hidden, mask=mask)[0]
        ready, pos, neg = did("pool", scene.pool, hidden, negative)[:3]
        gains = dict(gain_preset="custom", gains="11=1.4")
        weighed = did("pool, weights and gains", scene.pool, weighted, negative, **gains)
        placed = did("pool, region", scene.pool, placed, negative)
        images = did("pool, pictures", scene.pool, ranged[0], negative, images_only=ranged[1])
        did("inspect", scene.run, "UniFusionInspect", hidden_states=hidden, model=scene.model)
        did("draw", scene.draw, ready, pos, neg)
        for steps in (1, 2):
            did(f"draw, weights, {steps}", scene.draw, *weighed[:3], steps=steps, cfg=1.0)
            did(f"draw, region, {steps}", scene.draw, *placed[:3], steps=steps, cfg=1.0)
            did(f"draw, schedule, {steps}", scene.draw, *images[:3], steps=steps, cfg=1.0)
        did("draw, image guidance", scene.draw, *images[:3], images_only=images[3], image_guidance=2.0)
        guide = dict(model=ready, positive=pos, negative=neg, cfg=4.0, image_guidance=-1.0)
        did("guider", scene.run, "UniFusionGuider", **guide)
        self._files(hidden, pos)
        comfy.model_management.unload_all_models()
        self.seen["model unloaded"] = {"live": scene.gpu.live}
        did("draw, loaded again", scene.draw, ready, pos, neg, cfg=1.0)

    def _files(self, hidden, conditioning) -> None:
        import folder_paths

        scene = self.scene
        with tempfile.TemporaryDirectory() as folder:
            folder_paths.set_output_directory(folder)
            save = scene.nodes["UniFusionSaveConditioning"]
            save.hidden = type("Hidden", (), {"prompt": None, "extra_pnginfo": None})
            for what, value in (("states", hidden), ("conditioning", conditioning)):
                file = self.did(f"save {what}", save.execute, positive=value, filename_prefix=what).args[0]
                given = dict(file=file, model=scene.model)
                self.did(f"load {what}", scene.run, "UniFusionLoadConditioning", **given)


class Sizes:
    """Peak of live bytes over prompts and pictures, beside the stock graph's."""

    def __init__(self, weights: str):
        self.scene, self.weights = Scene(weights), weights
        self.chat = self.scene.pack("unifusion.messages").chat
        self.system = self.scene.pack("unifusion.profiles").PROFILES["krea2"].system

    def peak(self, call: Callable, *arguments):
        """(what it returns, most GiB alive on the device during the call, weights included), nothing loaded before it."""
        import comfy.model_management

        comfy.model_management.unload_all_models()
        with self.scene.gpu.recording() as record:
            out = call(*arguments)
        return out, record.peak / GIB

    def stock(self, prompt: str, count: int) -> list:
        """CLIPTextEncode of the same tokens: ComfyUI's own template with pictures loses the system prompt."""
        self.scene.see(count * MEGAPIXEL)
        clip = self.scene.clip
        template = "".join(segment.text for segment in self.chat(self.system, "{}", [1] * count))
        return clip.encode_from_tokens_scheduled(
            clip.tokenize(prompt, llama_template=template, images=pictures(count, first=50))
        )

    def stock_step(self, positive: list, negative: list) -> None:
        import nodes

        nodes.common_ksampler(self.scene.model, 1, 1, 4.0, "euler", "simple", positive, negative, latent())

    def rows(self) -> list[dict]:
        found = []
        for tokens, count in itertools.product(TOKENS, (0, 1, 3)):
            (hidden, below, _), encode = self.peak(self.scene.encode, tokens, count)
            positive, stock_encode = self.peak(self.stock, words(tokens), count)
            (model, above, under, *_), pool = self.peak(self.scene.pool, hidden, below)
            _, step = self.peak(self.scene.draw, model, above, under)
            _, stock_step = self.peak(self.stock_step, positive, self.stock("", 0))
            pictures_of_row = f"{count}, {'new' if tokens == TOKENS[0] else 'known'}" if count else "0"
            row = dict(
                weights=self.weights, tokens=tokens, pictures=pictures_of_row, encode=encode, stock_encode=stock_encode
            )
            found.append(row | dict(pool=pool, step=step, stock_step=stock_step))
            print(found[-1], file=sys.stderr, flush=True)
        return found


def size_table() -> str:
    """Markdown of ``sizes bf16`` and ``sizes fp8``, each in a process of its own."""
    import subprocess

    head = ["weights", "tokens", "pictures", "encode", "stock encode", "pool", "step", "stock step"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for weights in DTYPES:
        done = subprocess.run(
            [sys.executable, __file__, "sizes", weights], stdout=subprocess.PIPE, text=True, check=True
        )
        for row in json.loads(done.stdout.splitlines()[-1]):
            lines.append("| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    return "\n".join(lines)


def main(what: str, *more: str) -> None:
    if what == "table":
        print(size_table())
        return
    with torch.inference_mode():
        if what == "sizes":
            print("\n" + json.dumps(Sizes(*more).rows()))
            return
        drive = Drive()
        for part in (what, *more):
            getattr(drive, part)()
        print("\n" + json.dumps(drive.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
