"""The former address of the scorers: the modules of `eval.zero_shot`, found here under their names."""

from eval import zero_shot

__path__ = [*__path__, *zero_shot.__path__]
