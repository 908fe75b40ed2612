"""Reviews by a language model, against a server of our own on this machine."""

import json
import subprocess
import sys

import pytest
from judge_endpoint import chat_reply, judge_endpoint

from eval.answers import read_answers
from eval.judge import parse_ratings, read_contexts, read_rules, review_prompt, score
from eval.judge_client import Judge, JudgeError, ReplyFile
from visatb.errors import InputError


@pytest.fixture
def endpoint():
    with judge_endpoint() as stub:
        yield stub


@pytest.fixture
def answer_file(tmp_path):
    def write(said=("rated 4", "rated 8", "rated 6"), **fields):
        records = [
            {
                "id": str(n),
                "image": f"coco/{n}.jpg",
                "generator": "m",
                "category": ("conv", "detail")[n % 2],
                "conversations": [
                    {"from": "human", "value": f"<image>\nWhat is {n}?"},
                    {"from": "gpt", "value": f"the reference {n}", "generative_value": text},
                ],
                **fields,
            }
            for n, text in enumerate(said)
        ]
        path = tmp_path / "answers.json"
        path.write_text(json.dumps(records))
        return path

    return write


def judged(endpoint, path, **settings):
    replies = ReplyFile(path.with_suffix(".judge.jsonl"))
    judge = Judge("judge-1", endpoint.url, attempts=3, pause=0.01)
    return score(read_answers(path).answers, judge, replies, **settings)


def test_the_score_is_the_ratio_of_summed_ratings_and_the_record_mean(endpoint, answer_file):
    found = judged(endpoint, answer_file())
    assert found["score"] == pytest.approx(100 * 18 / 24) and found["metric"] == "relative_score"
    assert sum(r["score"] for r in found["per_record"]) / 3 == pytest.approx(found["score"])
    assert found["summary"] == "all 75.0 80.0 60.0"
    assert endpoint.headers[0]["Authorization"] == "Bearer secret" and endpoint.bodies[0]["model"] == "judge-1"


def test_nothing_is_asked_twice_and_equal_requests_once(endpoint, answer_file):
    path = answer_file()
    first = judged(endpoint, path)
    assert len(endpoint.bodies) == 3
    assert judged(endpoint, path) == first and len(endpoint.bodies) == 3
    lines = path.with_suffix(".judge.jsonl").read_text().splitlines(keepends=True)
    path.with_suffix(".judge.jsonl").write_text("".join(lines[:2]) + lines[2][:9])  # a kill tore the last line
    assert judged(endpoint, path) == first and len(endpoint.bodies) == 4
    records = json.loads(path.read_text())
    records.append(records[0] | {"id": "again"})
    path.write_text(json.dumps(records))
    assert judged(endpoint, path)["n"] == 4 and len(endpoint.bodies) == 4


def test_a_busy_endpoint_is_asked_again_and_an_unreadable_reply_too(endpoint, answer_file):
    endpoint.script = [(429, "slow down"), (503, "busy"), (200, "I would rather not."), (200, "8 4\nfine")]
    found = judged(endpoint, answer_file(["rated 4"]))
    assert found["score"] == pytest.approx(50.0) and len(endpoint.bodies) == 4


def test_an_endpoint_that_fails_keeps_the_replies_so_far(endpoint, answer_file):
    path = answer_file()
    endpoint.script = [(200, "8 4")] + [(500, "broken")] * 6
    with pytest.raises(JudgeError, match="500"):
        judged(endpoint, path, concurrency=1)
    endpoint.script.clear()
    asked = len(endpoint.bodies)
    assert judged(endpoint, path)["score"] == pytest.approx(75.0) and len(endpoint.bodies) == asked + 2


@pytest.mark.parametrize("reply", ["no", None])
def test_an_unreadable_reply_is_asked_for_again_by_the_next_run(endpoint, answer_file, reply):
    path = answer_file(["rated 4", "rated 6"])
    for run in (1, 2):
        endpoint.script = [(200, "8 6")] * (run == 1) + [(200, reply)] * 3
        with pytest.raises(JudgeError, match="1 of 2 answers hold no two ratings.*The next run asks"):
            judged(endpoint, path, concurrency=1)
        assert len(endpoint.bodies) == 1 + 3 * run  # a run asks three times, and nothing that can be read again
    assert judged(endpoint, path)["score"] == pytest.approx(75.0) and len(endpoint.bodies) == 8


def test_the_error_quotes_the_first_unreadable_reply_in_200_characters(endpoint, answer_file):
    endpoint.script = [(200, "I cannot rate\n" + "\x07é" * 4000), *[(200, "no")] * 2]
    with pytest.raises(JudgeError) as refused:
        judged(endpoint, answer_file(["rated 4"]))
    quoted = str(refused.value).partition("got ")[2].partition(". The next run")[0]
    assert quoted.startswith("'I cannot rate") and len(quoted) <= 200


def test_a_lone_surrogate_in_a_reply_does_not_lock_the_file_of_replies(endpoint, answer_file):
    endpoint.script = [(200, chat_reply("8 4\nwell \ud83d"))]
    path = answer_file(["rated 4"])
    assert judged(endpoint, path) == judged(endpoint, path) and len(endpoint.bodies) == 1


WHOLE = chat_reply("8 4")


@pytest.mark.parametrize("first", [(200, WHOLE[:20], len(WHOLE)), (200, WHOLE[:20]), (200, b""), (503, b"busy", 99)])
def test_a_reply_that_is_cut_short_is_asked_for_again(endpoint, answer_file, first):
    endpoint.script = [first]
    assert judged(endpoint, answer_file(["rated 4"]))["score"] == pytest.approx(50.0)
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{}", b"[]", b"3", b'{"choices": [{"message": {"content": [1]}}]}'])
def test_a_body_of_another_shape_ends_the_review_in_one_line(endpoint, answer_file, body, tmp_path):
    endpoint.script = [(200, body)] * 9
    with pytest.raises(JudgeError, match="no usable reply") as refused:
        judged(endpoint, answer_file(["rated 4"]))
    assert len(str(refused.value).replace(str(tmp_path), "")) < 350


def test_a_body_without_end_is_not_read_to_its_end(endpoint, answer_file, monkeypatch):
    monkeypatch.setattr("visatb.endpoint.MOST_BYTES", 2**17)
    endpoint.script = [(200, chat_reply("8 4" + "x" * 2**18))]
    with pytest.raises(JudgeError, match="larger than 131072 bytes"):
        judged(endpoint, answer_file(["rated 4"]))


def test_a_reference_rated_0_needs_another_reference_that_is_not(endpoint, answer_file):
    endpoint.script = [(200, "0 5"), (200, "10 0")]
    found = judged(endpoint, answer_file(["rated 4", "rated 6"]), concurrency=1)
    assert found["score"] == pytest.approx(50.0)
    assert found["summary"].splitlines()[0] == "all 50.0 50.0 25.0"
    endpoint.script = [(200, "0 5")]
    with pytest.raises(InputError, match="rated every reference 0"):
        judged(endpoint, answer_file(["rated 1"]))


@pytest.mark.parametrize("key", ["", " ", "clé", "a\nb"])
def test_a_key_that_no_header_holds_is_refused_before_asking(endpoint, answer_file, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="OPENAI_API_KEY must hold"):
        judged(endpoint, answer_file())
    assert not endpoint.bodies


@pytest.mark.parametrize(
    "settings", [{"url": "http://["}, {"url": "http://"}, {"temperature": float("nan")}, {"max_tokens": 0}]
)
def test_settings_that_no_request_holds_are_refused(monkeypatch, settings):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(InputError, match="must"):
        Judge("j", **settings).session()


@pytest.mark.parametrize("status", [400, 401, 404])
def test_an_endpoint_that_refuses_ends_the_review_with_what_to_check(endpoint, answer_file, status):
    endpoint.script = [(status, "no such model")] * 9
    with pytest.raises(InputError, match=f"refuses with {status}.*--judge-model"):
        judged(endpoint, answer_file(["rated 4"]))
    assert len(endpoint.bodies) == 1


def test_blank_predictions_are_rated_lowest_without_being_sent(endpoint, answer_file):
    found = judged(endpoint, answer_file(["rated 8", " ", None]))
    assert len(endpoint.bodies) == 1 and found["malformed"] == 2
    assert found["score"] == pytest.approx(100 * (8 + 1 + 1) / 24)


def test_rules_by_category_and_contexts_by_image_reach_the_prompt(endpoint, answer_file, tmp_path):
    rules, contexts = tmp_path / "rule.json", tmp_path / "context.jsonl"
    rules.write_text(
        json.dumps({"conv": {"role": "Bot", "prompt": "Be strict."}, "default": {"role": "A", "prompt": "x"}})
    )
    lines = [
        {"image": "0.jpg", "captions": ["a cat", "on a mat"], "instances": [{"category": "cat", "bbox": [0, 0, 1, 1]}]},
        {"image": "coco/1.jpg", "caption": "a dog"},
    ]
    contexts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = answer_file(["rated 4", "rated 8"])
    found = judged(endpoint, path, rules=read_rules(rules), contexts=read_contexts(contexts), concurrency=1)
    prompt = endpoint.bodies[0]["messages"][1]["content"]
    assert prompt.startswith("[Context]\na cat\non a mat\n\ncat: [0, 0, 1, 1]\n\n[Question]\nWhat is 0?\n\n[Bot 1]\n")
    assert prompt.endswith("[End of Bot 2]\n\n[System]\nBe strict.") and "<image>" not in prompt
    assert found["summary"].splitlines() == ["all 75.0 80.0 60.0", "conv 50.0 80.0 40.0", "default 100.0 80.0 80.0"]
    contexts.write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(InputError, match="coco/1.jpg.*has no context"):
        judged(endpoint, path, contexts=read_contexts(contexts))


@pytest.mark.parametrize(
    "reply, ratings",
    [
        ("8 9\nwhy", (8, 9)),
        ("8.5, 7", (8.5, 7)),
        ("8/10 7/10\n", (8, 7)),
        ("  8\t9  ", (8, 9)),
        ("10 0", (10, 0)),
        ("0 4", (0, 4)),
        ("8 7.", (8, 7)),
        ("8. 7.", (8, 7)),
        ("8.5. 7.25.\nwhy", (8.5, 7.25)),
        ("**8 7**", (8, 7)),
        ("**8** **7**\n", (8, 7)),
        ("```\n8/10. 7/10.\n```", (8, 7)),
        ("8 7 because", None),
        ("-8 7", None),
        ("8 -7", None),
        ("8 1e1", None),
        ("8..7", None),
        ("８ ７", None),
        ("8", None),
        ("11 4", None),
        ("Ratings: 8 9", None),
        ("8 9 10\n", None),
        ("", None),
        ("nan 8", None),
    ],
)
def test_ratings_are_two_numbers_from_0_to_10_on_the_first_line(reply, ratings):
    assert parse_ratings(reply) == ratings


def test_the_prompt_holds_both_answers_in_order(answer_file):
    (answer,) = read_answers(answer_file(["rated 4"])).answers
    text = review_prompt(answer, {"role": "R", "prompt": "P"}, "")[1]["content"]
    assert text.index("the reference 0") < text.index("rated 4") and "[Context]" not in text


def command(repository, path, *flags, **env):
    words = [sys.executable, "eval/judge.py", "-a", path, "--judge-model", "j", *flags]
    base = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(repository)}
    return subprocess.run(list(map(str, words)), cwd=repository, env=base | env, capture_output=True, text=True)


def test_the_command_writes_metric_and_records_and_refuses_in_one_line(repository, endpoint, answer_file, tmp_path):
    path = answer_file()
    done = command(repository, path, "--judge-url", endpoint.url)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "OPENAI_API_KEY" in done.stderr
    done = command(repository, path, "--judge-url", "ftp://x", OPENAI_API_KEY="k")
    assert done.returncode == 2 and "--judge-url" in done.stderr
    output = tmp_path / "metrics.json"
    done = command(
        repository, path, "--output", output, "--per-record", tmp_path / "r.jsonl",
        OPENAI_API_KEY="k", OPENAI_BASE_URL=endpoint.url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all 75.0 80.0 60.0\n" and json.loads(output.read_text())["score"] == pytest.approx(75.0)


@pytest.mark.parametrize("content", ["[]", '{"a": {"role": "x"}}', '{"a": "b"}', "{}"])
def test_rule_files_of_another_shape_are_refused(tmp_path, content):
    (tmp_path / "rule.json").write_text(content)
    with pytest.raises(InputError, match="rule.json"):
        read_rules(tmp_path / "rule.json")
