"""LLaVA's own commands for asking a model work over the one generation loop."""

import json
import subprocess
import sys
from argparse import Namespace

import pytest

from llava.eval import model_vqa_loader, run_llava
from llava.generate.llava_engine import LlavaEngine
from llava.generate.loop import answer_all
from llava.generate.questions import Question, Settings
from llava.serve import cli
from visatb.errors import InputError


@pytest.fixture
def image(tiny_dataset):
    return tiny_dataset.parent / "images" / "000.png"


@pytest.fixture
def questions(tmp_path):
    entries = [
        {"question_id": 7, "image": "000.png", "text": "What is this?"},
        {"question_id": "b", "text": "Name a colour."},
        {"question_id": 9, "image": "001.png", "text": "<image>\nWhat is this?", "category": "x"},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


def loader_arguments(tiny_checkpoint, tiny_dataset, questions, answers, *extra):
    argv = ["--model-path", str(tiny_checkpoint / "llava-tiny"), "--max_new_tokens", "5"]
    argv += ["--image-folder", str(tiny_dataset.parent / "images"), "--question-file", str(questions)]
    return [*argv, "--answers-file", str(answers), *extra]


def test_eval_model_prints_the_answer_of_the_loop(tiny_checkpoint, image, capsys):
    model = str(tiny_checkpoint / "llava-tiny")
    args = Namespace(model_path=model, model_base=None, image_file=str(image), query="What is this?", max_new_tokens=6)
    answer = run_llava.eval_model(args)
    assert capsys.readouterr().out == answer + "\n"
    engine = LlavaEngine.load(model, None, Settings(max_new_tokens=6), "cpu", "fp32")
    (expected,) = next(answer_all(engine, [Question(0, "q", "What is this?", (image,))]))
    assert answer == expected.text


def test_eval_model_takes_the_object_that_llavas_readme_shows(tiny_checkpoint, image, monkeypatch):
    content = {
        "model_path": str(tiny_checkpoint / "llava-tiny"),
        "model_base": None,
        "model_name": "llava-v0-tiny",
        "query": "<image-placeholder>\nWhat is this?",
        "conv_mode": None,
        "image_file": str(image),
        "sep": ",",
        "temperature": 0,
        "top_p": None,
        "num_beams": 1,
        "max_new_tokens": 6,
    }
    asked = []
    real = LlavaEngine.prompt_ids
    monkeypatch.setattr(LlavaEngine, "prompt_ids", lambda engine, q: asked.append((engine, q)) or real(engine, q))
    answer = run_llava.eval_model(type("Args", (), content)())
    ((engine, question),) = asked
    assert engine.settings == Settings(max_new_tokens=6), "the name does not decide the template"
    assert question.text == "<image>\nWhat is this?" and real(engine, question).tolist().count(-200) == 1
    (expected,) = next(answer_all(engine, [Question(0, "q", "What is this?", (image,))]))
    assert answer == expected.text
    beams = run_llava.eval_model(Namespace(**content | {"num_beams": 3, "model_name": None}))
    assert isinstance(beams, str) and asked[-1][0].settings == Settings(num_beams=3, max_new_tokens=6)


def test_eval_model_asks_a_text_model_without_an_image_and_refuses_one(tiny_checkpoint, image):
    args = {"model_path": str(tiny_checkpoint / "llama"), "model_base": None, "query": "A colour?", "max_new_tokens": 3}
    assert isinstance(run_llava.eval_model(Namespace(**args)), str)
    with pytest.raises(InputError, match="no vision tower"):
        run_llava.eval_model(Namespace(**args, image_file=str(image)))


def test_eval_model_takes_two_images_and_refuses_a_missing_one(tiny_checkpoint, image):
    argv = ["--model-path", str(tiny_checkpoint / "llava-tiny"), "--query", "Which is larger?", "--temperature", "0"]
    argv += ["--max-new-tokens", "3", "--image-file"]
    assert run_llava.main([*argv, f"{image},{image}"]) == 0
    with pytest.raises(InputError, match="none.png: No such file"):
        run_llava.main([*argv, f"{image},none.png"])


def test_the_loader_writes_llavas_answer_lines(tiny_checkpoint, tiny_dataset, questions, tmp_path):
    answers = tmp_path / "out" / "answers.jsonl"
    arguments = loader_arguments(tiny_checkpoint, tiny_dataset, questions, answers)
    assert model_vqa_loader.main(arguments) == 0
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [7, "b", 9]
    assert lines[0].keys() == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    assert {line["model_id"] for line in lines} == {"llava-tiny"}
    assert lines[2]["prompt"] == "<image>\nWhat is this?"


def test_the_loaders_chunks_joined_are_the_whole(tiny_checkpoint, tiny_dataset, questions, tmp_path):
    def content(name, *extra):
        arguments = loader_arguments(tiny_checkpoint, tiny_dataset, questions, tmp_path / name, *extra)
        assert model_vqa_loader.main(arguments) == 0
        return (tmp_path / name).read_text()

    whole = content("whole.jsonl")
    chunks = [content(f"{n}.jsonl", "--num-chunks", "4", "--chunk-idx", str(n)) for n in range(4)]
    assert "" in chunks and "".join(chunks) == whole


def test_the_loader_resumes_and_detects_completion(
    tiny_checkpoint, tiny_dataset, questions, tmp_path, monkeypatch, capsys
):
    answers = tmp_path / "answers.jsonl"
    arguments = loader_arguments(tiny_checkpoint, tiny_dataset, questions, answers, "--batch-size", "1")
    real = LlavaEngine.texts

    def failing(self, prompts, images, keys):
        if keys[0].startswith("1\n"):
            raise RuntimeError("out of memory")
        return real(self, prompts, images, keys)

    with monkeypatch.context() as patch:
        patch.setattr(LlavaEngine, "texts", failing)
        assert model_vqa_loader.main(arguments) == 1
    assert "record 1 (question_id 'b')" in capsys.readouterr().err and not answers.exists()
    assert model_vqa_loader.main(arguments) == 0
    monkeypatch.setattr(LlavaEngine, "load", None)
    assert model_vqa_loader.main(arguments) == 0
    assert "already complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"question_id": 1}, "record 0: text"),
        ({"text": "x"}, "record 0: question_id"),
        ({"question_id": 1, "text": "x", "image": 3}, "record 0: image"),
        ({"question_id": 1, "text": "x", "image": "../x.png"}, "leaves the image folder"),
    ],
)
def test_the_loader_refuses_bad_questions(tiny_checkpoint, tiny_dataset, tmp_path, entry, message):
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps(entry) + "\n")
    with pytest.raises(InputError, match=message):
        model_vqa_loader.main(loader_arguments(tiny_checkpoint, tiny_dataset, file, tmp_path / "a.jsonl"))


def test_a_chat_streams_its_answers_and_remembers_what_was_said(tiny_checkpoint, image, capsys, monkeypatch):
    asked = iter(["What is this?", "And its colour?", ""])
    monkeypatch.setattr(cli, "_ask", lambda prompt: next(asked))
    prompts = []
    real = LlavaEngine.new_ids
    monkeypatch.setattr(
        LlavaEngine, "new_ids", lambda self, ids, *a, **k: prompts.append(ids[0].tolist()) or real(self, ids, *a, **k)
    )
    argv = ["--model-path", str(tiny_checkpoint / "llava-tiny"), "--image-file", str(image), "--temperature", "0"]
    assert cli.main([*argv, "--max-new-tokens", "5"]) == 0
    output = capsys.readouterr().out
    assert output.count("ASSISTANT: ") == 2 and len(output) > len("ASSISTANT: \n" * 2)
    assert [prompt.count(-200) for prompt in prompts] == [1, 1]
    assert len(prompts[1]) > len(prompts[0]) + 10


def test_a_text_model_can_be_asked_and_chatted_with(tiny_checkpoint, capsys, monkeypatch):
    """A plain Llama, as the benchmark's base model is before stage 1."""
    engine = LlavaEngine.load(str(tiny_checkpoint / "llama"), None, Settings(max_new_tokens=4), "cpu", "fp32")
    (answer,) = next(answer_all(engine, [Question(0, "q", "Name a colour.")]))
    assert answer.text is not None
    asked = iter(["Name a colour.", None])
    chat = cli.Chat(engine)
    cli.talk(chat, lambda prompt: next(asked))
    assert [turn["value"] for turn in chat.turns] == ["Name a colour.", answer.text]


def test_the_loader_refuses_what_it_cannot_do_before_the_model_is_loaded(
    tiny_checkpoint, tiny_dataset, questions, tmp_path, monkeypatch
):
    monkeypatch.setattr(LlavaEngine, "load", None)
    before = questions.read_bytes()
    with pytest.raises(InputError, match="overwritten"):
        model_vqa_loader.main(loader_arguments(tiny_checkpoint, tiny_dataset, questions, questions))
    assert questions.read_bytes() == before
    other = tmp_path / "other.jsonl"
    with pytest.raises(InputError, match="--batch-size"):
        model_vqa_loader.main(loader_arguments(tiny_checkpoint, tiny_dataset, questions, other, "--batch-size", "0"))
    other.write_text("{}")
    with pytest.raises(InputError, match="choose another --answers-file") as refusal:
        model_vqa_loader.main(loader_arguments(tiny_checkpoint, tiny_dataset, questions, other))
    assert "--overwrite" not in str(refusal.value), "this command has no such flag"


def test_a_mistyped_model_is_reported_without_asking_the_hub(tmp_path, monkeypatch):
    from llava.model import builder

    monkeypatch.setattr(builder, "load_pretrained_model", None)
    for main, more in ((run_llava.main, ["--query", "What?"]), (cli.main, [])):
        with pytest.raises(InputError, match="no such folder"):
            main(["--model-path", str(tmp_path / "none"), *more])


def test_loading_a_model_says_nothing_on_stderr(tiny_checkpoint, repository):
    """The one line of an error must be the only one."""
    code = "from llava.generate.llava_engine import LlavaEngine, Settings\n"
    code += f"LlavaEngine.load({str(tiny_checkpoint / 'llava-tiny')!r}, None, Settings(), 'cpu', 'fp32')"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
