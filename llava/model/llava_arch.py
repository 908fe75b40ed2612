"""Image inputs for Llama: vision tower and projector, and image features at the positions of their tokens.

Shapes: B batch, S tokens, N images, P patches of an image, L positions after inserting image features, D hidden.
"""

from typing import Any

import torch

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.model.gathering import gathered
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.projector_file import load_projector
from llava.model.weights import read_tensors
from visatb.errors import InputError


class LlavaMetaModel:
    """Mixin for a decoder: holds `vision_tower` and `mm_projector`."""

    def __init__(self, config: Any):
        super().__init__(config)
        if getattr(config, "mm_vision_tower", None):
            self.vision_tower = build_vision_tower(config, delay_load=True)
            self.mm_projector = build_vision_projector(config)

    def get_vision_tower(self) -> CLIPVisionTower | None:
        """The tower; its weights may not be loaded yet."""
        tower = getattr(self, "vision_tower", None)
        return tower[0] if isinstance(tower, list) else tower

    def initialize_vision_modules(self, model_args: Any, fsdp: Any = None) -> None:
        """Build and load missing tower and projector, and write LLaVA's keys into the config.

        Args:
            model_args: vision_tower, mm_vision_select_layer, mm_vision_select_feature, pretrain_mm_mlp_adapter,
                mm_projector_type.
            fsdp: non-empty keeps the tower out of the module tree, as in LLaVA.

        Raises:
            InputError: tower or projector file that cannot be used.
        """
        self.config.mm_vision_tower = model_args.vision_tower
        tower = self.get_vision_tower()
        if tower is None:
            tower = build_vision_tower(model_args)
            self.vision_tower = [tower] if fsdp else tower
        else:
            tower.load_model()
        self.config.use_mm_proj = True
        self.config.mm_projector_type = getattr(model_args, "mm_projector_type", None) or "linear"
        self.config.mm_hidden_size = tower.hidden_size
        self.config.mm_vision_select_layer = tower.select_layer
        self.config.mm_vision_select_feature = tower.select_feature
        if getattr(self, "mm_projector", None) is None:
            self.mm_projector = build_vision_projector(self.config)
        else:
            self.mm_projector.requires_grad_(True)  # LoRA freezes it
        if model_args.pretrain_mm_mlp_adapter:
            load_projector(self.mm_projector, model_args.pretrain_mm_mlp_adapter)


class LlavaMetaForCausalLM:
    """Mixin for a causal language model whose `get_model()` is a LlavaMetaModel."""

    def get_vision_tower(self) -> CLIPVisionTower | None:
        """The decoder's vision tower."""
        return self.get_model().get_vision_tower()

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Image features [N, P, D] of pixels [N, 3, H, W]."""
        projector = self.get_model().mm_projector
        feature_NPV = self.get_vision_tower()(images)
        weight = next(projector.parameters(), None)
        return projector(feature_NPV if weight is None else feature_NPV.to(weight.dtype))  # [N, P, D]

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: torch.LongTensor,
        position_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None,
        past_key_values: Any,
        labels: torch.LongTensor | None,
        images: torch.Tensor | list[torch.Tensor] | None,
        image_sizes: Any = None,
    ) -> tuple:
        """LLaVA's interface: the decoder's inputs, with image features at the positions of their tokens.

        Rows are padded on the side that config.tokenizer_padding_side names and cut at
        config.tokenizer_model_max_length.

        Args:
            input_ids: int64 [B, S], -200 at images.
            position_ids, attention_mask, labels: [B, S] or None.
            images: [N, 3, H, W], or a list of such or of [3, H, W]; one for each -200, in order. LLaVA's habit of one
                more image for every row without -200 is accepted.
            image_sizes: LLaVA's code passes them; only LLaVA-1.6 reads them.

        Returns:
            (input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels): either input_ids [B, S]
            and no inputs_embeds, or inputs_embeds [B, L, D] and no input_ids; the rest over the same positions, None
            where None was given.

        Raises:
            ValueError: if images and -200 tokens do not match.
        """
        is_image_BS = input_ids == IMAGE_TOKEN_INDEX
        if not bool(is_image_BS.any()):
            attention_mask = _mask_with_cache(attention_mask, past_key_values)
            if past_key_values or not self._vision_must_run():  # after the first step of generation no rank has images
                return input_ids, position_ids, attention_mask, past_key_values, None, labels
            return None, position_ids, attention_mask, past_key_values, self._text_through_vision(input_ids), labels
        left = getattr(self.config, "tokenizer_padding_side", "right") == "left"
        max_length = getattr(self.config, "tokenizer_model_max_length", None)
        embeds, mask, labels_BL, positions = self.merge_images(
            input_ids, attention_mask, labels, images, left=left, max_length=max_length
        )
        return (
            None,
            None if position_ids is None else positions.to(position_ids.dtype),
            None if attention_mask is None else mask.to(attention_mask.dtype),
            past_key_values,
            embeds,
            labels_BL,
        )

    def merge_images(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None,
        labels: torch.LongTensor | None,
        images: torch.Tensor | list[torch.Tensor] | None,
        left: bool,
        max_length: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Embeddings [B, L, D], mask bool [B, L], labels [B, L] or None, positions int64 [B, L].

        Args:
            input_ids, attention_mask, labels, images: as for `prepare_inputs_labels_for_multimodal`.
            left: pad on the left.
            max_length: cut rows to that many positions.
        """
        layout = _Layout(input_ids, attention_mask, self._patches(), left, max_length)
        feature_NPD = self._features(images, layout.is_image_BS)
        embed_tokens = self.get_model().embed_tokens
        rows, columns, slots = layout.text()
        text_TD = embed_tokens(input_ids[rows, columns])
        embeds = text_TD.new_zeros(len(input_ids), layout.length, text_TD.shape[-1])
        embeds = embeds.index_put((rows, slots), text_TD)
        image_rows, image_slots, kept_NP = layout.images()
        embeds = embeds.index_put((image_rows, image_slots), feature_NPD[kept_NP].to(embeds.dtype))  # [B, L, D]
        merged_labels = None
        if labels is not None:
            merged_labels = labels.new_full((len(labels), layout.length), IGNORE_INDEX)
            merged_labels[rows, slots] = labels[rows, columns]
        mask = layout.mask()
        return embeds, mask, merged_labels, (mask.cumsum(1) - 1).clamp(min=0)

    def embed_unpadded(
        self,
        input_ids: torch.LongTensor,
        images: torch.Tensor | list[torch.Tensor] | None,
        order_L: torch.LongTensor | None,
    ) -> torch.Tensor:
        """Embeddings [1, L, D] of samples laid end to end (`transformers_patch.unpadded`).

        Args:
            input_ids: int64 [1, S], their text tokens.
            images: as for `prepare_inputs_labels_for_multimodal`.
            order_L: what stands at each position: an index into the text tokens followed by the images' patches; None:
                there are no images.

        Raises:
            ValueError: if images and places do not match.
        """
        # Tower and projector before embed_tokens, as everywhere (see prepare_inputs_labels_for_multimodal).
        if order_L is None:
            vision_zero = self._vision_zero() if self._vision_must_run() else None
            embeds_1SD = self.get_model().embed_tokens(input_ids)
            return embeds_1SD if vision_zero is None else embeds_1SD + vision_zero.to(embeds_1SD.dtype)
        places = len(order_L) - input_ids.shape[1]
        if images is None:
            raise ValueError(f"images must fill {places} positions, but none are given. Pass images.")
        feature_XD = self.encode_images(_as_batch(images)).flatten(0, 1)
        if len(feature_XD) != places:
            raise ValueError(f"images must fill {places} positions, got {len(feature_XD)}. Match them.")
        text_SD = self.get_model().embed_tokens(input_ids)[0]
        return torch.cat([text_SD, feature_XD.to(text_SD.dtype)]).index_select(0, order_L)[None]

    def merged_mask(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The mask bool [B, L] of `merge_images` with left padding, without any image: later steps of generation."""
        return _Layout(input_ids, attention_mask, self._patches(), left=True, max_length=None).mask()

    def initialize_vision_tokenizer(self, model_args: Any, tokenizer: Any) -> None:
        """Add the tokens that mm_use_im_patch_token and mm_use_im_start_end ask for.

        Embeddings of start and end start as the mean of the others, that of `<im_patch>`, which no text holds, is drawn
        as in LLaVA. With tune_mm_mlp_adapter the input embeddings are trained when
        start and end tokens were added; with pretrain_mm_mlp_adapter theirs are read from that file.

        Args:
            model_args: mm_use_im_patch_token, mm_use_im_start_end, tune_mm_mlp_adapter, pretrain_mm_mlp_adapter.
            tokenizer: gets the tokens.
        """
        if model_args.mm_use_im_patch_token:
            tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
            self.grow_vocabulary(len(tokenizer))
        if model_args.mm_use_im_start_end:
            added = tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
            self.grow_vocabulary(len(tokenizer))
            inputs, outputs = self.get_input_embeddings().weight, self.get_output_embeddings().weight
            if added:
                end = len(tokenizer)  # behind it may be rows that only pad the embeddings
                with gathered(inputs, outputs):
                    for weight in (inputs.data, outputs.data):
                        weight[end - added : end] = weight[: end - added].mean(dim=0, keepdim=True)
                    if model_args.pretrain_mm_mlp_adapter:
                        _read_new_embeddings(inputs.data, added, end, model_args.pretrain_mm_mlp_adapter)
            if model_args.tune_mm_mlp_adapter:
                inputs.requires_grad_(True)
                outputs.requires_grad_(False)
        elif model_args.mm_use_im_patch_token and model_args.tune_mm_mlp_adapter:
            self.get_input_embeddings().weight.requires_grad_(False)
            self.get_output_embeddings().weight.requires_grad_(False)

    def grow_vocabulary(self, pieces: int) -> None:
        """Have at least that many embeddings. More stay: resizing to the number of pieces would cut padded ones off."""
        if pieces > self.config.vocab_size:
            self.resize_token_embeddings(pieces)

    def _patches(self) -> int:
        tower = self.get_vision_tower()
        if tower is None:
            raise ValueError("input_ids hold image tokens, but the model has no vision tower. Give text alone.")
        return tower.num_patches

    def _features(self, images: torch.Tensor | list[torch.Tensor] | None, is_image_BS: torch.Tensor) -> torch.Tensor:
        """Features [N, P, D] of the images that have a token, in the order of the tokens."""
        tokens_B = is_image_BS.sum(1)
        tokens = int(tokens_B.sum())
        if images is None:
            raise ValueError(f"input_ids hold {tokens} image token(s), but no images are given. Pass images.")
        image_N3HW = _as_batch(images)
        places_B = tokens_B.clamp(min=1)
        if len(image_N3HW) != tokens:
            if len(image_N3HW) != int(places_B.sum()):
                raise ValueError(f"images must be one per image token ({tokens}), got {len(image_N3HW)}. Match them.")
            # LLaVA gives every text-only row a dummy image.
            image_N3HW = image_N3HW[(tokens_B > 0).repeat_interleave(places_B).to(image_N3HW.device)]
        return self.encode_images(image_N3HW)

    def _vision_must_run(self) -> bool:
        """Whether a batch without image tokens still has to go through tower and projector.

        Under DDP all ranks must train the same parameters in each step; under ZeRO-3 they must call the same modules,
        in evaluation too.
        """
        tower = self.get_vision_tower()
        if tower is None or not tower.is_loaded:
            return False
        parameters = [*self.get_model().mm_projector.parameters(), *tower.parameters()]
        return any(hasattr(parameter, "ds_id") or self.training and parameter.requires_grad for parameter in parameters)

    def _text_through_vision(self, input_ids: torch.LongTensor) -> torch.Tensor:
        """Embeddings [B, S, D] of a batch without images, made by the modules that one with images runs through.

        Tower and projector come before embed_tokens, as merge_images has it: under ZeRO-3 each module call gathers its
        weights from all ranks, and a rank with images waits for one without them if the order differs.
        """
        vision_zero = self._vision_zero()
        embeds_BSD = self.get_model().embed_tokens(input_ids)
        return embeds_BSD + vision_zero.to(embeds_BSD.dtype)

    def _vision_zero(self) -> torch.Tensor:
        """An exact 0 with a graph through the projector.

        No weight may be read here outside of its module, not even for its dtype: under ZeRO-3 reading gathers it, and
        a rank with images does not come by to take part.
        """
        tower = self.get_vision_tower()
        side = tower.config.image_size
        blank = torch.zeros(1, 3, side, side, device=tower.device, dtype=tower.dtype)
        # Zero first, then the sum: half a million features may add up to infinity in float16, and 0 * inf is NaN.
        return (0 * self.encode_images(blank)).sum()


class _Layout:
    """Where tokens and images go when each image takes P positions and padding is moved to one side.

    Args:
        input_ids: int64 [B, S].
        attention_mask: [B, S], 0 at padding; None: no padding.
        patches: P.
        left: pad on the left.
        max_length: cut rows there; None: never.
    """

    def __init__(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None,
        patches: int,
        left: bool,
        max_length: int | None,
    ):
        real_BS = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        self.is_image_BS = (input_ids == IMAGE_TOKEN_INDEX) & real_BS
        self._is_text_BS = ~self.is_image_BS & real_BS
        width_BS = torch.where(self.is_image_BS, patches, 1) * real_BS
        self._start_BS = width_BS.cumsum(1) - width_BS
        self._length_B = width_BS.sum(1)
        longest = int(self._length_B.max())
        self.length = longest if max_length is None else min(longest, max_length)
        self._length_B = self._length_B.clamp(max=self.length)
        self._shift_B = self.length - self._length_B if left else torch.zeros_like(self._length_B)
        self._patches = patches

    def text(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(row, column, slot) of every text token that is kept: int64 [T] each."""
        kept_BS = self._is_text_BS & (self._start_BS < self._length_B[:, None])
        rows, columns = kept_BS.nonzero(as_tuple=True)
        return rows, columns, self._start_BS[rows, columns] + self._shift_B[rows]

    def images(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Row and slot of every patch that is kept, int64 each, and which those are, bool [N, P]."""
        rows, columns = self.is_image_BS.nonzero(as_tuple=True)
        slot_NP = self._start_BS[rows, columns, None] + torch.arange(self._patches, device=rows.device)
        kept_NP = slot_NP < self._length_B[rows, None]
        row_NP = rows[:, None].expand_as(slot_NP)
        return row_NP[kept_NP], (slot_NP + self._shift_B[rows, None])[kept_NP], kept_NP

    def mask(self) -> torch.Tensor:
        """bool [B, L], True where a token or patch is."""
        place = torch.arange(self.length, device=self._length_B.device)
        return (place >= self._shift_B[:, None]) & (place < (self._shift_B + self._length_B)[:, None])


def _as_batch(images: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    """Images [N, 3, H, W] of a tensor with any leading dimensions, or of a list of tensors."""
    if isinstance(images, torch.Tensor):
        return images.reshape(-1, *images.shape[-3:])
    return torch.cat([image.reshape(-1, *image.shape[-3:]) for image in images])


def _mask_with_cache(attention_mask: torch.Tensor | None, past_key_values: Any) -> torch.Tensor | None:
    """The mask with ones for what the cache holds beyond it: image patches, when the caller counted ids."""
    if attention_mask is None or not past_key_values:
        return attention_mask
    lacking = past_key_values[-1][-1].shape[-2] + 1 - attention_mask.shape[1]
    if lacking <= 0:
        return attention_mask
    return torch.cat([attention_mask, attention_mask.new_ones(len(attention_mask), lacking)], dim=1)


def _read_new_embeddings(embeddings: torch.Tensor, added: int, end: int, path: str) -> None:
    name = "model.embed_tokens.weight"
    stored = read_tensors(path).get(name)
    if stored is None or stored.shape[0] not in (added, len(embeddings)) or stored.shape[1] != embeddings.shape[1]:
        shape = "no such tensor" if stored is None else tuple(stored.shape)
        raise InputError(
            f"{path}: {name} must have {added} or {len(embeddings)} rows of {embeddings.shape[1]} numbers "
            f"(mm_use_im_start_end), got {shape}. Use a projector pretrained with mm_use_im_start_end."
        )
    embeddings[end - added : end] = stored if len(stored) == added else stored[end - added : end]
