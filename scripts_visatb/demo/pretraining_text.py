"""Conversations to train the demo's tokenizer and language model; their pictures occur in no benchmark file."""

import random
from collections.abc import Iterator

from llava.conversation import conv_templates
from scripts_visatb.demo import annotations
from scripts_visatb.demo.drawing import Picture, Scene

# How often a conversation is about a scene, about a text or chart, or about nothing seen.
_KINDS = {"SceneCaption": 5, "TextChartQA": 4, "Chat": 1}
_SCENE_TASKS = ("SceneCaption", "RegionCaption", "ShapeVQA", "Grounding", "Grounding")


def sample_conversation(rng: random.Random, rounds: int) -> tuple[list[dict[str, str]], Picture | None]:
    """Turns of a conversation about a picture of the pretraining half (None: about nothing seen), and the picture.

    The first turn opens with `<image>` if there is a picture. Several questions of all applicable tasks
    are asked about one picture, so that a short training sees many answers.
    """
    picture = annotations.describe_for_pretraining(rng.choices(tuple(_KINDS), _KINDS.values())[0], rng)
    if picture is None:
        asked = annotations.chat_rounds(rng)
    elif isinstance(picture, Scene):
        asked = [annotations.ROUNDS[rng.choice(_SCENE_TASKS)](rng, picture, 1)[0] for _ in range(rounds)]
    else:
        asked = annotations.text_chart_rounds(rng, picture, rounds)
    turns = []
    for n, (question, answer) in enumerate(asked):
        question = question.split("\n")[0] if n > 0 else question
        turns.append({"from": "human", "value": f"<image>\n{question}" if picture is not None and n == 0 else question})
        turns.append({"from": "gpt", "value": answer if isinstance(answer, str) else rng.choice(answer)})
    return turns, picture


def tokenizer_texts(seed: int, count: int = 600) -> Iterator[str]:
    """Text to train the tokenizer on."""
    rng = random.Random(f"{seed}/tokenizer")
    for _ in range(count):
        conversation = conv_templates["vicuna_v1"].copy()
        for turn in sample_conversation(rng, rounds=4)[0]:
            conversation.append_message(conversation.roles[turn["from"] == "gpt"], turn["value"])
        yield conversation.get_prompt().replace(conversation.sep2, " ").replace("<image>", "")
