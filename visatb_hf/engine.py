"""A loaded vision-language model of transformers 5 that answers batches (`llava.generate.engine.Engine`).

Prompts are rendered with the model's own chat template and padded on the left. Generation settings that read the prompt
are kept from reading the padding, so that answers are the same as with batch size 1.

Shapes: B batch, S padded prompt length, N new tokens, V vocabulary.
"""

import sys
from collections.abc import Collection, Hashable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from llava.data.images import image_of, resized
from llava.generate.budget import NO_BUDGET, budget_in, budget_of
from llava.generate.engine import Prompt
from llava.generate.logits import NumberWatch
from llava.generate.questions import Question, Settings, marked_text
from visatb.errors import InputError
from visatb_hf.chat import PromptTemplate
from visatb_hf.loading import load_model, load_processor, with_adapter
from visatb_hf.logits import Noise, RepetitionPenalty

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Settings of a generation config that read ids or lengths of the prompt, padding included, and their neutral values.
_READS_PROMPT = {"no_repeat_ngram_size": 0, "min_length": 0, "encoder_repetition_penalty": 1.0}
# Sampling settings; sampling is done here, with a separate generator for each question.
_DRAWING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


class HfEngine:
    """A loaded model with its processor and generation settings."""

    equal_lengths = False

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Any,
        settings: Settings,
        budget: tuple[int | None, int | None] = NO_BUDGET,
    ):
        """Take a loaded model and its processor; puts the model in evaluation mode.

        Args:
            model, processor: of one family.
            settings: generation settings.
            budget: fewest and most pixels of an image.

        Raises:
            InputError: the processor's chat template fails.
        """
        self.model, self.processor, self.settings = model.eval(), processor, settings
        self.device, self._budget = model.device, budget
        self.max_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        self._tokenizer = processor.tokenizer
        self._template = PromptTemplate(processor, model.name_or_path or type(model).__name__)
        self._adds_special_tokens = self._template.adds_special_tokens
        self._config = generation_config(model, self._tokenizer, settings)
        self._penalty, self._config.repetition_penalty = self._config.repetition_penalty, None
        reads_prompt = any(getattr(self._config, name, None) not in (None, off) for name, off in _READS_PROMPT.items())
        # Beam search divides scores by lengths that include the padding.
        self._unpadded = settings.num_beams > 1 or reads_prompt

    @classmethod
    def load(cls, path: str, base: str | None, settings: Settings, device: str, dtype: str) -> "HfEngine":
        """Load a model, or an adapter on its base, with the processor.

        Raises:
            InputError: transformers cannot load the complete model or its processor.
        """
        processor = load_processor(path, base)
        model = load_model(base or path, device, DTYPES[dtype])
        if base is not None:
            model = with_adapter(model, path)
        budget = budget_in(path) if Path(path).is_dir() else budget_of(model.config.to_dict(), path)
        return cls(model, processor, settings, budget)

    def asking(self, settings: Settings) -> "HfEngine":
        """The same loaded model with other settings."""
        return type(self)(self.model, self.processor, settings, self._budget)

    def prompt(self, question: Question) -> Prompt:
        """The prompt of a question, rendered as in training; an image's number of tokens is known once it is read."""
        try:
            text = self._template.prompt([{"from": "human", "value": marked_text(question)}])
        except InputError as error:
            return Prompt(question, refusal=str(error))
        return Prompt(question, text, (len(question.images), len(self._tokenizer(text)["input_ids"])))

    def load_images(self, question: Question) -> list[Image.Image]:
        """The images of a question: upright, RGB, resized as in training.

        Raises:
            InputError: naming record and path.
        """
        if question.problem is not None:
            raise InputError(question.problem)
        return [resized(image_of(image, question.where), *self._budget) for image in question.images]

    def answer(self, prompts: Sequence[Prompt], images: Sequence[list[Image.Image]]) -> list[str]:
        """The answers to a batch; every question has its own random numbers, whatever else is in the batch.

        Raises:
            ValueError: a prompt longer than the model's context, or one that the processor refuses.
            FloatingPointError: logits that are not numbers.
        """
        texts = [""] * len(prompts)
        for group in _equal(map(bool, images)):  # some processors reject batches in which only some have images
            inputs = self._inputs([prompts[n] for n in group], [images[n] for n in group])
            lengths = inputs["attention_mask"].sum(dim=-1).tolist()
            if len(set(lengths)) > 1 and not self._may_pad(max(lengths)):
                parts = [[group[n] for n in part] for part in _equal(lengths)]
                found = [self.answer([prompts[n] for n in part], [images[n] for n in part]) for part in parts]
            else:
                parts, found = [group], [self._texts(inputs, max(lengths), [prompts[n].question for n in group])]
            for part, said in zip(parts, found, strict=True):
                for n, text in zip(part, said, strict=True):
                    texts[n] = text
        return texts

    def release_memory(self) -> None:
        """Return cached blocks of the GPU after a batch that did not fit."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _inputs(self, prompts: Sequence[Prompt], images: Sequence[list[Image.Image]]) -> Any:
        """The model's inputs for prompts that all have images or all have none: ids, mask and pixels, on its device."""
        inputs = self.processor(
            text=[prompt.content for prompt in prompts],
            images=[list(pictures) for pictures in images] if images[0] else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            add_special_tokens=self._adds_special_tokens,
        )
        return inputs.to(self.device, self.model.dtype)

    def _may_pad(self, longest: int) -> bool:
        """Whether padding changes nothing: neither what generation reads nor how many tokens fit."""
        return not self._unpadded and longest + self.settings.max_new_tokens <= self.max_positions

    @torch.inference_mode()
    def _texts(self, inputs: Any, longest: int, questions: Sequence[Question]) -> list[str]:
        room = self.max_positions - longest
        if room < 1:
            raise ValueError(f"the prompt takes {longest} positions, the model has {self.max_positions}")
        watch = NumberWatch()
        keys = [f"{self.settings.seed}\n{one.position}\n{one.text}" for one in questions]
        config = deepcopy(self._config)
        config.max_new_tokens = min(self.settings.max_new_tokens, room)
        output_BN = self.model.generate(
            **inputs,
            generation_config=config,
            logits_processor=self._processors(inputs["attention_mask"], watch, keys),
        )
        watch.check(len(questions))
        new_BN = output_BN[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._tokenizer.decode(_until(row, config.eos_token_id), skip_special_tokens=True).strip() for row in new_BN
        ]

    def _processors(self, mask_BS: torch.Tensor, watch: NumberWatch, keys: Sequence[str]) -> LogitsProcessorList:
        """The processors that are applied to the logits before the argmax."""
        chosen = LogitsProcessorList([watch])
        if self._penalty not in (None, 1.0):
            chosen.append(RepetitionPenalty(self._penalty, mask_BS))
        if self.settings.temperature > 0:
            chosen.append(TemperatureLogitsWarper(self.settings.temperature))
            if self.settings.top_p is not None and self.settings.top_p < 1:
                chosen.append(TopPLogitsWarper(self.settings.top_p))
            chosen.append(Noise(keys))
        return chosen


def generation_config(model: torch.nn.Module, tokenizer: Any, settings: Settings) -> GenerationConfig:
    """The model's own generation settings (end tokens, penalties), with its sampling settings replaced by ours."""
    config = deepcopy(model.generation_config)
    for name in (*_DRAWING, "max_length"):
        if hasattr(config, name):
            setattr(config, name, None)
    config.do_sample, config.num_beams, config.num_return_sequences = False, settings.num_beams, 1
    config.use_cache = True  # training saves use_cache=False
    ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    config.eos_token_id = list(ends) if isinstance(ends, list | tuple) else [ends]
    config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.eos_token_id[0]
    return config


def _equal(values: Iterable[Hashable]) -> list[list[int]]:
    """Groups of the indices of equal values."""
    places: dict[Hashable, list[int]] = {}
    for n, value in enumerate(values):
        places.setdefault(value, []).append(n)
    return list(places.values())


def _until(ids: list[int], ends: Collection[int]) -> list[int]:
    """The ids before the first end token."""
    return ids[: next((n for n, token in enumerate(ids) if token in ends), len(ids))]
