"""LLaVA's question files: what each becomes, what is refused, and LLaVA's own command lines."""

import argparse
import base64
import json

import pytest

from llava.eval import (
    model_vqa,
    model_vqa_loader,
    model_vqa_mmbench,
    model_vqa_qbench,
    model_vqa_science,
    suite,
)
from llava.generate.answers import llava_answer_file
from llava.generate.questions import Settings
from llava.generate.work import Answer
from visatb.errors import InputError

LETTER = "Answer with the option's letter from the given choices directly."
CHINESE = "请直接回答选项字母。"


def table(tmp_path, *rows, columns="index\tquestion\thint\tA\tB\tC\tD\timage"):
    path = tmp_path / "t.tsv"
    path.write_text("\n".join([columns, *("\t".join(row) for row in rows), ""]), encoding="utf-8")
    return path


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_science_questions_have_llavas_prompt(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"x")
    turns = [{"from": "human", "value": "Context: N/A <image>\n"}, {"from": "gpt", "value": "A"}]
    file = tmp_path / "q.json"
    file.write_text(json.dumps([{"id": "4", "image": "a/x.png", "conversations": turns}, {"id": "5"}]))
    with pytest.raises(InputError, match=r"record 1 \(id '5'\): conversations\[0\].value"):
        model_vqa_science.read(file, tmp_path)
    file.write_text(
        json.dumps([{"id": 4, "image": "a/x.png", "conversations": turns}, {"id": 5, "conversations": turns}])
    )
    pictured, plain = model_vqa_science.read(file, tmp_path, single_pred_prompt=True)
    assert pictured.question.text == f"<image>\nContext: N/A\n{LETTER}" == pictured.record["prompt"]
    assert plain.question.text == f"Context: N/A\n{LETTER}" and plain.question.images == ()
    assert model_vqa_science.read(file, tmp_path)[1].record == {"question_id": 5, "prompt": "Context: N/A", "text": ""}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": [{"value": "x"}]}, "id is missing"),
        ({"id": 1, "conversations": []}, r"conversations\[0\].value"),
        ({"id": 1, "conversations": [{"value": "x"}], "image": 3}, "image must be a path"),
        ({"id": 1, "conversations": [{"value": "x"}], "image": "none.png"}, "not found"),
        ({"id": 1, "conversations": [{"value": "x"}], "image": "../x.png"}, "leaves the image folder"),
    ],
)
def test_bad_science_questions_are_refused_by_name(tmp_path, record, message):
    file = tmp_path / "q.json"
    file.write_text(json.dumps([record]))
    with pytest.raises(InputError, match=message):
        model_vqa_science.read(file, tmp_path)


def test_mmbench_questions_have_llavas_prompt(tmp_path):
    path = table(
        tmp_path,
        ["7", "What?", "Look.", "a", "b", "", "", encoded(b"one")],
        ["1000007", "What?", "", "b", "a", "", "", "7"],
    )
    first, turned = model_vqa_mmbench.read(path, single_pred_prompt=True)
    assert first.question.text == f"Look.\nWhat?\nA. a\nB. b\n{LETTER}"
    assert first.record["prompt"] == "Look.\nWhat?\nA. a\nB. b", "LLaVA's line has the prompt without the instruction"
    assert turned.question.images == first.question.images == (b"one",), "a number stands for that row's image"
    assert model_vqa_mmbench.read(path)[1].question.text == "What?\nA. b\nB. a"
    rounds = model_vqa_mmbench.read(path, True, "cn", all_rounds=True)
    assert [(one.record["question_id"], one.record["round_id"]) for one in rounds] == [
        *((7, 0), (7, 1), (1000007, 0), (1000007, 1))
    ]
    assert rounds[1].question.text == f"Look.\nWhat?\nA. b\nB. a\n{CHINESE}"
    assert rounds[1].record["options"] == ["b", "a"] and rounds[1].record["option_char"] == ["B", "A"]
    assert [one.question.position for one in rounds] == [0, 1, 2, 3]


@pytest.mark.parametrize("image", ["", "!!!", "abc", "9"])
def test_an_image_that_is_not_base64_is_refused(tmp_path, image):
    path = table(tmp_path, ["7", "What?", "", "a", "b", "", "", image])
    with pytest.raises(InputError, match=r"t.tsv: row 1 \(index 7\): image must be base64"):
        model_vqa_mmbench.read(path)


def qbench(tmp_path, **changes):
    (tmp_path / "1.jpg").write_bytes(b"x")
    record = {"img_path": "1.jpg", "question": "Is it sharp?", "candidates": ["Yes", "No"], "correct_ans": "No"}
    (tmp_path / "llvisionqa_dev.json").write_text(json.dumps([record | changes]))
    return tmp_path / "llvisionqa_dev.json"


def test_qbench_questions_have_llavas_prompt_and_lines_the_servers_key(tmp_path):
    file = qbench(tmp_path)
    (english,), (chinese,) = (model_vqa_qbench.read(file, tmp_path, lang) for lang in ("en", "zh"))
    options = "A. Yes\nB. No"
    assert english.question.text == f"Is it sharp?\nChoose between one of the options as follows:\n{options}"
    assert chinese.question.text == f"Is it sharp?\\在下列选项中选择一个:\n{options}"
    assert english.question.images[0].name == "1.jpg"
    answers = llava_answer_file(tmp_path / "a.jsonl", file, [english], Settings(), {"generator": "m"})
    with answers.work.writing("part") as writer:
        writer.append([Answer(0, text="B. No")])
    assert answers.finish().written
    line = json.loads((tmp_path / "a.jsonl").read_text())
    assert line["response"] == "B. No" and line["correct_ans"] == "No" and "text" not in line
    assert list(line)[:5] == ["img_path", "question", "candidates", "correct_ans", "response"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_path": None}, "record 0: img_path must be text, got None"),
        ({"img_path": "2.jpg"}, "'2.jpg' not found"),
        ({"question": 3}, "record 0: question must be text, got 3"),
        ({"candidates": []}, "record 0: candidates must be 1 to 4 texts"),
        ({"candidates": ["Yes", 1]}, "candidates must be"),
        ({"candidates": list("abcde")}, "candidates must be"),
    ],
)
def test_bad_qbench_questions_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        model_vqa_qbench.read(qbench(tmp_path, **changes), tmp_path)


def test_cocos_prefix_is_added_where_the_file_needs_it(tmp_path):
    for name in ("COCO_val2014_1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps({"question_id": n, "image": f"{n}.jpg", "text": "?"}) + "\n" for n in (1, 2)))
    asked = model_vqa_loader.read(file, tmp_path, image_prefix="COCO_val2014_")
    assert [one.question.images[0].name for one in asked] == ["COCO_val2014_1.jpg", "2.jpg"]
    with pytest.raises(InputError, match="'1.jpg' not found"):
        model_vqa_loader.read(file, tmp_path)


def test_answers_depend_on_what_was_asked_and_not_on_where_it_lies(tmp_path):
    def key(folder, text="?", size=1, **settings):
        folder.mkdir(exist_ok=True)
        (folder / "1.jpg").write_bytes(b"x" * size)
        (folder / "q.jsonl").write_text(json.dumps({"question_id": 1, "image": "1.jpg", "text": text}) + "\n")
        asked = model_vqa_loader.read(folder / "q.jsonl", folder)
        made = Settings(**settings)
        return llava_answer_file(tmp_path / "a.jsonl", "q.jsonl", asked, made, {"generator": "m"}).work.folder

    first = key(tmp_path / "one")
    assert key(tmp_path / "two") == first
    assert len({first, key(tmp_path / "two", "!"), key(tmp_path / "two", size=2), key(tmp_path / "two", seed=1)}) == 3
    assert key(tmp_path / "two", max_new_tokens=5) != first


def test_a_file_is_written_when_its_last_answer_is_there(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps({"question_id": n, "text": "?"}) + "\n" for n in range(3)))
    asked = model_vqa_loader.read(file, tmp_path)
    answers = llava_answer_file(tmp_path / "a.jsonl", file, asked, Settings(), {"generator": "m"})

    def outcome(*lines):
        with answers.work.writing("part") as writer:
            writer.append(lines)
        return answers.finish()

    assert "3 of 3 questions have no answer yet" in answers.finish().message and answers.finish().code == 1
    found = outcome(Answer(0, text="x"), Answer(2, bad_image="2.jpg: broken"))
    assert found.code == 2 and found.message.startswith("2.jpg: broken (2 of 3 questions have no answer")
    assert [question.position for question in answers.open_questions()] == [1, 2]
    assert outcome(Answer(2, text=""), Answer(1, failed="memory")).code == 1 and not (tmp_path / "a.jsonl").exists()
    assert outcome(Answer(1, text="y")).written and answers.open_questions() == []
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["x", "y", ""] and lines[0]["model_id"] == "m"


class Parsed(Exception):  # noqa: N818 - not an error: the sign that parsing succeeded
    """Raised in place of running the command; holds what was given."""


LLAVAS = "--model-path m --question-file q --answers-file a --temperature 0 --conv-mode vicuna_v1 --num-chunks 2 "
LLAVAS += "--chunk-idx 1 --image-folder i --model-base b --top_p 0.9 --num_beams 1"


@pytest.mark.parametrize("underscores", [False, True])
@pytest.mark.parametrize(
    ("module", "more"),
    [
        (model_vqa, ""),
        (model_vqa_loader, "--max_new_tokens 16"),
        (model_vqa_science, "--single-pred-prompt"),
        (model_vqa_mmbench, "--single-pred-prompt --lang cn --all-rounds"),
        (model_vqa_qbench, "--questions-file q --lang zh"),
        (suite, None),
    ],
)
def test_llavas_command_lines_are_taken_in_both_spellings(module, more, underscores, monkeypatch):
    words = (
        f"{LLAVAS} {more}" if more is not None else "--model-path m --metrics-folder f --num-chunks 2 --judge-model j"
    )
    given = [w.replace("-", "_").replace("__", "--", 1) if underscores and w[:2] == "--" else w for w in words.split()]
    real = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        raise Parsed(real(self, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as parsed:
        module.main(given)
    assert parsed.value.args[0].num_chunks == 2
    if module is model_vqa:
        assert parsed.value.args[0].max_new_tokens == 1024, "LLaVA's command for long answers"
