"""The demo's tokenizer has LLaMA's habits."""

import pytest
from transformers import AutoTokenizer, LlamaTokenizer

from scripts_visatb.demo.pretraining_text import tokenizer_texts
from scripts_visatb.demo.tokenizer import VOCABULARY, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(tokenizer_texts(0), folder)
    return AutoTokenizer.from_pretrained(folder, use_fast=False)


def test_it_is_llamas_class_with_llamas_ids(tokenizer):
    assert isinstance(tokenizer, LlamaTokenizer)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token is None
    assert len(tokenizer) == VOCABULARY


@pytest.mark.parametrize(
    "text",
    ["A large red circle is left of a small blue square.", "[0.12, 0.30, 0.45, 0.61]", "two\nlines", "naïve 東京 🙂"],
)
def test_text_survives_the_round_trip(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_digits_stand_alone_and_line_breaks_are_bytes(tokenizer):
    assert tokenizer.tokenize("a 2048") == ["▁a", "▁", "2", "0", "4", "8"]
    assert "<0x0A>" in tokenizer.tokenize("one\nWhat")


def test_words_of_prompts_are_one_piece_each(tokenizer):
    for text in ("ASSISTANT", "USER", "artificial intelligence", "circle triangle purple", "bounding box coordinate"):
        assert len(tokenizer.tokenize(text)) == len(text.split())
    assert "What" in tokenizer.tokenize("x\nWhat color is it?")


def test_training_again_gives_the_same_pieces(tokenizer, tmp_path):
    train_tokenizer(tokenizer_texts(0), tmp_path)
    assert LlamaTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()
