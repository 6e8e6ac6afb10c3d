"""VERIFI (paper, "Rewriting in one pass"): the VLM rewrites the prompt, and what it wrote conditions the picture.

Sequence: system prompt, pictures, instruction, rewritten text. The states of the rewritten text are those of the pass
that wrote it, so every written token still attends to the pictures and to the original prompt. Here is what does not
depend on the host: the choices, the limits, and the detection of answers that are no rewrite.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch

from .hidden_states import GENERATED, IMAGE
from .selection import ENCODE_AGAIN, selection_mask


@dataclass(frozen=True)
class Decoding:
    """How the text is written. Ranges and meanings are those of ComfyUI's own text generation.

    Attributes:
        sample: False takes the likeliest token every time; then only the lengths count.
        temperature: above 0; 1 = the model's own distribution, below 1 is tamer.
        top_p: 0..1; the smallest set of likeliest tokens with this probability is drawn from.
        top_k: this many likeliest tokens are drawn from; 0 = all.
        min_p: 0..1; tokens less likely than this share of the likeliest are left out.
        repetition_penalty: above 0; 1 = none.
        seed: of the draws; the same seed, text and settings give the same text and states.
        min_length: tokens before which the text does not end.
        max_length: most tokens written.
    """

    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    min_length: int = 0
    max_length: int = 256

    def what_counts(self) -> Decoding:
        """Equal for settings that write the same text, as long as the most tokens allow."""
        return replace(self, seed=self.seed if self.sample else 0, max_length=max(self.max_length, 10**9))

    def __post_init__(self):
        if self.max_length < 1:
            raise ValueError(
                f"The maximum length is {self.max_length} tokens, so nothing could be written. Set "
                f"max_length to 1 or more."
            )
        if not 0 <= self.min_length <= self.max_length:
            raise ValueError(
                f"The minimum length must lie between 0 and the maximum length of {self.max_length} "
                f"tokens, found {self.min_length}. Change min_length or max_length."
            )
        for name, lowest, highest in (
            ("top_p", 0, 1),
            ("min_p", 0, 1),
            ("top_k", 0, float("inf")),
            ("temperature", 0, float("inf")),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise ValueError(f"{name} must be {'from 0 to 1' if highest == 1 else '0 or more'}, found {value}.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty must be above 0, found {self.repetition_penalty}; 1 is none.")


VARIATIONS = 8  # most texts of one run


def check_variations(count: int, sampling: str | None) -> None:
    """Raises ValueError for a number out of range, or for several texts where every one would be the same."""
    if not 1 <= count <= VARIATIONS:
        raise ValueError(f"The number of variations must be from 1 to {VARIATIONS}, found {count}.")
    if count > 1 and sampling == "greedy":
        raise ValueError(
            f"{count} variations need sampling: 'greedy' writes the likeliest text, which is the same every time. Set "
            f"sampling to 'sample', or variations to 1."
        )


def seeds_of(seed: int, count: int) -> list[int]:
    """Seeds of variations: the given one and those behind it, within 64 bits."""
    return [(seed + number) % 2**64 for number in range(count)]


def room_to_write(
    roles: list[int], selection: str, around: int, window: int, context: int, max_length: int, title: str
) -> int:
    """Most tokens that may be written, so that what is selected fits into the drawing model's window.

    Args:
        roles: one per token read so far (the first words of the answer included, if given).
        selection: one of :data:`REWRITE_SELECTIONS`.
        around: with :data:`ENCODE_AGAIN`, tokens that the plain encode will put around the text.
        window: tokens the drawing model was trained with; 0 if unknown.
        context: tokens the VLM itself can read.
        max_length: the creator's limit.
        title: name of the drawing model.

    Raises:
        ValueError: if not one token fits.
    """
    if len(roles) + max_length > context:
        raise ValueError(
            f"{len(roles)} tokens to read and up to {max_length} to write are more than the {context} "
            f"this text encoder can hold. Use fewer or smaller pictures, a shorter prompt, or a lower "
            f"max_length."
        )
    if not window:
        return max_length
    roles_tensor = torch.tensor(roles)
    images = int((roles_tensor >= IMAGE).sum())
    if selection == ENCODE_AGAIN:
        used = around + images + int((roles_tensor == GENERATED).sum())
    else:
        used = int(selection_mask(roles_tensor, selection).sum())
    if used >= window:
        raise ValueError(
            f"No room is left to write: {used} tokens ({images} of them pictures) fill the window of "
            f"{window} that {title} was trained with. Use fewer or smaller pictures, or a shorter "
            f"prompt."
        )
    return min(max_length, window - used)


_ACTION = (
    r"(help|assist|create|generat|provid|fulfil|comply|describ|produc|draw|mak|edit|(re)?writ|continu|support|"
    r"engag|process|complet|depict|do that|do this|discuss|answer|respond|satisfy|meet|offer|give|share|"
    r"accommodat|proceed|with)"
)
# Beginnings only: "a sign that says sorry" is a picture. First persons and apologies do not begin a description.
_REFUSALS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(i'm|i am|we're|we are)( very| so| really| deeply)? (sorry|unable|not able|not allowed|not permitted)\b",
        r"(sorry|apologies|my apologies|i apologi[sz]e)\b(,|\.|!| but| for| that| i\b)",
        rf"(i|we) (can't|cannot|can not|won't|will not|must decline|have to decline|don't feel comfortable|do not feel "
        rf"comfortable|am not comfortable)( to| in good conscience| directly)?( be able to)? ?{_ACTION}",
        r"(i|we) (must|have to|need to) (decline|refuse)\b",
        r"unfortunately,? (i|we)('m| am| can't| cannot| can not| won't)",
        r"as an? (ai|artificial intelligence|(large )?language model)\b",
        r"(leider|bedauerlicherweise) (kann|darf) ich\b",
        r"(es )?tut mir (sehr |wirklich )?leid\b",
        r"(entschuldigung|verzeihung)[,.!]|ich (bitte um|entschuldige)",
        r"ich (kann|darf|werde|möchte) [^.]{0,60}\bnicht\b",
        r"ich bin (leider )?nicht (in der lage|befugt)",
        r"als (ki|künstliche intelligenz|sprachmodell)\b",
        r"(我)?(很|非常|十分|实在|實在)?(抱歉|对不起|對不起|不好意思)",
        r"(我|本模型|我们)?(目前|暂时)?(无法|無法|不能|不可以|没办法|沒辦法)(协助|協助|帮|幫|提供|生成|创|創|描述|满足|滿足|完成|处理|處理|回答|"
        r"为您|为你|為您|回应|进行)",
        r"作为(一个|一名|一款)?(ai|人工智能|大?语言模型)",
        r"(大変|誠に|本当に)?(申し訳|すみません|すいません|ごめんなさい|恐れ入りますが)",
        r"(その|この|ご)?(リクエスト|要望|依頼|要求|画像|内容)[^。]{0,30}(できません|いたしかねます|出来ません)",
        r"お手伝い(は|を)?(でき|出来)ません",
        r"(私は)?aiとして",
    )
)


def what_is_wrong(answer: str) -> str | None:
    """Whether an answer is no rewrite: empty, without a word, or a refusal (English, Chinese, German, Japanese).

    Returns:
        The end of a sentence that begins with "The model ...", or None.
    """
    if not answer.strip():
        return "wrote nothing"
    if not re.search(r"\w", answer):
        return f"wrote no words, only '{answer.strip()[:40]}'"
    beginning = answer.casefold().replace("’", "'").lstrip(" \t\n*_#>-")
    if any(pattern.match(beginning) for pattern in _REFUSALS):
        first = re.split(r"(?<=[.!?。！？])\s*|\n", answer.strip(), maxsplit=1)[0]
        return f"refused: '{first[:100]}'"
    return None


_CLAUSE_END = re.compile(r"[,;:.!?\n、。，；：！？]+")
REPEATS = 3  # a phrase this often in a row is no style any more
LONG_CLAUSE = 4  # words from which on a clause is not said twice by chance


def what_is_broken(answer: str, ended: bool) -> str | None:
    """Whether a text lost its way: it repeats itself, or says a whole clause twice.

    Any language and any model: words are separated by spaces, Chinese and Japanese characters count as words.

    Args:
        answer: what was written.
        ended: whether it ended by itself; one that was cut while it repeats a phrase is told apart.

    Returns:
        The end of a sentence that begins with "The text ...", or None.
    """
    words = _WORDS.findall(answer.casefold())
    for length in range(1, len(words) // REPEATS + 1):
        run = 0
        for index in range(length, len(words)):
            run = run + 1 if words[index] == words[index - length] else 0
            # Short phrases are style ("very, very, very"); they must go on for longer.
            if run >= max((REPEATS - 1) * length, 8):
                phrase = " ".join(words[index - length + 1 : index + 1])
                return f"repeats '{phrase[:60]}'" + ("" if ended else " and does not end")
    clauses = [clause.split() for clause in _CLAUSE_END.split(answer.casefold())]
    seen = set()
    for clause in clauses:
        if len(clause) >= LONG_CLAUSE and tuple(clause) in seen:
            return f"says '{' '.join(clause)[:60]}' twice"
        seen.add(tuple(clause))
    return None


_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def count_words(text: str) -> int:
    """Words of a text; every Chinese or Japanese character counts as one."""
    return len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’-]\w+)*", text))
