"""POPE and MME: parsing of answers, hand-computed scores, the odd cases."""

from pathlib import Path

import pytest

from eval.scores import entry
from eval.zero_shot import mme, pope
from visatb.errors import InputError


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no, there is none", "no"),
        ("No. But yes.", "no"),
        ("Yes. No dog is there.", "yes"),  # the first sentence alone
        ("There is not a dog", "no"),
        ("There isn't", "yes"),  # the official rule knows three words only
        ("NO", "yes"),
        ("nothing", "yes"),
        ("", "yes"),
        ("maybe", "yes"),
        (". No", "yes"),
    ],
)
def test_pope_reads_the_first_sentence(text, answer):
    assert pope.parse_answer(text) == answer


def test_pope_equals_a_published_confusion_matrix(answers):
    line = answers((1, "")).lines[0]
    pairs = [("yes", "yes")] * 1183 + [("yes", "no")] * 31 + [("no", "no")] * 1379 + [("no", "yes")] * 317
    found = pope.split_scores([entry(line, said == truth, truth, answer=said) for said, truth in pairs])
    # LLaVA's issue 626, split random, LLaVA-1.5-13B
    assert found["accuracy"] == pytest.approx(88.04123711340206)
    assert found["precision"] == pytest.approx(97.44645799011532)
    assert found["recall"] == pytest.approx(78.86666666666666)
    assert found["f1"] == pytest.approx(87.17759764185703)


def pope_files(bench, typo="image"):
    truths = {"adversarial": ["yes", "no", "no"], "random": ["yes", "yes"]}
    questions, number = [], 0
    for split, labels in truths.items():
        rows = []
        for n, label in enumerate(labels):
            number += 1
            text = f"Is there a thing {n} in the {typo}?"
            ask = f"Is there a thing {n} in the image?\nAnswer the question using a single word or phrase."
            image = f"{split}.jpg"
            rows.append({"question_id": n + 1, "image": image, "text": text, "label": label})
            questions.append({"question_id": number, "image": image, "text": ask, "category": split})
        bench.lines(f"coco/coco_pope_{split}.json", rows)
    return questions, bench.folder / "coco"


@pytest.mark.parametrize("typo", ["image", "imange"])
def test_pope_by_hand(bench, answers, typo):
    questions, folder = pope_files(bench, typo)
    by_key = {str(question["question_id"]): question for question in questions}
    given = answers((5, "No."), (4, "Yes"), (3, "yes"), (2, "No"), (1, "Yes, there is."))
    found = pope.score(given, by_key, pope.read_labels(folder), "q.jsonl")
    adversarial, random = found["details"]["splits"]["adversarial"], found["details"]["splits"]["random"]
    assert (adversarial["tp"], adversarial["fp"], adversarial["tn"], adversarial["fn"]) == (1, 1, 1, 0)
    assert adversarial["accuracy"] == pytest.approx(200 / 3) and adversarial["f1"] == pytest.approx(200 / 3)
    assert adversarial["precision"] == 50 and adversarial["recall"] == 100
    assert adversarial["yes_ratio"] == pytest.approx(200 / 3)
    assert random["accuracy"] == 50 and random["f1"] == pytest.approx(200 / 3) and random["precision"] == 100
    assert found["metric"] == "mean_f1" and found["score"] == pytest.approx(200 / 3)
    assert found["details"]["mean_accuracy"] == pytest.approx((200 / 3 + 50) / 2) and found["n"] == 5


def test_pope_reports_answers_with_neither_word(bench, answers):
    questions, folder = pope_files(bench)
    by_key = {str(question["question_id"]): question for question in questions}
    given = answers((1, ""), (2, "a dog"), (3, "No"), (4, "YES!"), (5, "not here"))
    found = pope.score(given, by_key, pope.read_labels(folder), "q.jsonl")
    assert found["malformed"] == 2 and 'count as "yes"' in found["notes"][0]


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        *((text, False) for text in ("Yes", "yes, it is", "YES!", "No", "no.", "Yes. No dog", "There is no dog")),
        *((text, True) for text in ("NO", "No\n\nThe image shows a cat", "Not really", "no\tdog", "(no)", "NO, yes?")),
        *((text, True) for text in ("", "a dog", "There isn't. Yes", ". No", "nothing", "yesterday")),
    ],
)
def test_pope_counts_every_answer_that_is_a_yes_without_saying_so(text, unread):
    assert pope.is_unread(text) == unread


def test_pope_never_divides_by_zero(answers):
    line = answers((1, "No")).lines[0]
    found = pope.split_scores([entry(line, True, "no", answer="no")])
    assert found["accuracy"] == 100 and found["f1"] == found["precision"] == found["recall"] == 0


def test_pope_refuses_labels_of_another_version(bench, answers):
    questions, folder = pope_files(bench)
    by_key = {str(question["question_id"]): question for question in questions}
    given = answers(*((n, "No") for n in range(1, 6)))
    labels = pope.read_labels(folder)
    longer = labels | {"random": [*labels["random"], labels["random"][0]]}
    with pytest.raises(InputError, match="2 questions of random, but there are 3 labels.*e3e39262"):
        pope.score(given, by_key, longer, "q.jsonl")
    shifted = labels | {"adversarial": labels["adversarial"][1:]}
    with pytest.raises(InputError, match="question_id 1: is .*thing 0.*but the label is of .*thing 1"):
        pope.score(given, by_key, shifted, "q.jsonl")
    with pytest.raises(InputError, match="category 'adversarial' has no file"):
        pope.score(given, by_key, {"random": labels["random"]}, "q.jsonl")
    with pytest.raises(InputError, match="has no coco_pope_"):
        pope.read_labels(bench.folder / "absent")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("NO", "no"),
        (" yes", "yes"),
        ("  yes", "other"),  # the first four letters alone
        ("I know", "other"),
        ("know", "no"),
        ("", "other"),
        ("It is: yes", "other"),
        ("yes or no", "yes"),
    ],
)
def test_mme_reads_the_first_four_letters(text, answer):
    assert mme.parse_answer(text) == answer


def mme_files(bench, images=2):
    """Ground truth in both official layouts; answers that are right everywhere."""
    records = []
    for subtask in [*mme.PERCEPTION, *mme.COGNITION]:
        inner = "questions_answers_YN/" if subtask in ("artwork", "scene") else ""
        for n in range(images):
            spaces = " " if n else "  "  # the official files have both
            rows = [
                f"Is it {what}?{spaces}Please answer yes or no.\t{truth}" for what, truth in (("a", "Yes"), ("b", "No"))
            ]
            path = bench.folder / "MME" / subtask / f"{inner}{n:04}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(rows) + ("\n" if n else ""))
            identifier = f"{subtask}/{'images/' if inner else ''}{n:04}.jpg"
            for what, truth in (("b", "No"), ("a", "Yes")):
                prompt = f"Is it {what}?\nAnswer the question using a single word or phrase."
                records.append((identifier, truth, prompt))
    return records, str(bench.folder / "MME")


def write(files):
    for path, text in files.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)


def scored(answers, records, folder):
    return mme.score(mme.paired_answers(answers(*records), mme.read_questions(folder), folder))


def test_mme_gives_200_points_for_a_whole_subtask(bench, answers):
    records, folder = mme_files(bench)
    found = scored(answers, records, folder)
    assert found["score"] == found["details"]["perception"] == 2000 and found["details"]["cognition"] == 800
    assert found["n"] == 14 * 4 and found["malformed"] == 0


def test_mme_counts_images_with_both_right(bench, answers):
    records, folder = mme_files(bench)
    at = [n for n, record in enumerate(records) if record[0] == "count/0001.jpg"]
    records[at[0]] = (*records[at[0]][:1], "I am not sure", records[at[0]][2])
    found = scored(answers, records, folder)
    assert found["details"]["subtasks"]["count"] == {"accuracy": 75, "accuracy_plus": 50, "score": 125, "images": 2}
    assert found["score"] == 1925 and found["malformed"] == 1


def test_mme_gives_the_same_through_the_official_result_files(bench, answers):
    records, folder = mme_files(bench)
    records[5] = (records[5][0], "no\tor\nyes", records[5][2])
    results = mme.paired_answers(answers(*records), mme.read_questions(folder), folder)
    write(mme.result_files(results, bench.folder / "eval_tool"))
    again = mme.read_results(bench.folder / "eval_tool")
    assert mme.score(again)["details"] == mme.score(results)["details"]
    row = (bench.folder / "eval_tool" / "OCR.txt").read_text().splitlines()[0]
    assert row == "0000.txt\tIs it a? Please answer yes or no.\tYes\tYes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records[:-1], "1 of 56 questions"),
        (lambda records: [*records, records[0]], "is answered twice"),
        (lambda records: [*records, ("count/9.jpg", "Yes", "Is it a?")], "'count/9.jpg' is no question"),
        (lambda records: [*records[1:], ("pets/0000.jpg", "Yes", "Is it a?")], "'pets/0000.jpg' is no question"),
    ],
)
def test_mme_wants_exactly_the_questions(bench, answers, change, message):
    records, folder = mme_files(bench)
    with pytest.raises(InputError, match=message):
        scored(answers, change(records), folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Q?\tYes", "must hold two questions, got 1"),
        ("Q?\tYes\nR?\tNo\nS?\tNo", "got 3"),
        ("Q? Yes\nR?\tNo", "line 1: must be question<TAB>answer"),
        ("Q?\tYes\nR?\tPerhaps", "line 2: the true answer must be Yes or No"),
    ],
)
def test_mme_refuses_broken_ground_truth(bench, text, message):
    _, folder = mme_files(bench, images=1)
    (bench.folder / "MME" / "color" / "0000.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        mme.read_questions(folder)


def test_mme_refuses_missing_subtasks_and_torn_results(bench, answers):
    with pytest.raises(InputError, match="existence: has no question file. MME has 14"):
        mme.read_questions(bench.folder)
    records, folder = mme_files(bench)
    results = mme.paired_answers(answers(*records), mme.read_questions(folder), folder)
    write(mme.result_files(results, bench.folder / "out"))
    torn = bench.folder / "out" / "color.txt"
    torn.write_text("".join(torn.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(InputError, match="two lines for every image"):
        mme.read_results(bench.folder / "out")
    torn.write_text("a\tb\tYes\n")
    with pytest.raises(InputError, match="line 1: must hold image, question, truth and answer"):
        mme.read_results(bench.folder / "out")
