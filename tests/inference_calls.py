"""How tests call inference_visatb.py, and where its answers then lie."""

from pathlib import Path

from llava.generate.llava_engine import LlavaEngine

FLAGS = ["--max_new_tokens", "6", "--batch-size", "4"]


def final(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "tiny-train-1k_llava-tiny.json"


def no_model(monkeypatch):
    def load(*_, **__):
        raise AssertionError("the model must not be loaded")

    monkeypatch.setattr(LlavaEngine, "load", load)
