"""The demo's base model is the same whichever kernels a processor has."""

import math
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

from scripts_visatb.demo.language_model import compute_in_double
from scripts_visatb.demo.optimization import double_precision
from transformers_patch import LlamaForCausalLM

# Torch's own kernels, and those of the libraries that multiply its matrices.
_OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
# Both models, in as many steps as show a difference of rounding that grows.
_TRAIN = """
import sys
from pathlib import Path
import torch
from scripts_visatb.demo.language_model import LanguageRecipe, train_language_model
from scripts_visatb.demo.pretraining_text import tokenizer_texts
from scripts_visatb.demo.tokenizer import train_tokenizer
from scripts_visatb.demo.vision_tower import TowerRecipe, train_vision_tower

folder = Path(sys.argv[1])
torch.set_num_threads(1)
train_tokenizer(tokenizer_texts(0), folder / "tokenizer")
train_language_model(folder / "tokenizer", folder / "llama", LanguageRecipe(steps=25), seed=0)
train_vision_tower(folder / "tower", TowerRecipe(steps=25), seed=0)
assert torch.get_default_dtype() == torch.float32
"""


def test_computing_in_double_leaves_the_model_the_same_function():
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64}
    config = LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, rms_norm_eps=1e-3)
    torch.manual_seed(0)
    stock = LlamaForCausalLM(config).eval()
    with double_precision():
        double = LlamaForCausalLM(config).eval()
        compute_in_double(double)
    for name, weight in stock.named_parameters():
        torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.3)
    double.load_state_dict(stock.state_dict() | {k: v for k, v in double.state_dict().items() if "inv_freq" in k})
    ids = torch.randint(50, (2, 20))
    with torch.no_grad():
        embeds = double.model.embed_tokens(ids)
        hidden = double.model(inputs_embeds=embeds, attention="sdpa").last_hidden_state
        torch.testing.assert_close(double.lm_head(hidden).float(), stock(ids).logits, rtol=1e-4, atol=1e-4)
        # A step in float32 would round such a change away, or up.
        moved = double.model(inputs_embeds=embeds + 1e-12, attention="sdpa").last_hidden_state - hidden
    assert 1e-13 < moved.abs().max() < 1e-9
    angles = double.model.layers[0].self_attn.rotary_emb.cos_cached
    assert abs(angles[0, 0, 7, 0].item() - math.cos(7)) < 1e-15


def test_base_models_are_the_same_under_another_kernel(repository, tmp_path):
    machine = {name: value for name, value in os.environ.items() if name not in _OTHER_KERNELS}
    for kernel, variables in {"native": {}, "other": _OTHER_KERNELS}.items():
        (tmp_path / kernel / "tokenizer").mkdir(parents=True)
        command = [sys.executable, "-c", _TRAIN, str(tmp_path / kernel)]
        ended = subprocess.run(command, cwd=repository, env=machine | variables, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    for name in ("llama", "tower"):
        one, other = (load_file(tmp_path / kernel / name / "model.safetensors") for kernel in ("native", "other"))
        assert one.keys() == other.keys()
        for key, weight in one.items():
            assert weight.dtype in (torch.float32, torch.int64)
            if not key.endswith("k_proj.bias"):  # has no effect on attention: its gradient is rounding alone
                # The last bit of float32 may be rounded either way.
                torch.testing.assert_close(weight, other[key], rtol=2.5e-7, atol=1e-9)
