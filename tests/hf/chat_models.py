"""Tokenizers with the special tokens and chat templates of real models, and generated conversations."""

import random
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "chat_templates"
# template -> end token of an answer, image token, white space that the template puts before an answer
MODELS = {
    "qwen2_vl": ("<|im_end|>", "<|image_pad|>", ""),
    "qwen2_5_vl": ("<|im_end|>", "<|image_pad|>", ""),
    "qwen3_vl": ("<|im_end|>", "<|image_pad|>", ""),
    "internvl3": ("<|im_end|>", "<IMG_CONTEXT>", ""),
    "smolvlm": ("<end_of_utterance>", "<image>", " "),
    "llava_onevision": ("<|im_end|>", "<image>", ""),
}
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
WORDS = [
    "What",
    "is",
    "in",
    "the picture?",
    "A",
    "red",
    "square,",
    "two dogs;",
    "user",
    "assistant",
    "Assistant:",
    "\t",
]
WORDS += ["système", "北京", "🙂", "42", "<b>", "im_end"]


def bpe_tokenizer(special_tokens: list[str], **names: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer like Qwen's, trained on WORDS."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator([" ".join(WORDS), "assistant\n\n user\n"] * 3, trainer)
    core.add_special_tokens([AddedToken(token, special=True) for token in special_tokens])
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@cache
def tokenizer_of(model: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a model of MODELS, or of another template's name."""
    end, image, _ = MODELS.get(model, MODELS["qwen3_vl"])
    names = {"eos_token": end, "pad_token": "<|endoftext|>"}
    tokenizer = bpe_tokenizer(list(dict.fromkeys([*SPECIAL_TOKENS, end, image])), **names)
    tokenizer.chat_template = (TEMPLATES / f"{model}.jinja").read_text()
    tokenizer.image_token = image
    return tokenizer


def conversation(draw: random.Random) -> list[dict[str, str]]:
    """One to four questions and answers of odd texts; some answers are empty, some questions have images."""
    turns = []
    for _ in range(draw.randint(1, 4)):
        question, answer = _text(draw, 0), _text(draw, 0)
        for _ in range(draw.choice((0, 0, 1, 1, 2))):
            question = draw.choice(("<image>\n" + question, question + "\n<image>", "see <image> " + question))
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return turns


def _text(draw: random.Random, least: int) -> str:
    words = [draw.choice(WORDS) for _ in range(draw.randint(least, 6))]
    return draw.choice(("", "", " ", "\n")) + draw.choice((" ", "\n")).join(words) + draw.choice(("", "", "\n", "  "))
