"""The weighted token loss of visual instruction task weighting, as pure functions (torch alone).

Shapes: B batch, S sequence, K tasks, T supervised tokens, D hidden, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
CHUNK_TOKENS = 4096  # of a head that autograd differentiates: 0.5 GiB of float32 logits at 32,000 entries
# Logits of a chunk whose gradient is computed at once. A GPU needs larger products for full utilisation.
CHUNK_LOGITS, CHUNK_LOGITS_ON_GPU = 2**23, 2**26
LEAST_CHUNK = 128  # tokens: the weight's gradient, which is large too, is read and written once a chunk


class LanguageModelHead(nn.Linear):
    """`lm_head` that can also turn hidden states into token losses, without keeping all logits.

    The chunks are deliberately inside one module call: ZeRO-3 gathers the weight once per call, and ranks must make
    the same number of calls whatever their token counts.
    """

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "LanguageModelHead":
        """A head that shares the parameters of `linear` (no copy)."""
        head = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        head.weight, head.bias = linear.weight, linear.bias
        return head.train(linear.training)

    def forward(
        self, hidden: torch.Tensor, label_T: torch.Tensor | None = None, weight_T: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits [..., V]; or, with labels, the cross-entropy of each token, float32 [T].

        Args:
            hidden: [..., D]; [T, D] with labels.
            label_T: int64 [T], no ignored ones.
            weight_T: float [T], what each token's loss is multiplied by in the loss that is trained.

        Returns:
            With weights, that loss (a scalar, the only one with a graph) and the cross-entropies.
        """
        if label_T is None:
            return super().forward(hidden)
        dtype = torch.get_autocast_dtype(hidden.device.type) if _autocasts(hidden) else self.weight.dtype
        # In float16 a gradient would underflow before it is multiplied by the loss scale, which happens in backward.
        if weight_T is not None and dtype != torch.float16 and torch.is_grad_enabled():
            return _WeightedLoss.apply(hidden, self.weight, self.bias, label_T, weight_T, dtype)
        token_loss_T = self._token_losses(hidden, label_T)
        return token_loss_T if weight_T is None else ((weight_T * token_loss_T).sum(), token_loss_T.detach())

    def _token_losses(self, hidden_TD: torch.Tensor, label_T: torch.Tensor) -> torch.Tensor:
        if len(label_T) <= CHUNK_TOKENS:
            return self._chunk_losses(hidden_TD, label_T)
        chunks = zip(hidden_TD.split(CHUNK_TOKENS), label_T.split(CHUNK_TOKENS), strict=True)
        return torch.cat([checkpoint(self._chunk_losses, *chunk, use_reentrant=False) for chunk in chunks])

    def _chunk_losses(self, hidden_TD: torch.Tensor, label_T: torch.Tensor) -> torch.Tensor:
        logits_TV = super().forward(hidden_TD)
        return F.cross_entropy(logits_TV.float(), label_T, reduction="none")


def _autocasts(tensor: torch.Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)


class _WeightedLoss(torch.autograd.Function):
    """Head and weighted cross-entropy whose gradients are made in the forward pass, a chunk of tokens at a time.

    The weights are the gradient of each token's loss, so the backward pass lacks only a common factor. Logits exist
    only for one chunk and are computed once.
    """

    @staticmethod
    def forward(ctx, hidden_TD, weight_VD, bias_V, label_T, weight_T, dtype):
        needs = ctx.needs_input_grad[:3]
        weight = weight_VD.to(dtype)
        # Sums over chunks are kept in float32 where the parameters are not.
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        gradients = (
            torch.empty_like(hidden_TD) if needs[0] else None,
            torch.zeros_like(weight_VD, dtype=wide) if needs[1] else None,
            torch.zeros_like(bias_V, dtype=wide) if needs[2] else None,
        )
        token_loss_T = torch.empty(len(label_T), dtype=torch.float32, device=hidden_TD.device)
        room = CHUNK_LOGITS if hidden_TD.device.type == "cpu" else CHUNK_LOGITS_ON_GPU
        chunk = max(room // len(weight_VD), LEAST_CHUNK)
        with torch.autocast(hidden_TD.device.type, enabled=False):
            for start in range(0, len(label_T), chunk):
                part = slice(start, start + chunk)
                hidden = hidden_TD[part].to(dtype)
                logits = F.linear(hidden, weight, None if bias_V is None else bias_V.to(dtype))
                token_loss_T[part], logit_gradient = _cross_entropy(logits, label_T[part], weight_T[part])
                _add_gradients(gradients, part, logit_gradient, hidden, weight)
                del logits, logit_gradient  # else they stay while the next chunk's are made
        of_hidden, of_weight, of_bias = gradients
        ctx.save_for_backward(
            of_hidden,
            None if of_weight is None else of_weight.to(weight_VD.dtype),
            None if of_bias is None else of_bias.to(bias_V.dtype),
        )
        ctx.mark_non_differentiable(token_loss_T)
        return (weight_T * token_loss_T).sum(), token_loss_T

    @staticmethod
    @once_differentiable
    def backward(ctx, scale, _):
        # In place: autograd itself refuses a second backward through tensors that have changed.
        return *(None if saved is None else saved.mul_(scale) for saved in ctx.saved_tensors), None, None, None


def _cross_entropy(
    logits_TV: torch.Tensor, label_T: torch.Tensor, weight_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each token, float32 [T], and the gradient of its weighted sum [T, V] in the logits' dtype."""
    log_prob_TV = F.log_softmax(logits_TV, dim=1, dtype=torch.float32)
    label_T1 = label_T[:, None]
    token_loss_T = -log_prob_TV.gather(1, label_T1)[:, 0]
    weight_T1 = weight_T[:, None].float()
    gradient_TV = log_prob_TV.exp_().mul_(weight_T1).scatter_add_(1, label_T1, -weight_T1)
    return token_loss_T, gradient_TV.to(logits_TV.dtype)


def _add_gradients(
    gradients: tuple[torch.Tensor | None, ...],
    part: slice,
    of_logits_TV: torch.Tensor,
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
) -> None:
    """Add a chunk's contribution to the gradients of hidden states, weight and bias; None where not required."""
    of_hidden_TD, of_weight_VD, of_bias_V = gradients
    if of_hidden_TD is not None:
        of_hidden_TD[part] = of_logits_TV @ weight_VD
    if of_weight_VD is not None and of_weight_VD.dtype == hidden_TD.dtype:
        of_weight_VD.addmm_(of_logits_TV.T, hidden_TD)
    elif of_weight_VD is not None:
        of_weight_VD += of_logits_TV.T @ hidden_TD
    if of_bias_V is not None:
        of_bias_V += of_logits_TV.sum(0, dtype=of_bias_V.dtype)


def token_losses(head: nn.Module, hidden_TD: torch.Tensor, label_T: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token, float32 [T]; of a head in adapters too, whose logits of all tokens then exist.

    The head runs on an empty selection as well: under ZeRO-3 every rank must gather its weight, and the zero loss
    needs a graph.
    """
    if _takes_labels(head):
        return head(hidden_TD, label_T)
    return F.cross_entropy(head(hidden_TD).float(), label_T, reduction="none")


def weighted_losses(
    head: nn.Module, hidden_TD: torch.Tensor, label_T: torch.Tensor, weight_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of the tokens' cross-entropies, a scalar, and the cross-entropies without a graph."""
    if _takes_labels(head):
        return head(hidden_TD, label_T, weight_T)
    token_loss_T = token_losses(head, hidden_TD, label_T)
    return (weight_T * token_loss_T).sum(), token_loss_T.detach()


def _takes_labels(head: nn.Module) -> bool:
    """Whether it is our head or peft's trained copy of it; LoRA's layer adds to its output, as if to logits."""
    return isinstance(getattr(head, "original_module", head), LanguageModelHead)


class SupervisedTokens(NamedTuple):
    """The inputs that predict the supervised tokens of a micro-batch.

    Attributes:
        hidden_TD: hidden states.
        label_T: int64, the tokens.
        sample_T, place_T: int64, the sample that each is in and the place in it that predicts it.
        shape: samples, and places of the longest that may predict.
    """

    hidden_TD: torch.Tensor
    label_T: torch.Tensor
    sample_T: torch.Tensor
    place_T: torch.Tensor
    shape: tuple[int, int]


def supervised_tokens(hidden_BSD: torch.Tensor, label_BS: torch.Tensor) -> SupervisedTokens:
    """The supervised tokens of padded rows.

    Args:
        hidden_BSD: last hidden states.
        label_BS: int64; IGNORE_INDEX where a token is not supervised. Position s is predicted from s - 1.
    """
    label_BS = label_BS.to(hidden_BSD.device)
    row_T, column_T = (label_BS[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    shape = (label_BS.shape[0], label_BS.shape[1] - 1)
    return SupervisedTokens(hidden_BSD[row_T, column_T], label_BS[row_T, column_T + 1], row_T, column_T, shape)


def supervised_token_losses(
    hidden_BSD: torch.Tensor, label_BS: torch.Tensor, head: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every supervised token of padded rows, float32 [T], and the row each one stands in, int64 [T].

    Args:
        hidden_BSD, label_BS: as for `supervised_tokens`.
        head: the language model head.
    """
    tokens = supervised_tokens(hidden_BSD, label_BS)
    return token_losses(head, tokens.hidden_TD, tokens.label_T), tokens.sample_T


def check_task_ids(task: torch.Tensor, num_tasks: int) -> None:
    """Refuse task ids that are not in 0..K-1; a negative one would index from the end.

    Raises:
        ValueError: names the ids.
    """
    if task.numel() and not 0 <= int(task.min()) <= int(task.max()) < num_tasks:
        ids = task.unique().tolist()
        raise ValueError(f"task_ids must be in 0..{num_tasks - 1}, got {ids}. Check the task mapping.")


def count_supervised_tokens(label_BS: torch.Tensor, task_B: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """Supervised tokens of each task in a batch: int64 [K].

    Args:
        label_BS: int64; IGNORE_INDEX where a token is not supervised.
        task_B: int64, task id of each row.
        num_tasks: K.

    Raises:
        ValueError: if a task id is not in 0..K-1.
    """
    check_task_ids(task_B, num_tasks)
    tokens_B = (label_BS[:, 1:] != IGNORE_INDEX).sum(dim=1)
    return torch.zeros(num_tasks, dtype=torch.int64, device=label_BS.device).index_add_(0, task_B, tokens_B)


def weighted_token_loss(
    token_loss_T: torch.Tensor, weight_T: torch.Tensor, normalizer: torch.Tensor | float | None = None
) -> torch.Tensor:
    """Average the token losses with one weight per token (Eq. 2 of arXiv 2403.04343).

    Args:
        token_loss_T: float [T], cross-entropy in nats.
        weight_T: float [T], weight of each token's task, > 0.
        normalizer: scalar; the step-wide sum of weights, or None for this batch's own.

    Returns:
        Scalar tensor; 0 with a gradient path if no token is supervised.

    Raises:
        ValueError: if the lengths differ.
    """
    if token_loss_T.shape != weight_T.shape:
        raise ValueError(f"weight_T must have one weight per token, got {weight_T.shape} for {token_loss_T.shape}.")
    if normalizer is None:
        normalizer = weight_T.sum()
    normalizer = torch.as_tensor(normalizer, dtype=token_loss_T.dtype, device=token_loss_T.device)
    # An empty sum over 0 would be NaN; over 1 it is the exact 0 that keeps its graph.
    return (weight_T * token_loss_T).sum() / torch.where(normalizer == 0, torch.ones_like(normalizer), normalizer)


def task_loss_sums(
    token_loss_T: torch.Tensor, task_T: torch.Tensor, num_tasks: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of token losses and number of tokens of each task, without a graph.

    Args:
        token_loss_T: float [T].
        task_T: int64 [T], task id of each token.
        num_tasks: K.

    Returns:
        `loss_sum_K` float64 and `count_K` int64; sums add up over micro-batches and ranks where means do not.
    """
    loss_sum_K = torch.zeros(num_tasks, dtype=torch.float64, device=token_loss_T.device)
    loss_sum_K.index_add_(0, task_T, token_loss_T.detach().double())
    count_K = torch.zeros(num_tasks, dtype=torch.int64, device=token_loss_T.device)
    return loss_sum_K, count_K.index_add_(0, task_T, torch.ones_like(task_T))


def task_mean_losses(token_loss_T: torch.Tensor, task_T: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """Mean token loss of each task, float64 [K]; NaN for a task without a token."""
    loss_sum_K, count_K = task_loss_sums(token_loss_T, task_T, num_tasks)
    return loss_sum_K / count_K
