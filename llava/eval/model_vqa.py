"""LLaVA's model_vqa: `llava.eval.model_vqa_loader` for long answers (1024 tokens by default)."""

from functools import partial

from llava.eval.model_vqa_loader import main as _main
from visatb.cli import run

main = partial(_main, module="model_vqa", max_new_tokens=1024)

if __name__ == "__main__":
    run(main)
