"""`--torch_compile True` compiles the decoder layer, once for all layers, instead of the whole model.

accelerate would compile the whole model, whose loss, embedding and splicing of images change with every batch. A layer
has one graph for all lengths and numbers of samples; attention within samples, a kernel of its own, stays outside.
"""

import os
import shutil
from importlib.util import find_spec

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from transformers_patch.modeling_llama import SelectedAttention
from transformers_patch.unpadded import attend_within_samples

_COMPILERS = ("c++", "g++", "gcc", "clang")


def check_compiler(args: transformers.TrainingArguments) -> None:
    """Refuse a compilation that could only fail.

    Raises:
        ValueError: DeepSpeed, or no compiler for inductor.
    """
    if args.deepspeed:
        raise ValueError("torch_compile with DeepSpeed is not supported. Leave out one of them.")
    if args.torch_compile_backend != "inductor":
        return
    if not any(map(shutil.which, [os.environ.get("CXX", ""), *_COMPILERS])):
        raise ValueError("torch_compile needs a C++ compiler. Install g++, or leave torch_compile out.")
    if args.device.type == "cuda" and find_spec("triton") is None:
        raise ValueError("torch_compile needs triton on a GPU. Run pip install triton, or leave torch_compile out.")


def compile_layers(model: torch.nn.Module, backend: str, mode: str | None = None) -> None:
    """Compile each decoder layer of a model in place; names of parameters stay."""
    for module in model.modules():
        if isinstance(module, SelectedAttention):
            module.attend = torch.compiler.disable(attend_within_samples)
        if isinstance(module, LlamaDecoderLayer):
            module.compile(backend=backend, mode=mode, dynamic=True)


def compile_as_asked(model: torch.nn.Module, args: transformers.TrainingArguments, accelerator: Accelerator) -> None:
    """Compile the layers in the way that the arguments say, and keep accelerate from compiling the model.

    Raises:
        ValueError: see `check_compiler`.
    """
    check_compiler(args)
    accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
    compile_layers(model, args.torch_compile_backend, args.torch_compile_mode)
