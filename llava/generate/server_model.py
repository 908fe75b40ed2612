"""A model behind an OpenAI-compatible endpoint: vLLM, SGLang, `transformers serve`, or a service.

The server is asked which models it has before anything else. What it says of ours is part of the fingerprint, and so
are the files of a model folder that this machine can read: a model trained anew under its old name is another model.
"""

import json
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from llava.generate.budget import budget_in
from llava.generate.fingerprint import folder_digest
from llava.generate.questions import Settings, check_name
from llava.generate.server_engine import ServerEngine
from visatb.endpoint import Endpoint, EndpointError, excerpt
from visatb.errors import InputError, shown

# What a server says of a model and keeps saying: `created` is the time of its start, or of the request.
_LASTING = ("id", "root", "parent", "owned_by", "max_model_len")
_LONGEST = 1000  # characters of a value
_NAMED = 8  # models in a message; a service lists hundreds


@dataclass(frozen=True)
class ServerModel:
    """Which server answers, and with which of its models (`llava.generate.engine.Model`).

    Attributes:
        endpoint: of the server.
        served: the model's name there.
        name: what answers and file names call it.
        folder: its folder, if it is on this machine; None if it is not known.
        concurrency: requests at a time.
    """

    endpoint: Endpoint
    served: str
    name: str
    folder: str | None = None
    concurrency: int = 8

    sees_images = True  # as far as is known: a server does not say

    @classmethod
    def of(cls, args: Any, local_rank: int = 0) -> "ServerModel":
        """The model that the flags name. Raises InputError naming the flag."""
        for flag in ("server_url", "server_model"):
            if not getattr(args, flag):
                raise InputError(f"--engine server needs --{flag.replace('_', '-')}. Set it.")
        for flag, least in (("concurrency", 1), ("retries", 0)):
            if getattr(args, flag) < least:
                raise InputError(f"--{flag} must be at least {least}, got {getattr(args, flag)}.")
        if not 0 < args.timeout < float("inf"):
            raise InputError(f"--timeout must be a number of seconds above 0, got {args.timeout}.")
        if args.num_beams > 1:
            raise InputError("--num_beams above 1 is not part of the servers' protocol. Drop it, or use --engine hf.")
        folder = args.model_path or args.server_model
        if args.model_path and not os.path.isdir(args.model_path):
            raise InputError(f"{args.model_path}: no such folder (--model-path). Give the folder that is served.")
        endpoint = Endpoint(
            args.server_url,
            check="OPENAI_API_KEY, --server-url and --server-model",
            attempts=args.retries + 1,
            timeout=args.timeout,
        )
        name = args.model_name or PurePath(args.server_model).name
        return cls(endpoint, args.server_model, name, folder if os.path.isdir(folder) else None, args.concurrency)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What the server says of the model. Raises InputError if it does not have it."""
        session = self.endpoint.session()
        try:
            status, content = self.endpoint.call(session, "models")
        except EndpointError as error:
            raise InputError(f"{error} Is the server running, and --server-url right?") from None
        listed = content.get("data") if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(model, dict) for model in listed):
            got = content if isinstance(content, str) else json.dumps(content)
            raise InputError(
                f"{self.endpoint.url}: must list its models at /models, got {status}, {excerpt(got)}. Give the address "
                "of an OpenAI-compatible server up to and with /v1 (--server-url)."
            )
        said = next((model for model in listed if model.get("id") == self.served), None)
        if said is None and self.folder is None:  # `transformers serve` lists the hub's cache, not folders
            names = ", ".join(shown(model.get("id")) for model in listed[:_NAMED]) or "none"
            names += f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
            raise InputError(
                f"{self.endpoint.url}: has no model {self.served!r}; it lists {names}. Correct --server-model."
            )
        return {key: value for key in _LASTING if said and (value := _plain(said.get(key))) is not None}

    @cached_property
    def _known_folder(self) -> str | None:
        """The model's folder, if it is on this machine: the one given, or the one that the server names."""
        root = self._identity.get("root")
        return self.folder or (root if isinstance(root, str) and os.path.isabs(root) and os.path.isdir(root) else None)

    def fingerprint(self) -> dict[str, Any]:
        """What the answers depend on: the server's word and, where it can be read, the model's folder.

        Raises:
            InputError: no such model, or no such server; a name that no file can have.
        """
        check_name(self.name)
        digest = {"model": folder_digest(self._known_folder)} if self._known_folder else {}
        return {"generator": self.name, "engine": "server", "served": self._identity, **digest}

    def load(self, settings: Settings) -> ServerEngine:
        """Nothing is loaded here but the pixel budget of a folder that can be read."""
        return ServerEngine(self.endpoint, self.served, settings, self.concurrency, budget_in(self._known_folder))

    def report(self) -> None:
        """Print to stderr who is asked; stdout is for answers."""
        print(f"asking {self.served} at {self.endpoint.url}, {self.concurrency} at a time", file=sys.stderr, flush=True)


def _plain(value: Any) -> str | int | None:
    """A value of the server's as text that a file can hold, or as a whole number; None for anything else."""
    if isinstance(value, str):
        return value[:_LONGEST].encode("utf-8", errors="replace").decode()
    return value if isinstance(value, int) and not isinstance(value, bool) else None
