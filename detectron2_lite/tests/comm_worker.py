"""Run by test_comm.py: writes what each of two processes sees to ``<folder>/<rank>.json``."""

import json
import os
import sys

import torch
import torch.distributed as dist
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, create_ddp_model, launch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        return {"loss": self.linear(x).square().mean()}


def places() -> dict:
    return {
        "world_size": comm.get_world_size(),
        "rank": comm.get_rank(),
        "local_rank": comm.get_local_rank(),
        "is_main": comm.is_main_process(),
    }


def train(folder: str, **ddp_options) -> dict:
    model = create_ddp_model(Model(), **ddp_options)
    data = iter([torch.tensor([[1.0, comm.get_rank()]])] * 3)
    trainer = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.train(0, 3)
    DetectionCheckpointer(model, folder, trainer=trainer).save("model")
    history = trainer.storage.histories().get("total_loss")
    return {
        "weight": model.module.linear.weight.tolist(),
        "total_loss": [value for value, _ in history.values()] if history else None,
    }


def main(folder: str, mode: str) -> None:
    rank = comm.get_rank()
    seen = places()
    seed_all_rng(10 + rank)
    seen["seed"] = comm.shared_random_seed()
    seen["all_gather"] = comm.all_gather({"from": rank})
    seen["gather"] = comm.gather(rank)
    seen["gather_to_1"] = comm.gather(rank, dst=1)
    comm.synchronize()
    seen |= train(folder, **({} if mode == "lite" else {"device_ids": None}))
    with open(os.path.join(folder, f"{rank}.json"), "w") as file:
        json.dump(seen, file)


def torchrun_main(folder: str) -> None:
    dist.init_process_group("gloo")
    with open(os.path.join(folder, f"{comm.get_rank()}.json"), "w") as file:
        json.dump(places(), file)
    comm.synchronize()
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[2] == "torchrun":
        torchrun_main(sys.argv[1])
    else:
        launch(main, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2]))
