"""What can answer questions: a LLaVA checkpoint or a server; imported when chosen."""

from importlib import import_module
from typing import Any

from llava.generate.engine import Model

LLAVA, SERVER = "llava", "server"
# Engine -> module and class of its `Model`.
_HOMES = {
    LLAVA: ("llava.generate.llava_model", "LlavaModel"),
    SERVER: ("llava.generate.server_model", "ServerModel"),
}
ENGINES = tuple(_HOMES)


def model_of(args: Any, local_rank: int = 0) -> Model:
    """The model that the flags name.

    Raises:
        InputError: naming the flag.
    """
    module, name = _HOMES[args.engine]
    return getattr(import_module(module), name).of(args, local_rank)
