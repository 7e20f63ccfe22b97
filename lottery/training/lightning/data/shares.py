"""Whether several ranks can each have a share of every training batch."""

from __future__ import annotations

from torch.utils.data import DistributedSampler

from lottery.foundations.errors import Refused
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.data.reading import each_of, enters_anywhere
from lottery.training.lightning.data.samplers import EpochBatches


def check_shares(data: ProjectData, count: int) -> None:
    """Raises Refused for training data of which `count` ranks can't have a share of every batch."""
    where, loaders = f"hardware.devices={count}: ", each_of(data.loader("train"))
    for loader in loaders:
        if not enters_anywhere(loader):
            raise Refused(
                f"{where}each process takes its share of every batch, which needs a DataLoader that batches a "
                f"map-style data set, and {type(data.module).__name__} trains on a stream or batches of its own; use 1"
            )
        if isinstance(getattr(loader.batch_sampler, "sampler", None), DistributedSampler):
            raise Refused(
                f"{where}the training data have a DistributedSampler, and would be shared out twice; use none"
            )
        sizes = [len(keys) - 1 for keys in EpochBatches(loader.batch_sampler, loader.generator, 0, (0, 1))][
            : data.batches_per_epoch
        ]
        if (smallest := min(sizes)) < count:
            raise Refused(
                f"{where}a training batch has {smallest} examples, fewer than processes; drop_last=True omits it"
            )
        if len(loaders) > 1 and (uneven := [size for size in sizes if size % count]):
            raise Refused(
                f"{where}each batch of several training loaders must be a multiple of it, and one is {uneven[0]}"
            )
