"""One pipeline for all answer files: any engine can answer, and every share of the work ends in the same bytes."""

import json
import os
from argparse import Namespace
from pathlib import Path

import pytest

from llava.generate.answers import AnswerFile, Asked, llava_answer_file, write_records
from llava.generate.command import answer_files
from llava.generate.engine import Prompt
from llava.generate.flags import MODEL, ONE_QUESTION, settings_of, with_defaults
from llava.generate.llava_model import LlavaModel, dtype_of
from llava.generate.questions import Question, Settings
from llava.generate.shard import WHOLE, Shard, get_chunk
from visatb.errors import InputError

COUNT = 7
ARGS = Namespace(batch_size=2, workers=1, overwrite=False)


class Echo:
    """A model without torch: it answers with the question in capitals."""

    name = "echo"
    equal_lengths = False

    def __init__(self, unreadable=(), failing=()):
        self.unreadable, self.failing, self.loads, self.asked = unreadable, failing, 0, []

    def fingerprint(self):
        return {"generator": self.name}

    def load(self, settings):
        self.loads += 1
        return self

    def report(self):
        pass

    def asking(self, settings):
        return self

    def prompt(self, question):
        return Prompt(question, lengths=(len(question.text),))

    def load_images(self, question):
        if question.position in self.unreadable:
            raise InputError(f"{question.where}: image is damaged")

    def answer(self, prompts, images):
        positions = [prompt.question.position for prompt in prompts]
        self.asked += positions
        if set(positions) & set(self.failing):
            raise RuntimeError("out of memory")
        return [prompt.question.text.upper() for prompt in prompts]

    def release_memory(self):
        pass


def records():
    turns = [
        [{"from": "human", "value": f"what is {n}?"}] + [{"from": "gpt", "value": "x"}] * (n % 2) for n in range(7)
    ]
    return [{"id": n, "conversations": turn} for n, turn in enumerate(turns)]


def visatb_file(folder, most_omitted=None):
    asked = [
        Asked(Question(n, f"q.json: record {n}", record["conversations"][0]["value"]), record)
        for n, record in enumerate(records())
    ]
    made_from = Echo().fingerprint()
    return AnswerFile(folder / "q_echo.json", "q.json", asked, Settings(), made_from, write_records, most_omitted)


def llava_file(folder, part=WHOLE):
    asked = [Asked(Question(n, f"record {n}", f"what is {n}?"), {"question_id": n, "text": ""}) for n in range(COUNT)]
    chunk = get_chunk(asked, part.chunks, part.chunk)
    return llava_answer_file(folder / "a.jsonl", "q.jsonl", chunk, Settings(), Echo().fingerprint())


def test_any_engine_writes_the_records_with_their_answers(tmp_path, capsys):
    echo = Echo()
    assert answer_files(ARGS, [visatb_file(tmp_path)], echo, WHOLE, "Move it.") == 0
    written = json.loads((tmp_path / "q_echo.json").read_text())
    assert [record["conversations"][1].pop("generative_value") for record in written] == [
        f"WHAT IS {n}?" for n in range(COUNT)
    ]
    assert {record.pop("generator") for record in written} == {"echo"}
    assert [record["conversations"][1] for record in written[:2]] == [{"from": "gpt"}, {"from": "gpt", "value": "x"}]
    assert capsys.readouterr().out == f"{tmp_path / 'q_echo.json'}: 7 answers\n"
    assert answer_files(ARGS, [visatb_file(tmp_path)], echo, WHOLE, "Move it.") == 0 and echo.loads == 1
    assert "already complete" in capsys.readouterr().out


@pytest.mark.parametrize("make", [visatb_file, llava_file])
@pytest.mark.parametrize("chunks, world", [(1, 2), (3, 1), (3, 2), (9, 1)])
def test_every_division_of_the_work_ends_in_the_same_bytes(tmp_path, make, chunks, world):
    whole = make(tmp_path / "whole")
    whole.answer(Echo(), 2)
    assert whole.finish().written
    divided, asked = make(tmp_path / "divided"), []
    for shard in [Shard(chunk, chunks, rank, world) for chunk in range(chunks) for rank in range(world)]:
        echo = Echo()
        divided.answer(echo, 2, shard=shard)
        asked += echo.asked
    assert sorted(asked) == list(range(COUNT)), "every question is asked once"
    assert divided.finish().written
    assert divided.work.final.read_bytes() == whole.work.final.read_bytes()


def test_chunks_are_contiguous_and_even_for_every_command(tmp_path):
    for chunks in (1, 2, 3, 9):
        parts = [get_chunk(range(COUNT), chunks, chunk) for chunk in range(chunks)]
        assert [n for part in parts for n in part] == list(range(COUNT)), "parts can be joined with cat"
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert parts == [Shard(chunk, chunks).of_chunk(COUNT) for chunk in range(chunks)]
    assert [list(Shard(1, 2, rank, 2).of_rank(COUNT)) for rank in (0, 1)] == [[3, 5], [4, 6]]
    with pytest.raises(InputError, match="--chunk-idx must be from 0 to 1"):
        get_chunk(range(COUNT), 2, 2)
    joined = ""
    for chunk in range(3):
        file = llava_file(tmp_path / str(chunk), Shard(chunk, 3))
        file.answer(Echo(), 2)
        assert file.finish().written
        joined += file.work.final.read_text()
    assert [json.loads(line)["question_id"] for line in joined.splitlines()] == list(range(COUNT))


def test_questions_of_other_chunks_are_no_failure(tmp_path):
    file, mine = visatb_file(tmp_path), Shard(0, 2)
    unasked = file.finish(mine)
    assert unasked.code == 1 and "3 of 7 questions have no answer yet" in unasked.message
    file.answer(Echo(failing=[1]), 2, shard=mine)
    failed = file.finish(mine)
    assert failed.code == 1 and failed.message.startswith("q.json: record 1: RuntimeError: out of memory (1 of 7")
    file.answer(Echo(), 2, shard=mine)
    left = file.finish(mine)
    assert (left.written, left.code) == (False, 0) and "4 questions left to other chunks" in left.message


def test_one_damaged_image_may_be_omitted_and_two_may_not(tmp_path):
    few, many = visatb_file(tmp_path / "few", most_omitted=1), visatb_file(tmp_path / "many", most_omitted=1)
    few.answer(Echo(unreadable=[3]), 2)
    assert few.finish().message.endswith("6 answers, 1 omitted")
    (line,) = (tmp_path / "few" / "q_echo.omitted.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "q.json: record 3: image is damaged"
    with pytest.raises(InputError, match="lacks the records listed in q_echo.omitted.jsonl"):
        visatb_file(tmp_path / "few").clear_way("Move it.")
    many.answer(Echo(unreadable=[3, 4]), 2)
    refused = many.finish()
    assert refused.code == 2 and refused.message.startswith("q.json: 2 of 7 records have images that cannot be read")
    assert {3, 4} <= {question.position for question in many.open_questions()} and not many.work.final.exists()


def test_a_damaged_image_ends_with_2_and_the_commands_own_remedy(tmp_path, capsys):
    assert answer_files(ARGS, [llava_file(tmp_path)], Echo(unreadable=[2]), WHOLE, "Move it.") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "record 2: image is damaged (1 of 7" in error and error.endswith(
        "Fix the image and run the same command again."
    )


def test_flags_that_an_object_lacks_have_their_defaults():
    given = with_defaults(Namespace(seed=3, top_p=None, num_beams=None), ONE_QUESTION, max_new_tokens=512)
    assert (given.seed, given.top_p, given.num_beams, given.max_new_tokens) == (3, None, 1, 512)
    assert with_defaults(Namespace(), MODEL).dtype == "auto"
    with pytest.raises(InputError, match="--workers must be at least 1, got 0"):
        settings_of(Namespace(**vars(given), workers=0))


def test_the_current_folder_may_be_the_model_of_a_chat_but_names_no_file():
    model = LlavaModel.of(Namespace(model_path=".", model_base=None, device="cpu", dtype="auto", conv_mode=None))
    assert model.path == os.curdir
    with pytest.raises(InputError, match="--model-name must be usable in a file name"):
        model.fingerprint()


@pytest.mark.parametrize("dtype, expected", [("float16", "fp16"), (["bfloat16"], "bf16"), (None, "bf16"), (7, "bf16")])
def test_an_odd_torch_dtype_in_the_config_is_no_precision(tmp_path, monkeypatch, dtype, expected):
    import torch

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": dtype}))
    assert dtype_of("auto", "cuda:0", str(tmp_path)) == expected
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="config.json: must be a JSON object"):
        dtype_of("auto", "cuda:0", str(tmp_path))


def test_old_addresses_lead_to_the_pipeline():
    from llava.eval import answers_file, common, fingerprint, questions, shard, work
    from llava.generate.llava_engine import LlavaEngine

    assert common.Answerer is LlavaEngine and answers_file.get_chunk is get_chunk and questions.Question is Question
    assert shard.Shard is Shard and work.Work.__module__ == "llava.generate.work" and fingerprint.key_of({}) is not None


def test_the_pipeline_needs_no_torch(repository):
    import subprocess
    import sys

    code = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
    code += "import llava.generate.answers, llava.generate.command, llava.generate.flags, inference_visatb"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(repository), capture_output=True).returncode == 0
