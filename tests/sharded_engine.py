"""Two ranks that sample from one sharded policy, each with prompts of its own; run by torchrun's environment."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from test_engines import DECODING, MIXED, NAMES, rows
from test_generation import CHAT
from torch.distributed.fsdp import fully_shard

from lit_ixc.engines import TransformersEngine
from lit_ixc.ixc25.miniature import build, tiny_config


def main(rank: int, folder: Path) -> None:
    """Rank 0 answers one prompt, rank 1 the other three in two batches."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = build(tiny_config(), seed=0)
    for part in (*model.model.layers, model.model.tok_embeddings, model.model.norm, model.output):
        fully_shard(part)
    passes: list[int] = []
    model.output.register_forward_hook(lambda head, inputs, logits: passes.append(len(logits)))
    own = slice(0, 1) if rank == 0 else slice(1, 4)
    found = TransformersEngine(4).generate(model, CHAT, rows(MIXED[own]), NAMES[own], 2, DECODING, 0)
    torch.save(([[one.ids for one in group] for group in found], len(passes)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
