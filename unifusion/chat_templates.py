"""How a chat is written down for each kind of language model: plain strings around what is said."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Template:
    """The strings around a system prompt, pictures, an instruction and an answer.

    Attributes:
        system: around the system prompt, ``{}`` is its place; empty for models that are given none.
        user: opens the user's turn.
        user_before_pictures: the same where a picture comes first; empty for the same.
        close: ends the user's turn.
        opener: opens the assistant's turn; empty where it is not opened.
        image: around one view of a picture, ``{}`` is its place.
        strip_user: the drawing model was trained without the opening of the user's turn, which then counts as system.
    """

    system: str = ""
    user: str = ""
    user_before_pictures: str = ""
    close: str = ""
    opener: str = ""
    image: str = "<|vision_start|>{}<|vision_end|>"
    strip_user: bool = True

    def opening(self, system: str, pictures: bool = False) -> list[tuple[str, bool]]:
        """What stands before the user's words: (text, whether the drawing model is not given it)."""
        before = self.system.replace("{}", system) if self.system else ""
        user = (self.user_before_pictures or self.user) if pictures else self.user
        return [(before, True), (user, self.strip_user)] if before else [(user, self.strip_user)]

    def control_tokens(self) -> list[str]:
        """What looks like a control token in its strings, without those around pictures and thoughts."""
        text = f"{self.system}{self.user}{self.close}{self.opener}"
        return [token for token in re.findall(r"<[^<>\s]+>|\[/?[A-Z_]+\]", text) if "think" not in token]


QWEN = Template(
    system="<|im_start|>system\n{}<|im_end|>\n",
    user="<|im_start|>user\n",
    close="<|im_end|>\n",
    opener="<|im_start|>assistant\n",
)
NO_THINKING = "<think>\n\n</think>\n\n"
QWEN_NO_THINKING = replace(QWEN, opener=QWEN.opener + NO_THINKING)  # what Qwen3 is to write without thinking aloud
QWEN_USER_ONLY = replace(QWEN, system="", strip_user=False)
KLEIN = replace(QWEN_USER_ONLY, opener=QWEN_NO_THINKING.opener)
BOOGU = replace(QWEN, opener="", strip_user=False)
# Its instruction opens the user's turn; ComfyUI cuts in front of the colon.
OVIS = replace(KLEIN, system="<|im_start|>user\n{}", user=": ", strip_user=False)
JOYIMAGE = replace(QWEN, system="<|im_start|>system\n \\n{}<|im_end|>\n")
MISTRAL = Template(system="[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]", user="[INST]", opener="[/INST]", strip_user=False)
BARE = Template(strip_user=False)
# Gemma has no system turn: the system prompt opens the user's.
GEMMA = Template(system="<start_of_turn>user\n{}\n\n", close="<end_of_turn>\n", opener="<start_of_turn>model\n")
LUMINA2 = Template(system="{} <Prompt Start> ", strip_user=False)
INTERNVL = replace(QWEN, image="<img>{}</img>")
SMOLVLM = Template(
    system="<|im_start|>System: {}<end_of_utterance>\n",
    user="User: ",
    user_before_pictures="User:",
    close="<end_of_utterance>\n",
    opener="Assistant:",
    image="<fake_token_around_image><global-img>{}<fake_token_around_image>",
)
LLAMA3 = Template(
    system="<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n",
    close="<|eot_id|>",
    opener="<|start_header_id|>assistant<|end_header_id|>\n\n",
)
