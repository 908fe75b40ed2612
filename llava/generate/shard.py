"""Which questions a process asks, and how processes wait for each other.

One rule for all commands: a chunk is a contiguous part of the questions, the chunks are of nearly equal size, and the
ranks of a chunk take its questions in turn. So answers files of chunks can be joined with `cat`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from visatb.errors import InputError


@dataclass(frozen=True)
class Shard:
    """Which questions this process asks: those of its chunk, of them every `world`-th.

    Attributes:
        chunk, chunks: from --chunk-idx and --num-chunks.
        rank, world, local_rank: from torchrun's environment.
    """

    chunk: int = 0
    chunks: int = 1
    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def part(self) -> str:
        """Name of this process's part of the work."""
        return f"chunk-{self.chunk}-of-{self.chunks}-rank-{self.rank}-of-{self.world}"

    def of_chunk(self, count: int) -> range:
        """Indices of the questions of this chunk, all ranks together; none for some if there are more chunks."""
        return range(count * self.chunk // self.chunks, count * (self.chunk + 1) // self.chunks)

    def of_rank(self, count: int) -> range:
        """Indices of the questions that this process asks."""
        return self.of_chunk(count)[self.rank :: self.world]


WHOLE = Shard()


def get_chunk(items: Sequence[Any], chunks: int, chunk: int) -> Sequence[Any]:
    """The `chunk`-th of `chunks` contiguous parts of near equal size; empty where there are more parts than items."""
    part = shard_of(chunk, chunks, {}).of_chunk(len(items))
    return items[part.start : part.stop]


def shard_of(chunk: int, chunks: int, environment: Mapping[str, str]) -> Shard:
    """This process's share.

    Args:
        chunk, chunks: --chunk-idx and --num-chunks.
        environment: with torchrun's RANK, WORLD_SIZE and LOCAL_RANK, if it started the process.

    Raises:
        InputError: naming what is out of range.
    """
    if chunks < 1:
        raise InputError(f"--num-chunks must be at least 1, got {chunks}.")
    if not 0 <= chunk < chunks:
        last = chunks - 1
        raise InputError(f"--chunk-idx must be from 0 to {last} (--num-chunks {chunks}), got {chunk}.")
    numbers = {}
    for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)):
        text = environment.get(name, str(default))
        if not text.isdigit():
            raise InputError(f"{name} must be a whole number, got {text!r} (environment). Start with torchrun.")
        numbers[name] = int(text)
    return Shard(chunk, chunks, numbers["RANK"], max(1, numbers["WORLD_SIZE"]), numbers["LOCAL_RANK"])


@contextmanager
def ranks_together(shard: Shard) -> Iterator[Callable[[], None]]:
    """Yield a function that waits for all ranks of torchrun; it does nothing for a single process.

    Ranks exchange nothing but "I am here", so gloo serves on GPUs too. A rank may be hours behind: no time-out.
    """
    if shard.world == 1:
        yield lambda: None
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield distributed.barrier
    finally:
        distributed.destroy_process_group()
