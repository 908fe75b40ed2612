"""ScienceQA, SEED-Bench, MMBench and MM-Vet: choices, hand-computed scores, the odd cases."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.zero_shot import mmbench, mmvet, scienceqa, seed
from eval.zero_shot.answers import AnswerLine, Answers
from eval.zero_shot.mmbench_table import read_table
from visatb.errors import InputError


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("B", 1),
        (" B", -1),
        ("B\n", -1),
        ("B. because", 1),
        ("B. ", 1),
        ("B.", -1),  # LLaVA wants a space after the period
        ("B\nbecause", -1),
        ("B) because", -1),
        ("Answer: B", -1),
        ("The answer is C.", 2),
        ("The answer is C", -1),  # nothing behind the letter
        ("The answer is C\nbecause", -1),
        ("I think. The answer is A, not B", 0),
        ("The answer is B: Boston", 1),
        ("The answer is Boston.", 1),  # any character stands for the period
        ("The answer is A. No wait. The answer is B.", -1),  # stated twice
        ("The answer is A. No, The answer is B", 0),  # the second has nothing behind it
        ("The answer is A. The answer is Z.", -1),
        ("The answer is F.", -1),
        ("D", -1),  # no such option among three
        ("D. four", -1),
        ("b", -1),
        ("(B)", -1),
        ("A B", -1),
        ("", -1),
        ("FAILED", -1),
    ],
)
def test_scienceqa_reads_choices_as_llava(text, choice):
    assert scienceqa.parse_choice(text, 3) == choice


@given(st.text(max_size=20), st.integers(1, 5))
def test_scienceqa_never_chooses_what_is_not_offered(text, choices):
    assert -1 <= scienceqa.parse_choice(text, choices) < choices


def sqa_folder(bench):
    def problem(answer, subject, hint, image, grade):
        record = {"choices": ["x", "y", "z"], "answer": answer, "subject": subject, "hint": hint, "image": image}
        return record | {"grade": grade, "split": "test"}

    problems = {
        "4": problem(0, "natural science", "", None, "grade2"),
        "11": problem(1, "natural science", "a hint", "image.png", "grade6"),
        "12": problem(2, "social science", "", "image.png", "grade7"),
        "13": problem(2, "language science", "a hint", None, "grade12"),
        "99": problem(0, "natural science", "", None, "grade1"),
    }
    bench.json("sqa/problems.json", problems)
    bench.json("sqa/pid_splits.json", {"test": ["4", "11", "12", "13"], "val": ["99"], "none": []})
    return bench.folder / "sqa"


def test_scienceqa_by_hand(bench, answers):
    problems = scienceqa.read_problems(sqa_folder(bench))
    found = scienceqa.score(answers(("4", "A"), ("11", "B"), ("12", "none"), ("13", "A")), problems, "problems.json")
    assert found["metric"] == "image_accuracy" and found["score"] == 50 and found["malformed"] == 1
    details = found["details"]
    assert details["accuracy"] == 50 and details["n_image"] == 2
    assert details["subject"] == {"language science": 0, "natural science": 100, "social science": 0}
    assert details["context"] == {"text": 50, "image": 50, "none": 100}
    assert details["grade"] == {"1-6": 100, "7-12": 0}
    assert found["summary"].startswith("Total: 4, Correct: 2, Accuracy: 50.00%, IMG-Accuracy: 50.00%")


def test_scienceqa_writes_what_llava_writes(bench, answers):
    problems = scienceqa.read_problems(sqa_folder(bench))
    given_answers = answers(("4", "A"), ("11", "B", "<image>\nQ"), ("12", "none", "<image>\nQ"), ("13", "A"))
    analysis, results = scienceqa.llava_results(scienceqa.score(given_answers, problems, "problems.json"))
    assert results["results"] == {"4": 0, "11": 1, "12": -1, "13": 0}
    assert (results["acc"], results["correct"], results["count"]) == (50, 2, 4)
    failed = next(one for one in analysis["incorrect"] if one["question_id"] == "12")
    assert failed["parsed_ans"] == "FAILED" and failed["ground_truth"] == "C" and failed["is_multimodal"]


def test_scienceqa_without_images_reports_the_accuracy_of_all(bench, answers):
    problems = scienceqa.read_problems(sqa_folder(bench), "val")
    found = scienceqa.score(answers(("99", "A")), problems, "problems.json")
    assert found["metric"] == "accuracy" and found["score"] == 100


def test_scienceqa_refuses_unknown_splits_and_broken_problems(bench, answers):
    folder = sqa_folder(bench)
    for split in ("dev", "none"):
        with pytest.raises(InputError, match=f"has no split '{split}'"):
            scienceqa.read_problems(folder, split)
    problems = scienceqa.read_problems(folder, "val")
    problems["99"]["answer"] = 3
    with pytest.raises(InputError, match="answer must be one of 3 choices, got 3"):
        scienceqa.score(answers(("99", "A")), problems, "problems.json")
    bench.json("sqa/problems.json", {})
    with pytest.raises(InputError, match="has no problem '4' of test"):
        scienceqa.read_problems(folder)


def seed_data():
    rows = [
        ("101669", 1, "image", "A"),
        ("104933", 1, "image", "B"),
        ("v1", 10, "video", "C"),
        ("v2", 10, "video", "D"),
    ]
    return {
        "question_type": {"Scene Understanding": 1, "Action Recognition": 10},
        "questions": [
            {"question_id": i, "question_type_id": kind, "data_type": data, "answer": letter}
            for i, kind, data, letter in rows
        ],
    }


def test_seed_by_hand(answers):
    # LLaVA's question file has the ids of images as numbers
    found = seed.score(answers((101669, "A"), (104933, "A"), ("v1", "C"), ("v2", "D.")), seed_data(), "SEED.json")
    assert found["score"] == 50 and found["malformed"] == 1
    assert found["details"]["question_type"] == {"Action Recognition": 50, "Scene Understanding": 50}
    assert found["details"]["data_type"] == {"image": 50, "video": 50}
    assert found["summary"].splitlines()[-3:] == [
        "Total accuracy: 50.00%",
        "image accuracy: 50.00%",
        "video accuracy: 50.00%",
    ]


def test_seed_refuses_a_repeated_question(answers):
    data = seed_data()
    data["questions"].append(data["questions"][0])
    with pytest.raises(InputError, match="record 4: question_id '101669' occurs twice"):
        seed.score(answers((101669, "A")), data, "SEED.json")


def test_seed_takes_types_of_any_kind(answers):
    data = seed_data()
    data["questions"][0]["question_type_id"] = [1]
    said = answers((101669, "A"), (104933, "A"), ("v1", "C"), ("v2", "D"))
    assert "type [1]" in seed.score(said, data, "SEED.json")["details"]["question_type"]


OPTIONS = {"A": "a red cat", "B": "a blue dog", "C": "the sea"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B) a blue dog", "B"),
        ("The answer is C.", "C"),
        ("A blue dog", "A"),  # VLMEvalKit's rule: the only letter, among the last four words
        ("A cat is what I can see", None),  # too far from the end, and no option's text
        ("I see a blue dog", "B"),
        ("A or B", None),
        ("a red cat and a blue dog", None),
        ("D", None),
        ("b", None),
        ("", None),
        ("the sea " * 9, None),  # longer than twice all options
    ],
)
def test_mmbench_reads_options_as_vlmevalkit(text, letter):
    assert mmbench.parse_option(text, OPTIONS) == letter


HEADER = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit"


def tsv(bench, rows, header=HEADER):
    path = bench.folder / "mmbench.tsv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def row(index, options, answer, category="ocr", ability="perception", question="What?"):
    cells = [*options, *[""] * (4 - len(options))]
    return "\t".join([str(index), question, "", *cells, answer, category, "QUJD" * 50000, "s", ability, "", "dev"])


@pytest.fixture
def circular(bench):
    rows = [
        row(1, ["cat", "dog"], "A"),
        row(1000001, ["dog", "cat"], "B"),
        row(2, ["x", "y", "z"], "C", "scene", "reasoning", '"Two\nlines, ""quoted""."'),
        row(1000002, ["y", "z", "x"], "B", "scene", "reasoning"),
        row(2000002, ["z", "x", "y"], "A", "scene", "reasoning"),
    ]
    return tsv(bench, rows)


def test_mmbench_counts_questions_that_are_right_in_every_turn(circular, answers):
    given_answers = answers((1, "A"), (1000001, "B. cat"), (2, "C"), (1000002, "B"), (2000002, "B"))
    found = mmbench.score(given_answers, read_table(circular), circular)
    assert found["metric"] == "circular_accuracy" and found["score"] == 50 and found["n"] == 2
    assert found["details"]["round_accuracy"] == 80 and found["details"]["rounds"] == 5
    assert found["details"]["category"] == {"ocr": 100, "scene": 0}
    assert found["details"]["l2_category"] == {"perception": 100, "reasoning": 0}


def test_mmbench_rounds_of_llava_are_turns_too(bench):
    path = tsv(bench, [row(1, ["cat", "dog", "cow"], "B"), row(2, ["x", "y"], "A")])
    # round 1 shows dog, cow, cat; round 2 shows cow, cat, dog
    said = [(1, 0, "B"), (1, 1, "A"), (1, 2, "C"), (2, 0, "A"), (2, 1, "A")]
    lines = tuple(
        AnswerLine(index, text, "", f"line {n}", {"round_id": turn}) for n, (index, turn, text) in enumerate(said)
    )
    found = mmbench.score(Answers(path, lines), read_table(path), path)
    assert [one["score"] for one in found["per_record"]] == [1, 0] and found["metric"] == "circular_accuracy"
    assert found["per_record"][0]["said"] == ["B", "B", "B"] and found["per_record"][1]["said"] == ["A", "B"]
    with pytest.raises(InputError, match=r"1 of 5 questions .* \(first: \('2', 1\)\)"):
        mmbench.score(Answers(path, lines[:-1]), read_table(path), path)


def test_mmbench_without_turns_is_scored_question_by_question(bench, answers):
    path = tsv(bench, [row(1, ["cat", "dog"], "A"), row(2, ["x", "y"], "B")])
    found = mmbench.score(answers((1, "A"), (2, "")), read_table(path), path)
    assert found["metric"] == "accuracy" and found["score"] == 50 and found["malformed"] == 1


def test_mmbench_reads_quoted_cells_and_empty_options(circular):
    rows = {one.index: one for one in read_table(circular)}
    assert rows[2].cells["question"] == 'Two\nlines, "quoted".' and rows[1].options == {"A": "cat", "B": "dog"}
    assert rows[1].cells["hint"] is None and len(rows[1].cells["image"]) == 200000


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([row(1, ["a"], "A")], HEADER.replace("question", "query"), "has no column 'question'"),
        ([], HEADER, "has no question"),
        ([row(1, ["a"], "A") + "\tmore"], HEADER, "row 1: must have 14 cells, got 15"),
        ([row("one", ["a"], "A")], HEADER, "row 1: index must be a whole number, got 'one'"),
        ([row(1, ["a"], "A"), row(1, ["a"], "A")], HEADER, r"row 2 \(index 1\): index occurs twice"),
        ([row(1, ["", "b"], "B")], HEADER, r"row 1 \(index 1\): has no option"),
    ],
)
def test_mmbench_refuses_broken_tables(bench, rows, header, message):
    with pytest.raises(InputError, match=message):
        read_table(tsv(bench, rows, header))


@pytest.mark.parametrize("text", ["NA", "nan", "None", "NULL", "n/a", "<NA>"])
def test_mmbench_takes_an_option_that_reads_like_an_empty_cell(bench, answers, text):
    path = tsv(bench, [row(1, ["Cl", text, "K"], "C"), row(2, [text, "dog"], "A")])
    assert read_table(path)[0].options == {"A": "Cl", "B": text, "C": "K"}
    assert mmbench.score(answers((1, "C"), (2, text)), read_table(path), path)["score"] == 100


@pytest.mark.parametrize("truth", ["", "C", "cat"])
def test_mmbench_refuses_a_row_without_its_answer(bench, answers, truth):
    path = tsv(bench, [row(1, ["cat", "dog"], truth)])
    with pytest.raises(InputError, match="answer must be one of A, B"):
        mmbench.score(answers((1, "A")), read_table(path), path)


def test_mmvet_means_over_runs_and_capabilities():
    grades = {"v1_0": {"score": [0.0, 0.5]}, "v1_1": {"score": [1, 1]}}
    questions = {"v1_0": {"capability": ["ocr", "math"]}, "v1_1": {"capability": ["ocr"]}}
    found = mmvet.score(grades, questions, "grades.json")
    assert found["score"] == pytest.approx(62.5)
    assert found["details"] == {"capability": {"ocr": 62.5, "math": 25.0}, "runs": [50.0, 75.0]}
    assert mmvet.score(grades, None, "grades.json")["score"] == pytest.approx(62.5)


@pytest.mark.parametrize(
    ("grades", "message"),
    [
        ({}, "no question"),
        ({"v1_0": {"score": [0.5]}, "v1_2": {"score": [0.5]}}, "v1_1 is not in both"),
        ({"v1_0": {"score": [0.5]}, "v1_1": {"score": [0.5, 0.5]}}, "v1_1: score must be a number from 0 to 1"),
        ({"v1_0": {"score": [1.5]}, "v1_1": {"score": [0.5]}}, "v1_0: score must be"),
        ({"v1_0": {"score": []}, "v1_1": {"score": [0.5]}}, "v1_0: score must be"),
        ({"v1_0": 1, "v1_1": {"score": [0.5]}}, "v1_0: must have score"),
    ],
)
def test_mmvet_refuses_unfinished_grades(grades, message):
    questions = {f"v1_{n}": {"capability": ["rec"]} for n in range(2)}
    with pytest.raises(InputError, match=message):
        mmvet.score(grades, questions if grades else {}, "grades.json")


def test_mmvet_refuses_questions_of_another_shape():
    grades = {"v1_0": {"score": [0.5]}}
    with pytest.raises(InputError, match="question v1_0: must have capability"):
        mmvet.score(grades, {"v1_0": 1}, "grades.json")
    assert mmvet.score(grades, {"v1_0": {"capability": [["ocr"]]}}, "grades.json")["score"] == 50


def test_mmvet_refuses_grades_of_other_answers(bench):
    graded = bench.answers([(0, "a"), (1, "b")])
    grades, metric = {f"v1_{n}": {"score": [0.5]} for n in range(2)}, bench.folder / "metrics" / "MM-Vet.json"

    def scored(name, *flags):
        file = bench.json(name, grades)
        words = ["--grade-file", file, "--answers-file", graded, "--output", metric, *flags]
        return mmvet.main([str(word) for word in words])

    assert scored("my-model_gpt-4-grade-1runs.json") == 0 and json.loads(metric.read_text())["generator"] == "my-model"
    assert scored("of-any-name.json", "--generator", "my-model") == 0
    with pytest.raises(InputError, match="--generator must be 'my-model', whose answers they are, got 'other'"):
        scored("of-any-name.json", "--generator", "other")
    with pytest.raises(InputError, match="other_gpt-4-0613-grade-5runs.json: grades other answers than"):
        scored("other_gpt-4-0613-grade-5runs.json")
    bench.json("other.json", {"v1_1": "b", "v1_0": "a"})
    assert scored("other_gpt-4-0613-grade-5runs.json") == 0, "the file that was graded holds these answers"
    bench.json("my-model.json", {"v1_0": "a", "v1_1": "an earlier answer"})
    with pytest.raises(InputError, match="grades other answers than .*answers.jsonl"):
        scored("my-model_gpt-4-grade-1runs.json")
    bench.answers([(0, "a")])
    with pytest.raises(InputError, match="v1_1 is not in both grades and .*answers.jsonl"):
        scored("of-any-name.json")
