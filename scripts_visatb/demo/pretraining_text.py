"""Conversations to train the demo's tokenizer and language model; their pictures occur in no benchmark file."""

import random
from collections.abc import Iterator

from llava.conversation import conv_templates
from scripts_visatb.demo import annotations
from scripts_visatb.demo.drawing import Picture

# How often a conversation is a question about a picture, a scene or a card with its caption, or mere chat. Without
# captions of cards too few characters would be learned in the time.
_KINDS = {"question": 7, "SceneCaption": 2, "card": 3, "Chat": 1}
_TASKS = {"SceneCaption": 2, "RegionCaption": 1, "ShapeVQA": 2, "TextChartQA": 2, "Grounding": 1}


def sample_conversation(rng: random.Random) -> tuple[list[dict[str, str]], Picture | None]:
    """Turns of a conversation about a picture of the pretraining half (None: about nothing seen), and the picture.

    The first turn opens with `<image>` if there is a picture, and is no more than that before a caption.
    """
    kind = rng.choices(tuple(_KINDS), _KINDS.values())[0]
    if kind == "Chat":
        picture, asked = None, annotations.chat_rounds(rng)
    elif kind == "question":
        task = rng.choices(tuple(_TASKS), _TASKS.values())[0]
        picture = annotations.describe_for_pretraining(task, rng)
        asked = annotations.ROUNDS[task](rng, picture, 1)
    else:
        picture = annotations.describe_for_pretraining(kind, rng)
        asked = [("", annotations.full_caption(picture))]
    turns = []
    for n, (question, answer) in enumerate(asked):
        question = question.split("\n")[0] if n > 0 else question
        opening = f"<image>\n{question}".strip() if picture is not None and n == 0 else question
        turns.append({"from": "human", "value": opening})
        turns.append({"from": "gpt", "value": answer if isinstance(answer, str) else rng.choice(answer)})
    return turns, picture


def tokenizer_texts(seed: int, count: int = 2000) -> Iterator[str]:
    """Text to train the tokenizer on."""
    rng = random.Random(f"{seed}/tokenizer")
    for _ in range(count):
        conversation = conv_templates["vicuna_v1"].copy()
        for turn in sample_conversation(rng)[0]:
            conversation.append_message(conversation.roles[turn["from"] == "gpt"], turn["value"])
        yield conversation.get_prompt().replace(conversation.sep2, " ").replace("<image>", "")
