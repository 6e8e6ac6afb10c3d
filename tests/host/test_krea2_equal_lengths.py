"""A positive and a negative of one length: the stock sampler evaluates both as one batch, so they are pooled as one."""

import pytest
import torch

PAIRS = [("a red fox in the snow", "a red cat in the snow"), ("a red fox", "a red fox")]


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("prompt, negative", PAIRS)
def test_latents_are_the_stock_ones_bit_for_bit(krea2_clip, krea2_model, bridge, prompt, negative, sampler):
    import nodes

    encode = bridge("actions.encode").run
    states = [encode(krea2_clip, text)[0] for text in (prompt, negative)]
    assert states[0].tokens == states[1].tokens
    model, ours, below, *_ = bridge("actions.pool").run(krea2_model, states[0], negative=states[1])
    theirs, beneath = (
        krea2_clip.encode_from_tokens_scheduled(krea2_clip.tokenize(text)) for text in (prompt, negative)
    )
    latent = {"samples": torch.zeros(1, 16, 1, 8, 12)}
    drawn = [
        nodes.common_ksampler(m, 7, 4, 4.5, sampler, "simple", p, n, latent)[0]["samples"]
        for m, p, n in ((model, ours, below), (krea2_model, theirs, beneath))
    ]
    assert drawn[1].std() > 0.05 and torch.equal(*drawn)


def test_several_pictures_at_once_differ_by_rounding_alone(krea2_clip, krea2_model, bridge):
    """A batch of latents repeats the conditioning: stock pools every copy, in matrix products of another size."""
    import nodes

    prompt = "a red fox in the snow"
    hidden = bridge("actions.encode").run(krea2_clip, prompt)[0]
    model, ours, below, *_ = bridge("actions.pool").run(krea2_model, hidden)
    theirs = krea2_clip.encode_from_tokens_scheduled(krea2_clip.tokenize(prompt))
    latent = {"samples": torch.zeros(3, 16, 1, 8, 8)}
    drawn = [
        nodes.common_ksampler(m, 7, 4, 1.0, "euler", "simple", p, p, latent)[0]["samples"]
        for m, p in ((model, ours), (krea2_model, theirs))
    ]
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-4, rtol=1e-4)
