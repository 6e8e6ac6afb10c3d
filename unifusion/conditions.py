"""What a drawing model is conditioned on, asked of any encoder in one way: the nodes and the trainer call this."""

from __future__ import annotations

from collections.abc import Sequence

from .hidden_states import HiddenStates, take
from .messages import Segment, chat
from .profiles import Profile
from .prompt_weights import plain_text
from .references import PreparedReference
from .selection import selection_mask


def words_of_prompt(prompt: str | Sequence[tuple[str, float]]) -> str:
    """A prompt without its weights."""
    return prompt if isinstance(prompt, str) else plain_text(list(prompt))


def label_texts(references: Sequence[PreparedReference]) -> list[str]:
    """What stands in front of each picture in the prompt."""
    return [f"{reference.label}: " if reference.label else "" for reference in references]


def encode_segments(
    profile: Profile,
    system: str,
    prompt: str | Sequence[tuple[str, float]],
    references: Sequence[PreparedReference] = (),
    answer: str = "",
) -> list[Segment]:
    """The chat of a plain encode; ``answer`` is what the encoder wrote, where it did (VERIFI)."""
    return chat(
        system,
        prompt,
        [len(reference.views) for reference in references],
        label_texts(references),
        answer,
        strengths=[reference.strength for reference in references],
        template=profile.writing_chat if answer else profile.chat,
    )


def dropped_tokens(profile: Profile, system: str, prompt: str | Sequence[tuple[str, float]], pictures: bool) -> int:
    """Tokens at the beginning that the drawing model is not given, whatever they are; 0 = by the chat."""
    return profile.drop if system == profile.system_for(words_of_prompt(prompt), pictures) else 0


def selected_tokens(everything: HiddenStates, selection: str, opener: int) -> HiddenStates:
    """The tokens that condition the picture, of all tokens of a chat whose assistant's turn opens at ``opener``."""
    return take(everything, selection_mask(everything.roles, selection, opener))
