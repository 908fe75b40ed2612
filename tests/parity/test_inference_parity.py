"""Generated texts and answer files equal the recorded ones of the reference."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import inference_visatb
from llava.conversation import conv_templates
from llava.generate.llava_engine import LlavaEngine
from llava.generate.questions import Question, Settings


@pytest.fixture
def engine(golden, monkeypatch):
    monkeypatch.chdir(golden)  # its config names the vision tower by a relative path

    def load(**settings) -> LlavaEngine:
        return LlavaEngine.load("checkpoint", None, Settings(**({"max_new_tokens": 16} | settings)), "cpu", "fp32")

    return load


@pytest.fixture
def generations(golden) -> list[dict]:
    return json.loads((golden / "generate.json").read_text())["generations"]


def asked(engine, golden, generations):
    questions = [
        Question(n, "golden", g["question"], (golden / g["image"],) if g["image"] else ())
        for n, g in enumerate(generations)
    ]
    prompts = []
    for question, g in zip(questions, generations, strict=True):
        engine.conversation = conv_templates[g["conv_mode"]]
        prompts.append(engine.prompt_ids(question))
    return prompts, [engine.load_images(question) for question in questions]


def test_prompts_have_the_recorded_ids(engine, golden, generations):
    prompts, _ = asked(engine(), golden, generations)
    assert [ids.tolist() for ids in prompts] == [g["input_ids"] for g in generations]


def test_greedy_answers_are_the_recorded_ones_one_by_one_and_in_a_batch(engine, golden, generations):
    model = engine()
    prompts, images = asked(model, golden, generations)
    expected = [g["new_ids"] for g in generations]
    assert [model.new_ids([i], [p])[0] for i, p in zip(prompts, images, strict=True)] == expected
    assert model.new_ids(prompts, images) == expected
    assert [model.text(ids) for ids in expected] == [g["text_stripped"] for g in generations]


def test_generation_ends_at_the_recorded_end_token(engine, golden, generations):
    model = engine()
    prompts, images = asked(model, golden, generations)
    for g, ids, image in zip(generations, prompts, images, strict=True):
        stop = g["early_stop"]
        model.eos_ids = [stop["eos_token_id"]]
        (new,) = model.new_ids([ids], [image])
        assert new == stop["new_ids"]


def test_generation_ends_at_the_recorded_keyword(engine, golden, generations):
    model = engine()
    prompts, images = asked(model, golden, generations)
    for g, ids, image in zip(generations, prompts, images, strict=True):
        model.stop_strings = (g["keyword_stop"]["keyword"],)
        (new,) = model.new_ids([ids], [image])
        assert new == g["keyword_stop"]["new_ids"]


def test_beam_search_gives_the_recorded_ids(engine, golden, generations):
    model = engine(num_beams=3, max_new_tokens=8)
    prompts, images = asked(model, golden, generations)
    for g, ids, image in zip(generations, prompts, images, strict=True):
        assert model.new_ids([ids], [image]) == [g["beam3_new_ids"]]


@pytest.fixture
def ask_golden(golden, monkeypatch, tmp_path):
    monkeypatch.chdir(golden)
    model = tmp_path / "llava_tiny"
    shutil.copytree("checkpoint", model)

    def ask(*flags) -> Path:
        argv = ["--model-path", str(model), "--image-folder", "train/images", "--max_new_tokens", "16"]
        argv += ["--question-file", "inference/my_questions.json", "--answers-folder", str(tmp_path / "answers")]
        assert inference_visatb.main([*argv, *flags]) == 0
        (answers,) = (tmp_path / "answers").glob("*.json")
        return answers

    return ask


@pytest.mark.parametrize("batch_size", ["1", "4", "16"])
def test_the_answer_file_is_the_recorded_one(golden, ask_golden, batch_size):
    answers = ask_golden("--batch-size", batch_size)
    recorded = golden / "inference" / "my-questions_llava-tiny.json"
    assert answers.name == recorded.name
    assert answers.read_text().strip() == recorded.read_text().strip()


def test_prompts_of_the_recorded_questions(engine, golden):
    """Wherever a question says <image>, or not at all, the prompt is the recorded one."""
    from llava.mm_utils import tokenizer_image_token

    model = engine()
    records = json.loads((golden / "inference" / "my_questions.json").read_text())
    metas = json.loads((golden / "inference" / "answers_meta.json").read_text())
    for n, (record, meta) in enumerate(zip(records, metas, strict=True)):
        image = golden / "train" / "images" / record["image"]
        ids = model.prompt_ids(Question(n, "golden", record["conversations"][0]["value"], (image,)))
        assert torch.equal(ids, tokenizer_image_token(meta["prompt"], model.tokenizer, return_tensors="pt"))
