"""Which conversation template a model is asked with: the one it was trained with, never one that its name suggests."""

import json
import shutil

import pytest

from llava.eval import model_vqa_loader, run_llava
from llava.generate.llava_engine import LlavaEngine
from llava.generate.questions import Settings, template_of
from llava.serve import cli
from visatb.errors import InputError


@pytest.fixture
def recorded(tiny_checkpoint, tmp_path):
    """A copy of the checkpoint whose name holds three templates, trained with `--version llava_llama_2`."""
    folder = tmp_path / "llava-mpt-v0-attempt"
    shutil.copytree(tiny_checkpoint / "llava-tiny", folder)
    record(folder, "llava_llama_2")
    return folder


def record(folder, version):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"conversation_version": version}))


@pytest.fixture
def used(monkeypatch):
    """The settings that models are loaded with; a chat ends at once."""
    seen, load = [], LlavaEngine.load

    def noted(path, base, settings, *others, **named):
        seen.append(settings)
        return load(path, base, settings, *others, **named)

    monkeypatch.setattr(LlavaEngine, "load", noted)
    monkeypatch.setattr(cli, "_ask", lambda prompt: None)
    return seen


@pytest.mark.parametrize(
    "name", ["attempt", "prompt-tuned", "exp-v0.3", "llama-2-study", "llava-mpt-7b", "my-llava-llama-2-13b-chat"]
)
def test_no_piece_of_a_name_decides(tiny_checkpoint, tmp_path, name):
    shutil.copytree(tiny_checkpoint / "llava-tiny", tmp_path / name)
    template, reason = template_of(str(tmp_path / name))
    assert template == "vicuna_v1" and name in reason and "does not record" in reason


@pytest.mark.parametrize(
    "version, template", [("plain", "plain"), ("mpt", "mpt"), ("v1", "vicuna_v1"), ("llava_v1", "llava_v1")]
)
def test_the_record_of_the_training_decides(recorded, version, template):
    record(recorded, version)
    found, reason = template_of(str(recorded))
    assert found == template and f"--version {version}" in reason


def test_conv_mode_wins_over_the_record(recorded):
    assert template_of(str(recorded), "llava_v0") == ("llava_v0", "--conv-mode")


@pytest.mark.parametrize("version", ["nonesuch", 7, ["v1"], {}])
def test_a_record_of_no_template_is_refused_by_file_and_key(recorded, version):
    record(recorded, version)
    with pytest.raises(InputError, match=r"config\.json: conversation_version must be one of .*, got "):
        template_of(str(recorded))
    with pytest.raises(InputError, match="^--conv-mode must be one of"):
        template_of(str(recorded), "nonesuch")


def test_whole_names_of_public_models_are_known(recorded):
    known = recorded.rename(recorded.parent / "llava-llama-2-13b-chat-lightning-preview")
    record(known, None)
    assert template_of(str(known))[0] == "llava_llama_2"
    record(known, "v1")
    assert template_of(str(known))[0] == "vicuna_v1", "tuned further, into a folder of the same name"


def test_every_command_asks_with_the_recorded_template_and_says_so(recorded, used, tiny_dataset, tmp_path, capsys):
    import inference_visatb

    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "image": "000.png", "text": "What?"}) + "\n")
    model, images = ["--model-path", str(recorded), "--device", "cpu"], str(tiny_dataset.parent / "images")
    data = ["--image-folder", images, "--question-file"]
    for extra, template in (([], "llava_llama_2"), (["--conv-mode", "llava_v0"], "llava_v0")):
        for main, flags in (
            (inference_visatb.main, [*data, str(tiny_dataset), "--answers-folder", str(tmp_path / template)]),
            (model_vqa_loader.main, [*data, str(questions), "--answers-file", str(tmp_path / f"{template}.jsonl")]),
            (run_llava.main, ["--query", "What?"]),
            (cli.main, []),
        ):
            assert main([*model, *flags, *extra, "--max-new-tokens", "2"]) == 0
            assert used.pop().conv_mode == template
            (line,) = [line for line in capsys.readouterr().err.splitlines() if "template" in line]
            assert line.startswith(f"conversation template: {template} (")


def test_the_usual_template_is_that_of_the_default_settings(tiny_checkpoint):
    assert template_of(str(tiny_checkpoint / "llava-tiny"))[0] == Settings().conv_mode
