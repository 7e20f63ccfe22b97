"""A tiny BERT, not pretrained, that finds out whether a sentence holds a pair of words."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from transformers import BertConfig, BertForSequenceClassification

CLS, SEP, SPECIAL, WORDS = 1, 2, 5, 40


def sentences(n, seed):
    """Sentences of five to twelve words; those of class 1 hold the same word many times."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(n):
        length = int(torch.randint(5, 13, (), generator=generator))
        words = torch.randint(SPECIAL, WORDS, (length,), generator=generator)
        if index % 2:
            words[::2] = SPECIAL
        examples.append({"input_ids": [CLS, *words.tolist(), SEP], "label": index % 2})
    return examples


def collate(examples):
    ids = [torch.tensor(e["input_ids"]) for e in examples]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return {
        "input_ids": padded,
        "attention_mask": (padded != 0).long(),
        "labels": torch.tensor([e["label"] for e in examples]),
    }


class SentencesModule(pl.LightningDataModule):
    def __init__(self, batch_size=16, workers=0, n=240):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        n = self.hparams.n
        self.sets = {"train": sentences(n, 0), "val": sentences(n // 4, 1), "test": sentences(n // 4, 2)}

    def loader(self, part):
        return DataLoader(
            self.sets[part],
            batch_size=self.hparams.batch_size,
            shuffle=part == "train",
            collate_fn=collate,
            num_workers=self.hparams.workers,
        )

    def train_dataloader(self):
        return self.loader("train")

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")


class LitBert(pl.LightningModule):
    def __init__(self, lr=2e-3, width=32, weight_decay=0.01):
        super().__init__()
        self.save_hyperparameters()
        config = BertConfig(
            vocab_size=WORDS, hidden_size=width, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=2 * width, max_position_embeddings=32, num_labels=2,
        )  # fmt: skip
        self.model = BertForSequenceClassification(config)
        self.val_acc, self.test_acc = MulticlassAccuracy(2), MulticlassAccuracy(2)

    def forward(self, **batch):
        return self.model(**batch)

    def training_step(self, batch, batch_idx):
        loss = self(**batch).loss
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        output = self(**batch)
        self.val_acc(output.logits, batch["labels"])
        self.log_dict({"val_loss": output.loss, "val_acc": self.val_acc}, prog_bar=True)

    def test_step(self, batch, batch_idx):
        self.test_acc(self(**batch).logits, batch["labels"])
        self.log("test_acc", self.test_acc)

    def configure_optimizers(self):
        plain = [p for name, p in self.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
        decayed = [p for name, p in self.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.hparams.lr, weight_decay=self.hparams.weight_decay)
