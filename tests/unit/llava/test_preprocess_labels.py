"""Labels are the answers with their end token, whatever the text holds."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaTokenizer

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Segment, conv_templates
from llava.data.preprocess import encode_segments, place_images, preprocess, preprocess_question
from llava.mm_utils import tokenizer_image_token

V1, PLAIN = conv_templates["v1"], conv_templates["plain"]


def turns(*texts, first="human"):
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": roles[n % 2], "value": text} for n, text in enumerate(texts)]


def supervised_text(sample, tokenizer):
    return tokenizer.decode([label for label in sample["labels"].tolist() if label != IGNORE_INDEX])


TROUBLE = ["</s>", "<s>", "<unk>", " ASSISTANT: ", "USER:", "[/INST]", "<image>", "###", "\n", "  ", "ünïcödé", "東京"]
texts = st.lists(st.one_of(st.sampled_from(TROUBLE), st.text("abc XY.?é", max_size=6)), max_size=5).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.sampled_from(["v1", "llava_llama_2", "llava_v0"]))
def test_any_text_keeps_its_labels_and_makes_no_special_token(tokenizer, pairs, name):
    conversation = conv_templates[name]
    sample = preprocess(turns(*(text for pair in pairs for text in pair)), tokenizer, conversation, image_count=0)
    ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
    assert all(label in (token, IGNORE_INDEX) for token, label in zip(ids, labels, strict=True))
    answered = sum(bool(answer.strip()) for _, answer in pairs)
    ends = 0 if name == "llava_v0" else 1
    assert ids.count(tokenizer.eos_token_id) == len(pairs) * ends
    assert labels.count(tokenizer.eos_token_id) == answered * ends
    assert tokenizer.unk_token_id not in ids and IMAGE_TOKEN_INDEX not in ids
    begins = len(pairs) if name == "llava_llama_2" else 1
    assert ids.count(tokenizer.bos_token_id) == begins
    stretches = "".join(str(int(label != IGNORE_INDEX)) for label in labels).split("0")
    assert sum(bool(stretch) for stretch in stretches) == answered


def test_labels_are_the_answers(tokenizer):
    sample = preprocess(turns("<image>\nWhat?", "A ring.", "And?", "Red."), tokenizer, V1, image_count=1)
    assert supervised_text(sample, tokenizer) == " A ring.</s> Red.</s>"
    assert sample["input_ids"].tolist().count(IMAGE_TOKEN_INDEX) == 1


def test_the_end_token_of_the_template_is_special_and_of_the_user_is_not(tokenizer):
    sample = preprocess(turns("Is </s> the end?", "No </s> it is not"), tokenizer, V1, image_count=0)
    ids = sample["input_ids"].tolist()
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    kept = [label for label in sample["labels"].tolist() if label != IGNORE_INDEX]
    assert tokenizer.sp_model.decode(kept[:-1]) == "No </s> it is not"


def test_an_opening_gpt_turn_is_dropped_and_empty_answers_teach_nothing(tokenizer):
    plain = preprocess(turns("Q", "A"), tokenizer, V1, image_count=0)
    opened = preprocess(turns("Hello", "Q", "A", first="gpt"), tokenizer, V1, image_count=0)
    assert opened["input_ids"].tolist() == plain["input_ids"].tolist()
    empty = preprocess(turns("Q", ""), tokenizer, V1, image_count=0)
    assert (empty["labels"] == IGNORE_INDEX).all() and len(empty["input_ids"]) > 5
    later = preprocess(turns("Q", "", "R", "yes"), tokenizer, V1, image_count=0)
    assert supervised_text(later, tokenizer) == " yes</s>"


def test_wrong_roles_are_refused(tokenizer):
    for wrong in ([], turns("a", "b", "c", first="gpt")[::2], [{"from": "system", "value": "x"}]):
        with pytest.raises(ValueError):
            preprocess(wrong, tokenizer, V1)
    for wrong in (turns("no image", "caption"), turns("<image>", "a", "b", "c")):
        with pytest.raises(ValueError, match="plain"):
            preprocess(wrong, tokenizer, PLAIN)


def test_plain_supervises_the_caption_right_after_the_image(tokenizer):
    sample = preprocess(turns("<image>\nDescribe.", "A red ring."), tokenizer, PLAIN, image_count=1)
    assert sample["input_ids"][:2].tolist() == [tokenizer.bos_token_id, IMAGE_TOKEN_INDEX]
    assert sample["labels"][:2].tolist() == [IGNORE_INDEX] * 2
    assert (sample["labels"][2:] == sample["input_ids"][2:]).all()
    assert tokenizer.decode(sample["input_ids"][2:]) == "A red ring.\n"


def test_several_images_of_a_record_keep_their_places(tokenizer):
    text = "First <image> then <image>, which is red?"
    assert place_images(text, V1, False, several=True) == text
    sample = preprocess(turns(text, "The second."), tokenizer, V1, image_count=2)
    assert sample["input_ids"].tolist().count(IMAGE_TOKEN_INDEX) == 2
    assert place_images("What? <image>", V1, False, several=True) == "<image>\nWhat?"
    assert place_images("<image>a<image>b", V1, False) == "<image>\nab"


def test_start_and_end_tokens_and_tags_go_around_the_image(tokenizer):
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    ids = preprocess(turns("<image>\nWhat?", "x"), tokenizer, V1, mm_use_im_start_end=True)["input_ids"].tolist()
    at = ids.index(IMAGE_TOKEN_INDEX)
    assert [ids[at - 1], ids[at + 1]] == tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"])
    tagged = place_images("<image>", conv_templates["v1_mmtag"], mm_use_im_start_end=True)
    assert tagged == "<Image><im_start><image><im_end></Image>"
    # In somebody's words they are characters.
    ids = preprocess(turns("Say <im_start>", "x"), tokenizer, V1, image_count=0)["input_ids"].tolist()
    assert tokenizer.convert_tokens_to_ids("<im_start>") not in ids


@pytest.mark.parametrize("name", ["v1", "llava_llama_2", "llava_v0", "v1_mmtag", "mpt"])
def test_a_question_is_encoded_as_training_encodes_it(tokenizer, name):
    question = "What is it? <image>"
    prompt = preprocess_question(question, tokenizer, conv_templates[name]).tolist()
    sample = preprocess(turns(question, "A ring."), tokenizer, conv_templates[name])
    ids = sample["input_ids"].tolist()
    assert ids[: len(prompt)] == prompt
    assert (sample["labels"][: len(prompt)] == IGNORE_INDEX).all()
    if name != "mpt":
        assert sample["labels"][len(prompt)] != IGNORE_INDEX


@pytest.mark.parametrize("legacy", [True, False])
def test_rendered_text_encodes_as_the_tokenizer_itself_encodes_it(tiny_checkpoint, legacy):
    """Both behaviours of LlamaTokenizer: Vicuna 1.5 has legacy=False."""
    tokenizer = LlamaTokenizer.from_pretrained(tiny_checkpoint / "llama", legacy=legacy)
    for name in ("v1", "llava_llama_2", "llava_v0"):
        conversation = conv_templates[name].copy()
        for n, text in enumerate(["<image>\nWhat colour?", "It is red. ", " Where\n?", ", there."]):
            conversation.append_message(conversation.roles[n % 2], text)
        ids, _ = encode_segments(conversation.render(), tokenizer)
        assert ids.tolist() == tokenizer_image_token(conversation.get_prompt(), tokenizer)


def test_tokens_do_not_depend_on_what_is_supervised(tokenizer):
    text = "There is a red square on white ground."
    whole, _ = encode_segments([Segment(text)], tokenizer)
    for cut in range(len(text)):
        ids, labels = encode_segments([Segment(text[:cut]), Segment(text[cut:], supervised=True)], tokenizer)
        assert ids.tolist() == whole.tolist()
        kept = [label for label in labels.tolist() if label != IGNORE_INDEX]
        assert kept == whole.tolist()[len(whole) - len(kept) :]


def test_a_fast_tokenizer_is_refused():
    class Fast:
        is_fast = True

    with pytest.raises(ValueError, match="use_fast=False"):
        encode_segments([Segment("x")], Fast())
