"""LLaVA-1.5 for Llama and Vicuna, with LLaVA's names at LLaVA's addresses."""

from visatb.lazy import lazily

# Looked up on demand: `import llava.constants` must not load torch.
__getattr__ = lazily(__name__, {"LlavaLlamaForCausalLM": "llava.model.language_model.llava_llama"})
