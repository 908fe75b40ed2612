"""LLaVA-Bench and LLaVA-COCO: reviews through a stub endpoint on this machine, and LLaVA's table."""

import json

import pytest
from judge_endpoint import judge_endpoint

from eval.zero_shot import llavabench
from llava.eval import eval_gpt_review_bench, eval_gpt_review_visual, summarize_gpt_review
from visatb.errors import InputError


@pytest.fixture
def endpoint():
    with judge_endpoint() as stub:
        yield stub


@pytest.fixture
def files(bench):
    """LLaVA's four files, the model's answers, and the flags that name them."""
    categories = ("conv", "detail", "conv")
    questions = [
        {"question_id": n, "image": f"{n:03}.jpg", "text": f"Q{n}?", "category": c} for n, c in enumerate(categories)
    ]
    rule = {name: {"role": "Assistant", "prompt": f"Rule {name}."} for name in ("default", "conv", "detail")}
    rule |= {f"llava_bench_{name}": {"role": "Assistant", "prompt": f"Bench {name}."} for name in ("conv", "detail")}
    context = [{"image": f"{n:03}.jpg", "caption": f"seen {n}"} for n in range(3)]
    reference = bench.answers([(n, f"reference {n}") for n in range(3)], "answers_gpt4.jsonl", model_id="gpt-4")
    given = bench.answers([(2, "rated 6"), (0, "rated 4"), (1, "rated 8")], "answers/my-model.jsonl")
    return [
        *("--question", str(bench.lines("questions.jsonl", questions))),
        *("--context", str(bench.lines("context.jsonl", context))),
        *("--rule", str(bench.json("rule.json", rule))),
        *("--answer-list", str(reference), str(given)),
    ]


def test_reviews_table_and_metric_file(bench, files, endpoint, capsys):
    reviews, metric = bench.folder / "reviews/my-model.jsonl", bench.folder / "LLaVA-Bench.json"
    flags = [*files, "--reviews-file", str(reviews), "--judge-url", endpoint.url, "--output", str(metric)]
    assert llavabench.main(flags) == 0
    assert capsys.readouterr().out.splitlines() == [
        "all 75.0 80.0 60.0",
        "llava_bench_conv 62.5 80.0 50.0",
        "llava_bench_detail 100.0 80.0 80.0",
    ]
    lines = [json.loads(line) for line in reviews.read_text().splitlines()]
    assert [one["tuple"] for one in lines] == [[8, 4], [8, 8], [8, 6]] and lines[0]["content"] == "8 4\nbecause"
    assert [one["id"] for one in lines] == [1, 2, 3] and lines[1]["category"] == "llava_bench_detail"
    first = next(text for text in endpoint.prompts if "Q0?" in text)
    assert first == (
        "[Context]\nseen 0\n\n[Question]\nQ0?\n\n[Assistant 1]\nreference 0\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nrated 4\n\n[End of Assistant 2]\n\n[System]\nBench conv."
    )
    written = json.loads(metric.read_text())
    assert written["metric"] == "relative_score" and written["score"] == pytest.approx(75)
    assert written["task"] == "LLaVA-Bench" and written["generator"] == "my-model"
    assert llavabench.main(flags) == 0 and len(endpoint.bodies) == 3, "a reply was paid for twice"


def test_llavas_own_commands(bench, files, endpoint, capsys):
    reviews = bench.folder / "reviews.jsonl"
    assert eval_gpt_review_bench.main([*files, "--output", str(reviews), "--judge-url", endpoint.url]) == 0
    assert any("Bench detail." in text for text in endpoint.prompts)
    assert eval_gpt_review_visual.main([*files, f"--output={reviews}", "--judge-url", endpoint.url]) == 0
    assert any("Rule detail." in text for text in endpoint.prompts)
    capsys.readouterr()
    assert summarize_gpt_review.main(["-f", str(reviews)]) == 0
    expected = ["reviews", "all 75.0 80.0 60.0", "conv 62.5 80.0 50.0", "detail 100.0 80.0 80.0", "=" * 33]
    assert capsys.readouterr().out.splitlines() == expected
    assert summarize_gpt_review.main(["-f", str(reviews), "-i", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "all 62.5 80.0 50.0"


def test_an_empty_answer_is_rated_lowest_without_asking(bench, files, endpoint):
    bench.answers([(2, "rated 6"), (0, " "), (1, "rated 8")], "answers/my-model.jsonl")
    reviews = bench.folder / "reviews.jsonl"
    assert llavabench.main([*files, "-o", str(reviews), "--judge-url", endpoint.url]) == 0
    first = json.loads(reviews.read_text().splitlines()[0])
    assert first["tuple"] == [8, 1] and first["content"] == "" and len(endpoint.bodies) == 2


def test_old_and_broken_review_files(bench, capsys):
    bench.lines("review_a.jsonl", [{"score": [8, 4]}, {"score": [6, 5]}])
    bench.lines("review_b.jsonl", [{"tuple": [8, 4], "category": "x"}, {"tuple": [-1, -1], "category": "x"}])
    bench.lines("other.jsonl", [{}])
    assert summarize_gpt_review.main(["-d", str(bench.folder)]) == 0
    reported = capsys.readouterr()
    line = "=" * 33
    first, second = (
        ["review_a", "all 64.3 70.0 45.0", line],
        ["review_b", "all 42.9 35.0 15.0", "x 42.9 35.0 15.0", line],
    )
    assert reported.out.splitlines() == [*first, *second]
    assert "review_b.jsonl: 1 reviews could not be read and count as -1" in reported.err
    for flags in ([], ["-d", str(bench.folder / "absent")]):
        with pytest.raises(InputError, match="-f must name review files"):
            summarize_gpt_review.main(flags)
    for broken in ({"tuple": [8]}, {"tuple": "8 4"}, {}, {"tuple": [8, True]}):
        with pytest.raises(InputError, match="line 1: tuple must be two ratings"):
            llavabench.read_reviews(bench.lines("b.jsonl", [broken]))


def test_categories_of_any_kind_are_named():
    table = llavabench.summarize([{"tuple": [8, 4], "category": ["x"]}, {"tuple": [8, 6], "category": 2}])
    assert {name: row["relative_score"] for name, row in table.items()} == {"2": 75, "['x']": 50, "all": 62.5}


def test_answers_that_are_not_those_to_the_questions_are_refused(bench, files, endpoint):
    bench.answers([(2, "rated 6"), (0, "rated 4")], "answers/my-model.jsonl")
    with pytest.raises(InputError, match="1 of 3 questions"):
        llavabench.main([*files, "-o", str(bench.folder / "r.jsonl"), "--judge-url", endpoint.url])
    assert not endpoint.bodies, "the judge was asked before the files were checked"


def test_without_a_key_nothing_is_written(bench, files, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        llavabench.main([*files, "-o", str(bench.folder / "r.jsonl"), "--judge-url", "http://127.0.0.1:1/v1"])
    assert not (bench.folder / "r.jsonl").exists()
