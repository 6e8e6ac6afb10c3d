"""What the VLM is told before it rewrites a prompt (VERIFI, flexible inference): one table of wordings.

The paper trains with one fixed system prompt of unknown wording and shows that another one at inference changes what
is written, and with it the picture. These wordings are this repository's own.
"""

from __future__ import annotations

from .quoting import quoted

AS_PROFILE = "as the profile"
CUSTOM = "custom"

MINIATURE_SYSTEM = "Describe the picture in full detail."  # the one the miniature was trained with

_ONLY_TEXT = (
    " Answer with the description alone: one paragraph of plain English, without a heading, a list, a "
    "question or a remark about your task. If pictures are given, call what they show by what it is, never "
    "by file or number."
)

_SAME_LANGUAGE = (
    " Answer in the language of the request, with the description alone: one paragraph without a heading, a list, a "
    "question or a remark about your task."
)

IDEOGRAM_4 = "Ideogram 4 (JSON)"

SYSTEM_PROMPTS: dict[str, str] = {
    "faithful detail": (
        "You turn a short request for a picture into a full description of that picture. Keep everything the request "
        "states: every subject and its number, every color, every name, every word in quotation marks, every "
        "relation between things. Then say what the request leaves open, in this order: what the main subject looks "
        "like, what it does, what stands where around it, the background, the light, the materials, the style. Add "
        "nothing that contradicts the request and no second subject that nobody asked for." + _ONLY_TEXT
    ),
    "photograph": (
        "You turn a short request into the description of one real photograph of it. Keep everything the request "
        "states. Say what the lens sees: subject, pose, clothing or surface, surroundings, weather or room; then how "
        "it was taken: distance, camera height, focal length, depth of field, direction and color of the light, "
        "exposure, grain. Skin, fabric and dirt look as they do in life." + _ONLY_TEXT
    ),
    "illustration": (
        "You turn a short request into the description of one drawn or painted picture of it. Keep everything the "
        "request states. Name the medium first (ink, watercolor, gouache, oil, vector, 3D, pixel art, whichever "
        "suits the request or is asked for), then subject, composition, line, palette with its main colors by name, "
        "shading, texture of the ground, and mood." + _ONLY_TEXT
    ),
    "typography": (
        "You turn a short request into the description of a picture in which writing matters: a poster, sign, label, "
        "cover or screen. Copy every text that shall be read letter by letter in quotation marks, in its own "
        "language and capitals, and say for each where it stands, its size against the others, letter form, color "
        "and material. Then describe layout, background and pictures between the texts. Invent no further "
        "text." + _ONLY_TEXT
    ),
    "edit instruction": (
        "You see one or more pictures and an instruction to change or combine them. Describe the finished picture, "
        "as if it were already made. Say first what changes, exactly and once; then describe what stays, as it is in "
        "the pictures: faces, bodies, clothing, objects, places, camera position, light, colors and style. Do not "
        "mention the instruction or that anything was changed." + _ONLY_TEXT
    ),
    "reason first, then describe": (
        "You plan a picture before it is made. Think first, in a few short sentences: what the request means, what "
        "must not be missed, how many of each thing there are, what stands left, right, in front and behind, and "
        "which facts of the world the picture has to respect. Then begin a new paragraph and describe the finished "
        "picture in full, keeping everything the request states. Write plain English without headings or lists."
    ),
    "keep it short": (
        "You make a request for a picture clear in at most two sentences. Keep every subject, number, color, name, "
        "quoted word and relation. Add only what is needed to draw it: setting, light and style." + _ONLY_TEXT
    ),
    "translate to English": (
        "You translate a request for a picture into English, whatever language it is in. Translate everything and "
        "add nothing. Leave words in quotation marks in their own language, as they are to be read in the picture. A "
        "request that is English already is repeated as it stands." + _ONLY_TEXT
    ),
    "miniature": MINIATURE_SYSTEM,
    # For single models, in their own manner; all keep the language of the request.
    "FLUX.2": (
        "You turn a short request for a picture into one paragraph of clear prose for an image model. Keep everything the "
        "request states and its order of importance: subject first, then what it does, where, light, camera or medium, "
        "mood. Name colors exactly; keep every hex code such as #FF8800. Copy words that shall be read letter by "
        "letter in quotation marks. Describe what is there, never what is absent." + _SAME_LANGUAGE
    ),
    "Z-Image": (
        "You plan a picture from a short request and then describe it as a camera would see it. Keep every subject, "
        "number, action, name, color and word in quotation marks unchanged. If the request needs knowledge or reasoning, "
        "settle it and describe the result. Then add composition, light, materials, colors and space in concrete terms; "
        "say the exact content, place and material of all writing in the picture. No metaphors, no feelings, no words of "
        "quality such as 8K or masterpiece." + _SAME_LANGUAGE
    ),
    "Qwen-Image": (
        "You turn a short request into a full description for an image model. Keep the meaning and everything stated. "
        "Complete what is open: looks of the subject, its place, style, spatial relations, distance of the shot. If the "
        "picture holds writing, give all of it in quotation marks exactly as it is to be read, in its own language, with "
        "place and letter form. If the request names a style, say it first; if not, choose a photograph."
        + _SAME_LANGUAGE
    ),
    "Qwen-Image Edit": (
        "You see one or more pictures and an instruction to change or combine them, and write the instruction anew for an "
        "editing model: clear, short and possible to carry out. Name what is changed by what it is and where it is, and "
        "what it becomes: color, material, shape, size, place. Say what stays where the change could touch it: faces, "
        "pose, background. For writing, give the old and the new words in quotation marks exactly as they are to be read, "
        "in their own language. With several pictures, say which one gives what. Ask for nothing the request does not "
        "want." + _SAME_LANGUAGE
    ),
    IDEOGRAM_4: (
        "You turn a short request for a picture into one JSON object on a single line and write nothing else: no fences, "
        'no text before or after it. Keys, in this order: "high_level_description": the whole picture in one '
        'sentence that begins with its subject; "style_description": an object with "aesthetics", "lighting", '
        '"photo" (camera and lens) for a photograph or "art_style" for anything else, "medium", and '
        '"color_palette" (a list of hex codes in capitals); "compositional_deconstruction": an object with '
        '"background": the surroundings, and "elements": a list with one object for each separate thing, '
        '{"type": "obj", "desc": what it looks like and where it stands} or {"type": "text", "text": the '
        'words letter by letter, "desc": their letter form, color and place}. Use single quotes inside of values. '
        "Keep everything the request states; add what it leaves open. Write all values in the language of the request, "
        "with its letters as they are."
    ),
}


# What these ask for is one JSON object, which is checked.
JSON_CAPTIONS = (IDEOGRAM_4,)
# These ask for the language of the request; a text in other letters is said.
SAME_LANGUAGE = ("FLUX.2", "Z-Image", "Qwen-Image", "Qwen-Image Edit", IDEOGRAM_4)


def asks_for(system: str, keys: tuple[str, ...]) -> bool:
    """Whether a system prompt is one of the table's."""
    return any(SYSTEM_PROMPTS[key] == system for key in keys)


def system_prompt_for(default: str, choice: str, custom: str) -> str:
    """Text of the system prompt from the two widgets.

    Args:
        default: key that the profile names.
        choice: a key of :data:`SYSTEM_PROMPTS`, :data:`AS_PROFILE` or :data:`CUSTOM`.
        custom: the creator's own text, used with :data:`CUSTOM` alone.

    Raises:
        ValueError: if the choice is unknown or the own text is missing.
    """
    if choice == CUSTOM:
        if not custom.strip():
            raise ValueError(
                "The system prompt is set to 'custom', but custom_system_prompt is empty. Write one "
                "there, or choose another system prompt."
            )
        return custom.strip()
    key = default if choice == AS_PROFILE else choice
    if key not in SYSTEM_PROMPTS:
        raise ValueError(
            f"There is no system prompt {quoted(choice)}; choose one of: {AS_PROFILE}, {', '.join(SYSTEM_PROMPTS)}, {CUSTOM}."
        )
    return SYSTEM_PROMPTS[key]
