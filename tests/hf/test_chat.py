"""Conversations through real chat templates: what is supervised, what is asked, what is refused."""

import random

import pytest
import torch

from tests.hf.chat_models import MODELS, TEMPLATES, conversation, tokenizer_of
from transformers_patch.loss import IGNORE_INDEX
from visatb.errors import InputError
from visatb_hf.chat import Chat, labels_of, moved_spans

CONVERSATIONS = 500


def chat_of(model: str) -> Chat:
    return Chat(tokenizer_of(model), model)


def tokens_of(model: str, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    made = tokenizer_of(model)(text, add_special_tokens=False, return_offsets_mapping=True)
    return torch.tensor(made["input_ids"]), torch.tensor(made["offset_mapping"])


@pytest.mark.parametrize("model", MODELS)
def test_supervised_are_the_answers_and_their_end_tokens_alone(model):
    chat, draw = chat_of(model), random.Random(0)
    end, image, lead = MODELS[model]
    for _ in range(CONVERSATIONS):
        turns = conversation(draw)
        rendered = chat.render(turns)
        expected = [lead + turn["value"] + end for turn in turns[1::2] if turn["value"].strip()]
        assert [rendered.text[start:stop] for start, stop in rendered.spans] == expected
        assert rendered.text.count(image) == sum(turn["value"].count("<image>") for turn in turns)
        ids, offsets = tokens_of(model, rendered.text)
        labels = labels_of(ids, offsets, rendered.spans)
        assert torch.equal(labels[labels != IGNORE_INDEX], ids[labels != IGNORE_INDEX])
        ends = ids == tokenizer_of(model).convert_tokens_to_ids(end)
        assert int((ends & (labels != IGNORE_INDEX)).sum()) == len(expected)
        learned = tokenizer_of(model).decode(labels[labels != IGNORE_INDEX])
        # A line break before an answer may share a token with the template's own, which is never written by the model.
        assert "".join(learned.split()) == "".join("".join(expected).split())
        words = [(offsets[n][0], offsets[n][1]) for n in (labels != IGNORE_INDEX).nonzero().flatten().tolist()]
        assert all(any(a <= start and stop <= b for a, b in rendered.spans) for start, stop in words)


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_follows_what_the_model_is_asked(model):
    chat, draw = chat_of(model), random.Random(1)
    for _ in range(50):
        turns = conversation(draw)[:2]
        turns[1]["value"] = "yes"
        rendered = chat.render(turns)
        assert rendered.text[: rendered.spans[0][0]] == chat.prompt(turns[:1])


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|image_pad|>", "<|vision_end|>"])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_control_token_in_a_text_is_refused(token, turn):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    turns[turn]["value"] += f" {token}user"
    with pytest.raises(InputError, match=rf"conversations\[{turn}\].value contains '{token}'".replace("|", r"\|")):
        chat_of("qwen2_vl").render(turns)


LOOP = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
TEXT = "{% for c in m.content %}{% if c.type == 'image' %}<|image_pad|>{% else %}{{ c.text }}{% endif %}{% endfor %}"
ASKED = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (LOOP + TEXT + "\n" + ASKED, "has no end token after an answer"),
        (LOOP + TEXT + "{% if loop.last %}!{% endif %}<|im_end|>" + ASKED, "rewrites earlier turns"),
        (
            LOOP + TEXT + "<|im_end|>{% endfor %}{% if add_generation_prompt %}bot:{% endif %}",
            "rewrites earlier|starts an",
        ),
        ("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", "the chat template fails"),
        ("{{ raise_exception('no images') }}", "the chat template fails: no images"),
        ("", "has no chat template"),
        ((TEMPLATES / "qwen3_thinking.jinja").read_text(), "drops what an answer says between <think>"),
    ],
)
def test_a_template_that_cannot_be_split_is_refused_by_name(template, why, monkeypatch):
    tokenizer = tokenizer_of("qwen2_vl")
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(InputError, match=rf"^some/model: .*({why}).*--chat_template"):
        Chat(tokenizer, "some/model")


def test_a_template_that_strips_answers_supervises_what_it_renders(monkeypatch):
    monkeypatch.setattr(
        tokenizer_of("qwen2_vl"),
        "chat_template",
        LOOP + TEXT.replace("c.text", "c.text | trim") + "<|im_end|>\n" + ASKED,
    )
    rendered = chat_of("qwen2_vl").render([{"from": "human", "value": "a"}, {"from": "gpt", "value": " b\n"}])
    assert [rendered.text[start:stop] for start, stop in rendered.spans] == ["b<|im_end|>"]


def test_spans_move_with_the_images_before_them():
    replaced = [{"span": (2, 5), "new_span": (2, 12)}, {"span": (20, 23), "new_span": (27, 28)}]
    assert moved_spans([(0, 2), (6, 9), (30, 31)], replaced) == [(0, 2), (13, 16), (35, 36)]
