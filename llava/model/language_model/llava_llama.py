"""LLaVA over Llama: images among the tokens, everything else from transformers_patch.

Shapes: B batch, S tokens, N images, L positions after inserting image features.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llava.constants import IMAGE_TOKEN_INDEX
from llava.hub import quiet_downloads
from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel
from llava.model.weights import read_state_dict, weight_files
from transformers_patch import LlamaForCausalLM, Weighter
from transformers_patch.modeling_llama import SDPA, LlamaModel

# The same models: LLaVA has used the second name since January 2024, when Hugging Face's own class took the first.
MODEL_TYPE = "llava"
MODEL_TYPES = (MODEL_TYPE, "llava_llama")
_OLDER_CONTRACT = object()  # generate() without image_sizes, which may be given as None


class LlavaConfig(LlamaConfig):
    """Llama's configuration and the mm_* keys of LLaVA. Saved as `llava`, read under both names."""

    model_type = MODEL_TYPE

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers', under our name: it warns of any other."""
        content, rest = super().get_config_dict(*args, **kwargs)
        return _under_our_name(content), rest

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers'; AutoConfig comes here."""
        return super().from_dict(_under_our_name(config_dict), **kwargs)


def _under_our_name(content: dict[str, Any]) -> dict[str, Any]:
    return content | ({"model_type": MODEL_TYPE} if content.get("model_type") in MODEL_TYPES else {})


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):
    """Llama's decoder with a vision tower and a projector."""

    config_class = LlavaConfig
    attention = SDPA


class LlavaLlamaForCausalLM(LlamaForCausalLM, LlavaMetaForCausalLM):
    """LLaVA-1.5."""

    config_class = LlavaConfig
    model_class = LlavaLlamaModel
    # A tower inside a checkpoint is loaded separately; transformers would list its weights as unused.
    _keys_to_ignore_on_load_unexpected = [r"^model\.vision_tower\."]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> "LlavaLlamaForCausalLM":
        """As transformers' from_pretrained, but torch files are always read with weights_only=True."""
        plain = "state_dict" not in kwargs and not any(
            kwargs.get(key) for key in ("load_in_8bit", "load_in_4bit", "quantization_config", "device_map")
        )
        if pretrained_model_name_or_path is not None and plain:
            cache_dir = kwargs.get("cache_dir")
            files = weight_files(pretrained_model_name_or_path, cache_dir=cache_dir)
            if any(file.suffix == ".bin" for file in files):
                kwargs["state_dict"] = read_state_dict(pretrained_model_name_or_path, cache_dir=cache_dir)
        with quiet_downloads():
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def get_model(self) -> LlavaLlamaModel:
        """The decoder."""
        return self.model

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: list[torch.FloatTensor] | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        images: torch.FloatTensor | list[torch.FloatTensor] | None = None,
        return_dict: bool | None = None,
        *,
        image_sizes: Any = None,
        weighter: Weighter | None = None,
        task_ids: torch.LongTensor | None = None,
        token_count_K: torch.Tensor | None = None,
        unpadded: dict[str, Any] | None = None,
        last_logits_only: bool = False,
    ) -> tuple | CausalLMOutputWithPast:
        """As transformers_patch's LlamaForCausalLM.forward, with images in the places of their tokens.

        Args:
            input_ids: int64 [B, S], -200 at images; logits and labels then count L positions.
            images: float [N, 3, H, W], one for each -200, in order; None if there is none.
            image_sizes: LLaVA's code passes them; only LLaVA-1.6 reads them.
            weighter, task_ids, token_count_K: the weighted loss (Eq. 2).
            unpadded: of samples laid end to end, whose input_ids then hold the text alone; see transformers_patch.
            last_logits_only: see transformers_patch.
        """
        if unpadded is not None:
            inputs_embeds = self.embed_unpadded(input_ids, images, unpadded.get("order_L"))
            input_ids = None
        elif inputs_embeds is None:
            input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels = (
                self.prepare_inputs_labels_for_multimodal(
                    input_ids, position_ids, attention_mask, past_key_values, labels, images
                )
            )
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            weighter=weighter,
            task_ids=task_ids,
            token_count_K=token_count_K,
            unpadded=unpadded,
            last_logits_only=last_logits_only,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        *args: Any,
        image_sizes: Any = _OLDER_CONTRACT,
        **kwargs: Any,
    ) -> Any:
        """As transformers' generate, with `images`; what comes back depends on what LLaVA the caller was written for.

        Without image_sizes: prompt and answer, as LLaVA did until January 2024. With image_sizes, whatever its value:
        the new tokens alone; the streamer, processors and stopping criteria see no prompt either.

        Args:
            inputs: int64 [B, S], -200 at images; LLaVA also passes it as `input_ids`.
            image_sizes: width and height of each image. Only LLaVA-1.6 reads them.
        """
        if image_sizes is _OLDER_CONTRACT:
            return super().generate(inputs, *args, **kwargs)
        if "inputs_embeds" in kwargs:
            raise ValueError("inputs_embeds cannot be given with image_sizes. Pass input_ids and images.")
        inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
        kwargs.pop("position_ids", None)  # follow from the mask
        images, mask = kwargs.pop("images", None), kwargs.pop("attention_mask", None)
        if bool((inputs == IMAGE_TOKEN_INDEX).any()):
            embeds_BLD, mask, _, _ = self.merge_images(inputs, mask, None, images, left=True)
        else:
            embeds_BLD = self.get_model().embed_tokens(inputs)
            mask = torch.ones_like(inputs) if mask is None else mask
        kwargs |= {"inputs_embeds": embeds_BLD, "attention_mask": mask.long(), "use_cache": True}
        return super().generate(inputs[:, :0], *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        past_key_values: Any = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        images: torch.Tensor | list[torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The inputs of one step of generation.

        Prompts may be padded on either side and hold different numbers of images: what the decoder and its cache see
        is padded on the left, and positions count from each row's first token.

        Args:
            input_ids: int64 [B, S], the prompt and what was generated.
            attention_mask: [B, S]; with inputs_embeds, a mask over their positions instead.
            inputs_embeds: the prompt, merged by the caller.
            images: one for each -200.
        """
        if inputs_embeds is None and bool((input_ids == IMAGE_TOKEN_INDEX).any()):
            if past_key_values:
                attention_mask = self.merged_mask(input_ids, attention_mask).long()
            else:
                inputs_embeds, attention_mask, _, _ = self.merge_images(
                    input_ids, attention_mask, None, images, left=True
                )
                attention_mask = attention_mask.long()
        elif inputs_embeds is None and not past_key_values and self._vision_must_run():
            inputs_embeds = self._text_through_vision(input_ids)  # here, as for a rank with images
        return super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    @staticmethod
    def _expand_inputs_for_generation(
        expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """Repeat each row `expand_size` times (beams), its images with it, all of a row's images together."""
        images = model_kwargs.pop("images", None)
        if images is not None and expand_size > 1 and input_ids is not None:
            tokens_B = (input_ids == IMAGE_TOKEN_INDEX).sum(1)
            counts = tokens_B if int(tokens_B.sum()) == len(images) else tokens_B.clamp(min=1)
            rows = images.split(counts.tolist()) if isinstance(images, torch.Tensor) else [[image] for image in images]
            repeated = [image for row in rows for _ in range(expand_size) for image in row]
            images = torch.stack(repeated) if isinstance(images, torch.Tensor) else repeated
        input_ids, model_kwargs = LlamaForCausalLM._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        if images is not None:
            model_kwargs["images"] = images
        return input_ids, model_kwargs


# Registers LLaVA checkpoints with AutoConfig and AutoModelForCausalLM, as importing LLaVA always did.
AutoConfig.register(MODEL_TYPE, LlavaConfig)
CONFIG_MAPPING.register(MODEL_TYPES[1], LlavaConfig)  # AutoConfig.register takes a class under its own name only
AutoModelForCausalLM.register(LlavaConfig, LlavaLlamaForCausalLM)
