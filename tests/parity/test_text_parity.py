"""Prompts, token ids and labels equal the recorded reference, or are right where the reference is recorded as wrong."""

import json

import pytest
from transformers import AutoTokenizer

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.preprocess import check_fits, check_trainable, encode_segments, preprocess, preprocess_question
from llava.mm_utils import tokenizer_image_token
from visatb.errors import InputError
from visatb.records import check_records, is_empty

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


def has_empty_turn(case):
    """The reference leaves such turns open, without their end, which mislabels what follows; ours have theirs."""
    return any(is_empty(turn["value"]) for turn in case["sources"])


def expected_answers(tokenizer, case):
    """The texts that must be supervised, from the record alone."""
    turns = case["sources"][1:] if case["sources"][0]["from"] == "gpt" else case["sources"]
    end = {"mpt": "<|im_end|>", "llava_llama_2": " </s>"}.get(case["default_conversation"], "</s>")
    lead = "" if case["default_conversation"] == "mpt" else " "
    return [lead + turn["value"] + end for turn in turns if turn["from"] == "gpt" and not is_empty(turn["value"])]


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
        if has_empty_turn(case):
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
        assert ids == case["input_ids"] or has_empty_turn(case), case["name"]
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


# What each recorded crash has become: (through preprocess, through the checks that run before a model loads).
NOT_PLAIN = "a plain conversation must be one turn with <image> and its caption. Fix the record."
REFUSALS = {
    "v1_roles_not_alternating": (
        "turn 1 must be from 'gpt', got 'human'. Let human and gpt take turns.",
        ": conversations[1].from must be 'gpt', got 'human'. Let human and gpt take turns.",
    ),
    "v1_two_gpt_in_a_row": (
        "turn 2 must be from 'human', got 'gpt'. Let human and gpt take turns.",
        ": conversations[2].from must be 'human', got 'gpt'. Let human and gpt take turns.",
    ),
    "v1_unknown_role": (
        "turn 0 must be from 'human', got 'system'. Let human and gpt take turns.",
        ": conversations[0].from must be 'human', got 'system'. The system prompt is the template's "
        "(--version): drop the turn, or put its text into a question.",
    ),
    "v1_capital_role": (
        "turn 0 must be from 'human', got 'Human'. Let human and gpt take turns.",
        ": conversations[0].from must be 'human', got 'Human'. Let human and gpt take turns.",
    ),
    "v1_first_two_from_gpt": (
        "turn 1 must be from 'human', got 'gpt'. Let human and gpt take turns.",
        ": conversations[1].from must be 'human', got 'gpt'. Let human and gpt take turns.",
    ),
    "v1_empty_conversation": (
        "conversations must hold at least one turn, got none. Add the conversation.",
        ": conversations must be a list of turns, got an empty list. Add the conversation.",
    ),
    "plain_no_image_token": (NOT_PLAIN, f": {NOT_PLAIN}"),
    "plain_two_turns": (NOT_PLAIN, f": {NOT_PLAIN}"),
    "plain_first_from_gpt": (NOT_PLAIN, f": {NOT_PLAIN}"),
    "l2_empty_conversation": (
        "conversations must hold at least one turn, got none. Add the conversation.",
        ": conversations must be a list of turns, got an empty list. Add the conversation.",
    ),
}


def test_conversations_that_raise_in_the_reference_are_refused(golden):
    recorded = cases(golden, "preprocess_errors.json")
    assert {case["name"] for case in recorded} == REFUSALS.keys() | {"l2_empty_first_human"}  # that one is rendered
    tokenizer = load_tokenizer(golden)
    for case in recorded:
        if case["name"] not in REFUSALS:
            continue
        template, image_count = conv_templates[case["default_conversation"]], None if case["has_image"] else 0
        by_preprocess, by_checks = REFUSALS[case["name"]]
        with pytest.raises(ValueError) as refusal:
            preprocess(case["sources"], tokenizer, template, image_count=image_count)
        assert str(refusal.value) == by_preprocess, case["name"]
        record = {"id": "x", "conversations": case["sources"]} | ({"image": "x.png"} if case["has_image"] else {})
        with pytest.raises(InputError) as refusal:
            check_records([record], "train.json")
            check_fits([record], template, "train.json")
        assert str(refusal.value) == f"train.json: record 0 (id 'x'){by_checks}", case["name"]


def reference_layout(case):
    """How the reference writes a conversation of a `###` template for training, unlike its own prompts."""
    template = conv_templates[case["default_conversation"]]
    speakers = {"human": template.roles[0], "gpt": template.roles[1]}
    text = template.system + "\n\n"
    for turn in case["sources"]:
        value = turn["value"]
        if case["has_image"] and "<image>" in value:
            value = f"<image>\n{value.replace('<image>', '').strip()}".strip()
            shown = "<im_start><image><im_end>" if case["mm_use_im_start_end"] else "<image>"
            tagged = "mmtag" in template.version
            value = value.replace("<image>", f"<Image>{shown}</Image>" if tagged else shown)
        text += f"### {speakers.get(turn['from'], 'unknown')}: {value}\n"
    return text + "### "


def test_hash_templates_are_trained_as_they_are_prompted(golden):
    """The one recorded layout that is not kept.

    The reference trains the three `###` templates on "### Human: question\\n### Assistant: answer\\n### " but asks with
    "###Human: question###Assistant:", supervises the headers in part, and learns "\\n### " as the end where its
    inference waits for "###". Here there is one renderer: training text is prompt text, and what is supervised is each
    answer with its "###".
    """
    compared = refused = 0
    for case in cases(golden, "preprocess_extra.json"):
        if case["default_conversation"] not in HASH_STYLES:
            continue
        tokenizer = load_tokenizer(golden, case["added_tokens"])
        theirs = tokenizer_image_token(reference_layout(case), tokenizer)
        limit = None if case["has_image"] else case["model_max_length"]
        assert theirs[:limit] == case["input_ids"], case["name"]
        if case["name"].endswith("unknown_role"):
            with pytest.raises(ValueError, match="must be from 'human', got 'tool'"):
                ours(golden, case)
            refused += 1
            continue
        _, ids, labels = ours(golden, case | {"model_max_length": 10**9})
        template = conv_templates[case["default_conversation"]]
        turns = case["sources"][1:] if case["sources"][0]["from"] == "gpt" else case["sources"]
        assert ids == tokenizer_image_token(prompt_text(template, turns, case), tokenizer), case["name"]
        answers = [turn["value"] for turn in turns if turn["from"] == "gpt" and not is_empty(turn["value"])]
        pieces = [tokenizer.convert_ids_to_tokens(stretch) for stretch in supervised_stretches(ids, labels)]
        found = [tokenizer.sp_model.decode(stretch) for stretch in pieces]
        assert [text.strip() for text in found] == [f"{answer}###".strip() for answer in answers], case["name"]
        compared += 1
    assert (compared, refused) == (27, 3)


def prompt_text(template, turns, case):
    """`get_prompt()` of the turns, their images placed as in the reference's layout."""
    conversation = template.copy()
    conversation.messages = []
    for n, turn in enumerate(turns):
        one = case | {"sources": [turn]}
        value = reference_layout(one).removeprefix(template.system + "\n\n### ").removesuffix("\n### ")
        conversation.append_message(conversation.roles[n % 2], value.partition(": ")[2])
    return conversation.get_prompt()


@pytest.mark.parametrize("name", list(conv_templates))
def test_templates_that_the_recorded_llama_tokenizer_cannot_train_say_so(golden, name):
    """mpt's marks are no tokens of it: the reference drops every label there, recorded as a mismatch."""
    tokenizer = load_tokenizer(golden)
    if name == "mpt":
        with pytest.raises(InputError, match="not a token of this tokenizer"):
            check_trainable(conv_templates[name], tokenizer)
    else:
        check_trainable(conv_templates[name], tokenizer, projector_only=True)


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
