"""Annotation files of the demo: six tasks that mirror the Academic benchmark, in LLaVA's format.

One record has one picture (none for Chat). Everything about it comes from a generator seeded by data seed, task, split
and position, so a record does not depend on the others; a picture that another record has is replaced by the next one
drawn, so that no two splits share one.
"""

import random
from collections.abc import Callable, Iterator

from scripts_visatb.demo import drawing
from scripts_visatb.demo.drawing import Card, Chart, Picture, Scene, Shape
from visatb.records import Record

# Records per split. The names of the files in demo.yaml say the same.
SIZES: dict[str, dict[str, int]] = {
    "SceneCaption": {"train": 1000, "val": 200, "test": 300},
    "RegionCaption": {"train": 1000, "val": 200, "test": 300},
    "ShapeVQA": {"train": 1000, "val": 300, "test": 400},
    "TextChartQA": {"train": 1000, "val": 300, "test": 400},
    "Grounding": {"train": 1000, "val": 300, "test": 400},
    "Chat": {"train": 300},
}
# Questions about one picture in a training record; val and test records ask one, which is what gets answered.
TRAIN_ROUNDS = {"RegionCaption": 3, "ShapeVQA": 4, "TextChartQA": 3, "Grounding": 3}

SHORT_ANSWER = "Answer the question using a single word or phrase."
DESCRIBE_REGION = "Provide a short description for this region."
PROVIDE_BOX = "Provide the bounding box coordinate of the region this sentence describes."
DESCRIBE_SCENE = (
    "Describe the image in one sentence.",
    "What is in the image?",
    "Give a short caption of the image.",
)
SIDES = {"circle": "no sides", "square": "four sides", "triangle": "three sides", "cross": "twelve sides"}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

# A question and its answer; several answers are references for one question.
Round = tuple[str, str | tuple[str, ...]]


def article(phrase: str) -> str:
    """The phrase with `a` or `an` before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def format_box(box: tuple[float, float, float, float]) -> str:
    """A box as the tasks write it: `[0.12, 0.30, 0.45, 0.61]`."""
    return "[" + ", ".join(f"{edge:.2f}" for edge in box) + "]"


def box_of(scene: Scene, shape: Shape) -> str:
    """A shape's box in the padded square, as text."""
    return format_box(drawing.in_padded_square(shape.box, scene.width, scene.height))


def scene_caption(scene: Scene) -> str:
    """One sentence that names the shapes from left to right."""
    names = [article(shape.name) for shape in scene.shapes]
    if len(names) == 1:
        sentence = f"there is {names[0]} on {article(scene.background)} background"
    elif len(names) == 2:
        sentence = f"{names[0]} is {relation(*scene.shapes)} {names[1]}"
    else:
        sentence = f"from left to right there are {names[0]}, {names[1]} and {names[2]}"
    return sentence[0].upper() + sentence[1:] + "."


def relation(one: Shape, other: Shape) -> str:
    """Where `one` is, seen from `other`: the axis along which they are farther apart decides."""
    (x, y), (u, v) = one.center, other.center
    if abs(x - u) >= abs(y - v):
        return "left of" if x < u else "right of"
    return "above" if y < v else "below"


def region_phrases(scene: Scene, shape: Shape) -> tuple[str, str, str]:
    """Three descriptions of one shape: by its look, in other words, and by its place."""
    x1, y1, x2, y2 = drawing.in_padded_square(shape.box, scene.width, scene.height)
    across = ("left", "middle", "right")[min(2, int((x1 + x2) / 2 * 3))]
    down = ("top", "middle", "bottom")[min(2, int((y1 + y2) / 2 * 3))]
    place = "in the middle" if across == down else f"at the {down} {across}"
    return shape.name, f"the {shape.color} {shape.kind} that is {shape.size}", f"{shape.color} {shape.kind} {place}"


def scene_caption_rounds(rng: random.Random, scene: Scene, count: int) -> list[Round]:
    """One question for the caption of the whole picture."""
    return [(rng.choice(DESCRIBE_SCENE), scene_caption(scene))]


def region_rounds(rng: random.Random, scene: Scene, count: int) -> list[Round]:
    """Boxes to describe, with all descriptions as references."""
    shapes = _some(rng, scene.shapes, count)
    return [(f"{box_of(scene, shape)}\n{DESCRIBE_REGION}", region_phrases(scene, shape)) for shape in shapes]


def grounding_rounds(rng: random.Random, scene: Scene, count: int) -> list[Round]:
    """Descriptions whose box is wanted."""
    shapes = _some(rng, scene.shapes, count)
    return [(f"{shape.name}\n{PROVIDE_BOX}", box_of(scene, shape)) for shape in shapes]


def shape_rounds(rng: random.Random, scene: Scene, count: int) -> list[Round]:
    """Questions about colour, kind, size, number, presence and relation."""
    asked = (_ask_color, _ask_kind, _ask_size, _ask_presence, _ask_relation, _ask_count)
    rounds: dict[str, str] = {}
    while len(rounds) < count:
        question_answer = rng.choice(asked)(rng, scene)
        if question_answer is not None:
            rounds.setdefault(*question_answer)
    return _short_answers(rounds)


def text_chart_rounds(rng: random.Random, picture: Card | Chart, count: int) -> list[Round]:
    """Questions about the text of a card or the bars of a chart."""
    if isinstance(picture, Card):
        kind = "number" if picture.text.isdigit() else "word"
        read = (f"What {kind} is written in the image?", picture.text)
        color = (f"What color is the {kind}?", picture.color)
        order = [read, color] if rng.random() < 0.8 else [color, read]
        return _short_answers(dict(order[:count]))
    asked: list[tuple[str, str]] = [(f"What is the value of the {color} bar?", str(v)) for color, v, _ in picture.bars]
    ordered = sorted(picture.bars, key=lambda bar: bar[1])
    asked.append(("What is the color of the highest bar?", ordered[-1][0]))
    asked.append(("How many bars are in the chart?", str(len(picture.bars))))
    return _short_answers(dict(rng.sample(asked, min(count, len(asked)))))


def chat_rounds(rng: random.Random) -> list[Round]:
    """One to three questions that need no picture."""
    asked = (_ask_sum, _ask_sides, _ask_spelling, _ask_opposite, _greet)
    rounds: dict[str, str] = {}
    wanted = rng.randint(1, 3)
    while len(rounds) < wanted:
        rounds.setdefault(*rng.choice(asked)(rng))
    return list(rounds.items())


def describe(task: str, rng: random.Random) -> Picture | None:
    """A random picture of the task's kind; None for Chat."""
    if task == "Chat":
        return None
    if task == "TextChartQA":
        return drawing.describe_card(rng) if rng.random() < 0.5 else drawing.describe_chart(rng)
    return drawing.describe_scene(rng)


def describe_for_pretraining(task: str, rng: random.Random) -> Picture | None:
    """The same from the half that only the base model may see."""
    picture = describe(task, rng)
    while picture is not None and not drawing.is_for_pretraining(picture):
        picture = describe(task, rng)
    return picture


ROUNDS: dict[str, Callable[..., list[Round]]] = {
    "SceneCaption": scene_caption_rounds,
    "RegionCaption": region_rounds,
    "ShapeVQA": shape_rounds,
    "TextChartQA": text_chart_rounds,
    "Grounding": grounding_rounds,
}


def make_records(
    task: str, split: str, count: int, seed: int, drawn: set[Picture]
) -> Iterator[tuple[Record, Picture | None]]:
    """Yield the records of one split with the descriptions of their pictures.

    Args:
        task: name of the task.
        split: train, val or test. Val and test records have one question; the answer to a region is then the list of
            references.
        count: number of records.
        seed: data seed.
        drawn: descriptions used so far in any split or task; grows.
    """
    for n in range(count):
        rng = random.Random(f"{seed}/{task}/{split}/{n}")
        picture = describe(task, rng)
        while picture is not None and (picture in drawn or drawing.is_for_pretraining(picture)):
            picture = describe(task, rng)
        if picture is not None:
            drawn.add(picture)
        yield make_record(task, split, n, picture, rng), picture


def make_alignment(name: str, count: int, seed: int) -> Iterator[tuple[Record, Picture]]:
    """Yield captioned pictures of the pretraining half for LLaVA's stage 1: scenes, cards and charts."""
    for n in range(count):
        rng = random.Random(f"{seed}/{name}/{n}")
        task = rng.choice(("SceneCaption", "SceneCaption", "TextChartQA"))
        picture = describe_for_pretraining(task, rng)
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": alignment_caption(picture)}]
        image = f"{name}/{n:05d}.png"
        yield {"id": f"{name}-{n:05d}", "image": image, "task": name, "conversations": turns}, picture


def alignment_caption(picture: Picture) -> str:
    """All that is to be seen in a picture, as stage 1 tells it."""
    if isinstance(picture, Scene):
        return ", ".join(f"{shape.name} {box_of(picture, shape)}" for shape in picture.shapes)
    if isinstance(picture, Card):
        return f"{picture.color} {'number' if picture.text.isdigit() else 'word'} {picture.text}"
    return ", ".join(f"{color} bar {value}" for color, value, _ in picture.bars)


def make_record(task: str, split: str, n: int, picture: Picture | None, rng: random.Random) -> Record:
    """The record number `n` of a split, about a picture (None for Chat)."""
    if picture is None:
        rounds = chat_rounds(rng)
    else:
        rounds = ROUNDS[task](rng, picture, TRAIN_ROUNDS.get(task, 1) if split == "train" else 1)
    turns = []
    for k, (question, answer) in enumerate(rounds):
        if not isinstance(answer, str):
            answer = rng.choice(answer) if split == "train" else list(answer)
        if k > 0:
            question = question.split("\n")[0]  # as in LLaVA's data, the first turn tells the form of all answers
        first = picture is not None and k == 0
        turns.append({"from": "human", "value": f"<image>\n{question}" if first else question})
        turns.append({"from": "gpt", "value": answer})
    identifier = f"{task}-{split}-{n:05d}"
    image = {"image": f"{task}/{split}/{n:05d}.png"} if picture is not None else {}
    return {"id": identifier, **image, "task": task, "conversations": turns}


def _some(rng: random.Random, shapes: tuple[Shape, ...], count: int) -> list[Shape]:
    return rng.sample(shapes, min(count, len(shapes)))


def _short_answers(rounds: dict[str, str]) -> list[Round]:
    return [(f"{question}\n{SHORT_ANSWER}", answer) for question, answer in rounds.items()]


def _only(scene: Scene, attribute: str) -> list[Shape]:
    """The shapes that no other of the scene resembles in that attribute."""
    values = [getattr(shape, attribute) for shape in scene.shapes]
    return [shape for shape in scene.shapes if values.count(getattr(shape, attribute)) == 1]


def _ask_color(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    shapes = _only(scene, "kind")
    if not shapes:
        return None
    shape = rng.choice(shapes)
    return f"What color is the {shape.kind}?", shape.color


def _ask_kind(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    shapes = _only(scene, "color")
    if not shapes:
        return None
    shape = rng.choice(shapes)
    return f"What shape is the {shape.color} object?", shape.kind


def _ask_size(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    shape = rng.choice(scene.shapes)
    return f"Is the {shape.color} {shape.kind} small or large?", shape.size


def _ask_presence(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    if rng.random() < 0.5:
        shape = rng.choice(scene.shapes)
        return f"Is there {article(shape.color)} {shape.kind}?", "yes"
    kind, color = rng.choice(drawing.SHAPES), rng.choice(tuple(drawing.COLORS))
    if any((shape.kind, shape.color) == (kind, color) for shape in scene.shapes):
        return None
    return f"Is there {article(color)} {kind}?", "no"


def _ask_relation(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    if len(scene.shapes) < 2:
        return None
    one, other = rng.sample(scene.shapes, 2)
    where = relation(one, other)
    if rng.random() < 0.5:
        where = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[where]
    answer = "yes" if where == relation(one, other) else "no"
    return f"Is the {one.color} {one.kind} {where} the {other.color} {other.kind}?", answer


def _ask_count(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    return "How many objects are in the image?", str(len(scene.shapes))


def _ask_sum(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(1, 6), rng.randint(1, 6)
    return f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", f"{NUMBERS[a]} plus {NUMBERS[b]} is {NUMBERS[a + b]}."


def _ask_sides(rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(drawing.SHAPES)
    return f"How many sides does a {kind} have?", f"A {kind} has {SIDES[kind]}."


def _ask_spelling(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(drawing.WORDS)
    return f"How is the word {word} spelled?", f"The word {word} is spelled {' '.join(word)}."


def _ask_opposite(rng: random.Random) -> tuple[str, str]:
    one, other = rng.choice((("small", "large"), ("left", "right"), ("above", "below"), ("black", "white"),
                             ("top", "bottom"), ("yes", "no")))  # fmt: skip
    if rng.random() < 0.5:
        one, other = other, one
    return f"What is the opposite of {one}?", f"The opposite of {one} is {other}."


def _greet(rng: random.Random) -> tuple[str, str]:
    hello = rng.choice(("Hello!", "Good morning!", "Hello, who are you?"))
    return hello, rng.choice(("Hello! I am an assistant. How can I help you?", "Hello! What can I do for you?"))
