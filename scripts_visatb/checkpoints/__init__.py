"""Making checkpoints out of checkpoints: merging adapters, extracting projectors, converting layouts."""
