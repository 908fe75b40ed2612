"""`Trainer` with a weighter: Eq. 2 over the optimizer step, state in checkpoints, per-task logging.

Without a weighter it is transformers 4.31.0's Trainer.

Shapes: B batch, S sequence, K tasks.
"""

import math
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import RandomSampler
from transformers.training_args import OptimizerNames

from transformers_patch.checkpoints import STOP_REQUESTS, ResumableTrainer
from transformers_patch.compat import decayed_parameters, quiet_checkpointing, without_empty_groups
from transformers_patch.compilation import compile_as_asked
from transformers_patch.dealing import Dealing
from transformers_patch.modeling_llama import LlamaForCausalLM
from transformers_patch.progress import LossOnProgressBar
from transformers_patch.settings import BATCH, SMALL_MICRO_BATCH, STEP, check_settings
from transformers_patch.step_loader import Batch, ReadError, StepLayout, StepLoader, refuse_unread
from transformers_patch.stopping import NonFiniteLossError, start_worker
from transformers_patch.task_log import TaskLog, tracker_values
from transformers_patch.unpadded import UnpaddedCollator, count_batch
from transformers_patch.weighter import Weighter, refuse_bad_weights, refuse_parameters

# A loss scaler begins at 65536 and halves in each step that it skips: 17 in a row, or more if it had grown.
LOWEST_LOSS_SCALE = 1.0


class Trainer(ResumableTrainer):
    """transformers' Trainer that passes a weighter, the task ids and the step's token counts to the model.

    Args:
        weighter: a `Weighter`, an object with the reference's `get_weighted_loss`, or None for stock behaviour.
        loss_normalization: "step" divides by the weighted token count of the whole optimizer step (Eq. 2 of
            arXiv 2403.04343: every rank, every accumulated micro-batch); "batch" takes the quotient in each
            micro-batch and averages the quotients, as the reference does.
        task_names: names in id order, for logs; their ids if None.
        log_file: JSON Lines file of per-task losses; None for none.
        sample_lengths: positions of each training sample, known or estimated, the same on all ranks: in "step"
            normalization without padding, a step's samples are assigned to ranks and micro-batches by their work,
            which does not change its sums; None: in order, equally many to each.
        padded_batches: pad the samples of a micro-batch to the longest; else a `LlamaForCausalLM` of transformers_patch
            is given them end to end, which changes neither loss nor gradients.
        decay_norm_weights: apply weight decay to LlamaRMSNorm weights as transformers 4.31.0 does.

    A training batch holds `labels` [B, S] and `task_ids` int64 [B] beside the model's inputs.

    Raises:
        ValueError: settings that would invalidate the weights.
    """

    def __init__(
        self,
        *args,
        weighter: Weighter | None = None,
        loss_normalization: str = STEP,
        task_names: Sequence[str] | None = None,
        log_file: str | os.PathLike | None = None,
        sample_lengths: Sequence[int] | None = None,
        padded_batches: bool = False,
        decay_norm_weights: bool = False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.weighter = weighter
        self.loss_normalization = loss_normalization
        self.sample_lengths = sample_lengths
        self.padded_batches = padded_batches
        self.decay_norm_weights = decay_norm_weights
        if weighter is None:
            return
        self._check_settings()
        if self.args.torch_compile:
            compile_as_asked(self.model, self.args, self.accelerator)
        self.args.logging_nan_inf_filter = False  # would look at each micro-batch's loss for what ends the run anyway
        if self.pop_callback(transformers.ProgressCallback) is not None:
            self.add_callback(LossOnProgressBar)
        self.is_strategy = isinstance(weighter, Weighter)
        if self.is_strategy:
            refuse_parameters(weighter)
            weighter.to(self.args.device)
            weighter.sum_over_ranks = self._sum_over_ranks
            names = [str(k) for k in range(weighter.num_tasks)] if task_names is None else task_names
            self._task_log = TaskLog(names, log_file if self.is_world_process_zero() else None)
        if self.is_deepspeed_enabled:
            # DeepSpeed counts micro-batches itself and refuses the no_sync context that accelerate would open.
            self.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
        self._micro_batch = 0
        self._begin_step()
        self._started = time.monotonic()

    def _check_settings(self) -> None:
        args = self.args
        check_settings(args, self.loss_normalization)
        if self.loss_normalization == BATCH and args.per_device_train_batch_size < SMALL_MICRO_BATCH:
            warnings.warn(
                "loss_normalization=batch weakens the task weights in small micro-batches (per-device batch "
                f"{args.per_device_train_batch_size} < {SMALL_MICRO_BATCH}); step does not.",
                stacklevel=3,
            )

    # Data

    def get_train_dataloader(self) -> StepLoader:
        """The loader of training micro-batches; transformers' own without a weighter."""
        if self.weighter is None:
            return super().get_train_dataloader()
        workers = self.args.dataloader_num_workers
        return StepLoader(
            self.train_dataset,
            self.data_collator if self._pads else UnpaddedCollator(self.data_collator),
            StepLayout(
                self._train_batch_size,
                self.args.gradient_accumulation_steps,
                self.args.world_size,
                self.args.process_index,
                self._dealing(),
            ),
            order_of_epoch=self.epoch_order,
            position=lambda: self.state.global_step,
            end=lambda: self.state.max_steps,
            count_tokens=self._count_step_tokens if self.is_strategy and self.loss_normalization == STEP else None,
            check_read=self._check_read,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            worker_init_fn=start_worker if workers else None,
        )

    @property
    def _pads(self) -> bool:
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return self.padded_batches or not isinstance(model, LlamaForCausalLM)

    def _dealing(self) -> Dealing | None:
        """Assignment by work; None where the result depends on the assignment or on padding."""
        depends = self._pads or not self.is_strategy or self.loss_normalization == BATCH
        if depends or self.sample_lengths is None:
            return None
        return Dealing(self.sample_lengths, self.model.config.hidden_size)

    def epoch_order(self, epoch: int) -> Sequence[int]:
        """The sample indices of an epoch: a function of seed and epoch alone, equal on all ranks and after a resume.

        A sampler of a subclass (`_get_train_sampler`) is honoured; `set_epoch` is called where it exists.
        """
        sampler = self._get_train_sampler()
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        seed = (self.args.data_seed if self.args.data_seed is not None else self.args.seed) + 1_000_003 * epoch
        if not isinstance(sampler, RandomSampler):
            with torch.random.fork_rng(devices=[]):  # for samplers that draw from the global generator
                torch.manual_seed(seed)
                return list(sampler)
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.train_dataset), generator=generator).tolist()

    def _count_step_tokens(self, window: list[Batch]) -> torch.Tensor:
        counts = [count_batch(batch, self.weighter.num_tasks) for batch in window]
        return self._sum_over_ranks(torch.stack(counts).sum(dim=0).to(self.args.device, non_blocking=True))

    def _check_read(self, problem: Exception | None) -> None:
        """Raise ReadError on all ranks if one could not read its samples: otherwise the others would wait for it."""
        if self.args.world_size == 1:
            refuse_unread(problem)
        elif bool(self._sum_over_ranks(torch.tensor(float(problem is not None), device=self.args.device))):
            kind = None if problem is None else type(problem).__name__
            raise ReadError([name for name in gather_object([kind]) if name is not None]) from problem

    def _sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values, reduction="sum")

    # Steps

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """transformers' train. With a weighter the loader finds the position to resume at.

        Raises:
            ReadError: on all ranks, if one could not read its samples; the steps before are saved in a checkpoint.
        """
        if self.weighter is not None:
            self.args.ignore_data_skip = True
            self._micro_batch = 0
        try:
            with quiet_checkpointing():
                result = super().train(resume_from_checkpoint, *args, **kwargs)
        except ReadError:
            self._save_reached_step()
            raise
        finally:
            self._close_progress_bar()
        if self.weighter is not None and self.is_strategy:
            self._write_task_line(self._get_learning_rate())  # of the steps since the last logging step
        return result

    def _save_reached_step(self) -> None:
        """Save the last complete step, with its log line, unless it is already saved or there is none."""
        if self.state.global_step:
            if self.is_strategy:
                self._write_task_line(self._get_learning_rate())
            self._save_checkpoint(self.model_wrapped, trial=None)

    def _close_progress_bar(self) -> None:
        """Close the progress bar, which transformers leaves open on errors, within the line of the error message."""
        for callback in self.callback_handler.callbacks:
            bar = getattr(callback, "training_bar", None)
            if bar is not None:
                bar.close()

    def training_step(self, model: nn.Module, inputs: Batch) -> torch.Tensor:
        """Forward and backward of one micro-batch; returns its share of the step's loss, detached."""
        if self.weighter is None:
            return super().training_step(model, inputs)
        inputs = dict(inputs)
        samples, self._balance = inputs.pop("sample_indices", []), inputs.pop("step_balance", None)
        if self._micro_batch % self.args.gradient_accumulation_steps == 0:
            self._begin_step()
            if self.is_strategy and self.loss_normalization == STEP:  # else the weighter itself, per micro-batch
                self.weighter.begin_step()
        self._step_samples += samples
        self._micro_batch += 1
        loss = super().training_step(model, inputs)
        if self._is_last_micro_batch:
            self._end_step()
        return loss

    def _prepare_input(self, data: Any) -> Any:
        """transformers' own, without waiting for each tensor's copy: the loader's batches lie in pinned memory."""
        if self.weighter is not None and isinstance(data, torch.Tensor):
            data = data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    @property
    def _is_last_micro_batch(self) -> bool:
        return self._micro_batch % self.args.gradient_accumulation_steps == 0

    def compute_loss(self, model: nn.Module, inputs: Batch, return_outputs: bool = False):
        """The weighted loss of a training micro-batch; in evaluation the model's own loss."""
        if self.weighter is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs)
        outputs = model(**inputs, weighter=self.weighter)
        loss = outputs.loss
        if self.is_strategy:
            self._step_sums = self._step_sums + torch.stack(
                [outputs.task_loss_sum_K, outputs.task_token_count_K.double()]
            )
        if "token_count_K" in inputs:
            # The step's sum is already divided once; undo the averages over ranks and over micro-batches to come.
            loss = loss * (self.args.world_size * self.args.gradient_accumulation_steps)
        self._step_loss = self._step_loss + loss.detach().double() / self.args.gradient_accumulation_steps
        if self._is_last_micro_batch:
            self._reduce_step()
        return (loss, outputs) if return_outputs else loss

    def _begin_step(self) -> None:
        self._step_samples: list[int] = []
        self._step_loss: torch.Tensor | float = 0.0
        self._step_sums: torch.Tensor | float = 0.0

    def _reduce_step(self) -> None:
        """Reduce the step's losses over ranks and stop if they are not finite.

        Called before the last backward pass: DeepSpeed takes its optimizer step inside it. All values of the step are
        transferred to the host at once, because this synchronises with the device.
        """
        parts = [self._step_loss.reshape(1), self.stop_requests(), *(self._step_sums if self.is_strategy else ())]
        totals = self._sum_over_ranks(torch.cat(parts))
        if self.is_strategy:
            count_K = totals[-self.weighter.num_tasks :].long()
            token_weight_K, normalizer = self.weighter.token_weights(count_K)
            known = (token_weight_K, torch.as_tensor(normalizer).reshape(1), self.weighter.weight_K)
            totals = torch.cat([totals, *(values.to(totals) for values in known)])
        loss, *others = totals.tolist()
        self._step_loss = loss / self.args.world_size
        self.apply_requests(others[:STOP_REQUESTS])
        self._step_sums = torch.tensor(others[STOP_REQUESTS:], dtype=torch.float64)
        if not math.isfinite(self._step_loss):
            if self.is_strategy:
                refuse_bad_weights(self.weighter, self._step_sums[: len(count_K)], count_K, self.state.global_step + 1)
            raise NonFiniteLossError(f"{self._describe_bad_step('loss', self._step_loss)} No optimizer step was taken.")

    def _end_step(self) -> None:
        """Pass the step's losses to strategy and log."""
        if self.is_deepspeed_enabled and not self.args.fp16:  # where a skipped step is the loss scaler at work
            norm = self.model_wrapped.get_global_grad_norm()
            if not self.model_wrapped.was_step_applied() or norm is not None and not math.isfinite(norm):
                raise NonFiniteLossError(f"{self._describe_bad_step('gradient norm', math.nan)} The step is not saved.")
        if self.is_strategy:
            tasks, device = self.weighter.num_tasks, self.args.device
            sizes = (tasks, tasks, tasks, 1, tasks)
            loss_sum_K, count_K, token_weight_K, normalizer, weight_K = self._step_sums.split(sizes)
            share_K = loss_sum_K * token_weight_K / torch.where(normalizer == 0, 1.0, normalizer)
            self._task_log.add(self._step_loss, loss_sum_K, count_K, share_K, weight_K, self._balance)
            if self.loss_normalization == STEP:  # else the weighter has observed each micro-batch
                mean_K, step_count_K = loss_sum_K / count_K, count_K.long()
                self.weighter.observe(mean_K.to(device, non_blocking=True), step_count_K.to(device, non_blocking=True))

    def _refuse_bad_gradient(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Hook of the optimizer's step, which a loss scaler does not call for skipped steps."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            raise NonFiniteLossError(f"{self._describe_bad_step('gradient norm', norm)} No optimizer step was taken.")

    def _refuse_lost_scale(self) -> None:
        """Stop an fp16 run whose gradients overflow at every loss scale: no step would ever be taken.

        Called after a step. Gradients are the same on all ranks, and so are scaler and decision. DeepSpeed has a scaler
        of its own, which stops at a scale of 1.
        """
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() < LOWEST_LOSS_SCALE:
            problem = self._describe_bad_step("loss scale of fp16", scaler.get_scale(), self.state.global_step)
            raise NonFiniteLossError(f"{problem} Gradients overflow however small the loss is made.")

    def _describe_bad_step(self, what: str, value: float, step: int | None = None) -> str:
        text = f"the {what} is {float(value)} at step {self.state.global_step + 1 if step is None else step}"
        if self.is_strategy:
            text += f" ({self._task_log.describe_losses(self._step_sums)})"
        samples = ", ".join(self.describe_samples(self._step_samples))
        return f"{text}; samples of rank {self.args.process_index}: {samples}."

    def describe_samples(self, indices: Sequence[int]) -> list[str]:
        """How messages name samples of the training set; subclasses may give record ids."""
        return [str(index) for index in indices]

    # Logging

    def _maybe_log_save_evaluate(self, tr_loss, model, trial, epoch, ignore_keys_for_eval):
        if self.weighter is not None:
            self._refuse_lost_scale()
            # transformers counts from the first batch it is given, which after a resume is not the epoch's first.
            self.state.epoch = self.state.global_step / self.callback_handler.train_dataloader.steps_per_epoch
        super()._maybe_log_save_evaluate(tr_loss, model, trial, epoch, ignore_keys_for_eval)

    def log(self, logs: dict[str, float]) -> None:
        """transformers' log, with the `tracker_values` of each task; the JSON Lines file keeps all digits."""
        if self.weighter is not None and self.is_strategy and "loss" in logs:
            logs |= tracker_values(self._write_task_line(logs["learning_rate"]))
        super().log(logs)

    def _write_task_line(self, learning_rate: float) -> dict[str, Any]:
        """Append the steps since the last line to the task log; returns the line, {} if there were none."""
        return self._task_log.write(
            self.state.global_step,
            self.state.epoch,
            learning_rate,
            time.monotonic() - self._started,
        )

    # Optimizer

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Parameter groups: decayed and not; none is empty."""
        decayed = decayed_parameters(self.model, self.decay_norm_weights)
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        return without_empty_groups(
            [
                {"params": [p for name, p in named if name in decayed], "weight_decay": self.args.weight_decay},
                {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
            ]
        )

    def _can_fuse(self, groups: list[dict[str, Any]]) -> bool:
        """Whether torch's AdamW can be the fused one: all on CUDA, without DeepSpeed, which brings its own.

        With fp16 a fused one would skip bad steps where neither scheduler nor `_refuse_bad_gradient` could know.
        """
        if self.is_deepspeed_enabled or self.args.fp16:
            return False
        return all(p.is_cuda and p.is_floating_point() for group in groups for p in group["params"])

    def create_optimizer(self) -> torch.optim.Optimizer:
        """transformers' optimizer over `optimizer_groups`, adamw_torch fused where it can be.

        Without a weighter transformers' own.
        """
        if self.weighter is None:
            return super().create_optimizer()
        if self.optimizer is None:
            optimizer_class, options = transformers.Trainer.get_optimizer_cls_and_kwargs(self.args)
            groups = self.optimizer_groups()
            if self.args.optim == OptimizerNames.ADAMW_TORCH and self._can_fuse(groups):
                options["fused"] = True
            self.optimizer = optimizer_class(groups, **options)
        # DeepSpeed's holds this rank's part of the gradient only; one that has trained before has the hook.
        if not self.is_deepspeed_enabled and not isinstance(self.optimizer, AcceleratedOptimizer):
            self.optimizer.register_step_pre_hook(self._refuse_bad_gradient)
        return self.optimizer
