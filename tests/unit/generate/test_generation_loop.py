"""The generation loop: batches do not change answers, and one bad question does not cost the others."""

import json

import pytest
import torch

from llava.generate.llava_engine import LlavaEngine
from llava.generate.loop import answer_all
from llava.generate.questions import Question, Settings, plan_batches, stop_strings
from visatb.errors import InputError


def load(tiny_checkpoint, dtype="fp32", **settings):
    chosen = Settings(**({"max_new_tokens": 8} | settings))
    return LlavaEngine.load(str(tiny_checkpoint / "llava-tiny"), None, chosen, "cpu", dtype)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint):
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def questions(tiny_dataset):
    folder = tiny_dataset.parent / "images"
    records = json.loads(tiny_dataset.read_text())
    return [
        Question(
            n,
            f"record {n}",
            record["conversations"][0]["value"],
            (folder / record["image"],) if "image" in record else (),
        )
        for n, record in enumerate(records)
    ]


def answers_of(engine, questions, **kwargs):
    found = [answer for batch in answer_all(engine, questions, **kwargs) for answer in batch]
    assert len({answer.position for answer in found}) == len(found)
    return {answer.position: answer for answer in found}


def texts_of(engine, questions, **kwargs):
    return {n: answer.text for n, answer in answers_of(engine, questions, **kwargs).items()}


def test_text_and_image_questions_share_batches_without_changing_answers(engine, questions):
    single = texts_of(engine, questions, batch_size=1)
    assert len(single) == len(questions) and all(text is not None for text in single.values())
    assert len(set(single.values())) > 3
    for batch_size in (3, 16, 100):
        assert texts_of(engine, questions, batch_size=batch_size) == single


def test_greedy_search_takes_the_argmax_of_a_plain_forward_pass(engine, questions):
    """Checked against a loop without cache, batch or padding."""
    question = next(q for q in questions if not q.images)
    ids = engine.prompt_ids(question)
    (new,) = engine.new_ids([ids], [None])
    row = ids[None]
    with torch.inference_mode():
        for token in new:
            assert int(engine.model(input_ids=row).logits[0, -1].argmax()) == token
            row = torch.cat([row, torch.tensor([[token]])], dim=1)


def test_an_image_changes_the_answer_and_takes_its_places(engine, questions):
    question = next(q for q in questions if q.images)
    ids = engine.prompt_ids(question)
    assert engine.places(ids) == len(ids) + 15
    image = engine.load_images(question)
    assert image.shape == (1, 3, 56, 56)
    assert engine.texts([ids], [image], ["k"]) != engine.texts([ids], [image.flip(2) * 3], ["k"])


def test_draws_depend_on_seed_and_question_and_not_on_batches(tiny_checkpoint, questions):
    drawing = load(tiny_checkpoint, temperature=1.5, top_p=0.95, seed=3)
    single = texts_of(drawing, questions, batch_size=1)
    assert texts_of(drawing, questions, batch_size=7) == single
    assert texts_of(load(tiny_checkpoint, temperature=1.5, top_p=0.95, seed=4), questions) != single
    assert texts_of(load(tiny_checkpoint), questions) != single


def test_a_small_top_p_leaves_the_likeliest_token_alone(tiny_checkpoint, engine, questions):
    narrow = load(tiny_checkpoint, temperature=1.5, top_p=1e-6)
    assert texts_of(narrow, questions[:6]) == texts_of(engine, questions[:6])


def test_a_row_that_ends_early_carries_no_padding(engine, questions, monkeypatch):
    prompts = [engine.prompt_ids(q) for q in questions if not q.images]
    whole = engine.new_ids(prompts, [None] * len(prompts))
    end = whole[0][2]
    monkeypatch.setattr(engine, "eos_ids", [end])
    found = engine.new_ids(prompts, [None] * len(prompts))
    assert found == [row[: row.index(end) + 1] if end in row else row for row in whole]
    assert len({len(row) for row in found}) > 1, "rows must end at different places"


def test_draws_follow_the_softmax():
    from llava.generate.logits import SeededNoise

    logits = torch.tensor([0.0, 1.0, 2.0]).expand(4000, 3)
    drawn = SeededNoise([str(n) for n in range(4000)])(logits, range(4000)).argmax(-1)
    share = torch.bincount(drawn, minlength=3) / 4000
    assert torch.allclose(share, logits[0].softmax(-1), atol=0.03)


def test_beams_do_not_depend_on_batches(tiny_checkpoint, questions):
    beams = load(tiny_checkpoint, num_beams=3)
    assert texts_of(beams, questions[:8], batch_size=1) == texts_of(beams, questions[:8], batch_size=8)


def test_settled_questions_are_not_answered_again(engine, questions, monkeypatch):
    assert set(texts_of(engine, questions, settled={0, 1, 2}, batch_size=4)) == set(range(3, len(questions)))
    monkeypatch.setattr(engine, "texts", None)
    assert texts_of(engine, questions, settled=set(range(len(questions)))) == {}


def test_a_batch_that_fails_is_halved_until_the_culprit_stands_alone(engine, questions, monkeypatch):
    real, calls = engine.texts, []

    def failing(prompts, images, keys):
        calls.append(len(prompts))
        if any(key.startswith("5\n") for key in keys):
            raise torch.cuda.OutOfMemoryError("out of\nmemory")
        return real(prompts, images, keys)

    expected = texts_of(engine, questions[:8])
    monkeypatch.setattr(engine, "texts", failing)
    found = answers_of(engine, questions[:8], batch_size=8)
    assert found[5].failed == "OutOfMemoryError: out of memory"
    assert {n: a.text for n, a in found.items() if n != 5} == {n: t for n, t in expected.items() if n != 5}
    assert max(calls) == 8 and min(calls) == 1


def test_a_lost_device_ends_the_run_instead_of_failing_every_question(engine, questions, monkeypatch):
    def lost(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine, "texts", lost)
    with pytest.raises(OSError, match="in a row"):
        answers_of(engine, [Question(n, "r", f"q {n}") for n in range(64)], batch_size=4)


def test_logits_that_are_not_numbers_are_a_failure_and_not_an_answer(tiny_checkpoint, questions):
    broken = load(tiny_checkpoint)
    with torch.no_grad():
        broken.model.lm_head.weight[7] = float("nan")
    found = answers_of(broken, questions[:2])
    assert all("not numbers" in answer.failed for answer in found.values())


def test_a_prompt_longer_than_the_model_fails_alone(engine, questions):
    long = Question(50, "r", "Name the colour. " * 200)
    found = answers_of(engine, [long, questions[0]])
    assert "positions" in found[50].failed and found[0].text is not None


def test_answers_end_where_the_positions_end(engine):
    ids = torch.randint(3, 300, (engine.max_positions - 3,))
    (new,) = engine.new_ids([ids], [None])
    assert engine.budget(ids) == 3 and len(new) <= 3


def test_an_unreadable_image_is_reported_and_never_replaced(engine, questions, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG not")
    found = answers_of(engine, [Question(9, "val.json: record 9", "<image>\nWhat?", (bad,)), questions[0]])
    assert found[9].text is None and "val.json: record 9" in found[9].bad_image and "bad.png" in found[9].bad_image
    assert found[0].text is not None


def test_images_for_a_model_without_vision_tower_are_refused(engine, questions, monkeypatch):
    monkeypatch.setattr(engine, "image_processor", None)
    with pytest.raises(InputError, match="no vision tower"):
        answers_of(engine, questions)


def test_a_question_about_an_image_need_not_say_so(engine, questions):
    image = questions[0].images
    prompts = [
        engine.prompt_ids(Question(0, "r", text, image)).tolist()
        for text in ("<image>\nWhat?", "What?", "What?\n<image>", "<image>\n<image>\nWhat?", "  <image>What? ")
    ]
    assert all(prompt == prompts[0] for prompt in prompts)
    assert prompts[0].count(-200) == 1


def test_special_strings_in_a_question_without_image_stay_words(engine):
    ids = engine.prompt_ids(Question(0, "r", "What is </s> and <image>?")).tolist()
    assert -200 not in ids and 2 not in ids


def test_texts_are_cut_at_the_separator_of_templates_that_end_with_text(tiny_checkpoint):
    v0 = load(tiny_checkpoint, conv_mode="llava_v0")
    assert v0.stop_strings == ("###",)
    v0.tokenizer.decode = lambda ids, **_: " red ### Human: more"
    assert v0.text([1]) == "red"
    assert load(tiny_checkpoint).stop_strings == ()


def test_generation_stops_when_all_rows_said_the_stop_string(tiny_checkpoint, monkeypatch):
    long = load(tiny_checkpoint, max_new_tokens=24)
    questions = [Question(n, "r", f"Name the colour number {n}.") for n in range(3)]
    ids = [long.prompt_ids(q) for q in questions]
    whole = long.new_ids(ids, [None] * 3)
    assert [len(new) for new in whole] == [24] * 3
    spoken = [long.tokenizer.decode(new[:2], skip_special_tokens=True) for new in whole]
    monkeypatch.setattr(long, "stop_strings", tuple(spoken))
    assert all(len(new) < 24 for new in long.new_ids(ids, [None] * 3))


def test_batches_hold_near_lengths_longest_first():
    lengths = [(3, 3), (9, 9), (5, 5), (9, 9), (1, 1)]
    assert plan_batches(lengths, 2) == [[1, 3], [2, 0], [4]]
    assert plan_batches(lengths, 2, equal_lengths=True) == [[1, 3], [2], [0], [4]]
    assert plan_batches([], 4) == []


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("--conv-mode", {"conv_mode": "nonesuch"}),
        ("--temperature", {"temperature": -1.0}),
        ("--temperature", {"temperature": float("nan")}),
        ("--top_p", {"top_p": 0.0}),
        ("--num_beams", {"num_beams": 0}),
        ("--max_new_tokens", {"max_new_tokens": 0}),
        ("--num_beams", {"num_beams": 2, "temperature": 1.0}),
    ],
)
def test_settings_out_of_range_name_their_flag(flag, settings):
    with pytest.raises(InputError, match=flag):
        Settings(**settings)


def test_seed_and_top_p_count_only_where_tokens_are_drawn():
    assert Settings(seed=1, top_p=0.5).fingerprint() == Settings(seed=2).fingerprint()
    assert Settings(seed=1, temperature=1.0).fingerprint() != Settings(seed=2, temperature=1.0).fingerprint()


def test_templates_whose_separator_is_text_stop_at_it():
    from llava.conversation import conv_templates

    assert stop_strings(conv_templates["vicuna_v1"]) == ()
    assert stop_strings(conv_templates["mpt"]) == ("<|im_end|>",)
