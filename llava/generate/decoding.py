"""Greedy search and sampling for a batch whose rows leave it when they are finished.

Shapes: B rows still in the batch, S positions, D hidden, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from transformers.generation.streamers import BaseStreamer

from transformers_patch.key_value_cache import LayerCache


def decode(
    model: torch.nn.Module,
    embeds_BSD: torch.Tensor,
    mask_BS: torch.Tensor,
    choose: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
    finished: Callable[[int, list[int]], bool],
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """The new ids of each row, its last one included.

    Args:
        model: a LlavaLlamaForCausalLM.
        embeds_BSD: the prompts, padded on the left.
        mask_BS: int64, 1 where a position is real.
        choose: logits [B, V] and the numbers of their rows -> ids int64 [B].
        finished: number of a row and its new ids -> whether it is complete.
        streamer: is given the new ids, step by step.
    """
    rows = list(range(len(embeds_BSD)))
    new_ids: list[list[int]] = [[] for _ in rows]
    position_BS = (mask_BS.cumsum(-1) - 1).masked_fill(mask_BS == 0, 1)
    caches = None
    while True:
        output = model(
            inputs_embeds=embeds_BSD,
            attention_mask=mask_BS,
            position_ids=position_BS,
            past_key_values=caches,
            use_cache=True,
            output_attentions=False,
            last_logits_only=True,
        )
        if caches is None:
            caches = [LayerCache(*layer) for layer in output.past_key_values]
        token_B = choose(output.logits[:, -1], rows)
        del output, embeds_BSD
        if streamer is not None:
            streamer.put(token_B.cpu())
        for row, token in zip(rows, token_B.tolist(), strict=True):
            new_ids[row].append(token)
        places = _without([finished(row, new_ids[row]) for row in rows])
        if not places:
            break
        position_BS = position_BS[:, -1:] + 1
        if len(places) < len(rows):
            rows = [rows[place] for place in places]
            token_B, mask_BS, position_BS = token_B[places], mask_BS[places], position_BS[places]
            for cache in caches:
                cache.keep(places)
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones((len(rows), 1))], dim=1)
        embeds_BSD = model.get_input_embeddings()(token_B[:, None])
    if streamer is not None:
        streamer.end()
    return new_ids


def _without(finished: Sequence[bool]) -> list[int]:
    """The places of the unfinished rows: the last ones fill the gaps of finished ones, so that few rows move."""
    left = [place for place, over in enumerate(finished) if not over]
    kept, moving = [n for n in left if n < len(left)], [n for n in left if n >= len(left)]
    gaps = sorted(set(range(len(left))) - set(kept))
    source = dict(zip(gaps, moving, strict=True))
    return [source.get(place, place) for place in range(len(left))]
