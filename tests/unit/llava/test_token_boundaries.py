"""The quick ways of the encoder and of the cut give what the slow ones give."""

import io
import pickle

import pytest
import sentencepiece
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaTokenizer

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.collator import kept_tokens
from llava.data.pieces import Boundaries
from llava.data.preprocess import SegmentEncoder, preprocess

WORDS = [
    "ASSISTANT:",
    " answer",
    "</s>",
    "<0x0A>",
    "\n",
    " ",
    "  ",
    "the ",
    "red",
    "東",
    "é",
    "e\u0301",
    "\u2581",
    "0.12",
]
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=8).map("".join)


@pytest.fixture(scope="module")
def tokenizers(tiny_checkpoint):
    folder = tiny_checkpoint / "llama"
    return {legacy: LlamaTokenizer.from_pretrained(folder, legacy=legacy) for legacy in (True, False)}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, texts, st.booleans(), st.booleans())
def test_tokens_before_a_boundary_are_those_of_the_text_before_it(tokenizers, before, after, legacy, opens_text):
    encoder = SegmentEncoder(tokenizers[legacy])
    whole = encoder._text_tokens(before + after, opens_text)
    count = Boundaries(tokenizers[legacy]).tokens_before(whole, after)
    assert count is None or count == len(encoder._text_tokens(before, opens_text))


def test_the_boundary_of_an_answer_is_read_off(tokenizers):
    boundaries, tokenize = Boundaries(tokenizers[True]), tokenizers[True]._tokenize
    question, answer = "What colour is the ring?\nASSISTANT:", " It is rüd\n."
    assert boundaries.tokens_before(tokenize(question + answer), answer) == len(tokenize(question))
    assert boundaries.tokens_before(["\u2581a", "\u2581ring"], "ng") is None  # inside a token


@pytest.mark.parametrize("changed", [{"normalization_rule_name": "nmt_nfkc"}, {"model_type": "unigram"}])
def test_normalising_or_non_bpe_tokenizers_are_not_shortcut(tmp_path, changed):
    model = io.BytesIO()
    options = {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False} | changed
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red ring on white ground"] * 20),
        model_writer=model,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = LlamaTokenizer(str(tmp_path / "tokenizer.model"))
    assert Boundaries(tokenizer).tokens_before(tokenizer._tokenize("a red ring"), " ring") is None
    turns = [{"from": "human", "value": "a ring"}, {"from": "gpt", "value": "red"}]
    assert (preprocess(turns, tokenizer, conv_templates["v1"])["labels"] >= 0).any()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(texts, min_size=2, max_size=4), min_size=1, max_size=4), st.booleans(), st.data())
def test_an_encoder_remembers_nothing_that_shows(tokenizers, conversations, legacy, data):
    encoder = SegmentEncoder(tokenizers[legacy])
    for texts_in_turn in conversations:
        conversation = conv_templates[data.draw(st.sampled_from(["v1", "llava_v0", "mpt", "v1_mmtag"]))].copy()
        for n, text in enumerate(texts_in_turn):
            conversation.append_message(conversation.roles[n % 2], text)
        segments = conversation.render()
        for used in (encoder, pickle.loads(pickle.dumps(encoder))):  # as sent to a process
            for ours, fresh in zip(used(segments), SegmentEncoder(tokenizers[legacy])(segments), strict=True):
                assert torch.equal(ours, fresh) and ours.dtype == torch.long


@given(st.lists(st.sampled_from([IMAGE_TOKEN_INDEX, 5, 6]), max_size=12), st.integers(1, 40), st.integers(0, 9))
def test_what_is_kept_is_what_fits_counted_one_by_one(ids, max_length, patches):
    kept = used = 0
    for token in ids:
        used += patches if token == IMAGE_TOKEN_INDEX else 1
        if used > max_length:
            break
        kept += 1
    assert kept_tokens(torch.tensor(ids, dtype=torch.long), max_length, patches) == kept
