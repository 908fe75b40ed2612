"""Answers of a server: what is sent, and what becomes of a run that meets every fault a server can have."""

import base64
import hashlib
import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from judge_endpoint import chat_reply, judge_endpoint
from PIL import Image
from waiting import PATIENCE

import inference_visatb
from llava.generate.questions import Question, marked_text
from visatb.endpoint import EndpointError
from visatb.errors import InputError
from visatb.records import message_parts

NAME = "served-model"
WHOLE = chat_reply("an answer")


def digest_of(body) -> tuple[int, str]:
    """An answer that depends on all of the question."""
    return 200, hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:12]


@pytest.fixture
def server():
    with judge_endpoint() as stub:
        stub.reply = digest_of
        stub.models = json.dumps({"data": [{"id": "other"}, {"id": NAME, "created": 1, "max_model_len": 64}]}).encode()
        yield stub


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that the client waited, without waiting."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def ask(server, tiny_dataset, tmp_path, pauses):
    """Runs the command against the server; returns its exit code."""

    def command(*flags, answers="answers"):
        argv = ["--engine", "server", "--server-url", server.url, "--server-model", NAME, "--concurrency", "1"]
        argv += ["--question-file", str(tiny_dataset), "--image-folder", str(tiny_dataset.parent / "images")]
        return inference_visatb.main([*argv, "--answers-folder", str(tmp_path / answers), *map(str, flags)])

    command.file = tmp_path / "answers" / f"tiny-train-1k_{NAME}.json"
    return command


@pytest.fixture
def expected(ask, server, tmp_path) -> bytes:
    """The answer file of a run without faults."""
    assert ask(answers="expected") == 0
    server.bodies.clear()
    return (tmp_path / "expected" / ask.file.name).read_bytes()


def test_a_question_is_sent_whole_with_the_pixels_of_its_image(ask, server, tiny_dataset):
    assert ask("--max_new_tokens", 7) == 0
    records = json.loads(tiny_dataset.read_text())
    assert len(server.bodies) == len(records) == 24
    for record, body in zip(records, server.bodies, strict=True):
        question = record["conversations"][0]["value"].replace("<image>", "").strip()
        assert (body["model"], body["max_tokens"], body["temperature"]) == (NAME, 7, 0)
        (message,) = body["messages"]
        if "image" not in record:
            assert message == {"role": "user", "content": question}
            continue
        image, text = message["content"]
        assert text == {"type": "text", "text": question}
        assert image["type"] == "image_url"
        with Image.open(tiny_dataset.parent / "images" / record["image"]) as original:
            assert np.array_equal(np.asarray(image_in(body)), np.asarray(original.convert("RGB")))


def image_in(body):
    """The image that a request begins with."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


@pytest.mark.parametrize(
    ("text", "count", "parts"),
    [
        ("Why?", 0, ["Why?"]),
        ("<image>\nWhy?", 1, [None, "Why?"]),
        ("Why?\n<image>", 1, ["Why?", None]),
        ("Why?", 1, [None, "Why?"]),
        ("A <image> or <image>?", 2, ["A ", None, " or ", None, "?"]),
        ("Which?", 2, [None, None, "Which?"]),
    ],
)
def test_a_message_has_its_images_where_the_question_has_them(text, count, parts):
    assert message_parts(marked_text(Question(0, "record 0", text, (Path("a.png"),) * count))) == parts


def test_the_key_is_sent_only_if_there_is_one(ask, server, monkeypatch):
    assert ask() == 0 and server.headers[0]["Authorization"] == "Bearer secret"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask(answers="again") == 0 and "Authorization" not in server.headers[-1]


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(ask, server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask() == 0


def test_requests_at_a_time_change_nothing_but_the_speed(ask, server, expected):
    together = threading.Barrier(4, timeout=PATIENCE)

    def reply(body):
        together.wait()
        return digest_of(body)

    server.reply = reply
    assert ask("--concurrency", 4) == 0  # 24 questions: four are under way at a time, or the barrier breaks
    assert ask.file.read_bytes() == expected


def test_draws_have_a_seed_of_their_own_and_the_same_in_every_run(ask, server):
    assert ask("--temperature", 0.7, "--top_p", 0.9) == 0
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**31 for seed in seeds)
    assert {(body["temperature"], body["top_p"]) for body in server.bodies} == {(0.7, 0.9)}
    assert ask("--temperature", 0.7, "--top_p", 0.9, answers="again") == 0
    assert [body["seed"] for body in server.bodies[24:]] == seeds
    assert ask("--temperature", 0.7, "--top_p", 0.9, "--seed", 1, answers="other") == 0
    assert not set(seeds) & {body["seed"] for body in server.bodies[48:]}


SLOW = [WHOLE[n : n + 1] for n in range(len(WHOLE))]
PASSING = {
    "429": (429, "slow down"),
    "500": (500, "broken"),
    "503 cut short": (503, b"busy", 99),
    "half a body": (200, WHOLE[:20], len(WHOLE)),
    "half a document": (200, WHOLE[:20]),
    "no JSON": (200, b"<html>starting</html>"),
    "slow bytes": (200, SLOW),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_one_more_request_and_no_answer(ask, server, expected, fault):
    server.script = [PASSING[fault]]
    assert ask("--timeout", 0.3) == 0
    assert ask.file.read_bytes() == expected and len(server.bodies) == 25


def test_a_busy_server_is_asked_again_when_it_says(ask, server, expected, pauses):
    server.script = [(429, "slow down", {"Retry-After": "17"})]
    assert ask() == 0 and pauses == [17]
    assert ask.file.read_bytes() == expected


LASTING = {
    "half a body": ((200, WHOLE[:20], len(WHOLE)), "no whole reply"),
    "slow bytes": ((200, SLOW), r"its end did not come within 0\.3 s"),
    "no JSON": ((200, b"<html>starting</html>"), "no whole reply: .*<html>"),
    "another shape": ((200, b'{"choices": []}'), 'no usable reply: .*"choices"'),
    "oversized": ((200, chat_reply("x" * 2**18)), "larger than 131072 bytes"),
}


@pytest.mark.parametrize("fault", LASTING)
def test_a_fault_that_lasts_ends_the_run_which_resumes(ask, server, expected, fault, monkeypatch):
    reply, message = LASTING[fault]
    monkeypatch.setattr("visatb.endpoint.MOST_BYTES", 2**17)
    server.reply = lambda body: digest_of(body) if len(server.bodies) <= 3 else reply
    with pytest.raises(EndpointError, match=message) as ended:
        ask("--retries", 1, "--timeout", 0.3)
    assert len(str(ended.value)) < 400 and not ask.file.exists()
    asked = len(server.bodies)
    server.reply = digest_of
    assert ask() == 0 and len(server.bodies) - asked == 21  # three were kept
    assert ask.file.read_bytes() == expected


@pytest.mark.parametrize("status", [400, 422, 429, 500])
def test_a_question_the_server_fails_on_does_not_cost_the_others(ask, server, expected, status, capsys):
    odd = server.bodies.__len__

    def reply(body):
        first = server.bodies[0]["messages"] if odd() else None
        return (status, "longer than the context") if body["messages"] == first else digest_of(body)

    server.reply = reply
    assert ask("--retries", 2) == 1 and not ask.file.exists()
    assert f"the server replies with {status}: longer than the context" in capsys.readouterr().err
    server.reply = digest_of
    server.bodies.clear()
    assert ask() == 0 and len(server.bodies) == 1 and ask.file.read_bytes() == expected


def test_a_server_that_fails_on_every_question_is_not_asked_them_all(ask, server, monkeypatch):
    monkeypatch.setattr("llava.generate.loop._FAILURES_IN_A_ROW", 5)
    server.reply = lambda body: (500, "broken")
    with pytest.raises(OSError, match="5 questions failed in a row; .*500: broken"):
        ask("--retries", 0)
    assert len(server.bodies) == 5


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_the_run_at_once(ask, server, status):
    server.script = [(status, "not you")]
    with pytest.raises(InputError, match=rf"refuses with {status}: not you\. Check OPENAI_API_KEY, --server-url"):
        ask("--concurrency", 4)
    assert not ask.file.exists()


def test_a_model_the_server_does_not_have_is_named_before_a_question(ask, server):
    with pytest.raises(InputError, match="has no model 'nonesuch'; it lists 'other', 'served-model'"):
        ask("--server-model", "nonesuch")
    server.models = json.dumps({"data": [{"id": "x" * 5000}] * 500}).encode()
    with pytest.raises(InputError, match="x' and 492 more") as refused:
        ask("--server-model", "nonesuch")
    assert len(str(refused.value)) < 2000
    assert not server.bodies and not ask.file.parent.exists()


@pytest.mark.parametrize("listed", [b'{"data": 3}', b"[]", b'{"data": [3]}', b"null"])
def test_an_address_without_a_list_of_models_is_refused(ask, server, listed):
    server.models = listed
    with pytest.raises(InputError, match="must list its models at /models"):
        ask()


def test_another_model_under_the_old_name_is_not_mistaken_for_it(ask, server, expected):
    assert ask() == 0
    server.models = server.models.replace(b'"max_model_len": 64', b'"max_model_len": 128')
    with pytest.raises(InputError, match="served"):
        ask()
    server.models = server.models.replace(b"128", b"64").replace(b'"created": 1', b'"created": 2')
    assert ask() == 0 and len(server.bodies) == 24  # a restart is no other model


def test_a_folder_gives_the_pixel_budget_and_the_identity(ask, server, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"visatb_pixel_budget": [null, 400]}')
    (folder / "model.safetensors").write_bytes(b"1")
    assert ask("--model-path", folder) == 0
    sent = [image_in(body) for body in server.bodies if isinstance(body["messages"][0]["content"], list)]
    assert sent and all(image.width * image.height <= 400 for image in sent)
    (folder / "model.safetensors").write_bytes(b"2")
    with pytest.raises(InputError, match="different|differs|model"):
        ask("--model-path", folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--server-url", ""], "--server-url"),
        (["--server-model", ""], "--server-model"),
        (["--server-url", "localhost:8000"], "must be an address"),
        (["--concurrency", 0], "--concurrency must be at least 1"),
        (["--retries", -1], "--retries must be at least 0"),
        (["--timeout", 0], "--timeout must be"),
        (["--num_beams", 2], "--num_beams above 1"),
        (["--conv-mode", "vicuna_v1"], "--conv-mode is for --engine llava"),
        (["--model-path", "nowhere"], "no such folder"),
        (["--model-name", "a/b"], "--model-name"),
    ],
)
def test_flags_a_server_cannot_use_are_refused_before_a_question(ask, server, flags, message):
    with pytest.raises(InputError, match=message):
        ask(*flags)
    assert not server.bodies and not ask.file.parent.exists()


def test_a_server_that_is_not_there_ends_with_one_line_and_exit_code_2(tiny_dataset, tmp_path, repository, server):
    server.server.server_close()  # nobody listens there any more
    command = [sys.executable, str(repository / "inference_visatb.py"), "--engine", "server", "--server-model", NAME]
    command += ["--server-url", server.url, "--retries", "0", "--question-file", str(tiny_dataset)]
    command += ["--image-folder", str(tiny_dataset.parent / "images"), "--answers-folder", str(tmp_path / "a")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "Is the server running" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "a").exists()


def test_a_server_is_asked_without_torch_and_transformers(ask, server, tiny_dataset, tmp_path, repository):
    code = "import sys; sys.modules.update(torch=None, transformers=None); import inference_visatb\n"
    code += "sys.exit(inference_visatb.main(sys.argv[1:]))"
    words = [
        "--engine",
        "server",
        "--server-url",
        server.url,
        "--server-model",
        NAME,
        "--answers-folder",
        tmp_path / "a",
    ]
    words += ["--question-file", tiny_dataset, "--image-folder", tiny_dataset.parent / "images"]
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
