"""The examples of docs/architecture.md run against the code as it is."""

import json
import re
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def page(repository) -> str:
    return (repository / "docs" / "architecture.md").read_text()


def added(page: str, file: str) -> str:
    """The lines that the diff of a file adds."""
    diff = page.partition(f"+++ b/{file}\n")[2]
    lines = re.split(r"\n(?:```|--- )", diff)[0].splitlines()
    return "\n".join(line[1:] for line in lines if line.startswith("+"))


def token_recall(page: str) -> ModuleType:
    module = ModuleType("token_recall")
    exec(added(page, "eval/token_recall.py").partition("if __name__")[0], vars(module))  # noqa: S102 - our own page
    return module


def test_the_metric_of_the_page_scores_answers(page):
    from eval.answers import Answer

    module = token_recall(page)
    answers = [Answer(0, "a", "x", "A red dog", "a dog"), Answer(1, "b", "x", "two", None)]
    found = module.score(answers)
    assert found["score"] == pytest.approx(1 / 3, abs=1e-9) and found["malformed"] == 1
    assert module.score.metric.name == "token_recall" and module.score.metric.range == (0.0, 1.0)


@pytest.mark.parametrize("truth", [" ", "", [], [" "], 3, None, ["a", 3]])
def test_the_metric_of_the_page_refuses_a_truth_without_words(page, truth):
    from eval.answers import Answer
    from visatb.errors import InputError

    with pytest.raises(InputError, match="record 0.*must be a text that is not blank or a list of such, got"):
        token_recall(page).score([Answer(0, "a", "record 0", truth, "a dog")])


def test_the_lists_that_a_new_name_goes_into_are_in_the_code(page):
    from visatb import benchmark

    for line, name in (("METRICS", "cider"), ("METHODS", "EW")):
        before, after = re.search(rf"^-{line} = \((.*)\)\n\+{line} = \((.*)\)$", page, flags=re.MULTILINE).groups()
        assert len(after) > len(before) and getattr(benchmark, line)[0] == name and f'"{name}"' in before


def test_every_metric_and_strategy_is_where_users_look_for_it(repository):
    from llava.train.arguments import TrainingArguments
    from transformers_patch.strategies import STRATEGIES
    from visatb.benchmark import METRICS

    row = re.search(r"^\| `tasks\[\]\.metric` \|.*$", (repository / "docs/benchmarks.md").read_text(), re.MULTILINE)[0]
    assert [name for name in METRICS if f"`{name}`" not in row] == []
    help_text = TrainingArguments.__dataclass_fields__["weight_method"].metadata["help"]
    table = (repository / "docs/weighting_strategies.md").read_text().partition("```bash")[0]
    for name in STRATEGIES:
        assert re.search(rf"\b{name}\b", help_text), f"{name} in the help of --weight_method"
        assert f"`{name}`" in table, f"{name} in docs/weighting_strategies.md"


def test_the_strategy_of_the_page_weighs_by_total_loss(page):
    from transformers_patch import strategies

    names = dict(vars(strategies))
    code = added(page, "transformers_patch/strategies.py").partition('    "TotalLoss"')[0]
    exec(code, names)  # noqa: S102 - our own page
    weighter = names["TotalLoss"](2)
    weighter.observe(torch.tensor([1.0, 3.0]), torch.tensor([6, 2]))
    assert weighter.weight_K.tolist() == pytest.approx([1.0, 1.0])
    weighter.observe(torch.tensor([1.0, float("nan")]), torch.tensor([4, 0]))
    assert weighter.weight_K.tolist() == pytest.approx([1.25, 0.75])
    resumed = names["TotalLoss"](2)
    resumed.load_state_dict(weighter.state_dict())
    for one in (weighter, resumed):
        one.observe(torch.tensor([1.0, 4.0]), torch.tensor([2, 3]))
        assert one.weight_K.tolist() == pytest.approx([0.8, 1.2])  # 12 and 18
    alone = names["TotalLoss"](2)
    alone.observe(torch.tensor([1.0, float("nan")]), torch.tensor([4, 0]))
    assert alone.weight_K.tolist() == pytest.approx([2.0, strategies.LEAST_WEIGHT])


def test_the_engine_of_the_page_has_what_the_pipeline_calls(page):
    from llava.generate.engine import Engine
    from llava.generate.questions import Question

    names = {}
    exec(added(page, "llava/generate/echo_engine.py"), names)  # noqa: S102 - our own page
    engine = names["EchoEngine"]()
    members = [name for name in vars(Engine) if not name.startswith("_")] + list(Engine.__annotations__)
    assert len(members) >= 6 and all(hasattr(engine, name) for name in members)
    assert engine.answer([engine.prompt(Question(0, "x", "What?"))], [None]) == ["What?"]


def colours(page: str) -> dict:
    names = {"__doc__": "Colours.", "__name__": "colours"}
    exec(added(page, "eval/zero_shot/colours.py"), names)  # noqa: S102 - our own page
    return names


def test_the_zero_shot_example_scores_its_own_sample_lines(page, tmp_path, monkeypatch, capsys):
    for name, file in (("colours.json", "colours.json"), ("the answers", "answers.jsonl")):
        sample = re.search(rf"^{name} +(\{{.*\}})$", page, flags=re.MULTILINE)[1]
        (tmp_path / file).write_text(sample)
    monkeypatch.chdir(tmp_path)
    assert colours(page)["main"](["--answers-file", "answers.jsonl", "--annotation-file", "colours.json"]) == 0
    assert "Accuracy: 100.00%" in capsys.readouterr().out
    benchmark = colours(page)["BENCHMARKS"]["colours"]
    assert benchmark.task == "Colours" and benchmark.questions in benchmark.needs


@pytest.mark.parametrize("truth", [3, None, ["red"]])
def test_the_zero_shot_example_refuses_a_truth_that_is_no_text(page, tmp_path, truth):
    from eval.zero_shot.answers import read_answers
    from visatb.errors import InputError

    (tmp_path / "colours.json").write_text(json.dumps({"q1": truth}))
    (tmp_path / "answers.jsonl").write_text('{"question_id": "q1", "text": "red"}')
    with pytest.raises(InputError, match="must have q1, text, got"):
        colours(page)["evaluate"](read_answers(tmp_path / "answers.jsonl"), str(tmp_path / "colours.json"))


def test_modules_named_on_the_page_exist(page, repository):
    named = set(re.findall(r"`((?:visatb|llava|eval|transformers_patch|scripts_visatb)/[\w/]*(?:\.py)?)`", page))
    assert len(named) > 10
    assert not [path for path in named if not (repository / path).exists()]
