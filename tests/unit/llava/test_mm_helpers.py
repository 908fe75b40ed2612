"""LLaVA's helper names."""

import logging

import pytest
import torch

import llava.mm_utils as mm_utils
from llava.mm_utils import KeywordsStoppingCriteria, get_model_name_from_path, tokenizer_image_token
from llava.utils import build_logger, disable_torch_init


def test_model_names():
    assert get_model_name_from_path("/a/b/llava-v1.5-7b/") == "llava-v1.5-7b"
    assert get_model_name_from_path("runs/llava-lora/checkpoint-100") == "llava-lora_checkpoint-100"
    assert get_model_name_from_path("checkpoint-100") == "checkpoint-100"
    assert get_model_name_from_path("liuhaotian/llava-v1.5-7b") == "llava-v1.5-7b"


def test_names_of_llava_are_importable():
    for name in mm_utils.__all__:
        assert getattr(mm_utils, name) is not None


def test_tokenizer_image_token_refuses_other_tensors(tokenizer):
    assert tokenizer_image_token("a <image> b", tokenizer).count(-200) == 1
    assert tokenizer_image_token("<image>", tokenizer, image_token_index=-7) == [1, -7]
    with pytest.raises(ValueError, match="return_tensors"):
        tokenizer_image_token("a", tokenizer, return_tensors="np")


def test_keywords_stop_only_when_every_row_has_one(tokenizer):
    def ids(text):
        return tokenizer(text).input_ids

    prompt = torch.tensor([ids("USER: ###"), ids("USER: ###")])
    stop = KeywordsStoppingCriteria(["###"], tokenizer, prompt)
    assert not stop(prompt, None)
    first, second = ids("It is red.###")[1:], ids("It is red. So")[1:]
    width = min(len(first), len(second))
    rows = torch.tensor([first[-width:], second[-width:]])
    assert not stop(torch.cat([prompt, rows], 1), None)
    assert stop(torch.cat([prompt, rows[:1].expand(2, -1)], 1), None)


def test_loggers_and_torch_stay_as_they_are(tmp_path):
    reset = torch.nn.Linear.reset_parameters
    disable_torch_init()
    assert torch.nn.Linear.reset_parameters is reset
    logger = build_logger("llava.test", str(tmp_path / "x.log"))
    assert build_logger("llava.test", str(tmp_path / "x.log")) is logger and len(logger.handlers) == 1
    logger.info("hello")
    assert "hello" in (tmp_path / "x.log").read_text()
    logging.getLogger("llava.test").handlers.clear()
