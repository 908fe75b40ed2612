"""LLaVA-1.5 for Llama and Vicuna, with LLaVA's names at LLaVA's addresses."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Looked up on demand: `import llava.constants` must not load torch.
    if name == "LlavaLlamaForCausalLM":
        from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

        return LlavaLlamaForCausalLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
