"""The data check: every problem found and named, numbers as training has them, refusals as training's."""

import copy
import json
import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import PATCHES_PER_IMAGE, TASKS
from transformers import AutoTokenizer

from llava.constants import IGNORE_INDEX
from llava.conversation import conv_templates
from llava.data.collator import SupervisedCollator
from llava.data.dataset import SupervisedDataset
from llava.data.preprocess import preprocess


def kinds(report, severity="errors"):
    return {problem["kind"]: problem for problem in report[severity]}


def grounding(good, answer):
    records = copy.deepcopy(good)
    record = next(record for record in records if record["task"] == "Grounding")
    record["conversations"][1]["value"] = answer
    return records


def test_clean_data_pass_without_a_word_of_complaint(check, records, capsys):
    report, ended = check(records)
    assert ended is None and report["errors"] == report["warnings"] == []
    shown = capsys.readouterr()
    assert "24 records" in shown.out and "no errors" in shown.out and "ShapeVQA" in shown.out
    assert shown.err == ""  # no progress bar outside a terminal


@pytest.mark.parametrize("limit", [2048, 215, 190])
def test_numbers_equal_those_of_dataset_and_collator(check, records, tiny_checkpoint, processor, tiny_dataset, limit):
    report, _ = check(records, "--model_max_length", limit)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint / "llama", use_fast=False)
    ids = {name: k for k, name in enumerate(TASKS)}
    images = tiny_dataset.parent / "images"
    dataset = SupervisedDataset(records, tokenizer, conv_templates["v1"], ids, processor, images)
    collator = SupervisedCollator(0, limit, PATCHES_PER_IMAGE)
    supervised = {name: [] for name in TASKS}
    lengths = {name: [] for name in TASKS}
    for n, record in enumerate(records):
        sample = dataset[n]
        supervised[record["task"]].append(int((collator([sample])["labels"][:, 1:] != IGNORE_INDEX).sum()))
        lengths[record["task"]].append(len(sample["input_ids"]) + ("image" in record) * (PATCHES_PER_IMAGE - 1))
    (file,) = report["files"]
    everything = sum(sum(counts) for counts in supervised.values())
    assert list(file["tasks"]) == list(TASKS)
    assert file["total"]["supervised_tokens"]["sum"] == file["run"]["supervised_tokens"] == everything
    for name, row in file["tasks"].items():
        tokens = row["supervised_tokens"]
        assert row["records"] == len(supervised[name])
        assert tokens["sum"] == sum(supervised[name]) and tokens["max"] == max(supervised[name])
        assert tokens["50%"] == sorted(supervised[name])[(len(supervised[name]) + 1) // 2 - 1]
        assert tokens["mean"] == pytest.approx(sum(supervised[name]) / len(supervised[name]))
        assert tokens["share"] == pytest.approx(sum(supervised[name]) / everything)
        assert row["length"]["max"] == max(lengths[name])
        assert row["truncated"] == collator.counts[ids[name], "truncated"]
        assert row["unsupervised"] == collator.counts[ids[name], "unsupervised"]
    cut = sum(row["truncated"] for row in file["tasks"].values())
    assert (kinds(report, "warnings").get("truncated", {"count": 0})["count"]) == cut
    assert (cut > 0) == (limit < 2048)


def change(n, **fields):
    def mutate(records):
        records[n].update(fields)

    return mutate


def turn(n, position, **fields):
    def mutate(records):
        records[n]["conversations"][position].update(fields)

    return mutate


BAD = {
    "id": (change(3, id=[1]), "id", "record 3 must be|record 3 .*must be a string"),
    "unknown task": (change(4, task="Cooking"), "unknown task", "must be one of SceneCaption, .* got 'Cooking'"),
    "no task": (change(4, task=None), "unknown task", "got None"),
    "no conversation": (change(2, conversations=[]), "conversation", "must be a list of turns"),
    "roles": (turn(1, 0, **{"from": "gpt"}), "conversation", r"conversations\[\d\].from must be"),
    "value": (turn(1, 1, value=7), "conversation", "value must be a string"),
    "image field": (change(0, image=7), "image field", "image must be a path"),
    "image tokens": (turn(0, 0, value="<image><image> Why?"), "<image> tokens", r"2 <image> token\(s\) for 1 image"),
    "hidden token": (turn(0, 0, value="<im<image>age> Why?"), "conversation", r"2 <image> token\(s\) for 1 image"),
    "answered image": (turn(0, 1, value="<image>"), "<image> tokens", "an answer contains <image>"),
    "missing image": (change(0, image="gone.png"), "image file", "'gone.png' not found"),
    "leaving image": (change(0, image="../a.png"), "image file", "leaves the image folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_problem_is_found_named_and_refused_as_in_training(check, training_refuses, records, name):
    mutate, kind, reported = BAD[name]
    mutate(records)
    report, ended = check(records)
    problem = kinds(report)[kind]
    assert ended is not None and problem["count"] == 1
    (message,) = problem["examples"]
    assert re.search(reported, message) and "train.json: record" in message
    refused = training_refuses(records)
    assert refused is not None and refused.partition("train.json")[2] == message.partition("train.json")[2]


def test_all_problems_are_reported_and_counted(check, records):
    for record in records[:5]:
        record["task"] = "Cooking"
    records[6]["conversations"] = None
    records[7]["image"] = "gone.png"
    records[8]["id"], records[8]["task"] = records[9]["id"], "Cooking"
    report, ended = check(records)
    found = {kind: problem["count"] for kind, problem in kinds(report).items()}
    assert found == {"unknown task": 6, "conversation": 1, "image file": 1}
    assert [problem["kind"] for problem in report["warnings"]].count("duplicate id") == 1  # LLaVA's mixes have them
    assert len(kinds(report)["unknown task"]["examples"]) == 3
    assert ended == "8 error(s) of 3 kind(s), listed in the report. Fix the files."
    assert report["files"][0]["tasks"]["(unknown)"]["records"] == 6


@pytest.mark.parametrize("limit", [2048, 200, 150, 60])
@pytest.mark.parametrize("tasks", [True, False])
def test_a_too_short_limit_is_refused_as_by_training(check, training_refuses, records, limit, tasks):
    refused = training_refuses(records, limit, tasks)
    report, ended = check(records, "--model_max_length", limit, tasks=tasks)
    assert (ended is None) == (refused is None)
    assert ("too few supervised" in kinds(report)) == (refused is not None)
    assert (refused is None) == (limit == 2048) or limit == 200


def test_images_without_a_folder_are_refused_and_text_alone_needs_none(check, training_refuses, records):
    report, _ = check(records, images=None)
    assert list(kinds(report)) == ["no image folder"] and training_refuses(records, images=None)
    assert check(records, "--no_images", images=None)[1] is None
    text = [record for record in records if record["task"] == "Chat"]
    report, ended = check(text, images=None)
    assert ended is None and training_refuses(text, images=None) is None
    assert [p["examples"] for p in report["warnings"] if p["kind"] == "task without records"] != []


def test_damage_behind_the_header_is_found_when_images_are_decoded(check, records, tiny_dataset, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(tiny_dataset.parent / "images", images)
    whole = (images / "003.png").read_bytes()
    (images / "003.png").write_bytes(whole[: len(whole) // 2])
    (images / "004.png").write_bytes(b"no image")
    assert kinds(check(records, images=images)[0])["image file"]["count"] == 1
    assert kinds(check(records, "--decode_images", images=images)[0])["image file"]["count"] == 2
    assert check(records, "--no_images", images=images)[1] is None


def test_skipped_images_are_a_warning_up_to_the_share_that_training_bears(check, records, tiny_dataset, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(tiny_dataset.parent / "images", images)
    (images / "003.png").write_bytes(b"no image")
    report, ended = check(records, "--bad_image", "skip", images=images)
    assert ended is None and "image file" in kinds(report, "warnings")
    (images / "004.png").unlink()
    report, ended = check(records, "--bad_image", "skip", images=images)
    assert ended and "2 of 20 records" in kinds(report)["too many bad images"]["examples"][0]


@pytest.mark.parametrize(
    "answer, fault",
    [
        ("[0.1, 0.2, 0.3, 0.4]", None),
        ("[0, 0, 1, 1]", None),
        ("[12, 20, 300, 400]", "out of range"),
        ("[-0.1, 0.2, 0.3, 0.4]", "out of range"),
        ("[0.5, 0.2, 0.3, 0.4]", "swapped or empty"),
        ("[0.1, 0.2, 0.3, 0.2]", "swapped or empty"),
        ("nowhere", "missing"),
    ],
)
def test_boxes_are_a_warning_in_training_and_an_error_as_a_truth(check, good, answer, fault):
    records = grounding(good, answer)
    report, ended = check(records)
    kind = f"box {fault} (task Grounding)"
    assert ended is None
    assert (kind in kinds(report, "warnings")) == (fault not in (None, "missing"))
    held_out = [record | {"id": f"v{n}"} for n, record in enumerate(records)]
    report, ended = check(good, against=held_out)
    assert (ended is None) == (fault is None)
    if fault:
        assert kinds(report)[kind]["count"] == 1 and repr(answer) in kinds(report)[kind]["examples"][0]


def test_answers_that_are_boxes_are_checked_in_other_tasks(check, records):
    captions = [record for record in records if record["task"] == "SceneCaption"]
    captions[0]["conversations"][1]["value"] = "[3, 4, 5, 6]"
    captions[1]["conversations"][1]["value"] = "a list: [3, 4, 5, 6]"
    report, _ = check(records, tasks=False)
    assert kinds(report, "warnings")["box out of range (task SceneCaption)"]["count"] == 1


def test_samples_shared_with_training_are_reported(check, records):
    fresh = [record | {"id": f"v{n}"} for n, record in enumerate(copy.deepcopy(records[:3]))]
    fresh[0]["conversations"][0]["value"] = "<image>\nSomething else?"
    fresh[1]["image"] = "020.png"
    fresh[2] |= {"image": "021.png", "id": records[2]["id"]}
    report, ended = check(records, against=fresh)
    found = kinds(report, "warnings")
    assert ended is None and found["shared ids"]["count"] == 1 and found["shared images"]["count"] == 3
    assert "shared samples" not in found
    assert kinds(check(records, against=records)[0], "warnings")["shared samples"]["count"] == len(records)


def test_evaluation_files_are_checked_by_their_own_rules(check, records):
    references = copy.deepcopy(records[:1])
    references[0]["conversations"][1]["value"] = ["a red square", "a square"]
    references[0]["id"] = "v"
    report, ended = check(records, against=references)
    assert ended is None and [file["records"] for file in report["files"]] == [24, 1]
    assert "run" not in report["files"][1]
    references[0]["task"] = "Cooking"
    assert "unknown task" in kinds(check(records, against=references)[0])


def test_a_measured_record_without_an_answer_is_refused(check, records):
    evaluation = copy.deepcopy(records[:6])
    for record in evaluation[0], evaluation[5]:
        del record["conversations"][1:]
    found = kinds(check(records, against=evaluation)[0])
    assert evaluation[5]["task"] == "Chat"  # not measured
    assert found["no truth"]["count"] == 1 and "tiny-0" in found["no truth"]["examples"][0]


def test_without_a_tokenizer_records_are_checked_and_no_token_is_counted(check, records, capsys):
    report, ended = check(records, tokens=False)
    assert ended is None and "supervised_tokens" not in report["files"][0]["total"]
    assert report["files"][0]["run"]["supervised_tokens"] is None
    assert "tokens are not counted without --tokenizer" in capsys.readouterr().out
    records[0]["task"] = "Cooking"
    assert check(records, tokens=False)[1]


def test_steps_and_tokens_of_a_run(check, records):
    flags = ("--global_batch", "5", "--num_train_epochs", "2.5")
    run = check(records, *flags)[0]["files"][0]["run"]
    assert run["steps"] == 13  # 5 steps an epoch, the last one short
    assert run["supervised_tokens"] == round(2.5 * check(records)[0]["files"][0]["run"]["supervised_tokens"])


def test_the_report_does_not_depend_on_the_number_of_processes(check, records, capsys):
    many = [record | {"id": f"{k}-{n}"} for k in range(80) for n, record in enumerate(records)]
    for n in range(0, len(many), 97):
        many[n] = many[n] | {"image": f"gone-{n}.png"}
    texts = []
    for workers in (1, 2):
        report, _ = check(many, "--workers", workers, "--model_max_length", 200)
        texts.append(json.dumps(report).replace(report["files"][0]["path"], "train.json"))
    assert texts[0] == texts[1] and "gone-" in texts[0]


def test_a_vision_tower_sets_the_positions_of_an_image(check, records, tiny_checkpoint):
    report, _ = check(records, "--vision_tower", tiny_checkpoint / "vision_tower")
    assert report["settings"]["patches_per_image"] == 16


def test_image_marks_are_put_as_in_training(check, records, tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint / "llama", use_fast=False)
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    samples = [
        preprocess(r["conversations"], tokenizer, conv_templates["v1"], True, int("image" in r)) for r in records
    ]
    mean = sum(len(s["input_ids"]) for s in samples) / len(samples)
    (file,) = check(records, "--mm_use_im_start_end", "--patches_per_image", 1)[0]["files"]
    assert file["total"]["length"]["mean"] == pytest.approx(mean)
    assert mean != check(records, "--patches_per_image", 1)[0]["files"][0]["total"]["length"]["mean"]


def answered(*answers, question="Name it."):
    turns = [[{"from": "human", "value": question}, {"from": "gpt", "value": answer}] for answer in answers]
    return {"task": "Chat", "conversations": sum(turns, [])}


def test_empty_turns_are_counted_and_named_and_no_errors(check, records):
    extra = [answered("", "red"), answered(" \n", "red"), answered("red", question=""), answered("red")]
    report, ended = check(records + extra)
    (message,) = kinds(report, "warnings")["empty turns"]["examples"]
    assert ended is None
    assert f"2 with an empty answer and 1 with an empty question, the first is record {len(records)}." in message
    assert "empty answers only" not in kinds(report, "warnings")


def test_a_record_of_empty_answers_is_not_reported_as_too_long(check, training_refuses, records):
    report, ended = check([*records, answered("")])
    found = kinds(report, "warnings")
    assert ended is None and found["empty answers only"]["count"] == 1 and "nothing supervised" not in found
    many = [*records, *([answered("", "  ")] * 20)]
    report, ended = check(many)
    (message,) = kinds(report)["too few supervised"]["examples"]
    assert message.split("train.json")[1] == training_refuses(many).split("train.json")[1]
    assert "records of task Chat have empty answers only" in message and "model_max_length" not in message


def test_samples_longer_than_the_model_are_one_warning_with_the_longest(check, records):
    long = answered("red " * 600)
    report, ended = check([*records, long, answered("red " * 400)], "--model_max_length", 4096)
    found = kinds(report, "warnings")["longer than the model"]
    (message,) = found["examples"]
    length = report["files"][0]["total"]["length"]["max"]
    assert ended is None and found["count"] == 2
    assert f"record {len(records)}: the longest sample takes {length:,} positions, the model supports 512" in message
    for limit, count in ((600, 2), (512, None)):  # what is cut is not beyond
        found = kinds(check([*records, long, answered("red " * 400)], "--model_max_length", limit)[0], "warnings")
        assert (found.get("longer than the model") or {"count": None})["count"] == count


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["human", "gpt", "<image>", "</s>", "[9, 9, 9, 9]", "\u2581", "Chat", "000.png", "total"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["from", "value", "id", "image", "task", "conversations"]), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from([("id",), ("image",), ("task",), ("conversations",)]) | st.tuples(
    st.just("conversations"), st.integers(0, 1), st.sampled_from(["from", "value"])
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 23), FIELDS, VALUES), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_mutated_records_are_refused_exactly_when_training_refuses_them(
    check, training_refuses, good, mutations, tasks, as_evaluation
):
    records = copy.deepcopy(good)
    for n, path, value in mutations:
        target = records[n]
        for key in path[:-1]:
            whole = isinstance(target, dict) and key in target or isinstance(target, list) and key < len(target)
            target = target[key] if whole else None
        if isinstance(target, dict):
            target[path[-1]] = value
    if as_evaluation:
        check(good, against=records, tasks=tasks)  # accepted or refused, but never a traceback
        return
    refused = training_refuses(records, tasks=tasks)
    ended = check(records, tasks=tasks)[1]
    assert (ended is None) == (refused is None), refused
