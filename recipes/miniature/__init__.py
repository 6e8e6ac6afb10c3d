"""The miniature world: drawn scenes, their words, a scorer, and the models trained on them.

``rng`` is a numpy Generator everywhere; pictures are uint8 (128, 128, 3) RGB.

* :mod:`.scene` -- ``Thing``, ``Scene``, ``Edit``, ``Composition`` (frozen dataclasses, ``apply``);
  ``sample_scene(rng, held_out=False)``, ``sample_edit(rng, scene, kind=None)``,
  ``sample_composition(rng, first, second)``; ``is_held_out(scene)``: what training never shows.
* :mod:`.render` -- ``sample_jitter(rng)``, ``render(scene, rng=None, jitter=...)``, ``render_batch(scenes, rng,
  jitters=...)``, ``foreground(scene, jitter)``.  A picture and its edit share one jitter.
* :mod:`.captions` -- ``caption(scene)``, ``parse_caption(text)``, ``PromptSpec``, ``keeps_attributes(spec, scene)``,
  what a prompt states.
* :mod:`.wordings` -- ``user_prompt(scene, rng, split, detail) -> (text, spec)``, ``edit_instruction(scene, edit, rng,
  split)``, ``two_picture_instruction(first, second, composition, rng, split)``, ``caption_request(rng)``;
  ``split="test"`` takes wordings that training never uses.
* :mod:`.scorer` -- ``read_scene(picture)``, ``score(picture, scene)``, ``score_things(found, asked)``.
* :mod:`.frozen_vlm` -- the VLM for training use: ``load_vlm()``, ``encode_batch(...)``; trained by :mod:`.vlm_train`,
  scored by :mod:`.vlm_score`; :mod:`.vocabulary` -- its tokenizer.
* :mod:`.recipe` -- everything in one command.

What ComfyUI needs of the result is ``unifusion/miniature.py`` and ``unifusion/weights``.
"""
