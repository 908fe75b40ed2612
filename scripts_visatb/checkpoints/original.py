"""Parts of a LLaVA folder that Hugging Face's layout cannot store, kept in a small JSON file of the converted model.

LLaVA's configuration has keys that the other lacks, 4.31.0 stores rotary frequencies that other versions recompute, the
added rows of the vocabulary must be removed, a separate vision tower was included, and tensors may be distributed over
files differently. With this file the conversion back restores identical files.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llava.hub import companion
from llava.model.builder import EMBEDDINGS, TOWER_PREFIX
from llava.model.config_file import CONFIG
from llava.model.weights import weight_files
from scripts_visatb.checkpoints.folders import INDEX, WEIGHTS
from scripts_visatb.checkpoints.hf_names import is_counted
from visatb.errors import InputError
from visatb.files import parse_json, read_json, read_text, write_json, write_text

SIDECAR = "visatb_original.json"

_FORMAT = 1
_TEXTS = (
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64)}
_MOST_NUMBERS = 2**20


@dataclasses.dataclass(frozen=True)
class Original:
    """The remaining content of a LLaVA folder.

    Attributes:
        source: file of this object, or the folder it was made of, for messages.
        texts: name -> text of the small files.
        rows: of the embeddings.
        files: tensor name -> safetensors file; empty if the weights were torch files.
        counted: [{"names", "dtype", "shape", "values"}] of tensors that follow from the configuration.
        tower: digest of the vision tower where it was outside of the checkpoint, else None.
    """

    source: str
    texts: dict[str, str]
    rows: int
    files: dict[str, str]
    counted: list[dict[str, Any]]
    tower: str | None

    @classmethod
    def of(cls, model_path: str, weights: Mapping[str, torch.Tensor], tower: str | None) -> "Original":
        """The remaining content of a LLaVA folder with these weights; `tower`: see the class."""
        found = {name: companion(model_path, name) for name in _TEXTS}
        texts = {name: read_text(file) for name, file in found.items() if file is not None}
        files: dict[str, str] = {}
        if all(file.suffix == ".safetensors" for file in weight_files(model_path)):
            index = companion(model_path, INDEX)
            if companion(model_path, WEIGHTS) is not None or index is None:
                files = dict.fromkeys(weights, WEIGHTS)
            else:
                texts[INDEX] = read_text(index)
                files = read_json(index)["weight_map"]
        counted = _described({name: tensor for name, tensor in weights.items() if is_counted(name)})
        return cls(str(model_path), texts, len(weights[EMBEDDINGS]), files, counted, tower)

    @classmethod
    def read(cls, model_path: str) -> "Original | None":
        """The file in a converted folder; None if there is none. Raises InputError if it is damaged."""
        file = companion(model_path, SIDECAR)
        if file is None:
            return None
        content = read_json(file)
        kinds = {"texts": dict, "rows": int, "files": dict, "counted": list, "tower": str | None}
        if (
            not isinstance(content, dict)
            or content.get("format") != _FORMAT
            or not all(key in content and isinstance(content[key], kind) for key, kind in kinds.items())
            or content["rows"] < 1
            or not {CONFIG} <= content["texts"].keys() <= {*_TEXTS, INDEX}
            or not all(isinstance(text, str) for text in content["texts"].values())
            or not all(isinstance(parse_json(text, f"{file}: {name}"), dict) for name, text in content["texts"].items())
            or not all(_is_weight_file(name) for name in content["files"].values())
        ):
            raise InputError(
                f"{file}: is damaged. Delete it to convert the folder without it, or repeat the conversion."
            )
        return cls(str(file), *(content[key] for key in kinds))

    def write(self, folder: Path) -> None:
        """Write the file into a converted folder."""
        content = dataclasses.asdict(self)
        del content["source"]
        about = (
            "Parts of the LLaVA model that this layout cannot store; scripts_visatb.checkpoints.convert_hf needs them."
        )
        write_json(folder / SIDECAR, {"about": about, "format": _FORMAT} | content)

    def config(self, vision_tower: str | None) -> dict[str, Any]:
        """LLaVA's config.json; `vision_tower`: another value of mm_vision_tower."""
        content = parse_json(self.texts[CONFIG], self.source)
        return content | ({"mm_vision_tower": vision_tower} if vision_tower else {})

    def restored(self, weights: dict[str, torch.Tensor], tower: str) -> dict[str, torch.Tensor]:
        """The weights with the tensors that the layout dropped, and without an unchanged tower that was separate."""
        was_outside = self.tower is not None and tower == self.tower
        kept = {name: tensor for name, tensor in weights.items() if not (was_outside and name.startswith(TOWER_PREFIX))}
        for entry in self.counted:
            kept |= self._tensors(entry)
        return kept

    def files_of(self, weights: Mapping[str, torch.Tensor]) -> dict[str, str] | None:
        """Tensor name -> file as it was; None if it was torch files or the tensors are not the same."""
        return self.files if self.files and self.files.keys() == weights.keys() else None

    def write_files(self, folder: Path, config: dict[str, Any]) -> None:
        """Write the small files; config.json in the same text unless it changed."""
        for name, text in self.texts.items():
            if name == CONFIG and config != json.loads(text):
                text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
            if name != INDEX or self._describes(folder, text):
                write_text(folder / name, text)

    def _describes(self, folder: Path, index: str) -> bool:
        """Whether an index's text fits the weights that were written."""
        written = folder / INDEX
        return written.is_file() and read_json(written).get("weight_map") == json.loads(index).get("weight_map")

    def _tensors(self, entry: Any) -> dict[str, torch.Tensor]:
        try:
            names, values, shape = entry["names"], entry["values"], entry["shape"]
            if len(values) > _MOST_NUMBERS or not all(isinstance(name, str) and is_counted(name) for name in names):
                raise ValueError
            tensor = torch.tensor(values, dtype=_DTYPES[entry["dtype"]]).reshape(shape)
        except (KeyError, RuntimeError, TypeError, ValueError):
            raise InputError(f"{self.source}: counted is damaged. Repeat the conversion.") from None
        return {name: tensor.clone() for name in names}


def _described(tensors: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Small tensors as JSON, equal ones together. float32 numbers survive: JSON holds them as doubles."""
    groups: list[tuple[torch.Tensor, list[str]]] = []
    for name, tensor in sorted(tensors.items()):
        for known, names in groups:
            if known.dtype == tensor.dtype and torch.equal(known, tensor):
                names.append(name)
                break
        else:
            groups.append((tensor, [name]))
    return [
        {"names": names, "dtype": str(t.dtype), "shape": list(t.shape), "values": t.flatten().tolist()}
        for t, names in groups
    ]


def _is_weight_file(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
