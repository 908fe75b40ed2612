"""Mutated JSON files of checkpoint folders, for LLaVA's one-question command: refused in one line, or it answers.

Half of the mutations give one key another value, the other half are those of any JSON file. A key of `_KINDS` with a
value of another kind must be refused.
"""

import codecs
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from llava.eval import run_llava
from tests.stress.mutators import ODD, Mutation, NotJsonError, mutated, same, strict
from tests.stress.trials import Trial, call, verdict
from tests.tiny import make_tiny_checkpoint, make_tiny_lora

COUNT = 150
_UNITS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
# Keys of each file that both name and value may go wrong in, though the file that was written lacks them.
_FURTHER = (
    *("conversation_version", "rope_theta", "head_dim", "s2", "mm_patch_merge_type", "use_return_dict", "to_dict"),
    *("attribute_map", "__class__", "num_labels", "quantization_config", "vocab_file", "mask_token", "vision_config"),
    *("additional_special_tokens", "rank_pattern", "layer_replication", "suppress_tokens", "preprocess", "auto_map"),
)
_SIZES = (1, 7, 64, 10**4, 10**6, 10**30, -1, 0)
_KINDS = {
    "hidden_size": int,
    "num_hidden_layers": int,
    "vocab_size": int,
    "is_encoder_decoder": bool,
    "mm_vision_select_layer": int,
    "tie_word_embeddings": bool,
    "rms_norm_eps": float,
    "max_length": int,
    "model_max_length": int | float,
    "add_bos_token": bool,
    "image_mean": list,
    "image_std": list,
    "crop_size": dict | int,
    "do_resize": bool,
    "r": int,
    "lora_alpha": int | float,
    "target_modules": list | str,
}


@dataclass(frozen=True)
class Subject:
    """A file of a checkpoint, and the flags that make the command read it.

    Attributes:
        name: of the folder and the file.
        file, text: the file and its content before mutation.
        argv: the flags.
    """

    name: str
    file: Path
    text: str
    argv: list[str]


def trials(count: int, seed: str, folder: Path) -> Iterator[Trial]:
    """`count` mutations of every file."""
    for subject in _subjects(folder):
        ended = call(run_llava.main, subject.argv)
        assert ended.code == 0, (subject.name, ended)
        for n in range(count):
            yield _trial(subject, random.Random(f"{seed} {subject.name} {n}"))
        subject.file.write_text(subject.text)


def _subjects(folder: Path) -> Iterator[Subject]:
    make_tiny_checkpoint(folder)
    make_tiny_lora(folder / "lora", folder)
    image = folder / "image.png"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(image)
    asked = ["--image-file", str(image), "--query", "What is this?", "--max_new_tokens", "2", "--device", "cpu"]
    whole = ["--model-path", str(folder / "llava-tiny"), *asked]
    lora = ["--model-path", str(folder / "lora"), "--model-base", str(folder / "llama"), *asked]
    files = [("llava-tiny", name, whole) for name in _UNITS]
    files += [("vision_tower", name, whole) for name in ("config.json", "preprocessor_config.json")]
    files += [("lora", name, lora) for name in ("config.json", "adapter_config.json")]
    for place, name, argv in files:
        file = folder / place / name
        yield Subject(f"{place}/{name}", file, file.read_text(), argv)


def _trial(subject: Subject, chance: random.Random) -> Trial:
    what, content = mutated(subject.text, chance) if chance.random() < 0.5 else _one_key(subject.text, chance)
    subject.file.write_bytes(content)
    fault, unchanged = None, False
    try:
        value = strict(content)
        fault = _fault(value)
        # transformers reads the tokenizer's files itself, and no byte order mark.
        unchanged = same(value, json.loads(subject.text)) and not content.startswith(codecs.BOM_UTF8)
    except NotJsonError as error:
        fault = f"no JSON: {error}"
    ended = call(run_llava.main, subject.argv)
    found, why = verdict(ended, fault, unchanged, lambda: None if ended.out.endswith("\n") else "no answer")
    return Trial(subject.name, what, found, why, content)


def _one_key(text: str, chance: random.Random) -> Mutation:
    content = json.loads(text)
    key = chance.choice([*content, *content, *_FURTHER])
    content[key] = chance.choice((*ODD, *_SIZES))
    return Mutation(f"{key} = {content[key]!r:.40}", json.dumps(content).encode())


def _fault(value: object) -> str | None:
    """Why the value of a file must be refused; None if it need not be."""
    if not isinstance(value, dict):
        return "it is no object"
    for key, kind in _KINDS.items():
        given = value.get(key)
        if given is None or (kind is float and type(given) is int):
            continue
        if not isinstance(given, kind) or (isinstance(given, bool) and kind is not bool):
            return f"{key} is {given!r:.40}"
    return None
