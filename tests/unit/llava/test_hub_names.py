"""Models that are named as on the Hub: without a network, mistyped, cached."""

import time
import warnings

import huggingface_hub
import pytest
from tiny import make_tiny_checkpoint

from llava.data.tokenizer import read_tokenizer
from llava.hub import companion
from llava.model import LlavaLlamaForCausalLM
from llava.model.config_file import read_base_config
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from visatb.errors import InputError


@pytest.fixture
def no_network(monkeypatch):
    """A Hub whose port nobody listens on; its library would try again for 23 s with each file."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 20


@pytest.fixture
def cache(tmp_path):
    """The Hub library's cache after a download of `tiny/llama`."""
    repository = tmp_path / "cache" / "models--tiny--llama"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    (make_tiny_checkpoint(tmp_path / "made") / "llama").rename(repository / "snapshots" / "0123abc")
    return str(tmp_path / "cache")


@pytest.mark.parametrize(
    "read",
    [
        lambda name: companion(name, "config.json"),
        read_base_config,
        read_tokenizer,
        lambda name: CLIPVisionTower(name, args=_Settings),
    ],
    ids=["file", "config", "tokenizer", "tower"],
)
def test_a_name_that_cannot_be_looked_up_is_refused_at_once_as_a_name(no_network, read):
    with pytest.raises(InputError, match="tiny/mistyped: no such folder, and the Hub cannot be reached") as refused:
        read("tiny/mistyped")
    assert "Copy" not in str(refused.value) and "\n" not in str(refused.value)


class _Settings:
    mm_vision_select_layer = -2


@pytest.mark.parametrize("path", ["/no/such/folder", "no/such/folder"])
def test_a_path_is_no_name(path):
    with pytest.raises(InputError, match=f"^{path}: no such folder. Check the path.$"):
        companion(path, "config.json")


def test_a_name_that_the_hub_does_not_know_is_reported(monkeypatch):
    def unknown(*_, **__):
        raise huggingface_hub.utils.RepositoryNotFoundError("404 Client Error", response=_NotFound)

    monkeypatch.setattr("llava.hub._hub_answers", lambda *_: True)
    monkeypatch.setattr("llava.hub.hf_hub_download", unknown)
    with pytest.raises(InputError, match="tiny/mistyped: no such folder, and the Hub has no model of that name"):
        companion("tiny/mistyped", "config.json")


class _NotFound:
    headers: dict = {}
    request = None


def test_a_cached_model_is_read_without_a_network_and_without_retries(no_network, cache):
    assert read_base_config("tiny/llama", cache).hidden_size == 64
    tokenizer = read_tokenizer("tiny/llama", cache_dir=cache, padding_side="right")
    assert tokenizer.padding_side == "right" and len(tokenizer) > 300
    assert companion("tiny/llama", "preprocessor_config.json", cache) is None


def test_a_cached_adapter_is_recognised_without_a_cached_config(no_network, cache, tmp_path):
    (snapshot,) = (tmp_path / "cache" / "models--tiny--llama" / "snapshots").iterdir()
    (snapshot / "config.json").unlink()
    assert companion("tiny/llama", "adapter_model.safetensors", cache) is None


def test_a_cached_model_loads_without_advice_that_nobody_can_follow(no_network, cache, monkeypatch):
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        LlavaLlamaForCausalLM.from_pretrained("tiny/llama", cache_dir=cache)
