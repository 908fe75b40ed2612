"""Templates that a tokenizer or the records cannot be trained with are refused before a model loads."""

import warnings
from types import SimpleNamespace

import pytest

from llava.conversation import conv_templates
from llava.data.preprocess import check_fits, check_trainable, preprocess
from visatb.errors import InputError

HASHES = ("default", "v0", "llava_v0", "v0_mmtag")


def record(*texts, **fields):
    roles = ("human", "gpt")
    return {"conversations": [{"from": roles[n % 2], "value": text} for n, text in enumerate(texts)], **fields}


@pytest.mark.parametrize("name", [name for name in conv_templates if name != "mpt"])
def test_every_other_template_can_be_trained_with_a_llama_tokenizer(tokenizer, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_trainable(conv_templates[name], tokenizer, projector_only=True)
    turns = record("<image>\nWhat?", "A ring.")["conversations"]
    labels = preprocess(turns, tokenizer, conv_templates[name])["labels"].tolist()
    learned = tokenizer.decode([label for label in labels if label >= 0])
    assert learned.endswith("###" if name in HASHES else "\n" if "plain" in name else "</s>")


def test_mpt_needs_a_tokenizer_that_knows_its_marks(tokenizer):
    with pytest.raises(InputError, match=r"'<\|im_end\|>', not a token of this tokenizer. Choose a --version"):
        check_trainable(conv_templates["mpt"], tokenizer)
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    with pytest.raises(InputError, match=r"'<\|im_start\|>'"):
        check_trainable(conv_templates["mpt"], tokenizer)
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    check_trainable(conv_templates["mpt"], tokenizer)
    labels = preprocess(record("What?", "A ring.")["conversations"], tokenizer, conv_templates["mpt"])["labels"]
    assert labels[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("name", ["v1", "llava_v1", "llava_llama_2"])
def test_an_end_that_is_not_the_tokenizers_is_refused(tokenizer, name):
    """Generation would never see the end that training taught."""
    tokenizer.add_special_tokens({"eos_token": "<|eot_id|>"})
    with pytest.raises(InputError, match=r"'</s>'.*'<\|eot_id\|>'"):
        check_trainable(conv_templates[name], tokenizer)


def test_a_tokenizer_without_its_sentencepiece_model_is_refused():
    with pytest.raises(InputError, match="tokenizer.model"):
        check_trainable(conv_templates["v1"], SimpleNamespace(is_fast=True))


def test_plain_is_for_the_projector_and_says_so_elsewhere(tokenizer):
    with pytest.warns(UserWarning, match="stage 1"):
        check_trainable(conv_templates["plain"], tokenizer)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("plain", record("<image>", "x", "More?", "y", id="r"), "record 1 (id 'r'): a plain conversation"),
        ("plain", record("Describe.", "x"), "record 1: a plain conversation"),
    ],
)
def test_records_that_the_template_cannot_hold_are_named(name, bad, message):
    fine = record("<image>\nDescribe.", "A red ring.")
    check_fits([fine, fine], conv_templates[name], "train.json")
    with pytest.raises(InputError) as refusal:
        check_fits([fine, bad], conv_templates[name], "train.json")
    assert str(refusal.value).startswith(f"train.json: {message}")
    check_fits([fine, bad], conv_templates["v1"], "train.json")
