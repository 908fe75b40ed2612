"""What `python -m perf.gpu` measures: each function here is a section and returns its results.

Shapes: B rows, S positions, L concatenated positions, D hidden, V vocabulary.
"""

import gc
import math
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch.utils._python_dispatch import _disable_current_modes

import transformers_patch
from llava.generate.decoding import decode
from perf.answers_per_second import _tests_module
from perf.training_step import _on_device, make_batch
from transformers_patch.compilation import compile_layers
from transformers_patch.step_loader import StepLoader
from transformers_patch.unpadded import count_batch, without_padding

GIB = 2**30
Found = dict[str, Any]
PADDED, UNPADDED, PLAIN = "padded", "unpadded", "plain"
CHECKPOINTING, COMPILED = "+checkpointing", "+compile"
# Dense bf16 peak according to the data sheets; the first name that occurs in the name of the GPU counts.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
_ADAM_BYTES = 8  # per parameter: weight, gradient and two moments in bf16
_FILL = 0.8  # share of GPU memory for persistent tensors; temporary activations and fragmentation take the rest


@dataclass(frozen=True)
class Shape:
    """A decoder and its batch.

    Attributes:
        depth: layers of the whole decoder.
        layers: the two depths at which training is measured, and from which the whole decoder is extrapolated.
        lengths: positions of each row, all supervised from `supervised` positions before its end.
        prompt: positions of the longest prompt of generation.
        new_tokens: tokens that each row generates.
        matrix: rows of the square product whose speed is the practical peak.
        steps: timed steps, after one warm-up step.
    """

    hidden: int = 4096
    intermediate: int = 11008
    heads: int = 32
    vocabulary: int = 32000
    depth: int = 32
    layers: tuple[int, int] = (2, 4)
    lengths: tuple[int, ...] = tuple(128 + 183 * n for n in range(8))
    supervised: int = 64
    prompt: int = 1024
    new_tokens: int = 64
    matrix: int = 8192
    steps: int = 4

    @property
    def layer_parameters(self) -> int:
        """Number of weights in the matrices of a layer."""
        return 4 * self.hidden**2 + 3 * self.hidden * self.intermediate

    def step_flops(self, layers: int) -> float:
        """What a training step has to compute: forward and backward of real positions, causal attention among them,
        and the head of supervised tokens. Recomputation and padding do not count."""
        tokens, squares = sum(self.lengths), sum(length**2 for length in self.lengths)
        head = self.hidden * self.vocabulary * self.supervised * len(self.lengths)
        return 6 * (layers * (self.layer_parameters * tokens + self.hidden * squares) + head)


SMALL = Shape(32, 64, 2, 64, 3, (1, 2), (5, 9, 13), 3, 8, 4, 64, 1)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def release(device: str) -> None:
    """Free cached memory and reset the peak."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float | None:
    """Peak of allocated memory; None on a CPU, where it is not measured."""
    return torch.cuda.max_memory_allocated() / GIB if device == "cuda" else None


def seconds_of(call: Callable[[], Any], times: int, device: str) -> float:
    """Mean wall-clock seconds of a call, after a warm-up call."""
    call()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        call()
    synchronize(device)
    return (time.perf_counter() - started) / times


def build(shape: Shape, layers: int, variant: str, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A model with random weights, the same for all variants."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=2048,
        use_cache=False,
    )
    is_plain = variant.startswith(PLAIN)
    model_class = transformers.LlamaForCausalLM if is_plain else transformers_patch.LlamaForCausalLM
    with torch.device(device):
        model = model_class(config)
    if variant.endswith(CHECKPOINTING):
        model.gradient_checkpointing_enable()
    if variant.endswith(COMPILED):
        compile_layers(model, "inductor" if device == "cuda" else "aot_eager")
    return model.to(dtype).train()


def inputs_for(shape: Shape, variant: str, device: str) -> Found:
    """The batch in the form that a variant takes, on the device."""
    rows = len(shape.lengths)
    sizes = {"batch": rows, "length": max(shape.lengths), "supervised": shape.supervised * rows}
    batch = make_batch(SimpleNamespace(vocabulary=shape.vocabulary, device="cpu", **sizes), shape.lengths)
    if not variant.startswith(PLAIN):
        batch["task_ids"] = torch.arange(rows) % 2
        batch = without_padding(batch) if variant.startswith(UNPADDED) else batch
        batch["token_count_K"] = count_batch(batch, 2)
        batch["weighter"] = transformers_patch.EqualWeighting(2).to(device)
    return {name: _on_device(value, device) for name, value in batch.items()}


def training_step(shape: Shape, layers: int, variant: str, device: str) -> Callable[[], None]:
    """A whole step in bf16: forward, backward, fused AdamW."""
    model, inputs = build(shape, layers, variant, device), inputs_for(shape, variant, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda" or None)

    def step() -> None:
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def rates(shape: Shape, layers: int, seconds: float, device: str) -> Found:
    """Real tokens per second, and the necessary work as a share of the GPU's peak (MFU)."""
    flops = shape.step_flops(layers) / seconds
    peak = next((peak for name, peak in PEAK_FLOPS.items() if name in card(device)), None)
    return {
        "layers": layers,
        "seconds": seconds,
        "tokens_per_second": sum(shape.lengths) / seconds,
        "tflops": flops / 1e12,
        "mfu": flops / peak if peak else None,
    }


def card(device: str) -> str:
    """The name of the GPU, or "CPU"."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def training(shape: Shape, variant: str, device: str) -> Found:
    """A variant at two depths, and the whole decoder extrapolated from them."""
    measured = [at_depth(shape, layers, variant, device) for layers in shape.layers]
    (few, more), (first, second) = shape.layers, measured
    further = (shape.depth - few) / (more - few)
    seconds = first["seconds"] + further * (second["seconds"] - first["seconds"])
    whole = rates(shape, shape.depth, seconds, device)
    if device == "cuda":
        whole["peak_gib"] = first["peak_gib"] + further * (second["peak_gib"] - first["peak_gib"])
    return {"measured": measured, "extrapolated": whole}


def at_depth(shape: Shape, layers: int, variant: str, device: str) -> Found:
    """A training step of a variant with that many layers."""
    release(device)
    step = training_step(shape, layers, variant, device)
    release(device)  # the weights were initialised in float32
    seconds = seconds_of(step, shape.steps, device)
    return rates(shape, layers, seconds, device) | {"peak_gib": peak_gib(device)}


def deepest(shape: Shape, variant: str, device: str) -> Found:
    """A variant with as many layers as fit in memory with their optimizer state, at most the whole decoder."""
    layers = shape.depth
    if device == "cuda":
        room = _FILL * torch.cuda.get_device_properties(0).total_memory
        room -= 2 * shape.hidden * shape.vocabulary * _ADAM_BYTES
        kept_activations = 2 * shape.hidden * sum(shape.lengths)
        layers = min(layers, int(room / (_ADAM_BYTES * shape.layer_parameters + kept_activations)))
    return {"measured": [at_depth(shape, layers, variant, device)], "whole_decoder": layers == shape.depth}


def matrix_product(shape: Shape, device: str) -> Found:
    """The practical peak: a product of large bf16 matrices."""
    a, b = (torch.randn(shape.matrix, shape.matrix, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = seconds_of(lambda: a @ b, 10, device)
    return {"size": shape.matrix, "tflops": 2 * shape.matrix**3 / seconds / 1e12}


def kernels(shape: Shape, device: str) -> Found:
    """The attention kernels of a step and the most expensive operations, from torch's profiler."""
    return {variant: profiled(shape, variant, device) for variant in (PLAIN, PADDED, UNPADDED)}


def profiled(shape: Shape, variant: str, device: str) -> Found:
    """One step of a variant under the profiler: kernels on a GPU, operators on a CPU."""
    from torch.profiler import ProfilerActivity, profile

    release(device)
    step = training_step(shape, shape.layers[0], variant, device)
    step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as profiler:
        step()
        synchronize(device)
    on_gpu = device == "cuda"
    milliseconds = {
        event.key[:120]: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000
        for event in profiler.key_averages()
        if not on_gpu or "CUDA" in str(event.device_type)
    }
    longest = sorted(milliseconds.items(), key=lambda item: -item[1])
    words = ("attention", "flash", "fmha", "sdpa")
    attention = [name for name, _ in longest if any(word in name.lower() for word in words)]
    return {"attention": attention, "milliseconds": dict(longest[:8])}


def waits(shape: Shape, device: str) -> Found:
    """Host-device synchronisations of the Trainer per micro-batch and per step, from three short trainings."""
    del shape  # the number depends on the code alone
    base, more_steps, more_batches = (_waits_of(*run, device) for run in ((2, 2), (4, 2), (4, 4)))
    per_batch = (more_batches.total() - more_steps.total()) / (4 * 2)
    per_step = (more_steps.total() - base.total()) / 2 - 2 * per_batch
    return {
        "per_micro_batch": per_batch,
        "per_step_beside_them": per_step,
        "counted_by": "torch.cuda.set_sync_debug_mode" if device == "cuda" else "operators that would wait for a GPU",
        "where_in_two_steps": dict((more_steps - base).most_common(10)),
    }


def _waits_of(steps: int, accumulation: int, device: str) -> Counter:
    settings = {"max_steps": steps, "per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulation}
    on_gpu = device == "cuda"  # on a CPU, AdamW reads its step counts, which fused AdamW on a GPU does not
    settings |= {"optim": "adamw_torch" if on_gpu else "sgd", "no_cuda": not on_gpu, "bf16": on_gpu}
    settings |= {"logging_steps": 1000}
    with tempfile.TemporaryDirectory() as folder:
        sentences = _tests_module("sentences")
        weighter = transformers_patch.EqualWeighting(3)
        trainer = sentences.make_trainer(Path(folder), weighter, sentences.Sentences(64), **settings)
        if not on_gpu:
            with _reading_does_not_count(), _tests_module("waits").Waits() as found:
                trainer.train()
            return found.found
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trainer.train()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)]
    return Counter(places)


@contextmanager
def _reading_does_not_count() -> Iterator[None]:
    """Keep the loader's batches on the CPU, even if there is a GPU."""
    with ExitStack() as stack:
        for name in ("_read_step", "_with_counts"):
            stack.enter_context(patch.object(StepLoader, name, _uncounted(getattr(StepLoader, name))))
        yield


def _uncounted(original: Callable) -> Callable:
    def alone(*args: Any) -> Any:
        with _disable_current_modes():
            return original(*args)

    return alone


@torch.no_grad()
def generation(shape: Shape, device: str) -> Found:
    """Generation with the whole decoder for prompts of mixed lengths, with the loop that all commands use."""
    release(device)
    model = build(shape, shape.depth, UNPADDED, device).eval()
    model.model.attention = "sdpa"
    release(device)
    rows = len(shape.lengths)
    real = torch.linspace(max(shape.prompt // 4, 1), shape.prompt, rows).long()
    mask = (torch.arange(shape.prompt) >= shape.prompt - real[:, None]).long().to(device)
    embeds = model.get_input_embeddings()(torch.ones_like(mask))

    def answer(count: int) -> None:
        decode(model, embeds, mask, lambda logits, _: logits.argmax(-1), lambda _, ids: len(ids) >= count)

    first = seconds_of(lambda: answer(1), 2, device)
    prefill_peak = peak_gib(device)
    rest = seconds_of(lambda: answer(shape.new_tokens), 1, device) - first
    return {
        "layers": shape.depth,
        "rows": rows,
        "prompt_positions": real.tolist(),
        "prefill_tokens_per_second": int(real.sum()) / first,
        "decode_tokens_per_second": rows * (shape.new_tokens - 1) / max(rest, 1e-9),
        "prefill_peak_gib": prefill_peak,
        "peak_gib": peak_gib(device),
    }


def precision(shape: Shape, device: str) -> Found:
    """Loss and gradient in bf16 against padded float32, with the same weights."""
    release(device)
    layers = shape.layers[0]
    expected_loss, expected = loss_and_gradient(shape, layers, PADDED, device, torch.float32)
    found: Found = {"layers": layers, "float32_loss": expected_loss}
    for variant, dtype in ((UNPADDED, torch.float32), (PLAIN, None), (PADDED, None), (UNPADDED, None)):
        name = variant if dtype is None else f"{variant} float32"
        loss, gradient = loss_and_gradient(shape, layers, variant, device, dtype or torch.bfloat16)
        found[name] = {"loss_difference": loss - expected_loss} | _compare(gradient, expected)
    return found


def loss_and_gradient(shape: Shape, layers: int, variant: str, device: str, dtype: torch.dtype) -> tuple[float, list]:
    """Loss and gradient of one forward and backward pass."""
    model = build(shape, layers, variant, device, dtype)
    loss = model(**inputs_for(shape, variant, device)).loss
    loss.backward()
    return float(loss.detach()), [parameter.grad for parameter in model.parameters()]


def _compare(found: list[torch.Tensor], expected: list[torch.Tensor]) -> Found:
    product = found_square = expected_square = difference_square = 0.0
    for one, other in zip(found, expected, strict=True):
        a, b = one.float().flatten(), other.flatten()
        product += float(a @ b)
        found_square, expected_square = found_square + float(a @ a), expected_square + float(b @ b)
        difference_square += float((a - b).square().sum())
    return {
        "gradient_cosine": product / math.sqrt(found_square * expected_square),
        "gradient_relative_error": math.sqrt(difference_square / expected_square),
    }
