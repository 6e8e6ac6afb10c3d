"""Pictures in the VLM: the states of every image token are those of transformers' Qwen3-VL, and none is lost."""

import pytest
import torch
from harness.random_krea2 import LANGUAGE, VISION

LABELLED = [((64, 96),), ((96, 64), (64, 128)), ((32, 128), (160, 64), (96, 96))]


def picture(height, width, seed):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def qwen3vl(krea2_clip):
    """transformers' own Qwen3-VL with the weights of the host's text encoder."""
    from transformers import Qwen3VLConfig, Qwen3VLModel

    host = krea2_clip.cond_stage_model.qwen3vl_4b.transformer
    config = host.model.config
    text = dict(
        vocab_size=config.vocab_size,
        num_hidden_layers=config.num_hidden_layers,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "mrope_interleaved": True,
            "mrope_section": list(config.rope_dims),
        },
        **LANGUAGE,
    )
    vision = dict(out_hidden_size=LANGUAGE["hidden_size"], num_position_embeddings=2304, patch_size=16, **VISION)
    with torch.device("meta"):
        model = Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)).eval()
    weights = {
        name.replace("model.", "language_model.", 1) if name.startswith("model.") else name: tensor
        for name, tensor in host.state_dict().items()
    }
    model.load_state_dict(weights, assign=True)
    for module in model.modules():  # buffers of positions are computed, not stored
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                fresh = (
                    type(module)(module.config) if hasattr(module, "config") else type(module)(module.dim, module.theta)
                )
                module._buffers[name] = fresh._buffers[name]
    return model


def transformers_states(model, vlm, embedded, tokens, views, taps):
    """Layer inputs caught by hooks: ``output_hidden_states`` is recorded before the DeepStack addition."""
    from transformers import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(
        patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_resize=False, do_rescale=False
    )
    images = processor([view[0].movedim(-1, 0) for view in views], return_tensors="pt")
    pad = vlm.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    counts = iter(rows * columns for grid in embedded.grids for rows, columns in grid)
    ids = [token for one in tokens.ids for token in [one] * (next(counts) if one == pad else 1)]
    ids = torch.tensor([ids])
    caught = {}
    handles = [
        model.language_model.layers[tap].register_forward_pre_hook(
            lambda _, args, kwargs, tap=tap: caught.__setitem__(tap, args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        for tap in taps
    ]
    kinds = (ids == pad).int()
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds, **images)
    finally:
        for handle in handles:
            handle.remove()
    positions = model.get_rope_index(ids, kinds, image_grid_thw=images["image_grid_thw"])[0][:, 0]
    return ids, torch.stack([caught[tap] for tap in taps], dim=2), positions


@pytest.mark.parametrize("sizes", LABELLED)
@pytest.mark.parametrize("labels", [[], ["Image 1: ", "the dog: ", "图 3: "]])
def test_states_and_positions_equal_transformers(krea2_clip, bridge, qwen3vl, sizes, labels):
    from unifusion_pack.unifusion.messages import chat

    vlm = bridge("encoders.text_encoder").VLM(krea2_clip)
    views = [picture(*size, seed) for seed, size in enumerate(sizes)]
    tokens = vlm.tokenize(chat("Describe.", "put the first behind the second", [1] * len(views), labels[: len(views)]))
    vlm.load(400, 12)
    embedded = vlm.embed(tokens, [(view,) for view in views])
    taps = (0, 1, 2, 3, 5, 20, 35)
    ours = vlm.states(embedded, taps)
    ids, theirs, positions = transformers_states(qwen3vl, vlm, embedded, tokens, views, taps)
    assert ours.shape[1] == ids.shape[1] == len(embedded.roles)
    assert [tuple(grid[0]) for grid in embedded.grids] == [(h // 32, w // 32) for h, w in sizes]
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4 * theirs.abs().max().item())
    assert ours.std() > 0.1
    host_positions = vlm.transformer.build_image_inputs(embedded.embeds, embedded.info)[0]
    assert torch.equal(host_positions.long(), positions)


def test_every_image_token_knows_its_image(krea2_clip, bridge):
    run = bridge("actions.encode").run
    images = {"image0": picture(64, 96, 0), "image1": picture(128, 64, 1).repeat(2, 1, 1, 1)}
    hidden, negative, _ = run(
        krea2_clip, "x", profile="qwen3vl", selection="images and prompt", taps="2, 5", images=images
    )
    counts = hidden.count_by_role()
    expected = {f"image {k + 1}": rows * columns for k, ((rows, columns),) in enumerate(hidden.grids)}
    assert {role: count for role, count in counts.items() if role.startswith("image")} == expected
    assert len(expected) == 3
    assert {role for role in negative.count_by_role() if role.startswith("image")} == set(expected)


def test_a_picture_is_not_changed_by_words_behind_it(krea2_clip, bridge):
    run = bridge("actions.encode").run
    images = {"image0": picture(64, 96, 0)}
    first, second = (
        run(krea2_clip, prompt, profile="krea2", images=images)[0]
        for prompt in ("a dog", "a much longer prompt about a cat")
    )
    mask = first.roles >= 16
    count = int(mask.sum())
    assert count and count == int((second.roles >= 16).sum())
    torch.testing.assert_close(first.states[:, mask], second.states[:, second.roles >= 16], rtol=1e-5, atol=1e-4)


def test_tiles_are_views_of_one_image_with_the_whole_last(krea2_clip, bridge):
    from unifusion_pack.unifusion.references import combine, from_batch

    references = combine(from_batch(picture(256, 256, 3), "a", tiles=5), budget=30)
    hidden, _, report = bridge("actions.encode").run(
        krea2_clip, "x", profile="miniature", selection="images and prompt", taps="2, 5", references=references
    )
    assert hidden.grids == (((2, 2),) * 4 + ((2, 2),),)
    assert hidden.count_by_role()["image 1"] == 20
    assert "4 patches of about 2 x 2 and the whole of 2 x 2 = 20 tokens" in report
