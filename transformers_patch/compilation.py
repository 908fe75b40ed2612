"""`--torch_compile True` compiles the decoder layer, once for all layers, instead of the whole model.

accelerate would compile the whole model, whose loss, embedding and splicing of images change with every batch. A layer
has one graph for all lengths and numbers of samples; attention within samples, a kernel of its own, stays outside.
"""

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from transformers_patch.modeling_llama import SelectedAttention
from transformers_patch.unpadded import attend_within_samples


def compile_layers(model: torch.nn.Module, backend: str, mode: str | None = None) -> None:
    """Compile each decoder layer of a model in place; names of parameters stay."""
    for module in model.modules():
        if isinstance(module, SelectedAttention):
            module.attend = torch.compiler.disable(attend_within_samples)
        if isinstance(module, LlamaDecoderLayer):
            module.__class__ = LlamaDecoderLayer  # the last one too: all layers share a graph
            module.compile(backend=backend, mode=mode, dynamic=True)


def compile_as_asked(model: torch.nn.Module, args: transformers.TrainingArguments, accelerator: Accelerator) -> None:
    """Compile the layers in the way that the arguments say, and keep accelerate from compiling the model."""
    accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
    compile_layers(model, args.torch_compile_backend, args.torch_compile_mode)
