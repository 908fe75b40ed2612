"""A loaded LLaVA model that answers batches of questions (`llava.generate.engine.Engine`).

Batches are padded on the left, so that all rows end where generation starts; positions count from each row's first
real token.

Shapes: B batch, L padded prompt length (an image is one id, -200), S length after images took their places,
N new tokens, V vocabulary, I images of the batch.
"""

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, conv_templates
from llava.data.images import image_of, process_images
from llava.data.preprocess import SegmentEncoder, place_images
from llava.generate.decoding import decode
from llava.generate.engine import Prompt
from llava.generate.fingerprint import model_parts
from llava.generate.logits import NumberWatch, SeededNoise
from llava.generate.questions import Question, Settings, stop_strings
from llava.mm_utils import KeywordsStoppingCriteria, get_model_name_from_path
from visatb.errors import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class LlavaEngine:
    """A loaded model with a conversation template and settings of generation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: torch.nn.Module, image_processor, settings: Settings):
        """Take a loaded model; sets it to evaluation and its attention to the fused kernel.

        Args:
            image_processor: None for a model without a vision tower.
        """
        self.tokenizer, self.model, self.image_processor = tokenizer, model, image_processor
        self.settings = settings
        self.conversation: Conversation = conv_templates[settings.conv_mode]
        self.stop_strings = stop_strings(self.conversation)
        self.device = model.get_input_embeddings().weight.device
        self.dtype = next(model.parameters()).dtype
        self.max_positions = int(model.config.max_position_embeddings)
        self.places_per_image = 0 if image_processor is None else model.get_vision_tower().num_patches
        model.model.attention = "sdpa"
        model.eval()
        self.eos_ids = _eos_ids(model, tokenizer)
        # Beam search divides scores by the length of prompt and answer, so padding would change which beam wins.
        self.equal_lengths = settings.num_beams > 1

    @classmethod
    def load(
        cls,
        model_path: str,
        model_base: str | None,
        settings: Settings,
        device: str,
        dtype: str,
        model_name: str | None = None,
        **quantisation: bool,
    ) -> "LlavaEngine":
        """Load a checkpoint as LLaVA does.

        Args:
            device: "cpu", "cuda:0", ...
            dtype: a key of DTYPES.
            model_name: what decides its kind; None: the path's last part.
            quantisation: load_8bit, load_4bit.

        Raises:
            InputError: not a model folder; else as `load_pretrained_model`.
        """
        model_parts(model_path, model_base)  # a mistyped path is refused before the hub is asked for it
        from llava.model.builder import load_pretrained_model

        tokenizer, model, image_processor, _ = load_pretrained_model(
            model_path,
            model_base,
            model_name or get_model_name_from_path(model_path),
            device_map={"": device},
            device=device,
            torch_dtype=DTYPES[dtype],
            **quantisation,
        )
        return cls(tokenizer, model, image_processor, settings)

    def asking(self, settings: Settings) -> "LlavaEngine":
        """The same loaded model with other settings."""
        return type(self)(self.tokenizer, self.model, self.image_processor, settings)

    def prompt(self, question: Question) -> Prompt:
        """The prompt of a question. Raises InputError: images for a model without a vision tower."""
        if question.images:
            self.need_vision(question.where)
        ids, refusal = self.prompt_ids(question), None
        if self.budget(ids) < 1:
            refusal = f"the prompt takes {self.places(ids)} positions, the model has {self.max_positions}"
        return Prompt(question, ids, (self.places(ids), len(ids)), refusal)

    def prompt_ids(self, question: Question) -> torch.Tensor:
        """The prompt of a question, int64 [T], by the renderer that training uses; its one image goes to the front.

        A question whose record has an image but which does not say `<image>` is asked about that image, as in LLaVA.
        """
        text, images = question.text, len(question.images)
        if images and DEFAULT_IMAGE_TOKEN not in text:
            text = f"{DEFAULT_IMAGE_TOKEN}\n" * images + text
        return self.conversation_ids([{"from": "human", "value": text}], images)

    def load_images(self, question: Question) -> torch.Tensor | None:
        """The images of a question, float [n, 3, H, W]; None for a text-only one.

        Raises:
            InputError: naming record and path.
        """
        if question.problem is not None:
            raise InputError(question.problem)
        if not question.images:
            return None
        pictures = [image_of(image, question.where) for image in question.images]
        return process_images(pictures, self.image_processor, self.model.config)

    def answer(self, prompts: Sequence[Prompt], images: Sequence[torch.Tensor | None]) -> list[str]:
        """The answers to a batch; every question draws from noise of its own, whatever shares its batch."""
        keys = [f"{prompt.question.position}\n{prompt.question.text}" for prompt in prompts]
        return self.texts([prompt.content for prompt in prompts], images, keys)

    def release_memory(self) -> None:
        """Return cached blocks of the GPU after a batch that did not fit."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def budget(self, ids: torch.Tensor) -> int:
        """New tokens that fit behind a prompt: max_new_tokens, less where the model's positions end; may be <= 0."""
        return min(self.settings.max_new_tokens, self.max_positions - self.places(ids))

    def places(self, ids: torch.Tensor) -> int:
        """Length of a prompt once its images took their places."""
        images = int((ids == IMAGE_TOKEN_INDEX).sum())
        return len(ids) + images * (self.places_per_image - 1)

    def need_vision(self, where: str) -> None:
        """Raise InputError if the model takes no images."""
        if self.image_processor is None:
            raise InputError(f"{where}: has an image, and the model has no vision tower. Give a LLaVA checkpoint.")

    def filled(self, turns: Sequence[dict[str, str]], image_count: int) -> Conversation:
        """The conversation that asks for the next answer.

        Args:
            turns: {"from", "value"} by turns, the last one a question.
            image_count: images of the whole conversation.
        """
        start_end = bool(getattr(self.model.config, "mm_use_im_start_end", False))
        several = image_count > 1
        texts = [turn["value"] for turn in turns]
        if image_count:
            texts = [place_images(text, self.conversation, start_end, several) for text in texts]
        filled = self.conversation.copy()
        filled.messages = [[self.conversation.roles[n % 2], text] for n, text in enumerate([*texts, None])]
        return filled

    def conversation_ids(self, turns: Sequence[dict[str, str]], image_count: int) -> torch.Tensor:
        """`filled` as ids, int64 [T], by the renderer that training uses."""
        return self._encoder(self.filled(turns, image_count).render(images=image_count > 0))[0]

    @cached_property
    def _encoder(self) -> SegmentEncoder:
        return SegmentEncoder(self.tokenizer)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        # The tokenizer collects them anew for every token, which takes longer than decoding.
        return frozenset(self.tokenizer.all_special_ids)

    @torch.inference_mode()
    def new_ids(
        self,
        prompts: Sequence[torch.Tensor],
        images: Sequence[torch.Tensor | None],
        noise_keys: Sequence[str] | None = None,
        streamer: BaseStreamer | None = None,
    ) -> list[list[int]]:
        """The generated ids of each prompt, up to and with its end token.

        Args:
            prompts: B int64 vectors of ids, images as -200.
            images: for each prompt float [n, 3, H, W], or None.
            noise_keys: what each row's draws are seeded with (temperature > 0).

        Raises:
            FloatingPointError: if the logits of a row are not numbers.
        """
        input_ids_BL, mask_BL = self._left_padded(prompts)
        embeds_BSD, mask_BS = self._merged(input_ids_BL, mask_BL, images)
        watch = NumberWatch()
        budgets = [max(1, self.budget(ids)) for ids in prompts]
        if self.settings.num_beams > 1:
            new_ids = self._beam_search(input_ids_BL, embeds_BSD, mask_BS, watch, budgets)
        else:
            if streamer is not None:
                streamer.put(input_ids_BL.cpu())
            keywords = self._keywords(input_ids_BL[:, :0])

            def finished(row: int, new: list[int]) -> bool:
                ended = new[-1] in self.eos_ids or len(new) >= budgets[row]
                return ended or any(keyword.stops(torch.tensor(new)) for keyword in keywords)

            new_ids = decode(self.model, embeds_BSD, mask_BS, self._choice(watch, noise_keys), finished, streamer)
        watch.check(len(prompts))
        return new_ids

    def text(self, ids: list[int]) -> str:
        """The answer that generated ids spell, cut at the template's stop string."""
        text = self.tokenizer.decode([token for token in ids if token not in self._special_ids])
        for stop in self.stop_strings:
            text = text.partition(stop)[0]
        return text.strip()

    def texts(self, prompts, images, noise_keys) -> list[str]:
        """`new_ids` as texts."""
        return [self.text(ids) for ids in self.new_ids(prompts, images, noise_keys)]

    def _left_padded(self, prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(ids) for ids in prompts)
        input_ids_BL = torch.full((len(prompts), longest), self._pad_id(), dtype=torch.long)
        mask_BL = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, ids in enumerate(prompts):
            input_ids_BL[row, longest - len(ids) :] = ids
            mask_BL[row, longest - len(ids) :] = 1
        return input_ids_BL.to(self.device), mask_BL.to(self.device)

    def _merged(self, input_ids_BL, mask_BL, images) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings [B, S, D] with the images in their places, and their mask int64 [B, S]."""
        given = [image for image in images if image is not None]
        if not given:
            return self.model.get_input_embeddings()(input_ids_BL), mask_BL
        image_I3HW = torch.cat(given).to(self.device, self.dtype, non_blocking=True)
        embeds_BSD, mask_BS, _, _ = self.model.merge_images(input_ids_BL, mask_BL, None, image_I3HW, left=True)
        return embeds_BSD, mask_BS.long()

    def _choice(
        self, watch: NumberWatch, noise_keys: Sequence[str] | None
    ) -> Callable[[torch.Tensor, Sequence[int]], torch.Tensor]:
        """How the next ids [B] follow from the logits [B, V] of given rows: the largest, or each row's draw."""
        warpers, noise = LogitsProcessorList([watch]), None
        if self.settings.temperature > 0:
            warpers.append(TemperatureLogitsWarper(self.settings.temperature))
            if self.settings.top_p is not None and self.settings.top_p < 1:
                warpers.append(TopPLogitsWarper(self.settings.top_p))
            noise = SeededNoise([f"{self.settings.seed}\n{key}" for key in noise_keys or [""]])

        def choose(logits_BV: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
            scores_BV = warpers(None, logits_BV)
            return (scores_BV if noise is None else noise(scores_BV, rows)).argmax(-1)

        return choose

    def _keywords(self, prompts_BL: torch.Tensor) -> StoppingCriteriaList:
        stops = list(self.stop_strings)
        return StoppingCriteriaList([KeywordsStoppingCriteria(stops, self.tokenizer, prompts_BL)] if stops else [])

    def _beam_search(self, input_ids_BL, embeds_BSD, mask_BS, watch, budgets) -> list[list[int]]:
        """transformers' beam search, which keeps all rows to its end and divides scores by the length of the ids."""
        config = GenerationConfig(
            max_new_tokens=max(budgets),
            num_beams=self.settings.num_beams,
            do_sample=False,
            use_cache=True,
            pad_token_id=self._pad_id(),
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.eos_ids,
        )
        output_BN = self.model.generate(
            input_ids_BL,
            inputs_embeds=embeds_BSD,
            attention_mask=mask_BS,
            generation_config=config,
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=self._keywords(input_ids_BL),
        )
        new_BN = output_BN[:, input_ids_BL.shape[1] :].tolist()
        return [_up_to_end(row[:budget], self.eos_ids) for row, budget in zip(new_BN, budgets, strict=True)]

    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0


def _eos_ids(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    given = model.generation_config.eos_token_id
    if given is None:
        given = tokenizer.eos_token_id
    return list(given) if isinstance(given, list | tuple) else [given]


def _up_to_end(ids: list[int], ends: Collection[int]) -> list[int]:
    """The ids up to and with the first end token."""
    for n, token in enumerate(ids):
        if token in ends:
            return ids[: n + 1]
    return ids
