"""Reading answer files: what is refused, and what is not."""

import json

import pytest

from eval.answers import question_file_beside, read_answers
from visatb.errors import InputError


@pytest.fixture
def two(make_record):
    return [make_record("a", "red", "red"), make_record("b", "blue", "Blue.")]


def questions_of(records):
    """The annotation records that an answer file was made from."""
    plain = json.loads(json.dumps(records))
    for record in plain:
        record.pop("generator")
        record["conversations"][1].pop("generative_value")
    return plain


def test_a_whole_file_is_read(two, write_answers):
    answers = read_answers(write_answers(two))
    assert [(a.position, a.identifier, a.truth, a.prediction) for a in answers.answers] == [
        (0, "a", "red", "red"),
        (1, "b", "blue", "Blue."),
    ]
    assert (answers.generator, answers.task) == ("some_model", "VQAv2")


def test_json_lines_are_read(two, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, two)) + "\n")
    assert len(read_answers(path).answers) == 2


@pytest.mark.parametrize("content", ["[]", "", "{}", "[1]", "[{}]", '[{"conversations": []}]', "[{]", "null"])
def test_a_file_that_is_no_answer_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "answers.json"
    path.write_text(content)
    with pytest.raises(InputError, match="answers.json") as caught:
        read_answers(path)
    assert "\n" not in str(caught.value)


def test_a_repeated_id_is_refused_and_named(two, write_answers):
    two[1]["id"] = "a"
    with pytest.raises(InputError, match=r"record 1 \(id 'a'\): id occurs already in record 0.*--key-by-position"):
        read_answers(write_answers(two))


@pytest.mark.parametrize("identifiers", [("a", "a"), (None, None), (1, 1)])
def test_key_by_position_takes_repeated_and_absent_ids(two, write_answers, identifiers):
    for record, identifier in zip(two, identifiers, strict=True):
        record["id"] = identifier
    assert len(read_answers(write_answers(two), key_by_position=True).answers) == 2


def test_an_absent_id_is_refused(two, write_answers):
    del two[1]["id"]
    with pytest.raises(InputError, match="record 1: id is absent"):
        read_answers(write_answers(two))


@pytest.mark.parametrize("identifier", [True, 1.5, ["a"], {"a": 1}])
def test_an_id_of_another_type_is_refused(two, write_answers, identifier):
    two[1]["id"] = identifier
    with pytest.raises(InputError, match="id must be a string or an integer"):
        read_answers(write_answers(two))


def test_answers_of_two_models_are_refused(two, write_answers):
    two[1]["generator"] = "other_model"
    with pytest.raises(InputError, match="'other_model'.*'some_model'.*one model at a time"):
        read_answers(write_answers(two))


def test_an_answer_of_no_named_model_among_named_ones_is_refused(two, write_answers):
    del two[1]["generator"]
    with pytest.raises(InputError, match="generator is None"):
        read_answers(write_answers(two))


def test_several_tasks_are_read_but_leave_the_task_open(two, write_answers):
    two[1]["task"] = "GQA"
    answers = read_answers(write_answers(two))
    assert answers.tasks == ("VQAv2", "GQA")
    assert answers.task is None


def test_a_task_of_a_shared_file_is_scored_on_its_own_records(two, write_answers):
    two[1]["task"] = "Other"
    answers = read_answers(write_answers(two))
    own = answers.of_task("Other")
    assert [answer.identifier for answer in own.answers] == [two[1]["id"]] and own.task == "Other"
    with pytest.raises(InputError, match="task must be 'Third' in some record, got .*, Other"):
        answers.of_task("Third")


def test_the_question_file_in_place_of_the_answers_is_refused(two, write_answers):
    with pytest.raises(InputError, match="not the question file"):
        read_answers(write_answers(questions_of(two)))


def test_llava_answer_lines_are_refused_with_the_expected_format(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"question_id": 1, "prompt": "What?", "text": "red"}\n')
    with pytest.raises(InputError, match="generative_value.*docs/data.md.*got the fields .*'text'.. LLaVA"):
        read_answers(file)


def test_a_prediction_in_another_field_is_refused_with_the_fields(two, tmp_path):
    file = tmp_path / "answers.json"
    for record in two:
        del record["conversations"][1]["generative_value"]
        record["prediction"] = "red"
    file.write_text(json.dumps(two))
    with pytest.raises(InputError, match=r"expected conversations\[1\].generative_value .*got the fields .*prediction"):
        read_answers(file)


@pytest.mark.parametrize("prediction", [None, 3, ["red"], {"text": "red"}, True])
def test_a_prediction_that_is_no_text_is_kept_as_malformed(two, write_answers, prediction):
    two[1]["conversations"][1]["generative_value"] = prediction
    assert read_answers(write_answers(two)).answers[1].prediction is None


def test_an_absent_truth_is_refused(two, write_answers):
    del two[1]["conversations"][1]["value"]
    with pytest.raises(InputError, match=r"record 1 \(id 'b'\): conversations\[1\].value \(the truth\) is absent"):
        read_answers(write_answers(two))


def test_answers_to_all_questions_in_another_order_are_whole(two, write_answers):
    questions = write_answers(questions_of(two)[::-1], "questions.json")
    assert len(read_answers(write_answers(two), questions).answers) == 2


def test_a_short_answer_file_is_refused(two, write_answers):
    questions = write_answers(questions_of(two), "questions.json")
    with pytest.raises(InputError, match=r"1 of 2 records .* not answered \(first: id 'b'\)"):
        read_answers(write_answers(two[:1]), questions)


def test_an_answer_that_was_not_asked_is_refused(two, write_answers):
    questions = write_answers(questions_of(two[:1]), "questions.json")
    with pytest.raises(InputError, match=r"record 1 \(id 'b'\) is not in"):
        read_answers(write_answers(two), questions)


def test_answers_to_another_task_are_refused(two, write_answers):
    questions = questions_of(two)
    questions[1]["task"] = "GQA"
    with pytest.raises(InputError, match=r"record 1 .*task differs"):
        read_answers(write_answers(two), write_answers(questions, "questions.json"))


@pytest.mark.parametrize("by_position", [False, True])
def test_answers_to_an_older_version_of_the_questions_are_refused(two, write_answers, by_position):
    questions = questions_of(two)
    questions[1]["conversations"][1]["value"] = "green"
    asked = write_answers(questions, "questions.json")
    with pytest.raises(InputError, match=r"record 1 .*conversations\[1\].value differs"):
        read_answers(write_answers(two), asked, key_by_position=by_position)


def test_a_short_answer_file_keyed_by_position_is_refused(two, write_answers):
    questions = write_answers(questions_of(two), "questions.json")
    with pytest.raises(InputError, match="holds 1 answers, but .* has 2 records"):
        read_answers(write_answers(two[:1]), questions, key_by_position=True)


def test_the_question_file_beside_is_found_by_name(two, write_answers):
    questions = write_answers(questions_of(two), "VQAv2_val.json")
    answers = write_answers(two, "VQAv2-val_some-model.json")
    assert question_file_beside(read_answers(answers)) == questions
    short = write_answers(two[:1], "VQAv2-val_some-model.json")
    with pytest.raises(InputError, match="not answered"):
        read_answers(short)


def test_another_answer_file_beside_is_not_taken_for_the_questions(two, write_answers):
    write_answers(two, "caption.json")
    assert len(read_answers(write_answers(two[:1], "caption_list.json")).answers) == 1


@pytest.mark.parametrize("by_position", [False, True])
def test_records_that_the_inference_left_out_and_listed_need_no_answer(two, write_answers, tmp_path, by_position):
    questions = write_answers(questions_of(two), "questions.json")
    short = write_answers(two[1:])
    listed = short.with_suffix(".omitted.jsonl")
    listed.write_text('{"position": 0, "id": "a", "image": "a.png", "reason": "damaged"}\n')
    answers = read_answers(short, questions, by_position)
    assert (len(answers.answers), answers.omitted) == (1, 1)
    listed.write_text('{"position": 1}\n')
    with pytest.raises(InputError):
        read_answers(short, questions, by_position)
    listed.write_text('{"position": [0]}\n')
    with pytest.raises(InputError, match="position must be a whole number"):
        read_answers(short, questions, by_position)
