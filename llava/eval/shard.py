"""Old address of `llava.generate.shard`."""

from llava.generate.shard import Shard, ranks_together, shard_of  # noqa: F401
