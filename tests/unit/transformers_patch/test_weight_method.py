"""What `--weight_method` names: a strategy and its constants, or a class of the user's own; and what is refused."""

import math

import pytest
import torch

from transformers_patch import Weighter, build_weighter
from transformers_patch.strategies import STRATEGIES


@pytest.mark.parametrize("name", ["RLW", "DWA", "IGB", "UW"])
def test_weights_are_refused_by_a_strategy_that_computes_its_own(name):
    with pytest.raises(ValueError, match="must not be given to .*computes its own weights.*--visatb_weights"):
        build_weighter(name, 2, [1.0, 2.0])
    with pytest.raises(ValueError, match="computes its own"):
        build_weighter(name, 2).set_weights([1.0, 2.0])


@pytest.mark.parametrize(
    "name, constants",
    [
        ("EW", {"window": 5}),
        ("EWTB", {"lr": 0.1}),
        ("RLW", {"temperature": 2.0}),
        ("DWA", {"lr": 0.1}),
        ("IGB", {"temperature": 2.0}),
        ("UW", {"reference_history": False}),
    ],
)
def test_a_constant_that_a_strategy_does_not_have_is_refused(name, constants):
    (constant,) = constants
    with pytest.raises(ValueError, match=f"weight_{constant} must not be given to {name}.*--weight_{constant}"):
        build_weighter(name, 2, **constants)


@pytest.mark.parametrize(
    "name, constants",
    [
        ("DWA", {"window": 0}),
        ("IGB", {"window": -3}),
        ("DWA", {"temperature": 0.0}),
        ("DWA", {"temperature": math.nan}),
        ("UW", {"lr": -1.0}),
        ("UW", {"lr": math.inf}),
    ],
)
def test_a_constant_out_of_range_is_refused_by_its_flag(name, constants):
    (constant,) = constants
    with pytest.raises(ValueError, match=f"weight_{constant} must be .*--weight_{constant}"):
        build_weighter(name, 2, **constants)


# Strategies of the user's own

MINE = """
from transformers_patch import Weighter

class Newest(Weighter):
    '''Weights are the newest losses.'''
    def __init__(self, num_tasks, temperature=1.0):
        super().__init__(num_tasks)
        self.temperature = temperature

    def observe(self, mean_K, count_K):
        self.weight_K.copy_(mean_K.nan_to_num(1.0) / self.temperature)
"""


def test_a_class_in_a_file_or_module_is_a_strategy(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    for method in (f"{tmp_path}/mine.py:Newest", "mine.py:Newest", "mine:Newest"):
        weighter = build_weighter(method, 3, temperature=2.0)
        assert isinstance(weighter, Weighter) and weighter.temperature == 2.0
        weighter.observe(torch.tensor([2.0, 4.0, 6.0], dtype=torch.float64), torch.ones(3, dtype=torch.long))
        assert weighter.weight_K.tolist() == [1.0, 2.0, 3.0]


def test_weights_are_refused_by_a_class_of_the_users_that_overwrites_them(tmp_path, monkeypatch):
    more = """
import torch
from transformers_patch import ComputedWeighting
class Computed(ComputedWeighting):
    pass
class Scaled(Weighter):
    def observe(self, mean_K, count_K):
        self.weight_K.mul_(1.5)
class Kept(Weighter):
    def __init__(self, num_tasks):
        super().__init__(num_tasks)
        self.register_buffer("given_K", torch.ones(num_tasks))
    def set_weights(self, weights):
        super().set_weights(weights)
        self.given_K.copy_(self.weight_K)
    def observe(self, mean_K, count_K):
        self.weight_K.copy_(self.given_K * mean_K.nan_to_num(1.0))
"""
    (tmp_path / "mine.py").write_text(MINE + more)
    monkeypatch.chdir(tmp_path)
    for method, rule in (("mine:Newest", "whose steps overwrite them"), ("mine:Computed", "computes its own weights")):
        for weights in ([2.0, 1.0], [2.0]):
            with pytest.raises(ValueError, match=f"^visatb_weights must not be given to .*{rule}.*--visatb_weights"):
                build_weighter(method, len(weights), weights)
    assert build_weighter("mine:Scaled", 2, [2.0, 1.0]).weight_K.tolist() == [2.0, 1.0]
    assert build_weighter("mine:Kept", 2, [2.0, 1.0]).weight_K.tolist() == [2.0, 1.0]


def test_a_class_of_an_installed_module_is_a_strategy():
    assert type(build_weighter("transformers_patch.strategies:EqualWeighting", 2, [1.0, 2.0])) is STRATEGIES["EW"]


@pytest.mark.parametrize(
    "method, message",
    [
        ("mine", "must be one of EW, .*module:Class"),
        (":Newest", "must be one of"),
        ("mine:", "must be one of"),
        ("no_such_module:Newest", "no_such_module cannot be imported .ModuleNotFoundError"),
        ("folder/no_such.py:Newest", "no file folder/no_such.py"),
        ("mine:Other", "subclass of transformers_patch.Weighter, got nothing of that name"),
        ("mine:math", "subclass of transformers_patch.Weighter, got <module"),
        ("mine:Foreign", "subclass of transformers_patch.Weighter, got <class"),
        ("mine:NoTasks", r"does not work \(TypeError"),
        ("mine:NotYet", r"does not work \(NotImplementedError: later, mine.py line \d+"),
        ("mine:NaN", "does not work .*its loss is nan with 1 of 3 tasks present"),
        ("mine:UnseenLast", r"weight_K must be 3 finite numbers >= 0, got \[1.0, inf, inf\] with 1 of 3 tasks present"),
        ("mine:UnseenInTokens", "its loss is nan with 1 of 3 tasks present"),
        ("mine:Negative", r"weight_K must be .* got \[-2.5, -2.5"),
        ("mine:WrongShape", r"weight_K must be 3 finite numbers"),
        ("mine:Loose", "scale_K must be a buffer, got a tensor"),
        ("mine:LooseLater", "seen_K must be a buffer, got a tensor"),
        ("mine:Counter", "steps changes from step to step and is not saved"),
        ("mine:History", "means changes from step to step and is not saved"),
        ("mine:Learned", "Learned.scale must be a buffer, got a parameter"),
        ("broken:Newest", "broken cannot be imported .SyntaxError"),
        ("raising:Newest", "raising cannot be imported .RuntimeError: two lines, raising.py line 1"),
    ],
)
def test_a_class_that_is_not_a_strategy_is_refused_in_one_line(tmp_path, monkeypatch, method, message):
    more = """
import math, torch
class Foreign:
    pass
class NoTasks(Weighter):
    def __init__(self):
        super().__init__(3)
class NotYet(Weighter):
    def token_weights(self, count_K):
        raise NotImplementedError("later")
class NaN(Weighter):
    def observe(self, mean_K, count_K):
        self.weight_K.copy_(mean_K)
    def token_weights(self, count_K):
        return 1 / count_K, (1 / count_K).sum() * 0 / 0 if (count_K == 0).any() else count_K.sum()
class UnseenLast(Weighter):
    def __init__(self, num_tasks):
        super().__init__(num_tasks)
        self.register_buffer("seen_K", torch.zeros(num_tasks))
    def observe(self, mean_K, count_K):
        self.seen_K += count_K
        self.weight_K.copy_(1 / self.seen_K)
class UnseenInTokens(UnseenLast):
    def observe(self, mean_K, count_K):
        self.seen_K += count_K
    def token_weights(self, count_K):
        return 1 / self.seen_K, (count_K / self.seen_K).sum()
class Negative(Weighter):
    def observe(self, mean_K, count_K):
        self.weight_K.fill_(-mean_K.nansum())
class WrongShape(Weighter):
    def observe(self, mean_K, count_K):
        self.weight_K = torch.ones(2)
class Loose(Weighter):
    def __init__(self, num_tasks):
        super().__init__(num_tasks)
        self.scale_K = torch.ones(num_tasks)
class LooseLater(Weighter):
    def observe(self, mean_K, count_K):
        self.seen_K = count_K > 0
class Counter(Weighter):
    steps = 0
    def observe(self, mean_K, count_K):
        self.steps += 1
class History(Weighter):
    def __init__(self, num_tasks):
        super().__init__(num_tasks)
        self.means = []
    def observe(self, mean_K, count_K):
        self.means.append(mean_K)
class Learned(Weighter):
    def __init__(self, num_tasks):
        super().__init__(num_tasks)
        self.scale = torch.nn.Parameter(torch.ones(num_tasks))
"""
    (tmp_path / "mine.py").write_text(MINE + more)
    (tmp_path / "broken.py").write_text("class Newest(")
    (tmp_path / "raising.py").write_text("raise RuntimeError('two\\nlines')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        build_weighter(method, 3)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_strategy_that_saves_its_own_state_may_hold_it_outside_buffers(tmp_path, monkeypatch):
    counting = """
class Counting(Newest):
    def __init__(self, num_tasks):
        super().__init__(num_tasks)
        self.steps, self.history = 0, {"newest": 1}
    def observe(self, mean_K, count_K):
        self.steps += 1
    def get_extra_state(self):
        return self.steps
    def set_extra_state(self, state):
        self.steps = state
"""
    (tmp_path / "mine.py").write_text(MINE + counting)
    monkeypatch.chdir(tmp_path)
    assert build_weighter("mine:Counting", 3).steps == 0
    assert build_weighter("mine:Counting", 1).steps == 0
