"""The chat: commands never reach the model, and nothing but the user ends it."""

import http.server
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from waiting import PATIENCE

from llava.eval.run_llava import load_image
from llava.generate.llava_engine import LlavaEngine
from llava.generate.questions import Settings
from llava.serve import cli
from llava.serve.streamer import AnswerStreamer
from visatb.errors import InputError


@pytest.fixture
def images(tiny_dataset):
    folder = tiny_dataset.parent / "images"
    return [str(folder / f"{n:03d}.png") for n in (0, 1)]


@pytest.fixture(scope="module")
def answerer(tiny_checkpoint):
    return LlavaEngine.load(str(tiny_checkpoint / "llava-tiny"), None, Settings(max_new_tokens=5), "cpu", "fp32")


@pytest.fixture
def chat(answerer, images):
    made = cli.Chat(answerer)
    made.look_at(load_image(images[0]), images[0])
    return made


@pytest.fixture
def prompts(monkeypatch):
    """(ids, images) of every call of the model, which works as always."""
    seen = []
    real = LlavaEngine.new_ids

    def new_ids(self, ids, images, *args, **kwargs):
        seen.append((ids[0].tolist(), images[0]))
        return real(self, ids, images, *args, **kwargs)

    monkeypatch.setattr(LlavaEngine, "new_ids", new_ids)
    return seen


def say(chat, *lines):
    left = iter([*lines, None])
    cli.talk(chat, lambda prompt: next(left))


def test_reset_starts_over_with_the_same_image(chat, prompts):
    say(chat, "What is this?", "And its colour?", "/reset", "What is this?")
    first, second, again = prompts
    assert again[0] == first[0] and torch.equal(again[1], first[1])
    assert second[0][: len(first[0])] == first[0] and len(second[0]) > len(first[0])
    assert [ids.count(-200) for ids, _ in prompts] == [1, 1, 1]
    assert len(chat.turns) == 2


def test_another_image_starts_over_about_it(chat, images, prompts, capsys):
    say(chat, "What is this?", f"/image {images[1]}", "What is this?")
    before, after = prompts
    assert before[0] == after[0] and not torch.equal(before[1], after[1])
    assert f"started over about {images[1]}" in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["none.png", "text.png", "folder.png", "a\0b.png", "http://127.0.0.1:9/x.png", ""])
def test_an_unreadable_image_is_reported_and_the_old_one_stays(chat, bad, tmp_path, prompts, capsys):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    path = bad if "/" in bad or not bad else str(tmp_path / bad)
    say(chat, "What is this?", f"/image {path}", "And its colour?")
    reported = capsys.readouterr().err
    assert reported.startswith("error: ") and reported.count("\n") == 1
    assert len(prompts) == 2 and len(prompts[1][0]) > len(prompts[0][0])
    assert torch.equal(prompts[0][1], prompts[1][1])


def test_unknown_commands_are_reported_and_not_asked(chat, prompts, capsys):
    say(chat, "/restart now", "/", "/help")
    captured = capsys.readouterr()
    assert captured.err == "error: no command /restart; /help lists them\nerror: no command /; /help lists them\n"
    assert "/image PATH" in captured.out and not prompts
    say(chat, " /usr/bin is what?")
    assert len(prompts) == 1


@pytest.mark.parametrize("end", ["/quit", "", None])
def test_the_chat_ends_when_the_user_says_so(chat, end, prompts):
    left = iter([end, "never asked", None])
    cli.talk(chat, lambda prompt: next(left))
    assert next(left) == "never asked" and not prompts


def test_the_word_for_an_image_is_not_a_second_image(chat, prompts, capsys):
    say(chat, "Is <image> red?", "And <image> ?")
    assert [ids.count(-200) for ids, _ in prompts] == [1, 1] and not capsys.readouterr().err


def test_a_blank_line_is_no_question(chat, prompts):
    say(chat, "   ", "What is this?")
    assert len(prompts) == 1


def test_a_stopped_answer_is_kept_as_far_as_it_got(chat, monkeypatch, capsys, answerer):
    def stopped(self, ids, images, keys, streamer):
        streamer.put(ids[0])
        for token in answerer.tokenizer("It is red and").input_ids[1:]:
            streamer.put(torch.tensor([token]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LlavaEngine, "new_ids", stopped)
        say(chat, "What is this?")
    assert capsys.readouterr().out == "ASSISTANT: It is red and\n"
    assert [turn["value"] for turn in chat.turns] == ["<image>\nWhat is this?", "It is red and"]
    say(chat, "Why?")
    assert len(chat.turns) == 4


def test_an_answer_stopped_before_its_first_word_leaves_no_turn(chat, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(LlavaEngine, "new_ids", stopped)
    say(chat, "What is this?")
    assert chat.turns == []


def test_ctrl_c_at_the_prompt_ends_the_chat(monkeypatch, capsys):
    for error in (KeyboardInterrupt, EOFError):
        monkeypatch.setattr("builtins.input", lambda prompt, error=error: (_ for _ in ()).throw(error))
        assert cli._ask("USER: ") is None


def test_a_chat_that_outgrows_the_model_says_how_to_go_on(chat, prompts, capsys):
    say(chat, "What is this?", "word " * 600, "/reset", "What is this?")
    assert "longer than the model's context; /reset starts a new one" in capsys.readouterr().err
    assert len(prompts) == 2 and prompts[0][0] == prompts[1][0]


def test_a_model_with_nan_logits_is_reported_in_one_line(chat, monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise FloatingPointError("logits of row 0 are not numbers")

    monkeypatch.setattr(LlavaEngine, "new_ids", broken)
    say(chat, "What is this?")
    assert capsys.readouterr().err == "error: the model failed: logits of row 0 are not numbers\n"
    assert chat.turns == []


def test_debug_prints_the_prompt_and_the_answer(answerer, images, capsys):
    chat = cli.Chat(answerer, debug=True)
    chat.look_at(load_image(images[0]), images[0])
    say(chat, "What is this?")
    assert "{'prompt': " in (output := capsys.readouterr().out) and "USER: <image>\\nWhat is this? ASSISTANT:" in output


def test_the_aspect_ratio_may_be_chosen(answerer, images):
    picture = load_image(images[0]).resize((60, 40))
    pixels = []
    for choice in (None, "pad", "square"):
        chat = cli.Chat(answerer, choice)
        chat.look_at(picture, "x")
        pixels.append(chat.images)
    assert torch.equal(pixels[0], pixels[1]) and not torch.equal(pixels[1], pixels[2])


def test_a_text_model_refuses_images_and_chats_without(tiny_checkpoint, images, prompts, capsys):
    argv = ["--model-path", str(tiny_checkpoint / "llama"), "--max-new-tokens", "3"]
    with pytest.raises(InputError, match="no vision tower"):
        cli.main([*argv, "--image-file", images[0]])
    chat = cli.Chat(LlavaEngine.load(str(tiny_checkpoint / "llama"), None, Settings(max_new_tokens=3), "cpu", "fp32"))
    say(chat, f"/image {images[0]}", "Name a colour.")
    assert "no vision tower" in capsys.readouterr().err
    assert len(prompts) == 1 and prompts[0][1] is None


def test_the_image_is_looked_for_before_the_model_is_loaded(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(LlavaEngine, "load", None)
    with pytest.raises(InputError, match="none.png: No such file"):
        cli.main(["--model-path", str(tiny_checkpoint / "llava-tiny"), "--image-file", "none.png"])


def test_a_stop_string_is_not_shown(answerer, capsys):
    streamer = AnswerStreamer(answerer.tokenizer, ["###"])
    streamer.put(torch.tensor([1]))
    for token in answerer.tokenizer("A red ring.###Human: and so on").input_ids[1:]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert capsys.readouterr().out == "A red ring.\n" and streamer.said == "A red ring."


class _Pictures(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self):  # noqa: N802 - the name that http.server calls
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
        else:
            self.send_response(200 if self.path == "/x.png" else 404)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *args):
        pass


def test_images_of_the_web_are_fetched_only_from_the_web(images, monkeypatch):
    monkeypatch.setattr(_Pictures, "content", Path(images[0]).read_bytes())
    with http.server.HTTPServer(("127.0.0.1", 0), _Pictures) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert load_image(f"{address}/x.png").tobytes() == load_image(images[0]).tobytes()
        for bad in ("/none.png", "/moved"):
            with pytest.raises(InputError, match="cannot be fetched"):
                load_image(address + bad)
        monkeypatch.setattr(_Pictures, "content", b"no image")
        with pytest.raises(InputError, match="cannot be read"):
            load_image(f"{address}/x.png")
        monkeypatch.setattr("llava.eval.run_llava._MOST_BYTES", 4)
        with pytest.raises(InputError, match="larger than"):
            load_image(f"{address}/x.png")
        server.shutdown()


def command(tiny_checkpoint, *flags):
    model = str(tiny_checkpoint / "llava-tiny")
    return [sys.executable, "-m", "llava.serve.cli", "--model_path", model, "--temperature", "0", *flags]


def test_a_whole_chat_through_the_command(tiny_checkpoint, images, repository):
    lines = ["What is this?", "/image none.png", f"/image {images[1]}", "What is this?", "/nonsense", "caf\udce9 ?"]
    done = subprocess.run(
        command(tiny_checkpoint, "--image_file", images[0], "--max_new_tokens", "4"),
        input="\n".join(lines).encode("utf-8", "surrogateescape"),
        cwd=repository,
        capture_output=True,
    )
    output, errors = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, errors
    assert output.count("ASSISTANT: ") == 3 and output.count("USER: ") == 7
    template, *errors = errors.splitlines()
    assert template.startswith("conversation template: vicuna_v1 (")
    assert errors == [
        "error: image none.png: No such file or directory. Check the path.",
        "error: no command /nonsense; /help lists them",
    ]


def test_ctrl_c_stops_the_answer_and_then_the_chat(tiny_checkpoint, images, repository):
    process = subprocess.Popen(
        command(tiny_checkpoint, "--image-file", images[0], "--max-new-tokens", "400"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=repository,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    output = process.stdout
    _read_until(output, b"USER: ")
    process.stdin.write(b"What is this?\n")
    process.stdin.flush()
    _read_until(output, b"ASSISTANT: ")
    _read_until(output, b" ")  # a first word
    process.send_signal(signal.SIGINT)
    stopped = _read_until(output, b"USER: ")
    assert stopped.endswith(b"\nUSER: ")
    process.stdin.write(b"/reset\n")
    process.stdin.flush()
    assert _read_until(output, b"USER: ") == b"started over\nUSER: "
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and errors.startswith(b"conversation template: ") and errors.count(b"\n") == 1


def _read_until(stream, end):
    found = b""
    while not found.endswith(end):
        byte = stream.read(1)
        assert byte, f"ended after {found!r}"
        found += byte
    return found
