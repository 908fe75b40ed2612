"""ZeRO-2 and ZeRO-3 on two ranks (gloo), whatever each rank's first micro-batch holds, equal one process.

The one process is given padded rows, the ranks in most runs samples laid end to end.
"""

import json
from datetime import timedelta
from functools import cache
from itertools import combinations

import pytest
import torch
from forked import run_as_ranks
from tiny import make_tiny_checkpoint
from waiting import PATIENCE

from llava.train.arguments import parse_arguments
from llava.train.assembly import build_model
from transformers_patch import build_weighter
from transformers_patch.loss import count_supervised_tokens
from transformers_patch.unpadded import lay_end_to_end

# What a micro-batch holds: images of its two rows, and whether anything is supervised.
KINDS = {
    "images": ((1, 1), True),
    "text": ((0, 0), True),
    "both": ((1, 0), True),
    "several": ((3, 2), True),
    "images without a supervised token": ((1, 1), False),
    "text without a supervised token": ((0, 0), False),
}
PAIRS = list(combinations(KINDS, 2))
SETTINGS = {
    "full": (),
    "LoRA": ("--lora_enable", "True", "--lora_r", "4", "--lora_dropout", "0"),
    "projector": ("--tune_mm_mlp_adapter", "True"),
}
# Stage, setting, gradient checkpointing, unpadded, pairs in the order of the steps. Each has an engine of its own,
# since ZeRO-3 learns the order of module calls in the first step. First every pair comes first, then every setting sees
# all pairs.
RUNS = [("zero3", "full", False, True, (first, ("text", "several"))) for first in PAIRS] + [
    (
        stage,
        setting,
        checkpointing,
        unpadded,
        (("text", "images"), *[pair[:: (-1) ** n] for n, pair in enumerate(PAIRS)]),
    )
    for stage in ("zero2", "zero3")
    for setting in SETTINGS
    for checkpointing in (False, True)
    for unpadded in (True, False)
    if unpadded or (stage, setting) == ("zero3", "full")
]
EVALUATED = (("images", "text"),)
TASKS, PIXELS, PATCHES, LEARNING_RATE = 3, 56, 16, 0.02


def micro_batch(kind: str, seed: int) -> dict:
    """Two rows of different lengths on the right of which is padding, as the collator makes them."""
    draw = torch.Generator().manual_seed(seed)
    images, supervised = KINDS[kind]
    rows = []
    for count, length in zip(images, (7, 12), strict=True):
        row = torch.randint(3, 300, (length,), generator=draw)
        row[1 : 1 + count] = -200
        rows.append(row)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(12) < torch.tensor([[7], [12]])
    labels = ids.masked_fill(~mask | (ids == -200) | (not supervised), -100)
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    batch["task_ids"] = torch.randint(TASKS, (2,), generator=draw)
    if sum(images):
        batch["images"] = torch.randn(sum(images), 3, PIXELS, PIXELS, generator=draw)
    return batch


def laid_end_to_end(batch: dict) -> dict:
    """The batch without its padding."""
    rows = [(ids[mask], labels[mask]) for ids, labels, mask in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
    )]  # fmt: skip
    others = {name: value for name, value in batch.items() if name in ("task_ids", "images")}
    return others | lay_end_to_end(*zip(*rows, strict=True), wide_token=-200, width=PATCHES)


def steps_of(pairs: tuple[tuple[str, str], ...]) -> list[list[dict]]:
    """The micro-batches of both ranks in each step."""
    return [[micro_batch(kind, 2 * n + rank) for rank, kind in enumerate(pair)] for n, pair in enumerate(pairs)]


def token_counts(step: list[dict]) -> torch.Tensor:
    return sum(count_supervised_tokens(batch["labels"], batch["task_ids"], TASKS) for batch in step)


def build(folder, setting, checkpointing, *flags):
    words = [
        "--model_name_or_path", str(folder / "llama"), "--version", "v1", "--data_path", "none",
        "--vision_tower", str(folder / "vision_tower"), "--pretrain_mm_mlp_adapter", str(folder / "mm_projector.bin"),
        "--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False",
        "--output_dir", str(folder / "none"), "--report_to", "none", "--per_device_train_batch_size", "2",
        "--gradient_checkpointing", str(checkpointing), "--max_grad_norm", "0", *SETTINGS[setting], *flags,
    ]  # fmt: skip
    model_args, data_args, args = parse_arguments(words)
    torch.manual_seed(0)
    model = build_model(model_args, data_args, args)[0].train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model, args


def trained(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@cache
def train_in_one_process(folder, setting, pairs):
    """Without gradient checkpointing, which must change nothing; once for all runs of a setting."""
    model, _ = build(folder, setting, False, "--no_cuda", "True")
    weighter = build_weighter("EW", TASKS, [0.5, 1.5, 1.0])
    optimizer = torch.optim.SGD(trained(model).values(), lr=LEARNING_RATE)
    losses = []
    for step in steps_of(pairs):
        counts = token_counts(step)
        parts = [model(**batch, weighter=weighter, token_count_K=counts).loss for batch in step]
        optimizer.zero_grad()
        sum(parts).backward()
        optimizer.step()
        losses.append(float(sum(parts).detach()))
    return losses, {name: parameter.detach() for name, parameter in trained(model).items()}


def train_as_rank(rank, folder, stage, setting, checkpointing, unpadded, pairs):
    import deepspeed

    model, args = build(folder, setting, checkpointing, "--deepspeed", str(folder / f"{stage}.json"))
    args.hf_deepspeed_config.trainer_config_finalize(args, model, 1)
    optimizer = torch.optim.SGD(trained(model).values(), lr=LEARNING_RATE)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=args.hf_deepspeed_config.config)
    weighter = build_weighter("EW", TASKS, [0.5, 1.5, 1.0])
    losses = []
    for step in steps_of(pairs):
        batch = laid_end_to_end(step[rank]) if unpadded else step[rank]
        part = engine(**batch, weighter=weighter, token_count_K=token_counts(step)).loss
        engine.backward(part * 2)  # DeepSpeed averages over the ranks
        engine.step()
        losses.append(float(part.detach()))
    parameters = trained(model)
    with deepspeed.zero.GatheredParameters(list(parameters.values()), enabled=stage == "zero3"):
        weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    read_outside = sorted(
        f"{type(module).__name__} {tuple(parameter.ds_shape)}"
        for module in model.modules()
        for parameter in getattr(module, "_external_params", {}).values()
    )
    engine.destroy()
    return losses, weights, read_outside


def evaluate_as_rank(rank, folder):
    """Of an engine that has not trained: the loss of a micro-batch with images beside one without, and an answer."""
    import deepspeed

    model, args = build(folder, "full", False, "--deepspeed", str(folder / "zero3.json"))
    args.hf_deepspeed_config.trainer_config_finalize(args, model, 1)
    optimizer = torch.optim.SGD(trained(model).values(), lr=LEARNING_RATE)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=args.hf_deepspeed_config.config)
    engine.eval()
    batch = steps_of(EVALUATED)[0][rank]
    with torch.no_grad():
        loss = float(engine(**{key: batch[key] for key in batch.keys() - {"task_ids"}}).loss)
    answer = engine.module.generate(**prompt_of(batch), synced_gpus=True)
    engine.destroy()
    return loss, answer


def prompt_of(batch):
    inputs = {"input_ids": batch["input_ids"][:, :7], "do_sample": False, "max_new_tokens": 4, "use_cache": True}
    return inputs | {"attention_mask": torch.ones_like(inputs["input_ids"]), "images": batch.get("images")}


def train_all_as_rank(rank, folder):
    torch.set_num_threads(1)
    import deepspeed
    from deepspeed.runtime.zero.config import ZeroStageEnum

    ZeroStageEnum.__reduce_ex__ = lambda stage, _: (getattr, (ZeroStageEnum, stage.name))  # that of Python 3.11.2
    # A rank that waits for the other fails here instead of for ever.
    deepspeed.init_distributed("gloo", timeout=timedelta(seconds=PATIENCE))
    torch.save(evaluate_as_rank(rank, folder), folder / f"evaluated{rank}.pt")
    torch.save([train_as_rank(rank, folder, *run) for run in RUNS], folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def place(tmp_path_factory, repository):
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("zero_patterns"))
    for stage in ("zero2", "zero3"):
        config = json.loads((repository / "scripts_visatb" / f"{stage}.json").read_text())
        config["zero_allow_untested_optimizer"] = True  # SGD, whose steps are in proportion to the gradient
        if stage == "zero3":  # else the tiny parameters stay whole
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        (folder / f"{stage}.json").write_text(json.dumps(config))
    run_as_ranks(train_all_as_rank, 2, folder)
    return folder


@pytest.fixture(scope="module")
def ranks(place):
    return [torch.load(place / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_every_pattern_trains_the_model_of_one_process(place, ranks):
    for run, (losses, weights, _), (other_losses, other_weights, _) in zip(RUNS, *ranks, strict=True):
        expected_losses, expected = train_in_one_process(place, run[1], run[4])
        total = [a + b for a, b in zip(losses, other_losses, strict=True)]
        assert total == pytest.approx(expected_losses, abs=2e-5), run
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            where = f"{run} {name}: "
            assert torch.equal(weights[name], other_weights[name]), where
            torch.testing.assert_close(weights[name], value, atol=2e-5, rtol=1e-4, msg=lambda text, w=where: w + text)


def test_no_rank_gathers_a_weight_that_a_module_reads_of_another(ranks):
    for run, (_, _, first), (_, _, second) in zip(RUNS, *ranks, strict=True):
        assert first == second and (not first or run[1] == "LoRA"), (run, first, second)


def test_a_rank_without_images_evaluates_and_answers_beside_one_with(place):
    model = build(place, "full", False, "--no_cuda", "True")[0].eval()
    for rank, batch in enumerate(steps_of(EVALUATED)[0]):
        loss, answer = torch.load(place / f"evaluated{rank}.pt", weights_only=True)
        with torch.no_grad():
            expected = model(**{key: batch[key] for key in batch.keys() - {"task_ids"}}).loss
        assert loss == pytest.approx(float(expected), abs=2e-5)
        assert torch.equal(answer, model.generate(**prompt_of(batch)))
