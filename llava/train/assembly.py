"""The parts of a training run, made from its arguments: tasks, records, weighter, model, trainer."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peft import PeftModel
from transformers import PreTrainedTokenizer
from transformers.deepspeed import is_deepspeed_zero3_enabled

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.conversation import (
    CONVERSATION_VERSION,
    Conversation,
    conv_templates,
    conversation_for_version,
    recorded_version,
)
from llava.data.collator import SupervisedCollator
from llava.data.dataset import SupervisedDataset
from llava.data.first_look import look_at_samples, weight_without_effect
from llava.data.images import check_image_files
from llava.data.lengths import estimated_positions
from llava.data.preprocess import check_fit, check_trainable, is_picky
from llava.data.tokenizer import check_vocabulary, read_tokenizer
from llava.model import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.builder import check_base
from llava.model.config_file import read_base_config
from llava.model.gathering import gathered
from llava.train.arguments import SINGLE_TASK, DataArguments, ModelArguments, TrainingArguments
from llava.train.llava_trainer import LLaVATrainer, task_sampler
from llava.train.lora import add_adapters, half_dtype, loading_arguments, note_base, prepare_quantised
from llava.train.run_folder import LOG_FILE
from transformers_patch import Weighter, build_weighter
from transformers_patch.trainer import check_settings
from visatb.errors import InputError
from visatb.record_index import RecordIndex, open_index
from visatb.records import Record, check_record, name_of, refuse_missing_folder
from visatb.sampling import WEIGHTS

PAD = "[PAD]"

# Argument -> key of a LLaVA checkpoint's config.json, LLaVA's default.
_VISION = {
    "vision_tower": ("mm_vision_tower", None),
    "mm_vision_select_layer": ("mm_vision_select_layer", -1),
    "mm_vision_select_feature": ("mm_vision_select_feature", "patch"),
    "mm_projector_type": ("mm_projector_type", "linear"),
    "mm_use_im_start_end": ("mm_use_im_start_end", False),
    "mm_use_im_patch_token": ("mm_use_im_patch_token", True),
}


def make_weighter(args: TrainingArguments, tasks: list[str]) -> Weighter:
    """The weighting strategy, its weights checked against the tasks, and the normalisation checked.

    Raises:
        InputError: unknown method or normalisation, a constant or weights that the method does not take, or weights
            of the wrong number, not finite, or not > 0.
    """
    try:
        check_settings(args, args.loss_normalization)
        return build_weighter(
            args.weight_method,
            len(tasks),
            None if args.task_sampling == WEIGHTS else args.visatb_weights,
            seed=args.seed,
            window=args.weight_window,
            temperature=args.weight_temperature,
            lr=args.weight_lr,
            reference_history=args.weight_reference_history,
        )
    except ValueError as error:
        is_lost = tasks == [SINGLE_TASK] and len(args.visatb_weights or []) > 1
        hint = " Without --benchmark (BENCHMARK) all records are one task." if is_lost else ""
        raise InputError(f"{error}{hint}") from None


def load_data(data_args: DataArguments, tasks: list[str], version: str = "v1") -> RecordIndex:
    """All records of the annotation file, each checked: turns, task, `<image>` tokens, template, image files.

    Raises:
        InputError: naming file, record and field.
    """
    path, template = data_args.data_path, conv_templates.get(version)
    picky = template is not None and is_picky(template)
    check = partial(check_fit, conversation=template) if picky else None
    records = open_index(path, template.sep_style.name if picky else "", check)
    if data_args.benchmark:
        _refuse_other_tasks(records, tasks)
    else:
        records = records.of_task(SINGLE_TASK)
    if not records.images:
        return records
    if not data_args.image_folder:
        first = records.images[0][1]
        raise InputError(f"{path}: {name_of(records[first], first)} has an image. Set --image_folder (IMAGE_FOLDER).")
    refuse_missing_folder(data_args.image_folder)
    if data_args.bad_image == "fail":
        check_image_files(records, data_args.image_folder, path)
    return records


def _refuse_other_tasks(records: RecordIndex, tasks: list[str]) -> None:
    known = [position for position, task in enumerate(records.columns.tasks) if task in tasks]
    for n in np.flatnonzero(~np.isin(records.columns.task_N, known)).tolist():
        check_record(records[n], f"{records.path}: {name_of(records[n], n)}", set(), tasks)


def load_tokenizer(model_args: ModelArguments, args: TrainingArguments) -> PreTrainedTokenizer:
    """The base model's SentencePiece tokenizer, padded on the right; pad = unk as LLaVA-1.5 has it."""
    tokenizer = read_tokenizer(
        model_args.model_name_or_path,
        cache_dir=args.cache_dir,
        model_max_length=args.model_max_length,
        padding_side="right",
    )
    if model_args.version != "v0":
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


class Built(NamedTuple):
    """What a training starts with.

    Attributes:
        model: with its vision tower and projector; wrapped in a PeftModel with --lora_enable.
        tokenizer, conversation: of its text.
        vocabulary_grew: embeddings and lm_head have other rows than the base's, so they are saved beside an adapter.
        base_digest: of the base, to be saved with an adapter; None without one, and on other ranks than the first.
    """

    model: LlavaLlamaForCausalLM | PeftModel
    tokenizer: PreTrainedTokenizer
    conversation: Conversation
    vocabulary_grew: bool = False
    base_digest: dict[str, Any] | None = None


def settle_vision(model_args: ModelArguments, cache_dir: str | None = None) -> tuple[ModelArguments, LlavaConfig]:
    """The arguments with those of tower and projector completed, and the base's configuration.

    A LLaVA checkpoint keeps its own settings, a language model gets LLaVA's defaults.

    Raises:
        InputError: other values than those that the checkpoint's projector was trained with.
    """
    base = model_args.model_name_or_path
    config = read_base_config(base, cache_dir)
    is_llava = bool(getattr(config, "mm_vision_tower", None))
    settled = {}
    for name, (key, default) in _VISION.items():
        given, own = getattr(model_args, name), getattr(config, key, default) if is_llava else default
        settled[name] = own if given in (None, "") else given
        if given not in (None, "") and is_llava and given != own and not _may_differ(name, given, own):
            raise InputError(f"{name} must be {own}, that of {base}, got {given}. Leave out --{name} ({name.upper()}).")
        if is_llava:
            setattr(config, key, settled[name])
    return replace(model_args, **settled), config


def _may_differ(name: str, given: Any, own: Any) -> bool:
    """Whether a setting may be another than the checkpoint's.

    A tower's folder may be a local copy of the checkpoint's tower. Tokens may be added, but the tokens around images
    that a checkpoint was trained with may not be dropped; `<im_patch>` occurs in no text.
    """
    if name == "vision_tower":
        return Path(given).is_dir() or (own.startswith(("/", ".")) and not Path(own).exists())
    return name == "mm_use_im_patch_token" or name == "mm_use_im_start_end" and given


def build_model(
    model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments, config: LlavaConfig | None = None
) -> Built:
    """The model to train, the tokenizer and the conversation template.

    The model is built after the arguments (ZeRO-3 partitions it while it is made) and after the seed is set.

    Args:
        model_args, config: of `settle_vision`; it is called for what has no `config` yet.
        data_args, args: of the training.
    """
    conversation = conversation_for_version(model_args.version)
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise InputError("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD lets weight files run code. Unset it.")
    if config is None:
        model_args, config = settle_vision(model_args, args.cache_dir)
    _check_projector(model_args, args, has_own=bool(getattr(config, "mm_vision_tower", None)))
    tokenizer = load_tokenizer(model_args, args)
    check_vocabulary(tokenizer, config.vocab_size, model_args.model_name_or_path, _tokens_to_come(model_args))
    check_trainable(conversation, tokenizer, model_args.tune_mm_mlp_adapter)
    base = model_args.model_name_or_path
    weights = check_base(base, config, bool(model_args.pretrain_mm_mlp_adapter), args.cache_dir)
    digest = note_base(base, weights, args) if args.lora_enable else None
    model = LlavaLlamaForCausalLM.from_pretrained(
        base, config=config, cache_dir=args.cache_dir, **loading_arguments(args)
    )
    model.config.use_cache = False
    setattr(model.config, CONVERSATION_VERSION, recorded_version(model_args.version))
    if model_args.freeze_backbone:
        model.model.requires_grad_(False)
    if args.bits != 16:
        prepare_quantised(model, args)
    pieces, rows = len(tokenizer), model.config.vocab_size
    if model_args.version == "v0" and tokenizer.pad_token is None:
        _add_pad_token(model, tokenizer)
    if model_args.vision_tower:
        _add_vision(model, tokenizer, model_args, data_args, args)
    grew = (len(tokenizer), model.config.vocab_size) != (pieces, rows)
    if args.gradient_checkpointing:
        model.enable_input_require_grads()  # of the final embeddings: adding tokens replaces the module
    if args.lora_enable:
        model = _add_adapters(model, model_args, args, grew)
    return Built(model, tokenizer, conversation, grew, digest)


def _tokens_to_come(model_args: ModelArguments) -> list[str]:
    """Tokens that need no embedding in the base: it is created here, or the token is only padding."""
    tokens = [] if model_args.version == "v0" else [PAD]
    if model_args.vision_tower and model_args.mm_use_im_patch_token:
        tokens.append(DEFAULT_IMAGE_PATCH_TOKEN)
    if model_args.vision_tower and model_args.mm_use_im_start_end:
        tokens += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN]
    return tokens


def _check_projector(model_args: ModelArguments, args: TrainingArguments, has_own: bool) -> None:
    """Refuse a missing stage 1 file before the model loads, and warn if the projector starts unexpectedly."""
    file, base = model_args.pretrain_mm_mlp_adapter, model_args.model_name_or_path
    if file and not Path(file).is_file():
        raise InputError(f"{file}: no such file. Check --pretrain_mm_mlp_adapter (PRETRAIN_MM_MLP_ADAPTER).")
    if args.process_index or not model_args.vision_tower:
        return
    if file and has_own:
        print(f"warning: the projector of {base} is replaced by {file}.", file=sys.stderr)
    elif not file and not has_own and not model_args.tune_mm_mlp_adapter:
        print("warning: the projector starts at random, without --pretrain_mm_mlp_adapter of stage 1.", file=sys.stderr)


def _add_adapters(
    model: LlavaLlamaForCausalLM, model_args: ModelArguments, args: TrainingArguments, grew: bool
) -> PeftModel:
    """The model with LoRA adapters. Says so if the vocabulary must be saved beside them."""
    if grew and args.process_index == 0:
        print(f"The vocabulary grew to {model.config.vocab_size}: embed_tokens and lm_head are saved with the adapter.")
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False  # all are used; True, transformers' choice, breaks checkpointing
    return add_adapters(model, model_args.model_name_or_path, model_args.freeze_mm_mlp_adapter, args)


def _add_pad_token(model: LlavaLlamaForCausalLM, tokenizer: PreTrainedTokenizer) -> None:
    """Add [PAD], its embeddings the mean of the others (LLaVA's v0)."""
    added, end = tokenizer.add_special_tokens({"pad_token": PAD}), len(tokenizer)
    model.grow_vocabulary(end)
    weights = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    if added:
        with gathered(*weights):
            for embeddings in (weight.data for weight in weights):
                embeddings[end - added : end] = embeddings[: end - added].mean(dim=0, keepdim=True)


def _add_vision(
    model: LlavaLlamaForCausalLM,
    tokenizer: PreTrainedTokenizer,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
) -> None:
    """Vision tower (frozen) and projector, what is trained of them, and LLaVA's keys in the config."""
    model.get_model().initialize_vision_modules(model_args=model_args, fsdp=args.fsdp)
    model.get_vision_tower().to(dtype=half_dtype(args), device=args.device)
    config = model.config
    config.image_aspect_ratio = data_args.image_aspect_ratio
    config.tokenizer_padding_side = tokenizer.padding_side
    config.tokenizer_model_max_length = tokenizer.model_max_length
    config.tune_mm_mlp_adapter = model_args.tune_mm_mlp_adapter
    config.freeze_mm_mlp_adapter = model_args.freeze_mm_mlp_adapter
    config.mm_projector_lr = args.mm_projector_lr
    config.mm_use_im_start_end = model_args.mm_use_im_start_end
    config.mm_use_im_patch_token = model_args.mm_use_im_patch_token
    projector = model.get_model().mm_projector
    if args.bits != 16:
        projector.to(device=args.device)  # the trainer moves no quantised model
    if is_deepspeed_zero3_enabled():
        # A new projector is not made by from_pretrained, which ZeRO-3 makes half-precision; it demands one dtype.
        projector.to(dtype=half_dtype(args))
    if model_args.tune_mm_mlp_adapter:
        model.requires_grad_(False)
        projector.requires_grad_(True)
    if model_args.freeze_mm_mlp_adapter:
        projector.requires_grad_(False)
    model.initialize_vision_tokenizer(model_args, tokenizer=tokenizer)


def build_trainer(
    built: Built,
    records: Sequence[Record],
    tasks: list[str],
    weighter: Weighter,
    data_args: DataArguments,
    args: TrainingArguments,
) -> LLaVATrainer:
    """The trainer over the records. Prints each task with its weight and number of records."""
    model, tokenizer, conversation = built[:3]
    tower = model.get_vision_tower()
    patches = 0 if tower is None else tower.num_patches
    dataset = SupervisedDataset(
        records,
        tokenizer,
        conversation,
        {name: k for k, name in enumerate(tasks)},
        image_processor=None if tower is None else tower.image_processor,
        image_folder=data_args.image_folder,
        image_aspect_ratio=data_args.image_aspect_ratio,
        mm_use_im_start_end=tower is not None and model.config.mm_use_im_start_end,
        bad_image=data_args.bad_image,
        source=data_args.data_path,
    )
    if args.process_index == 0:
        _print_tasks(tasks, weighter, dataset, args)
        _report_grouping(tasks, weighter, dataset, args)
    look_at_samples(dataset, tasks, args.model_max_length, patches, model.config, args.process_index == 0)
    return LLaVATrainer(
        model=model,
        tokenizer=tokenizer,
        args=args,
        train_dataset=dataset,
        data_collator=SupervisedCollator(
            tokenizer.pad_token_id, args.model_max_length, patches, padded=args.padded_batches
        ),
        weighter=weighter,
        loss_normalization=args.loss_normalization,
        task_names=tasks,
        log_file=Path(args.output_dir) / LOG_FILE,
        decay_norm_weights=args.decay_norm_weights,
        padded_batches=args.padded_batches,
        projector_only=bool(getattr(model.config, "tune_mm_mlp_adapter", False)),
        vocabulary_grew=built.vocabulary_grew,
        base_digest=built.base_digest,
        sample_lengths=None if args.padded_batches else estimated_positions(dataset, args.model_max_length, patches),
    )


def _print_tasks(tasks: list[str], weighter: Weighter, dataset: SupervisedDataset, args: TrainingArguments) -> None:
    sampler = task_sampler(dataset, len(tasks), args)
    unread_K = [0] * len(tasks) if sampler is None else sampler.unread(args.num_train_epochs)
    count = Counter(dataset.task_of_record)
    for k, (name, weight) in enumerate(zip(tasks, weighter.weight_K.tolist(), strict=True)):
        drawn = "" if sampler is None else f", {sampler.count_K[k]:,} drawn per epoch"
        unread = f", {unread_K[k]:,} not read in {args.num_train_epochs:g} epochs" if unread_K[k] else ""
        print(f"task {name:<24} weight {weight:.4f}  {count[k]:>9,} records{drawn}{unread}")


def _report_grouping(tasks: list[str], weighter: Weighter, dataset: SupervisedDataset, args: TrainingArguments) -> None:
    """Warn of grouping by length or modality that has no effect, or that cancels a task weight."""
    message = None
    is_weighted = args.weight_method != "EW" or len(set(weighter.weight_K.tolist())) > 1
    if args.group_by_modality_length:
        message = weight_without_effect(dataset.columns, tasks) if is_weighted else None
    elif args.group_by_length and args.world_size * args.gradient_accumulation_steps == 1:
        message = "--group_by_length has no effect: it groups the micro-batches of a step, and here a step is one."
    if message:
        print(f"warning: {message}", file=sys.stderr)
