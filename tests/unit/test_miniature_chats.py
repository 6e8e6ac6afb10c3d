"""One chat template and one selection rule: what the miniature is trained on is what the nodes write down and select."""

import numpy as np
import pytest
import torch

from recipes.miniature.captions import caption
from recipes.miniature.chats import Chat, ChatTokenizer
from recipes.miniature.scene import sample_scene
from recipes.miniature.vocabulary import load_tokenizer
from recipes.miniature.wordings import user_prompt
from unifusion.chat_templates import QWEN, QWEN_USER_ONLY
from unifusion.messages import chat, spelled_as_meant, tokenize
from unifusion.miniature import IMAGE_TOKENS, VLM_FOLDER
from unifusion.selection import SELECTIONS, selection_mask
from unifusion.system_prompts import MINIATURE_SYSTEM

ODD = (
    "", "  leading", "trailing \n", "\nfirst a line end", "A LARGE RED HEART", "naïve – “x”", "ein roter Kreis", "红色的圆",
    "one\n\n\ntwo", "x\u0301y", "2 circles!!", "don't", "crcle reed", "tab\tx", "<b>", "日本の丸 and star", "🦊", ".", "    ",
)  # fmt: skip
PICTURE = np.zeros((128, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def tokenizer():
    return ChatTokenizer(load_tokenizer(VLM_FOLDER))


def some_chats(count: int = 400):
    """With and without system prompt, pictures, several views, labels and answer."""
    rng = np.random.default_rng(0)
    for number in range(count):
        scene = sample_scene(rng)
        words = user_prompt(scene, rng, "train")[0] if number % 2 else ODD[number // 2 % len(ODD)]
        pictures = [[PICTURE] * int(rng.integers(1, 4)) for _ in range(rng.integers(0, 4))]
        labels = tuple(f"Image {k + 1}: " for k in range(len(pictures))) if rng.random() < 0.5 else ()
        answer = (None, "", caption(scene))[rng.integers(3)]
        yield Chat(words, pictures, answer, (MINIATURE_SYSTEM, "", "describe it")[rng.integers(3)], labels)


def as_the_nodes_read(said: Chat, words) -> tuple[list[int], list[int], int]:
    """(ids with views expanded, roles, first token of the assistant's turn) of the whole text, tokenised at once."""
    segments = chat(
        said.system,
        spelled_as_meant(said.instruction, words.tokenizer),
        [len(views) for views in said.pictures],
        said.labels,
        said.answer or "",
        template=QWEN if said.system else QWEN_USER_ONLY,
    )
    tokens = tokenize(segments, words.tokenizer)
    ids, roles, opener = [], [], 0
    for index, (number, role) in enumerate(zip(tokens.ids, tokens.roles, strict=True)):
        if index == tokens.opener:
            opener = len(ids)
        count = IMAGE_TOKENS if number == words.image_pad else 1
        ids += [number] * count
        roles += [role] * count
    return ids, roles, opener


def test_ids_roles_and_selections_are_those_of_the_nodes(tokenizer):
    for said in some_chats():
        ids, roles, start = tokenizer(said)
        expected, expected_roles, opener = as_the_nodes_read(said, tokenizer)
        if said.answer is not None:
            assert ids[-1] == tokenizer.end
            ids, roles = ids[:-1], roles[:-1]
        assert ids == expected and roles == expected_roles and start == opener + 3, said
        for selection in SELECTIONS:
            kept = tokenizer.collate([said], selections=[selection]).selected[0]
            wanted = selection_mask(torch.tensor(expected_roles), selection, opener)
            assert torch.equal(kept[: len(wanted)], wanted) and not kept[len(wanted) :].any(), said


def test_the_text_is_qwens_chat(tokenizer):
    """Written out by hand once, so that a change of the template is seen."""
    said = Chat("a red circle", [[PICTURE], [PICTURE] * 2], "on a white background: a star", "say it", ("A: ", ""))
    view = "<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>"
    text = (
        f"<|im_start|>system\nsay it<|im_end|>\n<|im_start|>user\nA: {view}{view}{view}a red circle<|im_end|>\n"
        "<|im_start|>assistant\non a white background: a star<|im_end|>"
    )
    assert tokenizer(said)[0] == list(tokenizer.tokenizer(text)["input_ids"])
    bare = tokenizer(Chat("a red circle", system=""))[0]
    text = "<|im_start|>user\na red circle<|im_end|>\n<|im_start|>assistant\n"
    assert bare == list(tokenizer.tokenizer(text)["input_ids"])
