"""A current vision-language model, loaded on demand (`llava.generate.engine.Model`)."""

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from llava.generate.fingerprint import folder_digest
from llava.generate.llava_model import default_device, dtype_of
from llava.generate.questions import Settings, check_name
from visatb.errors import InputError
from visatb.files import read_json
from visatb_hf.models import refuse_wrong_environment

if TYPE_CHECKING:
    from visatb_hf.engine import HfEngine

ADAPTER_CONFIG, CONFIG = "adapter_config.json", "config.json"


@dataclass(frozen=True)
class HfModel:
    """Which model answers, and on what.

    Attributes:
        path: folder or hub name of a model, or of a LoRA adapter.
        base: folder or hub name of the adapter's base; None for a whole model.
        name: in answers and file names.
        device, dtype: "cpu" or "cuda:N"; "bf16", "fp16" or "fp32".
    """

    path: str
    base: str | None
    name: str
    device: str
    dtype: str

    sees_images = True

    @classmethod
    def of(cls, args: Any, local_rank: int = 0) -> "HfModel":
        """The model that the flags name. Raises InputError: a missing flag, or a folder of another kind."""
        if not args.model_path:
            raise InputError("--model-path must name the model to ask. Set it.")
        path, base = args.model_path, base_of(args.model_path, args.model_base)
        for place, flag in ((base or path, "--model-base" if base else "--model-path"), (path, "--model-path")):
            refuse_other_kind(place, flag)
        name = args.model_name or folder_name(path)
        device = default_device(args.device, local_rank)
        return cls(path, base, name, device, dtype_of(args.dtype, device, base or path))

    @cached_property
    def _parts(self) -> dict[str, str]:
        places = {"model": self.path} | ({"base": self.base} if self.base else {})
        return {part: folder_digest(p) if os.path.isdir(p) else f"hub:{p}" for part, p in places.items()}

    def fingerprint(self) -> dict[str, Any]:
        """What the answers depend on. Raises InputError: a name that cannot be a file name."""
        check_name(self.name)
        return {"generator": self.name, "engine": "hf", "dtype": self.dtype, **self._parts}

    def load(self, settings: Settings) -> "HfEngine":
        """Load it."""
        from visatb_hf.engine import HfEngine

        return HfEngine.load(self.path, self.base, settings, self.device, self.dtype)

    def report(self) -> None:
        """Print to stderr which chat template is used; stdout is for answers."""
        print(f"chat template: that of {self.base or self.path}", file=sys.stderr, flush=True)


def folder_name(path: str) -> str:
    """The name of a model folder; a `checkpoint-N` folder is named with its parent."""
    parts = PurePath(path.strip("/")).parts
    return "_".join(parts[-2:] if len(parts) > 1 and parts[-1].startswith("checkpoint-") else parts[-1:])


def base_of(path: str, base: str | None) -> str | None:
    """The base model of an adapter folder: the one given, else the one that it names; None for a whole model.

    Raises:
        InputError: a base model given for a whole model, or an adapter that names none.
    """
    file = Path(path) / ADAPTER_CONFIG
    if not file.is_file():
        if base:
            raise InputError(f"{path}: no {ADAPTER_CONFIG}: not an adapter. Drop --model-base.")
        return None
    content = read_json(file)
    named = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not base and not isinstance(named, str):
        raise InputError(f"{file}: names no base model. Pass it with --model-base.")
    return base or named


def refuse_other_kind(place: str, flag: str) -> None:
    """Refuse what is neither a folder of a current model nor a Hub name.

    Raises:
        InputError: no such folder, not a model folder, or a LLaVA checkpoint of transformers 4.31.
    """
    refuse_wrong_environment(place)
    if not os.path.isdir(place):
        owner, slash, name = place.partition("/")
        if os.path.exists(place) or not slash or "/" in name or owner.startswith((".", "~")) or not owner:
            raise InputError(f"{place}: no such folder ({flag}). Check the path.")
    elif not any((Path(place) / name).is_file() for name in (CONFIG, ADAPTER_CONFIG)):
        raise InputError(f"{place}: no {CONFIG} found: not a model folder ({flag}). Give the folder of a model.")
