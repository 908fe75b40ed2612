"""LLaVA's trainer: the projector's own learning rate, batches by length, checkpoints of projector or LoRA alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch.utils.data import Sampler

from llava.data.dataset import SupervisedDataset
from llava.data.sampler import LengthGroupedSampler
from llava.model.base_digest import BASE_FILE
from llava.train import lora
from transformers_patch import Trainer
from transformers_patch.compat import decayed_parameters, without_empty_groups
from transformers_patch.step_loader import Batch
from transformers_patch.task_sampling import TaskSampler, sampler_of
from visatb.errors import InputError
from visatb.files import write_json

if TYPE_CHECKING:
    from llava.train.arguments import TrainingArguments

PROJECTOR_FILE = "mm_projector.bin"
PROJECTOR_KEYS = ("mm_projector",)
EMBEDDING_KEYS = ("embed_tokens", "embed_in")


def task_sampler(dataset: SupervisedDataset, num_tasks: int, args: "TrainingArguments") -> TaskSampler | None:
    """The sampler of --task_sampling; None where tasks are drawn in proportion to their records."""
    seed = args.data_seed if args.data_seed is not None else args.seed
    return sampler_of(dataset.task_of_record, num_tasks, args.task_sampling, args.visatb_weights, seed)


class LLaVATrainer(Trainer):
    """`transformers_patch.Trainer` for LLaVA's training modes.

    Uses of the arguments: `mm_projector_lr`, `task_sampling`, `group_by_length`, `group_by_modality_length`.

    Args:
        projector_only: train and save the projector alone; None: `tune_mm_mlp_adapter` of the arguments, where LLaVA's
            own script puts it.
        vocabulary_grew, base_digest: of `llava.train.assembly.Built`.
    """

    _unsupervised = 0

    def __init__(
        self,
        *args: Any,
        projector_only: bool | None = None,
        vocabulary_grew: bool = False,
        base_digest: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        own = getattr(self.args, "tune_mm_mlp_adapter", False)
        self.projector_only = own if projector_only is None else projector_only
        self.vocabulary_grew = vocabulary_grew
        self.base_digest = base_digest

    def _get_train_sampler(self) -> Sampler | None:
        by_modality = self.args.group_by_modality_length
        if not (by_modality or self.args.group_by_length):
            drawn = task_sampler(self.train_dataset, self.weighter.num_tasks, self.args)
            return super()._get_train_sampler() if drawn is None else drawn
        # Estimated: transformers' own way to learn a length would be to read every sample with its images.
        lengths = self.train_dataset.estimated_positions(self.data_collator.patches_per_image)
        if by_modality:
            signed = self.train_dataset.modality_lengths
            lengths = [length if sign > 0 else -length for length, sign in zip(lengths, signed, strict=True)]
        return LengthGroupedSampler(
            self.args.train_batch_size,
            self.args.world_size * self.args.gradient_accumulation_steps,
            lengths,
            group_by_modality=by_modality,
            seed=self.args.seed,
            padded=getattr(self.args, "padded_batches", True),
        )

    def training_step(self, model: torch.nn.Module, inputs: Batch) -> torch.Tensor:
        """As the base class; counts samples without a supervised token."""
        unsupervised = inputs.pop("unsupervised_samples", 0)
        if inputs["sample_indices"]:
            self._unsupervised += unsupervised
        return super().training_step(model, inputs)

    def count_unsupervised(self) -> int:
        """Samples without a supervised token that this call of the run has read, over all ranks (call it on all)."""
        return int(self._sum_over_ranks(torch.tensor([self._unsupervised], device=self.args.device)))

    def describe_samples(self, indices: Sequence[int]) -> list[str]:
        """Record ids of samples of the training set."""
        return [str(self.train_dataset.records[index].get("id", index)) for index in indices]

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Groups by weight decay, and by learning rate if the projector has its own."""
        if self.args.mm_projector_lr is None:
            return super().optimizer_groups()
        decayed = decayed_parameters(self.model, self.decay_norm_weights)
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        groups = []
        for of_projector in (False, True):
            for decays in (True, False):
                group: dict[str, Any] = {
                    "params": [
                        p
                        for name, p in named
                        if ("mm_projector" in name) == of_projector and (name in decayed) == decays
                    ],
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                }
                if of_projector:
                    group["lr"] = self.args.mm_projector_lr
                groups.append(group)
        return without_empty_groups(groups)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As transformers' (call it on all ranks); of a LoRA training only what a LoRA folder holds is gathered."""
        if not isinstance(self.model, PeftModel):
            super().save_model(output_dir, _internal_call)
            return
        state = lora.saved_state(self.model, self.vocabulary_grew)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            lora.save(self.model, state, folder, self.args.save_safetensors)
            write_json(folder / BASE_FILE, self.base_digest)
            self.tokenizer.save_pretrained(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if not self.projector_only:
            super()._save(output_dir, state_dict)
            # transformers pickles its arguments here; visatb_run.json has the same information and cannot execute code.
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)  # LLaVA omits it, and loads added tokens in another order
        torch.save(self._adapter_state(state_dict), folder / PROJECTOR_FILE)

    def _adapter_state(self, state_dict: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        keys = PROJECTOR_KEYS + (EMBEDDING_KEYS if self.model.config.mm_use_im_start_end else ())
        state = self.model.state_dict() if state_dict is None else state_dict
        return {name: value.cpu() for name, value in state.items() if any(key in name for key in keys)}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if isinstance(self.model, PeftModel):
            lora.restore(self.model, resume_from_checkpoint, self.vocabulary_grew)
            return
        if not self.projector_only:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        file = Path(resume_from_checkpoint) / PROJECTOR_FILE
        state = torch.load(file, map_location="cpu", weights_only=True)
        wanted = self._adapter_state(None)
        if set(state) != set(wanted):
            raise InputError(
                f"{file}: holds {', '.join(sorted(state))}, the training needs {', '.join(sorted(wanted))}. "
                f"Delete the checkpoint to resume from the previous one."
            )
        self.model.load_state_dict(state, strict=False)
