"""A tokenizer, a model and records for LLaVA's tests."""

import json

import pytest
from transformers import AutoTokenizer, CLIPImageProcessor

from llava.model.builder import load_pretrained_model


@pytest.fixture
def tokenizer(tiny_checkpoint):
    """The tiny SentencePiece tokenizer, pad = unk as LLaVA-1.5 has it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint / "llama", use_fast=False)
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


@pytest.fixture
def model(tiny_checkpoint):
    """The tiny LLaVA in eval mode, a new one for each test."""
    return load_pretrained_model(str(tiny_checkpoint / "llava-tiny"), None, "llava-tiny", device="cpu")[1]


@pytest.fixture(scope="session")
def processor(tiny_checkpoint):
    return CLIPImageProcessor.from_pretrained(tiny_checkpoint / "vision_tower")


@pytest.fixture
def records(tiny_dataset):
    return json.loads(tiny_dataset.read_text())
