"""Lightning, with one line added: callbacks=[pawl.lightning.Callback()]. Nothing is downloaded.

pawl run --every-steps 20 -- python lightning_run.py
"""

import argparse

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything

import pawl

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--samples", type=int, default=960)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--losses", help="a file a rank: its number is appended; one line a step")
options = parser.parse_args()


class Waves(torch.utils.data.Dataset):
    """Points of two noisy waves, to be told apart."""

    def __len__(self):
        return options.samples

    def __getitem__(self, index):
        kind = index % 2
        time = torch.linspace(0, 6, 32) + index / options.samples
        return torch.sin(time * (1 + kind)) + 0.5 * torch.cos(time * index), kind


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 2)
        )

    def training_step(self, batch, index):
        points, kinds = batch
        loss = torch.nn.functional.cross_entropy(self.layers(points), kinds)
        self.log("loss", loss, prog_bar=True)
        if options.losses:
            with open(f"{options.losses}-{self.global_rank}", "a") as file:
                file.write(f"{self.global_step} {loss.item().hex()}\n")
        return loss

    def validation_step(self, batch, index):
        points, kinds = batch
        self.log("accuracy", (self.layers(points).argmax(1) == kinds).float().mean(), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]


seed_everything(0)
model = Classifier()
trainer = Trainer(
    max_epochs=options.epochs,
    accelerator="cpu",
    devices=options.devices,
    strategy="ddp" if options.devices > 1 else "auto",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[pawl.lightning.Callback()],
)
trainer.fit(
    model,
    torch.utils.data.DataLoader(Waves(), batch_size=8, shuffle=True, num_workers=options.workers),
    torch.utils.data.DataLoader(torch.utils.data.Subset(Waves(), range(64)), batch_size=32),
)
if trainer.is_global_zero:
    print(f"accuracy {trainer.callback_metrics['accuracy']:.3f}" if "accuracy" in trainer.callback_metrics else "")
    torch.save(model.state_dict(), "weights.pth")
