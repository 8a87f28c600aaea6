"""Hugging Face's Trainer, with one line added: callbacks=[pawl.hf.Callback()]. Nothing is downloaded.

pawl run --every-steps 20 -- python hf.py
"""

import argparse

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import pawl

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--samples", type=int, default=480)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--accumulate", type=int, default=2, help="batches a step")
parser.add_argument("--log-steps", type=int, default=1)
parser.add_argument("--max-steps", type=int, default=-1)
parser.add_argument("--losses", help="a file: one line a log")
options = parser.parse_args()


class Words(torch.utils.data.Dataset):
    """Arithmetic sequences modulo 64: something to learn."""

    def __len__(self):
        return options.samples

    def __getitem__(self, index):
        sequence = torch.arange(16) * (index % 7 + 1) + index
        return {"input_ids": sequence % 64, "labels": sequence % 64}


class Losses(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **others):
        loss = logs.get("loss", logs.get("eval_loss"))
        if options.losses and loss is not None:
            with open(f"{options.losses}-{args.process_index}", "a") as file:
                file.write(f"{state.global_step}{'' if 'loss' in logs else '-evaluation'} {float(loss).hex()}\n")


torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2))
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir="output",
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=options.accumulate,
        dataloader_num_workers=options.workers,
        learning_rate=1e-2,
        eval_strategy="epoch",
        logging_steps=options.log_steps,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    ),
    train_dataset=Words(),
    eval_dataset=torch.utils.data.Subset(Words(), range(16)),
    callbacks=[Losses(), pawl.hf.Callback()],
)
trainer.train()
if trainer.is_world_process_zero():
    torch.save(model.state_dict(), "weights.pth")
