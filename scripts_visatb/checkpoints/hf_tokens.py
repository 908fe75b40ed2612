"""Tokenizer and processor files of Hugging Face's layout: `<image>` and `<pad>` are tokens there."""

import dataclasses
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizer

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import (
    CONVERSATION_VERSION,
    USUAL_TEMPLATE,
    Conversation,
    SeparatorStyle,
    conv_templates,
)
from llava.data.tokenizer import TOKENIZER_FILE, no_advice
from llava.hub import companion
from scripts_visatb.checkpoints.hf_fast_tokenizer import added_token, tokenizer_json
from visatb.errors import InputError
from visatb.files import read_json

PAD = "<pad>"
TOKENIZER_CONFIG, ADDED_TOKENS = "tokenizer_config.json", "added_tokens.json"

_MULTIPLE = 64  # rows of the embeddings, as in the llava-hf repositories


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The vocabulary of the converted model: id of every added token, of image and pad, rows of the embeddings."""

    added: dict[str, int]
    image: int
    pad: int
    rows: int


def grown(tokenizer: PreTrainedTokenizer, rows: int, source: str) -> Tokens:
    """The vocabulary with `<image>` and `<pad>` behind LLaVA's.

    Args:
        tokenizer: LLaVA's.
        rows: of LLaVA's embeddings; rows without a token are used first.
        source: for messages.

    Raises:
        InputError: the tokenizer has more tokens than the model.
    """
    if len(tokenizer) > rows:
        raise InputError(f"{source}: {len(tokenizer)} tokens, but {rows} embeddings. Use the model's own tokenizer.")
    added = dict(tokenizer.added_tokens_encoder)
    count = len(tokenizer)
    for token in (DEFAULT_IMAGE_TOKEN, PAD):
        if token not in added:
            added[token] = count
            count += 1
    return Tokens(added, added[DEFAULT_IMAGE_TOKEN], added[PAD], max(rows, -(-count // _MULTIPLE) * _MULTIPLE))


def processor_files(
    tokenizer: PreTrainedTokenizer, tokens: Tokens, config: Any, image_processor: dict[str, Any], patch_size: int
) -> dict[str, Any]:
    """File name -> content (JSON, or text) of tokenizer, image processor, processor and chat template.

    Args:
        tokenizer: LLaVA's.
        tokens: its vocabulary, grown.
        config: LlavaConfig.
        image_processor: the vision tower's preprocessor_config.json.
        patch_size: of the tower.
    """
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "unk_token": tokenizer.unk_token}
    ids = tokenizer.added_tokens_encoder | tokens.added
    ids |= {token: tokenizer.convert_tokens_to_ids(token) for token in special.values()}
    # LLaVA's tokenizer strips white space around its added tokens.
    described = {text: added_token(text, strips=text in tokenizer.added_tokens_encoder) for text in ids}
    settings = {
        "add_bos_token": tokenizer.add_bos_token,
        "add_eos_token": tokenizer.add_eos_token,
        "added_tokens_decoder": {str(n): described[text] for text, n in ids.items()},
        "clean_up_tokenization_spaces": False,
        "legacy": bool(tokenizer.legacy),
        "model_max_length": config.max_position_embeddings,
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    }
    strategy = "full" if getattr(config, "mm_vision_select_feature", "patch") == "cls_patch" else "default"
    pads = getattr(config, "image_aspect_ratio", None) == "pad"
    kind = {"image_processor_type": "LlavaImageProcessor", "do_pad": True} if pads else {}
    files = {
        TOKENIZER_CONFIG: settings | special | {"pad_token": PAD},
        ADDED_TOKENS: tokens.added,
        "tokenizer.json": tokenizer_json(tokenizer, ids, described),
        "special_tokens_map.json": special | {"pad_token": PAD},
        "preprocessor_config.json": image_processor
        | {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}
        | kind,
        "processor_config.json": {
            "image_token": DEFAULT_IMAGE_TOKEN,
            "num_additional_image_tokens": 1,  # the class token
            "patch_size": patch_size,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": strategy,
        },
    }
    version = getattr(config, CONVERSATION_VERSION, None) or USUAL_TEMPLATE
    conversation = conv_templates[version]
    if conversation.sep_style != SeparatorStyle.TWO or "mmtag" in conversation.version:
        print(f"warning: no chat template is written: {version}, the model's template, is not supported there.")
        return files
    start_end = bool(getattr(config, "mm_use_im_start_end", False))
    return files | {"chat_template.jinja": chat_template(conversation, start_end, bool(tokenizer.legacy))}


def chat_template(conversation: Conversation, start_end: bool, legacy: bool) -> str:
    """A template of vicuna_v1's kind in Jinja, with `<s>`, images at the front of their turn.

    LLaVA encodes the prompt, and what follows an image, as the beginning of a text. A legacy tokenizer does so behind
    any special token; for others the template writes the space that this comes to.

    Args:
        conversation: the template.
        start_end: images stand between `<im_start>` and `<im_end>`.
        legacy: of the tokenizer.
    """
    user, assistant = conversation.roles
    space = "" if legacy else " "
    image = f"{DEFAULT_IMAGE_TOKEN}{space}\\n"
    if start_end:
        image = f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}\\n"
    return _TEMPLATE.format(
        system=space + conversation.system, user=user, assistant=assistant, image=image, end=conversation.sep2
    )


_TEMPLATE = """{{%- macro text(content) -%}}
{{%- if content is string -%}}{{{{ content }}}}
{{%- else -%}}{{%- for part in content -%}}{{%- if part['type'] == 'text' -%}}{{{{ part['text'] }}}}{{%- endif -%}}
{{%- endfor -%}}{{%- endif -%}}
{{%- endmacro -%}}
{{%- set system = "{system}" -%}}
{{%- if messages[0]['role'] == 'system' -%}}
{{%- set system = text(messages[0]['content']) -%}}{{%- set messages = messages[1:] -%}}
{{%- endif -%}}
{{{{- bos_token + system + ' ' -}}}}
{{%- for message in messages -%}}
{{%- if message['role'] == 'user' -%}}
{{{{- '{user}: ' -}}}}
{{%- if message['content'] is not string -%}}
{{%- for part in message['content'] -%}}
{{%- if part['type'] in ('image', 'image_url') -%}}{{{{- '{image}' -}}}}{{%- endif -%}}
{{%- endfor -%}}
{{%- endif -%}}
{{{{- text(message['content']) + ' ' -}}}}
{{%- else -%}}
{{{{- '{assistant}: ' + text(message['content']) + '{end}' -}}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- '{assistant}:' -}}}}{{%- endif -%}}
"""


def tokenizer_model(model_path: str) -> Path:
    """The SentencePiece model of a folder or Hub name in Hugging Face's layout. Raises InputError if there is none."""
    file = companion(model_path, TOKENIZER_FILE)
    if file is None:
        raise InputError(
            f"{model_path}: has no {TOKENIZER_FILE}. Copy that of the language model it was made from into it."
        )
    return file


def vocabulary_of(model_path: str, file: Path, image: Any) -> tuple[int, LlamaTokenizer]:
    """LLaVA's part of a converted vocabulary: number of tokens before `<image>` and `<pad>`, and its tokenizer.

    Args:
        model_path: folder or Hub name in Hugging Face's layout.
        file: its tokenizer.model.
        image: its image_token_index.

    Raises:
        InputError: damaged files, or tokens after `<image>` that LLaVA cannot store.
    """
    settings = _object(model_path, TOKENIZER_CONFIG)
    kept = {
        key: settings[key] for key in ("legacy", "add_bos_token", "add_eos_token") if type(settings.get(key)) is bool
    }
    try:
        with no_advice():
            tokenizer = LlamaTokenizer(str(file), padding_side="right", pad_token="<unk>", **kept)
    except (OSError, RuntimeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{file}: cannot be read: {reason} Copy it again.") from None
    pieces = len(tokenizer)
    added = {text: n for text, n in _added(model_path, settings).items() if n >= pieces}
    start = min([n for text, n in added.items() if text in (DEFAULT_IMAGE_TOKEN, PAD)], default=image)
    if type(image) is not int or start < pieces or image not in (added.get(DEFAULT_IMAGE_TOKEN, start), start):
        raise InputError(
            f"{model_path}: image_token_index {image!r} is not that of {DEFAULT_IMAGE_TOKEN}. Fix config.json."
        )
    behind = [text for text, n in added.items() if n > start and text not in (DEFAULT_IMAGE_TOKEN, PAD)]
    if behind:
        raise InputError(f"{model_path}: tokens behind {DEFAULT_IMAGE_TOKEN}: {behind[:5]}. LLaVA cannot store them.")
    tokenizer.add_tokens(
        [text for text, n in sorted(added.items(), key=lambda i: i[1]) if n < start], special_tokens=True
    )
    return start, tokenizer


def _added(model_path: str, settings: dict[str, Any]) -> dict[str, int]:
    """Added tokens and their ids, as either of the two files lists them."""
    decoder = settings.get("added_tokens_decoder")
    decoder = decoder if isinstance(decoder, dict) else {}
    listed = {entry.get("content"): int(n) for n, entry in decoder.items() if isinstance(entry, dict) and n.isdigit()}
    listed |= _object(model_path, ADDED_TOKENS)
    if not all(isinstance(text, str) and type(n) is int for text, n in listed.items()):
        raise InputError(f"{model_path}: {ADDED_TOKENS} must contain tokens and ids. Copy it again.")
    return listed


def _object(model_path: str, name: str) -> dict[str, Any]:
    file = companion(model_path, name)
    content = {} if file is None else read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a JSON object. Copy it again.")
    return content
