"""Prompts, token ids and labels equal the recorded reference, or are right where the reference is recorded as wrong."""

import json

import pytest
from transformers import AutoTokenizer

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.preprocess import encode_segments, preprocess, preprocess_question
from llava.mm_utils import tokenizer_image_token

pytestmark = pytest.mark.golden

# The reference reads these strings in somebody's words as special tokens; here they are ordinary characters.
SPECIAL_STRINGS = ("</s>", "<s>", "<unk>", "[PAD]")
# Styles whose training text the reference renders in another way than its own prompts; here both are one.
HASH_STYLES = ("default", "llava_v0", "v0_mmtag")


def load_tokenizer(golden, added=()):
    tokenizer = AutoTokenizer.from_pretrained(golden / "tokenizer", use_fast=False)
    for token in added:
        if token == "[PAD]":
            tokenizer.add_special_tokens({"pad_token": token})
        else:
            tokenizer.add_tokens([token], special_tokens=True)
    return tokenizer


def cases(golden, name):
    return json.loads((golden / name).read_text())


def ours(golden, case):
    tokenizer = load_tokenizer(golden, case["added_tokens"])
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in case["added_tokens"]} == case["added_tokens"]
    sample = preprocess(
        case["sources"],
        tokenizer,
        conv_templates[case["default_conversation"]],
        case["mm_use_im_start_end"],
        image_count=None if case["has_image"] else 0,
    )
    ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
    if not case["has_image"]:  # the reference cuts these here, ours in the collator
        ids, labels = ids[: case["model_max_length"]], labels[: case["model_max_length"]]
    return tokenizer, ids, labels


def has_special_string(case):
    return any(string in turn["value"] for turn in case["sources"] for string in SPECIAL_STRINGS)


def expected_answers(tokenizer, case):
    """The texts that must be supervised, from the record alone."""
    turns = case["sources"][1:] if case["sources"][0]["from"] == "gpt" else case["sources"]
    end = {"mpt": "<|im_end|>", "llava_llama_2": " </s>"}.get(case["default_conversation"], "</s>")
    lead = "" if case["default_conversation"] == "mpt" else " "
    return [lead + turn["value"] + end for turn in turns if turn["from"] == "gpt" and turn["value"]]


def supervised_stretches(ids, labels):
    stretches, current = [], []
    for token, label in zip(ids, labels, strict=True):
        assert label in (IGNORE_INDEX, token)
        if label == IGNORE_INDEX:
            stretches += [current] if current else []
            current = []
        else:
            current.append(token)
    return stretches + ([current] if current else [])


def test_ids_and_labels_equal_the_recorded_ones(golden):
    compared = 0
    for case in cases(golden, "preprocess.json") + cases(golden, "preprocess_extra.json"):
        if case["mismatch"] or has_special_string(case) or case["default_conversation"] in HASH_STYLES:
            continue
        _, ids, labels = ours(golden, case)
        assert ids == case["input_ids"], case["name"]
        # An image token in an answer is a label of -200 in the reference; no token like that can be predicted.
        recorded = [IGNORE_INDEX if label == IMAGE_TOKEN_INDEX else label for label in case["labels"]]
        assert labels == recorded, case["name"]
        compared += 1
    assert compared >= 95


def test_where_the_reference_drops_all_labels_ours_are_the_answers(golden):
    compared = 0
    for case in cases(golden, "preprocess.json") + cases(golden, "preprocess_extra.json"):
        if not case["mismatch"] or has_special_string(case):
            continue
        tokenizer, ids, labels = ours(golden, case)
        assert ids == case["input_ids"], case["name"]
        stretches = supervised_stretches(ids, labels)
        found = [tokenizer.decode(stretch, spaces_between_special_tokens=False) for stretch in stretches]
        expected = expected_answers(tokenizer, case)
        assert [text.strip() for text in found] == [text.strip() for text in expected], case["name"]
        compared += 1
    assert compared >= 10


def test_special_strings_in_data_are_ordinary_characters(golden):
    compared = 0
    for case in cases(golden, "preprocess.json"):
        if not has_special_string(case):
            continue
        tokenizer, ids, labels = ours(golden, case)
        answers = [turn for turn in case["sources"] if turn["from"] == "gpt"]
        assert ids.count(tokenizer.eos_token_id) == len(answers), case["name"]
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.unk_token_id not in ids and 600 not in ids
        stretches = supervised_stretches(ids, labels)
        assert len(stretches) == len(answers)
        for stretch, answer in zip(stretches, answers, strict=True):
            pieces = tokenizer.convert_ids_to_tokens(stretch[:-1])
            assert tokenizer.sp_model.decode(pieces).strip() == answer["value"].strip(), case["name"]
        compared += 1
    assert compared == 7


def test_conversations_that_raise_in_the_reference_are_refused(golden):
    for case in cases(golden, "preprocess_errors.json"):
        tokenizer = load_tokenizer(golden)
        with pytest.raises(ValueError):
            preprocess(
                case["sources"],
                tokenizer,
                conv_templates[case["default_conversation"]],
                image_count=None if case["has_image"] else 0,
            )


def test_tokenizer_image_token_equals_the_recorded_ids(golden):
    tokenizer = load_tokenizer(golden)
    for case in cases(golden, "tokenizer_image_token.json"):
        assert tokenizer_image_token(case["prompt"], tokenizer) == case["ids"]
        assert tokenizer_image_token(case["prompt"], tokenizer, return_tensors="pt").tolist() == case["ids"]


@pytest.mark.parametrize("name", list(conv_templates))
def test_prompts_equal_the_recorded_ones(golden, name):
    recorded = cases(golden, "prompts.json")
    template, expected = conv_templates[name], recorded["templates"][name]
    assert list(template.roles) == expected["roles"]
    assert [list(message) for message in template.messages] == expected["template_messages"]
    for key in ("system", "version", "sep", "sep2", "offset"):
        assert getattr(template, key) == expected[key]
    assert template.sep_style.name == expected["sep_style"]

    question, first, second, last = recorded["messages"]
    prompts = {
        "prompt": ([], [question, first, second, last]),
        "prompt_open": ([], [question, first, second, None]),
        "prompt_one_open": ([], [question, None]),
        "prompt_kept_template_messages": (template.copy().messages, [question, first, second, last]),
        "prompt_empty_answer": ([], [question, "", second, last]),
        "prompt_image_tuple": ([], [(question, None, "Default"), None]),
    }
    for key, (kept, texts) in prompts.items():
        conversation = template.copy()
        conversation.messages = kept
        for n, text in enumerate(texts):
            conversation.append_message(conversation.roles[n % 2], text)
        if isinstance(expected[key], dict):
            continue  # `plain` with an answer: the reference raises
        assert conversation.get_prompt() == expected[key], key


def test_the_recorded_generation_prompts_come_out_of_the_training_path(golden):
    tokenizer = load_tokenizer(golden)
    for case in cases(golden, "generate.json")["generations"]:
        template = conv_templates[case["conv_mode"]]
        ids = preprocess_question(f"<image>\n{case['question']}", tokenizer, template)
        assert ids.tolist() == case["input_ids"]


def test_rendered_prompts_encode_as_tokenizer_image_token_does(golden):
    tokenizer = load_tokenizer(golden)
    recorded = cases(golden, "prompts.json")
    for name in ("v1", "llava_llama_2", "llava_v0", "v1_mmtag"):
        conversation = conv_templates[name].copy()
        for n, text in enumerate(recorded["messages"]):
            conversation.append_message(conversation.roles[n % 2], text)
        ids, _ = encode_segments(conversation.render(), tokenizer)
        assert ids.tolist() == tokenizer_image_token(conversation.get_prompt(), tokenizer)
