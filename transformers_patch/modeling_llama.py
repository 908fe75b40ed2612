"""`LlamaForCausalLM` with a weighter, and scaled-dot-product attention for transformers 4.31.0's Llama.

Without a weighter everything is transformers' own code, bit for bit (attention included). With one, only supervised
tokens go through `lm_head` and attention is torch's scaled_dot_product_attention; of a batch without padding
(`transformers_patch.unpadded`), attention inside each sample.

Shapes: B batch, Q queries, S keys, H heads, D hidden, E head size, T supervised tokens, K tasks.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as StockLlamaForCausalLM
from transformers import LlamaModel as StockLlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb, repeat_kv
from transformers.models.llama.modeling_llama import LlamaDecoderLayer as StockLlamaDecoderLayer

from transformers_patch.key_value_cache import LayerCache
from transformers_patch.loss import (
    LanguageModelHead,
    SupervisedTokens,
    supervised_tokens,
    task_loss_sums,
    token_losses,
    weighted_losses,
)
from transformers_patch.unpadded import Batch, SampleBounds, attend_within_samples, bounds_of, unpadded_tokens
from transformers_patch.weighter import Weighter

EAGER, SDPA = "eager", "sdpa"
_BESIDE_LOGITS = ("past_key_values", "hidden_states", "attentions")


@dataclass
class WeightedCausalLMOutput(CausalLMOutputWithPast):
    """CausalLMOutputWithPast with the sums that a step's mean task losses are made of.

    Attributes:
        task_loss_sum_K: float64, sum of token losses of each task in this micro-batch, no graph.
        task_token_count_K: int64, its supervised tokens.
    """

    task_loss_sum_K: torch.Tensor | None = None
    task_token_count_K: torch.Tensor | None = None


class SelectedAttention(LlamaAttention):
    """Llama attention whose kernel depends on the kind of its mask.

    An additive float mask, as transformers creates it, selects transformers' eager code. None (causal) or a
    boolean mask (True may be attended) selects scaled_dot_product_attention, as does any mask with a `LayerCache`;
    `SampleBounds` selects attention inside samples.
    The choice depends on the arguments, so that recomputation under gradient checkpointing makes the same one.

    Attributes:
        attend: attention inside samples; a compiled layer has one that stays outside its graph.
    """

    attend = staticmethod(attend_within_samples)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_value: tuple[torch.Tensor, torch.Tensor] | LayerCache | None = None,
        output_attentions: bool = False,
        use_cache: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | LayerCache | None]:
        """As LlamaAttention.forward: hidden_states [B, Q, D] -> output [B, Q, D], weights, cache."""
        bounds = attention_mask if isinstance(attention_mask, SampleBounds) else None
        grows = isinstance(past_key_value, LayerCache)
        if bounds is None and not grows and attention_mask is not None and attention_mask.dtype != torch.bool:
            return super().forward(
                hidden_states, attention_mask, position_ids, past_key_value, output_attentions, use_cache
            )
        batch, queries, _ = hidden_states.shape
        query = self._heads(self.q_proj(hidden_states), self.num_heads)  # [B, H, Q, E]
        key = self._heads(self.k_proj(hidden_states), self.num_key_value_heads)
        value = self._heads(self.v_proj(hidden_states), self.num_key_value_heads)
        past = 0 if past_key_value is None else past_key_value[0].shape[2]
        cos, sin = self.rotary_emb(value, seq_len=past + queries if bounds is None else bounds.longest)
        query, key = apply_rotary_pos_emb(query, key, cos, sin, position_ids)
        if grows:
            key, value = past_key_value.append(key, value)
        elif past_key_value is not None:
            key = torch.cat([past_key_value[0], key], dim=2)  # [B, H, S, E]
            value = torch.cat([past_key_value[1], value], dim=2)
        cache = (past_key_value if grows else (key, value)) if use_cache else None
        if bounds is not None:
            attended = self.attend(query, key, value, bounds)
        else:
            attended = F.scaled_dot_product_attention(
                query,
                repeat_kv(key, self.num_key_value_groups),
                repeat_kv(value, self.num_key_value_groups),
                attn_mask=attention_mask,
                is_causal=attention_mask is None and queries > 1,
            )
        output = self.o_proj(attended.transpose(1, 2).reshape(batch, queries, self.hidden_size))
        return output, None, cache

    def _heads(self, projected: torch.Tensor, heads: int) -> torch.Tensor:
        batch, length, _ = projected.shape
        return projected.view(batch, length, heads, self.head_dim).transpose(1, 2)


class LlamaDecoderLayer(StockLlamaDecoderLayer):
    """The last decoder layer, which leaves out what nothing reads (`SampleBounds.needed_T`): most of its MLP.

    Device maps and FSDP select layers by the name of their class, so this one has transformers' name.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | SampleBounds | None = None,
        position_ids: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple:
        """As LlamaDecoderLayer.forward; of a row of samples with `needed_T` only ([1, T, D],)."""
        needed_T = attention_mask.needed_T if isinstance(attention_mask, SampleBounds) else None
        if needed_T is None:
            return super().forward(hidden_states, attention_mask, position_ids, *args, **kwargs)
        attended_1LD = self.self_attn(self.input_layernorm(hidden_states), attention_mask, position_ids)[0]
        hidden_1TD = (hidden_states + attended_1LD).index_select(1, needed_T)
        return (hidden_1TD + self.mlp(self.post_attention_layernorm(hidden_1TD)),)


class LlamaModel(StockLlamaModel):
    """transformers' LlamaModel with a choice of attention, and a last layer that computes what is read.

    Attributes:
        attention: "eager" (transformers' own, the default) or "sdpa", for calls that do not say.
    """

    attention = EAGER

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        for layer in self.layers:
            # SelectedAttention adds no state: the existing modules are reused without initialising them twice.
            layer.self_attn.__class__ = SelectedAttention
        if self.layers:
            self.layers[-1].__class__ = LlamaDecoderLayer
        self._attention_of_call = None

    def forward(self, *args, attention: str | None = None, **kwargs) -> tuple | BaseModelOutputWithPast:
        """As transformers' LlamaModel.forward, plus `attention`: "eager", "sdpa" or None for the model's own."""
        asks_weights = kwargs.get("output_attentions") or self.config.output_attentions
        self._attention_of_call = EAGER if asks_weights else attention or self.attention
        return super().forward(*args, **kwargs)

    def _prepare_decoder_attention_mask(
        self,
        attention_mask: torch.Tensor | SampleBounds | None,
        input_shape: tuple[int, int],
        inputs_embeds: torch.Tensor,
        past_key_values_length: int,
    ) -> torch.Tensor | SampleBounds | None:
        if isinstance(attention_mask, SampleBounds):
            return attention_mask
        if self._attention_of_call != SDPA:
            return super()._prepare_decoder_attention_mask(
                attention_mask, input_shape, inputs_embeds, past_key_values_length
            )
        return sdpa_mask(attention_mask, input_shape[1], past_key_values_length)


def sdpa_mask(attention_mask_BS: torch.Tensor, queries: int, past: int) -> torch.Tensor | None:
    """The boolean mask [B, 1, Q, S] for scaled_dot_product_attention; None where causal attention is sufficient.

    Right padding needs no mask: a token never attends to later positions, and outputs at padded positions are not
    used.

    Args:
        attention_mask_BS: 1 or True where a key is real; S = past + queries.
        queries: Q.
        past: keys in the cache.
    """
    real_BS = attention_mask_BS.bool()
    if past == 0 and bool((real_BS[:, :-1] >= real_BS[:, 1:]).all()) or queries == 1 and bool(real_BS.all()):
        return None
    key = torch.arange(real_BS.shape[1], device=real_BS.device)
    query = key[past:, None]
    # A padded query attends to itself: a fully masked row would be NaN in some kernels.
    return ((key <= query) & real_BS[:, None, None, :]) | (key == query)


class LlamaForCausalLM(StockLlamaForCausalLM):
    """transformers 4.31.0's LlamaForCausalLM with an optional weighter (arXiv 2403.04343, Eq. 2)."""

    model_class: type[LlamaModel] = LlamaModel  # subclasses name their own decoder

    def __init__(self, config: LlamaConfig):
        # transformers' __init__ would build its own decoder first, at the same cost as ours.
        super(StockLlamaForCausalLM, self).__init__(config)
        self.model = self.model_class(config)
        self.pretraining_tp = config.pretraining_tp
        self.vocab_size = config.vocab_size
        self.lm_head = LanguageModelHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def set_output_embeddings(self, new_embeddings: torch.nn.Linear) -> None:
        """Replace the head (resize_token_embeddings does), keeping it able to compute token losses."""
        self.lm_head = LanguageModelHead.from_linear(new_embeddings)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | SampleBounds | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: list[torch.FloatTensor] | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        weighter: Weighter | None = None,
        task_ids: torch.LongTensor | None = None,
        token_count_K: torch.Tensor | None = None,
        unpadded: Batch | None = None,
        last_logits_only: bool = False,
    ) -> tuple | CausalLMOutputWithPast:
        """transformers' forward; with a weighter and labels, the weighted loss.

        Args:
            weighter: a `Weighter`, or any object with the reference's `get_weighted_loss(losses_BS, task_ids_B)`.
            task_ids: int64 [B], task of each row; may be left out when the weighter has one task.
            token_count_K: supervised tokens of each task in the whole optimizer step, for Eq. 2 over the step.
            unpadded: of a row of samples laid end to end, with a weighter: what `lay_end_to_end` says of it. It takes
                the place of attention_mask, position_ids and labels.
            last_logits_only: logits [B, 1, V] of the last position, which is all that generation reads; a prompt's
                others would take far more memory than its cache. Without labels.

        Returns:
            WeightedCausalLMOutput; `logits` is None while training with a weighter.

        Raises:
            ValueError: a weighter without the task ids it needs.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        if last_logits_only:
            outputs = self.model(**inputs, use_cache=use_cache, return_dict=True)
            logits = self.lm_head(outputs.last_hidden_state[:, -1:]).float()
            found = CausalLMOutputWithPast(logits=logits, **{k: v for k, v in outputs.items() if k in _BESIDE_LOGITS})
            return found if return_dict is not False else found.to_tuple()
        if weighter is None or labels is None and unpadded is None:
            return super().forward(**inputs, labels=labels, use_cache=use_cache, return_dict=return_dict)
        use_cache = False if self.training and use_cache is None else use_cache
        if unpadded is not None:
            alone = self._loss_alone(use_cache, output_attentions, output_hidden_states)
            inputs |= {"attention_mask": bounds_of(unpadded, alone), "position_ids": unpadded["position_ids"]}
        outputs = self.model(**inputs, use_cache=use_cache, return_dict=True, attention=SDPA)
        hidden_BSD = outputs.last_hidden_state
        if unpadded is None:
            tokens = supervised_tokens(hidden_BSD, labels)
        else:
            read_TD = hidden_BSD[0] if alone else hidden_BSD[0].index_select(0, unpadded["predictor_T"])
            tokens = unpadded_tokens(read_TD, unpadded)
        weighted = self.weighted_loss(tokens, weighter, task_ids, token_count_K)
        weighted.logits = None if self.training else self.lm_head(hidden_BSD).float()
        weighted.past_key_values = outputs.past_key_values
        weighted.hidden_states = outputs.hidden_states
        weighted.attentions = outputs.attentions
        if return_dict if return_dict is not None else self.config.use_return_dict:
            return weighted
        return weighted.to_tuple()

    def _loss_alone(self, *also_asked: bool | None) -> bool:
        """Whether nothing but the loss is made of the last layer's output, which then need not be whole."""
        config, layers = self.config, self.model.layers
        also = any(also_asked) or config.output_attentions or config.output_hidden_states
        return self.training and not also and bool(layers) and isinstance(layers[-1], LlamaDecoderLayer)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As transformers', which reads the logits of the last position alone."""
        return super().prepare_inputs_for_generation(*args, **kwargs) | {"last_logits_only": True}

    def weighted_loss(
        self,
        tokens: SupervisedTokens,
        weighter: Weighter,
        task_B: torch.Tensor | None,
        token_count_K: torch.Tensor | None,
    ) -> WeightedCausalLMOutput:
        """The loss and its per-task sums from what predicts the supervised tokens (see `forward`)."""
        if not isinstance(weighter, Weighter):
            return WeightedCausalLMOutput(loss=_foreign_loss(weighter, tokens, self.lm_head, task_B))
        sample_T = tokens.sample_T
        if task_B is None and weighter.num_tasks > 1:
            raise ValueError(f"task_ids must be given: the weighter has {weighter.num_tasks} tasks. Pass task_ids.")
        task_T = torch.zeros_like(sample_T) if task_B is None else task_B.to(sample_T.device)[sample_T]
        weight_T = weighter.loss_weights(task_T, token_count_K)
        if weight_T is None:
            token_loss_T = token_losses(self.lm_head, tokens.hidden_TD, tokens.label_T)
            loss = weighter(token_loss_T, task_T, token_count_K)
        else:
            loss, token_loss_T = weighted_losses(self.lm_head, tokens.hidden_TD, tokens.label_T, weight_T)
        loss_sum_K, count_K = task_loss_sums(token_loss_T, task_T, weighter.num_tasks)
        return WeightedCausalLMOutput(loss=loss, task_loss_sum_K=loss_sum_K, task_token_count_K=count_K)


def _foreign_loss(
    weighter: object, tokens: SupervisedTokens, head: torch.nn.Module, task_B: torch.Tensor
) -> torch.Tensor:
    """The loss of an object with only the reference's interface: losses [B, S-1], 0 where unsupervised."""
    token_loss_T = token_losses(head, tokens.hidden_TD, tokens.label_T)
    loss_BS = token_loss_T.new_zeros(tokens.shape)
    return weighter.get_weighted_loss(loss_BS.index_put((tokens.sample_T, tokens.place_T), token_loss_T), task_B)
