"""Rows that leave a batch when they end: ids are those of a loop without cache, batch or padding."""

import json
import random

import pytest
import torch

from llava.generate import llava_engine
from llava.generate.llava_engine import LlavaEngine
from llava.generate.logits import SeededNoise
from llava.generate.questions import Question, Settings
from transformers_patch.key_value_cache import LayerCache

LONGEST = 12


def load(tiny_checkpoint, **settings):
    chosen = Settings(**({"max_new_tokens": LONGEST} | settings))
    return LlavaEngine.load(str(tiny_checkpoint / "llava-tiny"), None, chosen, "cpu", "fp32")


@pytest.fixture(scope="module", params=[0.0, 1.5], ids=["greedy", "sampling"])
def engine(tiny_checkpoint, request):
    return load(tiny_checkpoint, temperature=request.param)


@pytest.fixture(scope="module")
def asked(engine, tiny_dataset):
    """Prompts and images of eight questions, two of them text-only."""
    records = json.loads(tiny_dataset.read_text())[4:12]
    folder = tiny_dataset.parent / "images"
    questions = [
        Question(n, "r", r["conversations"][0]["value"], (folder / r["image"],) if "image" in r else ())
        for n, r in enumerate(records)
    ]
    assert sorted({len(question.images) for question in questions}) == [0, 1]
    return [engine.prompt_ids(q) for q in questions], [engine.load_images(q) for q in questions]


@pytest.fixture(scope="module")
def unending(engine, asked):
    """What a plain loop makes of each question when nothing but the budget ends it."""
    return [plain_loop(engine, *one, key=str(n)) for n, one in enumerate(zip(*asked, strict=True))]


@torch.inference_mode()
def plain_loop(engine, ids, image, key):
    noise = SeededNoise([f"{engine.settings.seed}\n{key}"])
    embed, new = engine.model.get_input_embeddings(), []
    if image is None:
        embeds = embed(ids[None])
    else:
        embeds, _, _, _ = engine.model.merge_images(ids[None], torch.ones(1, len(ids)), None, image, left=True)
    for _ in range(LONGEST):
        logits = engine.model(inputs_embeds=embeds, use_cache=False).logits[:, -1]
        if engine.settings.temperature:
            logits = noise(logits / engine.settings.temperature, [0])
        new.append(int(logits.argmax()))
        embeds = torch.cat([embeds, embed(torch.tensor([new[-1:]]))], dim=1)
    return new


def answers_in_batches(engine, asked, size):
    keys = [str(n) for n in range(len(asked[0]))]
    found = []
    for start in range(0, len(keys), size):
        part = slice(start, start + size)
        found += engine.new_ids(asked[0][part], asked[1][part], keys[part])
    return found


@pytest.mark.parametrize("seed", range(3))
def test_rows_end_at_their_own_length_in_batches_of_any_size(engine, asked, unending, seed, monkeypatch):
    draw = random.Random(seed)
    ends = {draw.choice(new) for new in draw.sample(unending, 3)}
    expected = [new[: min([n for n, token in enumerate(new) if token in ends] + [LONGEST - 1]) + 1] for new in unending]
    assert len({len(new) for new in expected}) > 1, "rows must end at different places"
    monkeypatch.setattr(engine, "eos_ids", list(ends))
    for size in (1, 4, 8):
        assert answers_in_batches(engine, asked, size) == expected


def test_budgets_of_rows_are_their_own(engine, asked, unending, monkeypatch):
    budgets = dict(zip(map(id, asked[0]), (5, 1, 9, 2, 12, 3, 7, 4), strict=True))
    monkeypatch.setattr(engine, "budget", lambda ids: budgets[id(ids)])
    expected = [new[:n] for new, n in zip(unending, budgets.values(), strict=True)]
    assert answers_in_batches(engine, asked, 8) == expected


def test_a_stop_string_ends_its_own_row_alone(engine, asked, unending, monkeypatch):
    spoken = [engine.tokenizer.decode(unending[n][: 2 + 2 * n], skip_special_tokens=True) for n in range(3)]
    monkeypatch.setattr(engine, "stop_strings", tuple(spoken))
    single = answers_in_batches(engine, asked, 1)
    assert len({len(new) for new in single}) > 1
    assert answers_in_batches(engine, asked, 8) == single


def test_the_head_sees_one_position_of_unfinished_rows_only(engine, asked, unending, monkeypatch):
    monkeypatch.setattr(engine, "eos_ids", [unending[0][1], unending[5][4]])
    seen = []
    handle = engine.model.lm_head.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape[:2])))
    new = answers_in_batches(engine, asked, 8)
    handle.remove()
    assert {positions for _, positions in seen} == {1}
    assert sum(rows for rows, _ in seen) == sum(map(len, new)) < 8 * len(seen)


def test_public_generate_and_beams_make_one_row_of_logits_a_step(tiny_checkpoint):
    engine = load(tiny_checkpoint, num_beams=3)
    ids, seen = engine.prompt_ids(Question(0, "r", "What?")), []
    engine.model.lm_head.register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    engine.new_ids([ids], [None])
    engine.model.generate(ids[None], max_new_tokens=3)
    assert set(seen) == {1}
    assert engine.model(ids[None]).logits.shape[1] == len(ids), "other callers get the logits of every position"


def test_the_encoder_is_made_once(tiny_checkpoint, monkeypatch):
    made, real = [], llava_engine.SegmentEncoder
    monkeypatch.setattr(llava_engine, "SegmentEncoder", lambda tokenizer: made.append(1) or real(tokenizer))
    engine = load(tiny_checkpoint)
    assert len({len(engine.prompt_ids(Question(n, "r", "What? " * n))) for n in (1, 2, 3)}) == 3
    assert made == [1]


def test_the_cache_holds_what_concatenation_would():
    draw = random.Random(0)
    torch.manual_seed(0)
    key, value = torch.randn(6, 2, 3, 4), torch.randn(6, 2, 3, 4)
    cache = LayerCache(key, value)
    for step in range(300):
        new = torch.randn(2, len(key), 2, 1, 4)
        key, value = torch.cat([key, new[0]], dim=2), torch.cat([value, new[1]], dim=2)
        found = cache.append(*new)
        if step % 60 == 50:
            left = len(key) - 1
            rows = [draw.choice([n, left]) if n == step % left else n for n in range(left)] if left else [0]
            cache.keep(rows)
            key, value, found = key[rows], value[rows], (cache[0], cache[1])
        assert torch.equal(found[0], key) and torch.equal(found[1], value)
