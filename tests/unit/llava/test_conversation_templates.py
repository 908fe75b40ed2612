"""Templates cannot be changed by accident, and segments say what is supervised."""

import subprocess
import sys

import pytest

from llava.conversation import Segment, conv_templates, conversation_for_version, default_conversation
from visatb.errors import InputError


def filled(name, *texts):
    conversation = conv_templates[name].copy()
    conversation.messages = []
    for n, text in enumerate(texts):
        conversation.append_message(conversation.roles[n % 2], text)
    return conversation


@pytest.mark.parametrize("name", list(conv_templates))
def test_prompt_joins_the_segments_and_every_answer_is_supervised(name):
    conversation = filled(name, "<image>\nWhat?", "Two </s> words.")
    segments = conversation.render()
    assert "".join(segment.text for segment in segments) == conversation.get_prompt()
    supervised = "".join(segment.text for segment in segments if segment.supervised)
    assert "Two </s> words." in supervised and "What?" not in supervised
    assert Segment("<image>") in segments


def test_images_can_be_plain_words():
    segments = filled("v1", "Say <image>", "<image>").render(images=False)
    assert [segment.text for segment in segments if segment.literal] == ["Say <image>", "<image>"]


def test_a_template_cannot_be_appended_to():
    for template in conv_templates.values():
        with pytest.raises(TypeError, match="copy"):
            template.append_message("USER", "x")
    copied = default_conversation.copy()
    copied.append_message("USER", "x")
    assert len(default_conversation.messages) == 0
    with pytest.raises(TypeError):
        conv_templates["mine"] = copied


def test_v0_trains_with_v1_and_says_so():
    with pytest.warns(UserWarning, match="v1"):
        assert conversation_for_version("v0") is conv_templates["v1"]
    assert conversation_for_version("plain") is conv_templates["plain"]
    with pytest.raises(InputError, match="no_such_version"):
        conversation_for_version("no_such_version")


EMPTY_ANSWER = {
    "v1": "USER: One? ASSISTANT: </s>USER: Two? ASSISTANT:| red</s>",
    "llava_v1": "USER: One? ASSISTANT: </s>USER: Two? ASSISTANT:| red</s>",
    "v1_mmtag": "USER: One? ASSISTANT: </s>USER: Two? ASSISTANT:| red</s>",
    "llava_v0": "###Human: One?###Assistant: ###Human: Two?###Assistant:| red###",
    "v0_mmtag": "###Human: One?###Assistant: ###Human: Two?###Assistant:| red###",
    "v0": "###Human: One?###Assistant: ###Human: Two?###Assistant:| red###",
    "llama_2": "One? [/INST]  </s><s>[INST] Two? [/INST]| red </s>",
    "llava_llama_2": "One? [/INST]  </s><s>[INST] Two? [/INST]| red </s>",
    "mpt": "<|im_start|>user\nOne?<|im_end|><|im_start|>assistant\n<|im_end|><|im_start|>user\nTwo?<|im_end|>"
    "<|im_start|>assistant\n|red<|im_end|>",
}


@pytest.mark.parametrize("name", EMPTY_ANSWER)
def test_an_empty_answer_has_its_markers_and_end_and_is_not_learned(name):
    rendered, learned = EMPTY_ANSWER[name].split("|") if name != "mpt" else EMPTY_ANSWER[name].rsplit("|red", 1)
    learned = f"red{learned}" if name == "mpt" else learned
    segments = filled(name, "One?", "", "Two?", "red").render()
    assert "".join(segment.text for segment in segments).endswith(rendered + learned)
    assert "".join(segment.text for segment in segments if segment.supervised) == learned
    blank = filled(name, "One?", " \n", "Two?", "red").render()
    assert "".join(segment.text for segment in blank if segment.supervised) == learned


@pytest.mark.parametrize(
    "name, rendered",
    [
        ("v1", "ASSISTANT: red</s>USER:  ASSISTANT: blue</s>"),
        ("llava_v0", "###Assistant: red###Human: ###Assistant: blue###"),
        ("llama_2", "[/INST] red </s><s>[INST]  [/INST] blue </s>"),
        ("mpt", "red<|im_end|><|im_start|>user\n<|im_end|><|im_start|>assistant\nblue<|im_end|>"),
    ],
)
def test_an_empty_question_has_its_markers_and_its_answer_is_learned(name, rendered):
    segments = filled(name, "One?", "red", "", "blue").render()
    assert "".join(segment.text for segment in segments).endswith(rendered)
    learned = [segment.text for segment in segments if segment.supervised and segment.literal]
    assert learned == ["red", "blue"]


def test_an_empty_caption_is_not_learned():
    segments = filled("plain", "<image>", "").render()
    assert [segment.text for segment in segments] == ["<image>", "\n"]
    assert not any(segment.supervised for segment in segments)


def test_llama_2_puts_its_system_prompt_before_an_empty_question():
    assert filled("llava_llama_2", "", "x").get_prompt().endswith("<</SYS>>\n\n [/INST] x </s>")
    with pytest.raises(ValueError, match="first message"):
        filled("llava_llama_2", None, "x").get_prompt()


def test_dict_and_copy_leave_the_image_of_a_demo_out():
    conversation = filled("v1", ("Look <image>", object(), "Crop"), None)
    assert conversation.dict()["messages"] == [["USER", "Look <image>"], ["ASSISTANT", None]]
    assert conversation.copy().get_prompt().endswith("USER: <image>\nLook ASSISTANT:")


def test_importing_constants_and_conversations_needs_no_torch():
    code = "import sys, llava.constants, llava.conversation, llava.utils; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import llava; from llava import LlavaLlamaForCausalLM; assert not hasattr(llava, 'nothing')"
    subprocess.run([sys.executable, "-c", code], check=True)
