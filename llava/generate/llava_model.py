"""A LLaVA checkpoint that may have to be loaded: its name, its fingerprint, where and how precisely it computes."""

import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llava.generate.fingerprint import model_fingerprint, model_parts
from llava.generate.questions import Settings, check_name, template_of
from visatb.errors import InputError, shown

if TYPE_CHECKING:
    from llava.generate.llava_engine import LlavaEngine


@dataclass(frozen=True)
class LlavaModel:
    """Which model answers, and on what (`llava.generate.engine.Model`).

    Attributes:
        path, base: of the checkpoint, and of its base for LoRA and projector-only checkpoints.
        name: what answers and file names call it.
        device, dtype: "cpu" or "cuda:N"; "bf16", "fp16" or "fp32".
        conv_mode: `--conv-mode`; None if it was left out.
    """

    path: str
    base: str | None
    name: str
    device: str
    dtype: str
    conv_mode: str | None = None

    @classmethod
    def of(cls, args: Any, local_rank: int = 0) -> "LlavaModel":
        """The model that the flags name. Raises InputError naming the flag."""
        from llava.mm_utils import get_model_name_from_path

        name = getattr(args, "model_name", None) or get_model_name_from_path(args.model_path)
        device = default_device(args.device, local_rank)
        dtype = dtype_of(args.dtype, device, args.model_path)
        return cls(args.model_path, args.model_base, name, device, dtype, args.conv_mode)

    @cached_property
    def _parts(self) -> dict[str, str]:
        config = model_parts(self.path)["model"][1] or {}
        if "text_config" in config:
            raise InputError(
                f"{self.path}: is in Hugging Face's layout (model_type {shown(config.get('model_type'))}). Ask it "
                "with --engine hf (docs/current_models.md), or convert LLaVA-1.5 with visatb convert --from-hf."
            )
        return model_fingerprint(self.path, self.base)

    @property
    def sees_images(self) -> bool:
        """Whether it has a vision tower, as far as is known: a model on the hub is not looked at before loading."""
        return "vision_tower" in self._parts or any(part.startswith("hub:") for part in self._parts.values())

    def fingerprint(self) -> dict[str, str]:
        """What the answers depend on. Raises InputError: not a model folder; a name that no file can have."""
        check_name(self.name)
        return {"generator": self.name, "dtype": self.dtype, **self._parts}

    def load(self, settings: Settings, **more: Any) -> "LlavaEngine":
        """Load it; further arguments as for `LlavaEngine.load`."""
        from llava.generate.llava_engine import LlavaEngine

        return LlavaEngine.load(self.path, self.base, settings, self.device, self.dtype, **more)

    def report(self) -> None:
        """Print to stderr which conversation template is used and why; stdout is for answers."""
        name, reason = template_of(self.path, self.conv_mode)
        print(f"conversation template: {name} ({reason})", file=sys.stderr, flush=True)


def default_device(asked: str | None, local_rank: int = 0) -> str:
    """The device to use: the one asked for, else this rank's GPU, else the CPU.

    Raises:
        InputError: another device than cpu, cuda and cuda:N, or one that this machine has not.
    """
    import torch

    device = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if re.fullmatch(r"cpu|cuda(:\d+)?", device, re.ASCII) is None:
        raise InputError(f"--device must be cpu, cuda or cuda:N, got {device!r}. Correct it.")
    if device == "cuda":
        device = f"cuda:{local_rank}"
    if device != "cpu" and int(device.removeprefix("cuda:")) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise InputError(f"--device {device}: torch finds {found} CUDA devices on this machine. Use another, or cpu.")
    return device


def dtype_of(name: str, device: str, model_path: str) -> str:
    """Resolve `--dtype`: auto is fp32 on a CPU, else the checkpoint's own half precision, else bf16 where it works."""
    if name != "auto":
        return name
    if not device.startswith("cuda"):
        return "fp32"
    import torch

    config = model_parts(model_path)["model"][1] or {}
    recorded = config.get("torch_dtype", config.get("dtype"))  # its name in transformers 4 and 5
    own = {"float16": "fp16", "bfloat16": "bf16"}.get(str(recorded))
    return own or ("bf16" if torch.cuda.is_bf16_supported() else "fp16")
