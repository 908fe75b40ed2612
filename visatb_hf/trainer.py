"""transformers 5's Trainer with a task weighter: Eq. 2 of arXiv 2403.04343 over the optimizer step on any split.

Stock trainers of transformers 5 and TRL average micro-batch means for models that do not accept `num_items_in_batch`
(Qwen2.5-VL, Qwen3-VL and others); here the supervised tokens of each task are counted over the step's micro-batches and
ranks before its first backward pass, and only the logits of supervised positions are computed.

Shapes: B batch, S sequence, K tasks, T supervised tokens of a micro-batch, V vocabulary.
"""

import inspect
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from accelerate.utils import gather_object
from torch import nn

from transformers_patch.loss import IGNORE_INDEX, count_supervised_tokens, task_loss_sums
from transformers_patch.step_loader import ReadError, StepLayout, StepLoader, refuse_unread
from transformers_patch.stopping import NonFiniteLossError, StopSignals, start_worker
from transformers_patch.task_log import TaskLog, tracker_values
from transformers_patch.weighter import Weighter, refuse_bad_weights, refuse_parameters
from visatb.errors import InputError
from visatb_hf.checkpoints import WholeCheckpoints

_NOT_FOR_THE_MODEL = ("task_ids", "token_count_K", "sample_indices", "cut_K", "unsupervised_K")


class TaskWeighting(WholeCheckpoints):
    """Mixin to put before a `transformers.Trainer`: weights every supervised token by its task.

    Args:
        weighter: a strategy of `transformers_patch`.
        task_names: names in id order, for logs; None: the ids.
        log_file: JSON Lines file of per-task losses; None: no file.

    Attributes:
        stop: signals after which `train` saves a checkpoint and returns early; None: no signals.
        stopped_by: the signal that stopped the training; 0 if none did.

    A training batch holds `labels` [B, S] and `task_ids` int64 [B] beside the model's inputs; `visatb_hf.TaskCollator`
    adds the latter. `remove_unused_columns` must be False.

    Raises:
        ValueError: settings or a model with which the task weights could not be applied exactly.
    """

    # The loss is already divided by the step's weighted token count, not also by the number of micro-batches.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        weighter: Weighter,
        task_names: Sequence[str] | None = None,
        log_file: str | Path | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        check_settings(self.args, self.model)
        refuse_parameters(weighter)
        self.weighter = weighter.to(self.args.device)
        # The position in the data follows from the step count, which StepLoader looks up.
        self.args.ignore_data_skip = True
        names = [str(k) for k in range(weighter.num_tasks)] if task_names is None else list(task_names)
        if len(names) != weighter.num_tasks:
            raise ValueError(f"task_names must name {weighter.num_tasks} tasks, got {len(names)}. Name each task.")
        self._task_log = TaskLog(names, log_file if self.is_world_process_zero() else None)
        self._started = time.monotonic()
        self.stop: StopSignals | None = None
        self.stopped_by = 0
        self._micro_batch = 0
        self._begin_step()

    # Data

    def get_train_dataloader(self) -> StepLoader:
        """The micro-batches of one optimizer step after another; each sample occurs once in an epoch on any split."""
        workers = self.args.dataloader_num_workers
        return StepLoader(
            self.train_dataset,
            self.data_collator,
            StepLayout(
                self._train_batch_size,
                self.args.gradient_accumulation_steps,
                self.args.world_size,
                self.args.process_index,
            ),
            order_of_epoch=self._order_of_epoch,
            position=lambda: self.state.global_step,
            end=lambda: self.state.max_steps,
            count_tokens=self._count_step_tokens,
            check_read=self._check_read,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            worker_init_fn=start_worker if workers else None,
        )

    def _order_of_epoch(self, epoch: int) -> list[int]:
        """A function of seed and epoch alone, equal on all ranks and after resuming."""
        seed = self._data_seed + 1_000_003 * epoch
        return torch.randperm(len(self.train_dataset), generator=torch.Generator().manual_seed(seed)).tolist()

    @property
    def _data_seed(self) -> int:
        return self.args.data_seed if self.args.data_seed is not None else self.args.seed

    def _count_step_tokens(self, window: list[dict[str, Any]]) -> torch.Tensor:
        counts = [count_supervised_tokens(b["labels"], b["task_ids"], self.weighter.num_tasks) for b in window]
        return self._sum_over_ranks(torch.stack(counts).sum(dim=0).to(self.args.device))

    def _check_read(self, problem: Exception | None) -> None:
        """Raise ReadError on all ranks if one could not read its samples; the others would wait for it otherwise."""
        if self.args.world_size == 1:
            refuse_unread(problem)
        elif bool(self._sum_over_ranks(torch.tensor(float(problem is not None), device=self.args.device))):
            kind = None if problem is None else type(problem).__name__
            raise ReadError([name for name in gather_object([kind]) if name is not None]) from problem

    def _sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values, reduction="sum")

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Supervised tokens of each task over the step and all ranks, int64 [K], as counted by StepLoader."""
        return batch_samples[0].get("token_count_K") if batch_samples else None

    # Steps

    def train(self, *args: Any, **kwargs: Any):
        """As the base class, and closes the task log at the end."""
        self._micro_batch, self.stopped_by = 0, 0
        result = super().train(*args, **kwargs)
        self._write_task_line()  # for the steps since the last logging step
        return result

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one micro-batch; returns its share of the step's loss, detached."""
        if self._is_last_micro_batch:  # of the previous step
            self._begin_step()
            self.weighter.begin_step()
        self._step_samples += inputs.get("sample_indices", [])
        self._micro_batch += 1
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ):
        """This micro-batch's share of Eq. 2, times the number of ranks, over which it is averaged.

        In evaluation it is the stock loss.

        Raises:
            InputError: the model does not return the logits of the requested positions.
        """
        task_B = inputs.get("task_ids")
        inputs = {name: value for name, value in inputs.items() if name not in _NOT_FOR_THE_MODEL}
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs)
        label_BS = inputs.pop("labels")
        is_next_supervised_BS = F.pad(label_BS[:, 1:] != IGNORE_INDEX, (0, 1))
        outputs = model(**inputs, logits_to_keep=is_next_supervised_BS, use_cache=False)
        row_T, column_T = is_next_supervised_BS.nonzero(as_tuple=True)
        logits_TV = outputs.logits.flatten(0, -2)
        if len(logits_TV) != len(row_T):
            raise InputError(
                f"{type(model).__name__} returned logits of {len(logits_TV)} positions, not {len(row_T)} as requested: "
                "its logits_to_keep does not accept a mask of positions. Use a model family of docs/current_models.md."
            )
        token_loss_T = F.cross_entropy(logits_TV.float(), label_BS[row_T, column_T + 1], reduction="none")
        task_T = task_B[row_T]
        loss = self.weighter(token_loss_T, task_T, num_items_in_batch)
        loss_sum_K, count_K = task_loss_sums(token_loss_T, task_T, self.weighter.num_tasks)
        self._step_sums = self._step_sums + torch.stack([loss_sum_K, count_K.double()])
        self._step_loss = self._step_loss + loss.detach().double()
        if self._is_last_micro_batch:
            self._reduce_step(num_items_in_batch)
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    @property
    def _is_last_micro_batch(self) -> bool:
        return self._micro_batch % self.args.gradient_accumulation_steps == 0

    def _begin_step(self) -> None:
        self._step_samples: list[int] = []
        self._step_loss: torch.Tensor | float = 0.0
        self._step_sums: torch.Tensor | float = 0.0

    def _reduce_step(self, count_K: torch.Tensor) -> None:
        """Reduce the step's losses over ranks, stop if they are not finite, hand them to the log and the strategy.

        Called before the last backward pass, inside which DeepSpeed takes its optimizer step; the weights of this step
        are no longer needed by then.
        """
        received = self.stop.received if self.stop is not None else 0
        own = torch.stack([self._step_loss, self._step_loss.new_tensor(received)])
        sums = self._sum_over_ranks(torch.cat([own, self._step_sums.flatten()])).cpu()
        loss, signals = sums[:2].tolist()
        self.stopped_by = round(signals / self.args.world_size) if received == 0 else received
        loss_sum_K, step_count_K = sums[2:].unflatten(0, (2, -1))
        if not math.isfinite(loss):
            refuse_bad_weights(self.weighter, loss_sum_K, count_K, self.state.global_step + 1)
            raise self._bad_step("loss", loss, f" ({self._task_log.describe_losses(loss_sum_K)})")
        token_weight_K, normalizer = self.weighter.token_weights(count_K)
        share_K = loss_sum_K * token_weight_K.double().cpu() / (float(normalizer) or 1.0)
        self._task_log.add(loss, loss_sum_K, step_count_K, share_K, self.weighter.weight_K.cpu())
        self.weighter.observe((loss_sum_K / step_count_K).to(self.args.device), count_K)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As the base class, but no step is taken along a gradient that is not finite (fp16's scaler skips it)."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not self.args.fp16 and not math.isfinite(float(norm)):
            raise self._bad_step("gradient norm", float(norm))
        return norm

    def _bad_step(self, what: str, value: float, more: str = "") -> NonFiniteLossError:
        samples = ", ".join(self.describe_samples(self._step_samples))
        return NonFiniteLossError(
            f"the {what} is {value} at step {self.state.global_step + 1}{more}; samples of rank "
            f"{self.args.process_index}: {samples}. No optimizer step was taken."
        )

    def describe_samples(self, indices: Sequence[int]) -> list[str]:
        """How messages name samples of the training set; subclasses may give record ids."""
        return [str(index) for index in indices]

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # transformers counts from the first batch it is given, which after resuming is not the epoch's first.
        self.state.epoch = self.state.global_step / self.callback_handler.train_dataloader.steps_per_epoch
        if self.stopped_by and self.state.global_step < self.state.max_steps:
            self.control.should_save = self.control.should_training_stop = True
        if self.control.should_save:
            self.control.should_log = True  # a run that resumes here would lack the steps not yet in the log
        super()._maybe_log_save_evaluate(*args, **kwargs)

    # Logging

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the base class, with loss, weight and share of each task."""
        if "loss" in logs:
            logs |= tracker_values(self._write_task_line())
        super().log(logs, *args, **kwargs)

    def _write_task_line(self) -> dict[str, Any]:
        rate = self._get_learning_rate()
        return self._task_log.write(self.state.global_step, self.state.epoch, rate, time.monotonic() - self._started)


class WeightedTrainer(TaskWeighting, transformers.Trainer):
    """`transformers.Trainer` with a task weighter."""


def check_settings(args: transformers.TrainingArguments, model: nn.Module) -> None:
    """Refuse settings and models with which something other than Eq. 2 would be minimised.

    Raises:
        ValueError: naming the setting, its value and what to use.
    """
    if args.remove_unused_columns:
        raise ValueError("remove_unused_columns must be False, got True: it drops task_ids. Set it to False.")
    if args.label_smoothing_factor:
        raise ValueError(f"label_smoothing_factor must be 0, got {args.label_smoothing_factor}. Leave it out.")
    if args.n_gpu > 1:
        raise ValueError(f"one process must use one GPU, got {args.n_gpu} (DataParallel). Start it with torchrun.")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "logits_to_keep" not in inspect.signature(type(inner).forward).parameters:
        raise ValueError(
            f"{type(inner).__name__} must take logits_to_keep, which restricts the logits to supervised "
            "positions. Use a model family of docs/current_models.md."
        )
