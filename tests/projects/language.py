"""A character-level language model; the embedding is also the output weight."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, random_split

TEXT = "the quick brown fox jumps over the lazy dog. pack my box with five dozen liquor jugs. "
VOCABULARY = sorted(set(TEXT))


class Windows(Dataset):
    """Stretches of sentences in a random order."""

    def __init__(self, n, length):
        sentences = [s + ". " for s in TEXT.split(". ")[:2]]
        order = torch.randint(2, (n,), generator=torch.Generator().manual_seed(0))
        text = "".join(sentences[i] for i in order)
        self.codes = torch.tensor([VOCABULARY.index(c) for c in text])
        self.n, self.length = n, length

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        window = self.codes[index * 37 : index * 37 + self.length + 1]
        return {"tokens": window[:-1], "next": window[1:]}


class TextModule(pl.LightningDataModule):
    def __init__(self, batch_size=32, workers=0, n=300, length=24):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        full = Windows(self.hparams.n, self.hparams.length)
        generator = torch.Generator().manual_seed(42)
        self.train_set, self.val_set, self.test_set = random_split(full, [0.7, 0.15, 0.15], generator)

    def train_dataloader(self):
        return DataLoader(self.train_set, self.hparams.batch_size, True, num_workers=self.hparams.workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.hparams.batch_size, num_workers=self.hparams.workers)

    def test_dataloader(self):
        return DataLoader(self.test_set, self.hparams.batch_size, num_workers=self.hparams.workers)


class LitLanguageModel(pl.LightningModule):
    def __init__(self, lr=1e-2, width=32, heads=4, dropout=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(len(VOCABULARY), width)
        self.position = nn.Parameter(0.02 * torch.randn(64, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, len(VOCABULARY), bias=False)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        length = tokens.shape[1]
        x = self.embedding(tokens) + self.position[:length]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        h = self.norm1(x)
        x = x + self.attention(h, h, h, attn_mask=later, need_weights=False)[0]
        return self.head(x + self.mlp(self.norm2(x)))

    def loss(self, batch):
        return F.cross_entropy(self(batch["tokens"]).flatten(0, 1), batch["next"].flatten())

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer):
        norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        self.log("grad_norm", torch.stack(norms).norm())

    def validation_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log_dict({"val_loss": loss, "val_perplexity": loss.exp()}, prog_bar=True)

    def test_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log_dict({"test_loss": loss, "test_perplexity": loss.exp()})

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=0.01)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.trainer.max_epochs)]
