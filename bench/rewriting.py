"""VERIFI in one pass, beside writing the text and then encoding it.

Weights are random and shared by all sides: a Qwen3-VL of 36 layers in ComfyUI's own class, wide enough that matrix
products take the time. Every side writes the same number of tokens from the same token ids.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from .host import pack
from .measure import Figure, figure, interleaved
from .random_sizes import keep_no_states

LANGUAGE = dict(hidden_size=256, intermediate_size=1024, num_attention_heads=4, num_key_value_heads=2)
SETTINGS = dict(temperature=0.7, top_p=0.95, top_k=64, min_p=0.05, repetition_penalty=1.05)  # TextGenerate's own
LENGTHS = {16: 11, 64: 7, 256: 3}  # tokens written: runs
VARIATIONS = 4  # texts at once
PROMPT = "a red fox in the snow"
SYSTEM = "photograph"


class Sides:
    """The same request to this pack, to ComfyUI's own nodes and to transformers."""

    def __init__(self):
        self.rewrite = pack("unifusion.comfy_bridge.actions.rewrite")
        self.kept = pack("unifusion.comfy_bridge.encoders.kept")
        from harness.random_krea2 import make_clip

        self.clip = keep_no_states(make_clip(language=LANGUAGE))
        self.vlm = self.rewrite.VLM(self.clip)
        system = pack("unifusion.system_prompts").SYSTEM_PROMPTS[SYSTEM]
        chat = pack("unifusion.messages").chat
        self.asked = "".join(segment.text for segment in chat(system, PROMPT))

    def verifi(self, length: int, selection: str = "images and rewritten text", variations: int = 1):
        """Prompt to hidden states, as the node does it; the negative is kept from the warm-up, as in use."""
        self.kept.states_store(self.vlm).forget(lambda one: one.written)  # every run writes anew
        return self.rewrite.run_variations(
            self.clip,
            PROMPT,
            profile="krea2",
            system_prompt=SYSTEM,
            selection=selection,
            sampling={"sampling": "sample", **SETTINGS},
            seed=3,
            max_length=length,
            variations=variations,
        )

    def text_generate(self, length: int) -> list[int]:
        """Stock TextGenerate."""
        ids = self.clip.generate(self.clip.tokenize(self.asked), do_sample=True, max_length=length, seed=3, **SETTINGS)
        self.clip.decode(ids)
        return ids

    def generate_and_encode(self, length: int):
        """Stock TextGenerate, then stock CLIPTextEncode of its text."""
        text = self.clip.decode(self.text_generate(length))
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def stop_after(self, length: int):
        """Make the text end by itself after ``length`` tokens: the next token drawn becomes the one that ends it."""
        drawn = self.text_generate(length + 1)
        if drawn[-1] in drawn[:-1]:
            raise RuntimeError(f"The text of random weights repeats token {drawn[-1]}; choose another seed.")
        self.vlm.decoder.config.stop_tokens = [drawn[-1]]

    def go_on(self):
        """Back to the model's own stop tokens."""
        del self.vlm.decoder.config.stop_tokens


class Transformers:
    """The same language model in transformers, over the same memory."""

    def __init__(self, sides: Sides):
        from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

        config = sides.vlm.decoder.config
        text = dict(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=sides.vlm.layers,
            intermediate_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters=dict(
                rope_type="default",
                rope_theta=config.rope_theta,
                mrope_interleaved=True,
                mrope_section=config.rope_dims,
            ),
            tie_word_embeddings=True,
        )
        vision = dict(
            depth=1,
            hidden_size=64,
            intermediate_size=64,
            num_heads=1,
            out_hidden_size=config.hidden_size,
            deepstack_visual_indexes=[],
        )
        with torch.device("meta"):
            model = Qwen3VLForConditionalGeneration(
                Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
            )
        weights = {f"model.language_model.{name}": value for name, value in sides.vlm.decoder.state_dict().items()}
        model.model.visual = None
        model.load_state_dict(weights, strict=False, assign=True)
        model.tie_weights()
        rotary = model.model.language_model.rotary_emb
        model.model.language_model.rotary_emb = type(rotary)(model.config.text_config)
        left = [name for name, value in model.named_parameters() if value.is_meta]
        if left:
            raise RuntimeError(f"weights of transformers' model that were not filled: {left}")
        self.model, self.sides = model.eval(), sides
        self.taps = pack("unifusion.profiles").PROFILES["krea2"].taps

    def generate(self, length: int) -> list[int]:
        """Token ids that greedy decoding writes."""
        ids = torch.tensor([self.sides.vlm.tokenizer(self.sides.asked)["input_ids"]])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=151643,
        )
        return out[0, ids.shape[1] :].tolist()

    def generate_and_encode(self, length: int) -> torch.Tensor:
        """Write, put the text into Krea 2's template, and take the tapped states of another forward pass."""
        messages, tokenizer = pack("unifusion.messages"), self.sides.vlm.tokenizer
        text = tokenizer.decode(self.generate(length), skip_special_tokens=True)
        system = pack("unifusion.profiles").PROFILES["krea2"].system
        asked = "".join(segment.text for segment in messages.chat(system, text))
        ids = torch.tensor([tokenizer(asked)["input_ids"]])
        states = self.model.model(ids, output_hidden_states=True).hidden_states
        return torch.stack([states[tap] for tap in self.taps], dim=2)


ALTERNATIVES = {
    "write and encode": "ComfyUI's TextGenerate, then CLIPTextEncode",
    "write": "ComfyUI's TextGenerate alone",
    "transformers": "transformers' generate, then a forward pass",
}


def _at_length(sides: Sides, other: Transformers, length: int, runs: int, ends: bool) -> list[Figure]:
    """Every side writes ``length`` tokens; the text ends by itself, or is cut at the limit."""
    limit = length
    if ends:
        sides.stop_after(length)
        limit += 1
    calls = {
        "verifi": partial(sides.verifi, limit),
        "write": partial(sides.text_generate, limit),
        "write and encode": partial(sides.generate_and_encode, limit),
    }
    if not ends:
        calls["transformers"] = partial(other.generate_and_encode, length)
    seconds = interleaved(calls, runs, warm_up=False)
    if ends:
        sides.go_on()
    name = f"VERIFI to conditioning, {length} tokens, {'ended by itself' if ends else 'cut at the limit'}"
    return [
        figure(name, title, list(zip(seconds["verifi"], seconds[key])))
        for key, title in ALTERNATIVES.items()
        if key in seconds
    ]


def _peak_megabytes(call: Callable[[], object]) -> float:
    """Highest sum of tensors that a call holds at one time, from the profiler's record of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes)) / 2**20


def figures(lengths: dict[int, int] = LENGTHS) -> list[Figure]:
    """Time at several lengths and of several texts at once; peak memory."""
    lines = []
    with torch.inference_mode():
        sides = Sides()
        other = Transformers(sides)
        for warm_up in (sides.verifi, sides.generate_and_encode, other.generate_and_encode):
            warm_up(4)
        for length, runs in lengths.items():
            for ends in (True, False):
                lines += _at_length(sides, other, length, runs, ends)
        several = interleaved(
            {str(number): partial(sides.verifi, 64, variations=number) for number in (VARIATIONS, 1)},
            LENGTHS[64],
            warm_up=False,
        )
        lines.append(
            figure(
                f"VERIFI, {VARIATIONS} variations of 64 tokens",
                "this pack's own one",
                list(zip(several[str(VARIATIONS)], several["1"])),
            )
        )
        if not torch.cuda.is_available():
            pair = tuple(_peak_megabytes(partial(side, 64)) for side in (sides.verifi, sides.generate_and_encode))
            lines.append(
                figure(
                    "VERIFI, 64 tokens: peak of tensors beside the weights",
                    ALTERNATIVES["write and encode"],
                    [pair],
                    "MB",
                )
            )
    return lines


if __name__ == "__main__":
    for line in figures():
        print(
            f"{line.ratio:6.3f} ({line.low:.3f}-{line.high:.3f})  {line.ours:8.3f} {line.theirs:8.3f} {line.unit}  "
            f"{line.name} / {line.other}"
        )
