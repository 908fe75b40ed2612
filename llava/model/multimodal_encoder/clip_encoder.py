"""CLIP's vision transformer as LLaVA uses it: frozen, and only as deep as the selected hidden state.

Shapes: N images, H, W their height and width, P patches (plus one for cls_patch), V hidden size of the tower.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.activations import ACT2FN

from llava.hub import companion
from llava.model.empty import without_storage
from llava.model.multimodal_encoder.image_processor import read_image_processor
from llava.model.weights import check_fit, read_state_dict
from visatb.errors import InputError
from visatb.files import read_json
from visatb.value_rules import NULL, Rule, check, like_defaults, number, one_of, refuse_attributes, whole

SELECT_FEATURES = ("patch", "cls_patch")

SETTABLE = ("model_type", "name_or_path", "num_labels")  # attributes of configurations that config.json may set

# Errors that transformers raises for damaged files or unexpected values.
_UNUSABLE = (AttributeError, KeyError, OSError, TypeError, ValueError)
_LARGEST = 2**14
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
_CONFIG = dict.fromkeys((*_SIZES, "num_channels", "projection_dim"), whole(1, _LARGEST)) | {
    "model_type": one_of("clip_vision_model", "clip") | NULL,
    "num_channels": one_of(3),
    "hidden_act": one_of(*ACT2FN),
    "layer_norm_eps": number(0, 1),
    "attention_dropout": number(0, 1),
    "initializer_range": number(0, 100),
    "initializer_factor": number(0, 100),
    "torch_dtype": one_of("float16", "bfloat16", "float32", "float64") | NULL,
    "pruned_heads": one_of({}),
    "num_labels": whole(0, 2**20) | NULL,
    "quantization_config": Rule("left out", lambda value: False),
}


class CLIPVisionTower(nn.Module):
    """A frozen CLIP vision model.

    Args:
        vision_tower: folder or Hub name of a CLIP model.
        args: mm_vision_select_layer (left out or None: -1) and mm_vision_select_feature ("patch", which drops the class
            token and is the default, or "cls_patch").
        delay_load: read the configuration now and the weights at `load_model`.
    """

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False):
        super().__init__()
        self.is_loaded = False
        self.vision_tower_name = vision_tower
        layer = getattr(args, "mm_vision_select_layer", None)
        self.select_layer = -1 if layer is None else layer
        self.select_feature = getattr(args, "mm_vision_select_feature", None) or "patch"
        if self.select_feature not in SELECT_FEATURES:
            known = ", ".join(SELECT_FEATURES)
            raise InputError(f"mm_vision_select_feature must be one of {known}, got {self.select_feature!r}. Fix it.")
        if delay_load:
            self.cfg_only = None
        else:
            self.load_model()

    def load_model(self, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        """Load image processor and weights; no effect if they are loaded.

        Args:
            state_dict: weights with CLIPVisionModel's names instead of those of the tower's own folder.

        Raises:
            InputError: if the tower or some of its weights are missing.
        """
        if self.is_loaded:
            return
        name = self.vision_tower_name
        config = self._read_config()
        weights = read_state_dict(name) if state_dict is None else dict(state_dict)
        # A full CLIP checkpoint also has the text model; older ones have position_ids, which are recomputed.
        vision = {
            key: weight
            for key, weight in weights.items()
            if key.startswith("vision_model.") and not key.endswith(".position_ids")
        }
        # This must not use the random generator: a new projector's weights depend on the seed.
        with without_storage(), torch.random.fork_rng(devices=[]):
            wanted = CLIPVisionModel(config).state_dict()
        check_fit(wanted, vision, f"vision tower {name}", lambda key: key.endswith(".position_ids"))
        self.image_processor = read_image_processor(self._file("preprocessor_config.json"), config.image_size)
        # from_pretrained, and not load_state_dict: under ZeRO-3 it gathers the parameters that it fills.
        self.vision_tower = CLIPVisionModel.from_pretrained(None, config=config, state_dict=vision)
        self.vision_tower.requires_grad_(False)
        self.vision_tower.eval()
        self.is_loaded = True
        self._check_layer()

    def train(self, mode: bool = True) -> "CLIPVisionTower":
        """Stay in eval mode: the tower is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        """Features [N, P, V] of images [N, 3, H, W], in their dtype; of a list of [3, H, W] a list of [1, P, V]."""
        if isinstance(images, list):
            return [self.forward(image.unsqueeze(0)) for image in images]
        feature_NPV = self._hidden_state(images.to(device=self.device, dtype=self.dtype))
        if self.select_feature == "patch":
            feature_NPV = feature_NPV[:, 1:]
        return feature_NPV.to(images.dtype)

    def _hidden_state(self, image_N3HW: torch.Tensor) -> torch.Tensor:
        """hidden_states[select_layer]; the layers above it are not computed."""
        model = self.vision_tower.vision_model
        hidden = model.pre_layrnorm(model.embeddings(image_N3HW))  # [N, 1 + P, V]
        for layer in model.encoder.layers[: self._depth()]:
            hidden = layer(hidden, attention_mask=None, causal_attention_mask=None)[0]
        return hidden

    def _depth(self) -> int:
        """Number of layers below the selected hidden state; hidden_states[0] are the embeddings."""
        layers = self.config.num_hidden_layers
        return self.select_layer if self.select_layer >= 0 else layers + 1 + self.select_layer

    def _check_layer(self) -> None:
        layers = self.config.num_hidden_layers
        if not 0 <= self._depth() <= layers:
            raise InputError(
                f"mm_vision_select_layer must be within {-layers - 1} and {layers}, got {self.select_layer} "
                f"({self.vision_tower_name} has {layers} layers). Correct it in config.json, or the flag."
            )

    def _file(self, name: str) -> str:
        try:
            file = companion(self.vision_tower_name, name)
        except InputError as error:
            raise InputError(f"vision tower {error}") from None
        if file is None:
            raise InputError(f"vision tower {self.vision_tower_name} cannot be read: it has no {name}. Check the path.")
        return str(file)

    def _read_config(self) -> CLIPVisionConfig:
        name, file = self.vision_tower_name, self._file("config.json")
        content = read_json(file)
        vision = (
            content.get("vision_config", content) if isinstance(content, dict) else None
        )  # a whole CLIP, or its half
        if not isinstance(vision, dict):
            raise InputError(f"vision tower {file}: it and its vision_config must be objects. Copy the tower again.")
        for part in (content, vision):
            refuse_attributes(
                part, CLIPVisionConfig, f"vision tower {file}", ("model_type", "name_or_path", "num_labels")
            )
        check(vision, like_defaults(CLIPVisionConfig().to_dict()) | _CONFIG, f"vision tower {file}")
        try:
            config = CLIPVisionConfig.from_pretrained(file)
        except _UNUSABLE as error:
            raise InputError(f"vision tower {name} cannot be read: {_first_line(error)} Check the path.") from None
        if config.hidden_size % config.num_attention_heads or config.image_size < config.patch_size:
            raise InputError(f"vision tower {name}: its config.json is not a valid CLIP configuration. Replace it.")
        return config

    @property
    def dummy_feature(self) -> torch.Tensor:
        """Zeros [1, V]."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.vision_tower.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.vision_tower.parameters()).device

    @property
    def config(self) -> CLIPVisionConfig:
        """The tower's configuration, loaded or not."""
        if self.is_loaded:
            return self.vision_tower.config
        if self.cfg_only is None:
            self.cfg_only = self._read_config()
        return self.cfg_only

    @property
    def hidden_size(self) -> int:
        """V."""
        return self.config.hidden_size

    @property
    def num_patches(self) -> int:
        """P: positions that an image takes in the language model."""
        return (self.config.image_size // self.config.patch_size) ** 2 + (self.select_feature == "cls_patch")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
