"""The weighted token loss of visual instruction task weighting, as pure functions (torch alone).

Shapes: B batch, S sequence, K tasks, T supervised tokens, D hidden, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
CHUNK_TOKENS = 4096  # logits of more tokens than this never exist at once: 0.5 GiB of float32 at 32,000 entries


class LanguageModelHead(nn.Linear):
    """`lm_head` that can also turn hidden states into token losses, without keeping all logits.

    The chunks live inside one module call on purpose: ZeRO-3 gathers the weight once per call, and ranks must make
    the same number of calls whatever their token counts.
    """

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "LanguageModelHead":
        """A head that shares the parameters of `linear` (no copy)."""
        head = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        head.weight, head.bias = linear.weight, linear.bias
        return head.train(linear.training)

    def forward(self, hidden: torch.Tensor, label_T: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [..., V]; or, with labels, the cross-entropy of each token, float32 [T].

        Args:
            hidden: [..., D]; [T, D] with labels.
            label_T: int64 [T], no ignored ones.
        """
        if label_T is None:
            return super().forward(hidden)
        if len(label_T) <= CHUNK_TOKENS:
            return self._token_losses(hidden, label_T)
        chunks = zip(hidden.split(CHUNK_TOKENS), label_T.split(CHUNK_TOKENS), strict=True)
        return torch.cat([checkpoint(self._token_losses, *chunk, use_reentrant=False) for chunk in chunks])

    def _token_losses(self, hidden_TD: torch.Tensor, label_T: torch.Tensor) -> torch.Tensor:
        logits_TV = super().forward(hidden_TD)
        return F.cross_entropy(logits_TV.float(), label_T, reduction="none")


def supervised_token_losses(
    hidden_BSD: torch.Tensor, label_BS: torch.Tensor, head: LanguageModelHead
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every supervised token, and the row each one stands in.

    Only hidden states whose next label is supervised go through the head. The head runs on an empty selection too:
    under ZeRO-3 every rank must gather its weight, and the zero loss needs a graph.

    Args:
        hidden_BSD: last hidden states.
        label_BS: int64; IGNORE_INDEX where a token is not supervised. Position s is predicted from s - 1.
        head: the language model head.

    Returns:
        `token_loss_T` float32 in nats, and `row_T` int64.
    """
    label_BS = label_BS.to(hidden_BSD.device)
    supervised = label_BS[:, 1:] != IGNORE_INDEX
    row_T, column_T = supervised.nonzero(as_tuple=True)
    return head(hidden_BSD[row_T, column_T], label_BS[row_T, column_T + 1]), row_T


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
    return loss_sum_K, torch.bincount(task_T, minlength=num_tasks)


def task_mean_losses(token_loss_T: torch.Tensor, task_T: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """Mean token loss of each task, float64 [K]; NaN for a task without a token."""
    loss_sum_K, count_K = task_loss_sums(token_loss_T, task_T, num_tasks)
    return loss_sum_K / count_K
