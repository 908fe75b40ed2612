"""Run by test_current_transformers.py in an environment with current transformers; knows nothing of this repository.

    python current_transformers.py HF_FOLDER REQUEST.json OUTPUT_FOLDER

Writes answers.npz (ids, logits, pixel values, generated ids) and what current transformers saves of the model: `saved`
with its own names on the disk, `in_memory` with those it uses in memory.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor


def main() -> None:
    """Answer the request."""
    folder, request, output = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    processor = LlavaProcessor.from_pretrained(folder)
    model, loading = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    model.eval()
    inputs = processor.apply_chat_template(
        request["messages"], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits
        new = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    arrays = {"ids": inputs["input_ids"], "pixels": inputs["pixel_values"], "logits": logits, "new": new}
    np.savez(output / "answers.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    (output / "rendered.txt").write_text(processor.apply_chat_template(request["messages"], add_generation_prompt=True))
    model.save_pretrained(output / "saved")
    (output / "in_memory").mkdir()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, output / "in_memory" / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(output / "in_memory")


if __name__ == "__main__":
    main()
