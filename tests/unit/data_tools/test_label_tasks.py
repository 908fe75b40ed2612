"""Labelling by rules: LLaVA-1.5's and ShareGPT4V's mixes in their own formats, and what is refused."""

import json

import pytest

from scripts_visatb.data.label_tasks import DEFAULT_RULES, UniqueIds, label_file
from scripts_visatb.data.task_rules import Question, Rule, load_rules, tasks_of
from visatb.errors import InputError
from visatb.records import check_records, read_records

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
REGION = "Please provide a short description for this region: [0.02, 0.16, 0.38, 0.99]."
BOX = "Please provide the bounding box coordinate of the region this sentence describes: man on the left."
COCO = "coco/train2017/000000033471.jpg"


def record(image: str | None, *questions: str, **fields) -> dict:
    turns = []
    for n, question in enumerate(questions):
        token = "<image>\n" if image and n == 0 else ""
        turns += [{"from": "human", "value": token + question}, {"from": "gpt", "value": f"answer {n}"}]
    return {"id": "x"} | fields | ({"image": image} if image else {}) | {"conversations": turns}


# The shapes of llava_v1_5_mix665k.json: the format of short answers is stated once in a conversation, that of regions
# in every question; LLaVA-Instruct's image token may stand at the end.
MIX = [
    ("ShareGPT", record(None, "How do I write a loop?", "And in C?", model="")),
    ("VQAv2", record(COCO, "What colour is the bus?" + SHORT, "Is it day?")),
    ("GQA", record("gqa/images/2327515.jpg", "Does the man wear shorts?" + SHORT, "Is he old?", id=2327515)),
    ("OCRVQA", record("ocr_vqa/images/140031996.jpg", "Who wrote this book?" + SHORT, "What is the title?")),
    ("AOKVQA", record(COCO, "What is he waiting for?\nA. bus\nB. cab\nC. train\nD. friend" + LETTER)),
    (
        "TextCaps",
        record(
            "textvqa/train_images/011e7e629fb9ae7b.jpg",
            "Provide a one-sentence caption for the provided image.\nReference OCR token: NOKIA, 12:45",
        ),
    ),
    ("RefCOCO-caption", record(COCO, REGION, REGION)),
    ("RefCOCO-bbox", record(COCO, BOX)),
    ("VG-caption", record("vg/VG_100K/2.jpg", REGION)),
    ("VG-bbox", record("vg/VG_100K_2/1159910.jpg", BOX, BOX)),
    ("conversation", record(COCO, "What are the colors of the bus in the image?", "What is on its back?")),
    ("detail", record(COCO, "Write a detailed description of the given image.")),
    ("complex_reasoning", record(COCO, "What could be the reason for the crowd?")),
]
MIX[10][1]["conversations"][0]["value"] = "What are the colors of the bus in the image?\n<image>"


def write(folder, records, name="in.json"):
    (folder / name).write_text(json.dumps(records))
    return folder / name


def label(folder, records, rules=None, **flags):
    tally = label_file(write(folder, records), folder / "out.json", rules or load_rules(DEFAULT_RULES), **flags)
    return tally, read_records(folder / "out.json")


@pytest.mark.parametrize(("task", "shape"), MIX, ids=[task for task, _ in MIX])
def test_every_kind_of_record_in_llavas_mix_is_labelled(task, shape):
    assert set(tasks_of(shape, load_rules(DEFAULT_RULES))) == {task}


def test_sharegpt4vs_mix_is_labelled():
    rules = load_rules(DEFAULT_RULES.with_name("sharegpt4v_mix665k.yaml"))
    for image in ("sam/images/sa_1.jpg", "web-celebrity/images/a.jpg", "llava/llava_pretrain/images/00453/4.jpg", COCO):
        assert tasks_of(record(image, "What do you see happening in this image?"), rules) == ["ShareGPT4V"]
    for task, shape in MIX:
        assert tasks_of(shape, rules)[0] == ("ShareGPT4V" if task == "detail" else task)


def test_labelled_file_has_unique_ids_and_no_other_change(tmp_path):
    tally, labelled = label(tmp_path, [shape for _, shape in MIX])
    assert [r["task"] for r in labelled] == [task for task, _ in MIX]
    check_records(labelled, tmp_path / "out.json")
    assert [r["id"] for r in labelled][:4] == ["x", "x-2", 2327515, "x-3"]
    for before, after in zip((shape for _, shape in MIX), labelled, strict=True):
        assert after | {"id": 0} == before | {"id": 0, "task": after["task"]}
    assert tally.records["VQAv2"] == 1
    assert tally.words["VQAv2"] == 4
    assert tally.lines()[1].split()[1] == "1"
    assert tally.lines()[-1].split() == ["13", str(2 * sum(len(s["conversations"]) // 2 for _, s in MIX))]


def test_split_turns_makes_a_record_of_each_task_with_the_image_first(tmp_path):
    mixed = record(COCO, BOX, REGION, BOX, "Is he tall?" + SHORT, "Is he old?", REGION, id=7)
    _, labelled = label(tmp_path, [mixed, MIX[1][1]], split_turns=True)
    assert [(r["id"], r["task"]) for r in labelled] == [
        ("7-RefCOCO-bbox", "RefCOCO-bbox"),
        ("7-RefCOCO-caption", "RefCOCO-caption"),
        ("7-VQAv2", "VQAv2"),
        ("x", "VQAv2"),
    ]
    check_records(labelled, tmp_path / "out.json")
    assert [turn["value"] for turn in labelled[1]["conversations"]] == [
        f"<image>\n{REGION}",
        "answer 1",
        REGION,
        "answer 5",
    ]
    assert [turn["value"] for turn in labelled[2]["conversations"]][2:] == ["Is he old?", "answer 4"]
    assert labelled[3]["conversations"] == MIX[1][1]["conversations"]


def test_without_splitting_the_first_question_decides_the_task(tmp_path):
    tally, labelled = label(tmp_path, [record(COCO, BOX, REGION)])
    assert labelled[0]["task"] == "RefCOCO-bbox"
    assert tally.mixed == 1


def test_a_leading_answer_is_no_question():
    shape = record(None, "How?")
    shape["conversations"].insert(0, {"from": "gpt", "value": "Hello"})
    assert tasks_of(shape, load_rules(DEFAULT_RULES)) == ["ShareGPT"]


def test_records_that_no_rule_matches_are_counted_and_refused_or_named(tmp_path):
    odd = [record("chartqa/1.png", "How much?"), MIX[0][1], record("chartqa/2.png", "How many?")]
    with pytest.raises(InputError, match=r"2 record\(s\) match no rule, the first is record 0 .*'chartqa/1.png'"):
        label(tmp_path, odd)
    assert not (tmp_path / "out.json").exists()
    tally, labelled = label(tmp_path, odd, unmatched="Other")
    assert [r["task"] for r in labelled] == ["Other", "ShareGPT", "Other"]
    assert tally.unmatched == 2


def test_broken_records_are_refused_or_left_out_and_listed(tmp_path):
    broken = record(COCO, "What?" + SHORT, id="b")
    del broken["conversations"][1]
    with pytest.raises(InputError, match=r"record 1 \(id 'b'\): the last question has no answer.*--omit-broken"):
        label(tmp_path, [MIX[0][1], broken])
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]
    tally, labelled = label(tmp_path, [MIX[0][1], broken], omit_broken=True)
    assert (tally.omitted, len(labelled)) == (1, 1)
    (listed,) = read_records(tmp_path / "out.omitted.jsonl")
    assert listed["position"] == 1
    assert listed["reason"].startswith("the last question has no answer")


def test_ids_that_look_like_numbered_ones_stay_apart():
    unique = UniqueIds()
    ids = [unique({"id": i}).get("id") for i in ("a", "a-2", "a", "a", "a-2", None, 3, "3")]
    assert ids == ["a", "a-2", "a-3", "a-4", "a-2-2", None, 3, "3"]


def test_own_rules_come_before_included_ones_and_may_rename(tmp_path):
    (tmp_path / "base.yaml").write_text("rules: [{task: A, image: x/*}, {task: B}]")
    (tmp_path / "list.txt").write_text("Is it red?\nHow Many\n\n")
    own = """
include: base.yaml
rename: {A: Z}
rules:
  - {task: Listed, question_list: list.txt}
  - {task: Pair, image: x/*, answer_regex: '^\\d+$', question_regex: ['^How', '^What']}
  - {task: Few, image: none, max_questions: 1}
"""
    (tmp_path / "own.yaml").write_text(own)
    rules = load_rules(tmp_path / "own.yaml")
    cases = {
        "Listed": record("x/1", "is it RED?" + SHORT),
        "Z": record("x/1", "Is it blue?"),
        "Few": record(None, "Is it blue?"),
        "B": record(None, "Is it blue?", "or green?"),
    }
    counted = record("x/1", "How long?")
    counted["conversations"][1]["value"] = "12"
    for task, shape in (cases | {"Pair": counted}).items():
        assert set(tasks_of(shape, rules)) == {task}


def test_conditions_with_several_values_are_met_by_any():
    rule = Rule(task="t", question_ends=("a?", "b?"), question_contains=("x", "y"))
    assert rule.meets(Question("y b?", ""))
    assert not rule.meets(Question("y c?", ""))
    assert not rule.meets(Question("z b?", ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{image: a}]", r"rules\[0\].task must be text, got None. Set it"),
        ("rules: [{task: a, imgae: b}]", r"unknown key rules\[0\].imgae. Known: answer_regex, image"),
        ("rules: [{task: a, image: 3}]", r"rules\[0\].image must be a text"),
        ("rules: [{task: a, question_regex: '('}]", "is not a valid regular expression"),
        ("rules: [{task: a, min_questions: 0}]", "whole number >= 1"),
        ("rules: [{task: a, question_list: none.txt}]", "none.txt: no such file"),
        ("rules: []", "must be a list of rules"),
        ("include: r.yaml", "includes itself"),
        ("rename: {a: 1}\nrules: [{task: a}]", "rename must be a mapping of task names to task names"),
        ("[1]", r"r.yaml: must be a mapping, got \[1\]"),
        ("a: [", "broken YAML"),
        ("rules:\n  - task: a\n    image: x\n    image: y", "line 4: key 'image' occurs twice"),
    ],
)
def test_broken_rules_are_refused_with_their_place(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as refusal:
        load_rules(tmp_path / "r.yaml")
    assert "r.yaml" in str(refusal.value) or "none.txt" in str(refusal.value)
