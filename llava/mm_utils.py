"""LLaVA's multimodal helpers; where the body lives elsewhere, this address re-exports it."""

from collections.abc import Sequence
from pathlib import PurePath

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.data.images import expand2square, load_image_from_base64, process_images

__all__ = [
    "KeywordsStoppingCriteria",
    "expand2square",
    "get_model_name_from_path",
    "load_image_from_base64",
    "process_images",
    "tokenizer_image_token",
]


def tokenizer_image_token(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_index: int = IMAGE_TOKEN_INDEX,
    return_tensors: str | None = None,
) -> list[int] | torch.LongTensor:
    """Token ids of a prompt in which `<image>` becomes `image_token_index`, with one begin token at most.

    Strings such as `</s>` in the prompt become special tokens; `llava.data.preprocess` distinguishes the text of a user
    from the template's markup.

    Args:
        prompt: the text.
        tokenizer: any tokenizer.
        image_token_index: id that stands for an image.
        return_tensors: None for a list, "pt" for an int64 tensor [T].
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"return_tensors must be None or 'pt', got {return_tensors!r}. Pass one of the two.")
    chunks = [tokenizer(chunk).input_ids for chunk in prompt.split(DEFAULT_IMAGE_TOKEN)]
    begins = bool(chunks[0]) and chunks[0][0] == tokenizer.bos_token_id
    ids = list(chunks[0])
    for chunk in chunks[1:]:
        ids += [image_token_index, *chunk[1 if begins else 0 :]]
    return torch.tensor(ids, dtype=torch.long) if return_tensors == "pt" else ids


def get_model_name_from_path(model_path: str) -> str:
    """The name of a model folder; a `checkpoint-N` folder is named with its parent."""
    parts = PurePath(str(model_path).strip("/")).parts
    if len(parts) > 1 and parts[-1].startswith("checkpoint-"):
        return f"{parts[-2]}_{parts[-1]}"
    return parts[-1] if parts else ""


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stops generation once every row of the batch has produced one of the keywords.

    Args:
        keywords: texts to stop at.
        tokenizer: decodes what was generated.
        input_ids: int64 [B, S], the prompts; they are not searched.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: PreTrainedTokenizerBase, input_ids: torch.LongTensor):
        self.keywords = list(keywords)
        self.tokenizer = tokenizer
        self.start_len = input_ids.shape[1]
        self.keyword_ids = []
        for keyword in self.keywords:
            ids = tokenizer(keyword).input_ids
            if len(ids) > 1 and ids[0] == tokenizer.bos_token_id:
                ids = ids[1:]
            self.keyword_ids.append(torch.tensor(ids))
        self.longest = max((len(ids) for ids in self.keyword_ids), default=0)

    def __call__(self, output_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> bool:
        """Whether all rows of output_ids int64 [B, S] hold a keyword."""
        return all(self.stops(row) for row in output_ids)

    def stops(self, row: torch.LongTensor) -> bool:
        """Whether a row int64 [S] holds a keyword after the prompt."""
        new = row[self.start_len :]
        if not len(new):
            return False
        for ids in self.keyword_ids:
            if len(ids) <= len(new) and torch.equal(new[-len(ids) :].cpu(), ids):
                return True
        # A keyword may be spelled with other tokens, and a row that finished earlier has it further back.
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        return any(keyword in text for keyword in self.keywords)
