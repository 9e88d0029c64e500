# SPDX-License-Identifier: Apache-2.0
"""Make kick-mini again: its data, its tokenizer, its weights.

    python -m tools.kick_mini.train --output DIR

Every step draws its documents from the seed and its own number, so a run that was killed and
started again with the same command sees what it would have seen; its state is written every few
minutes. One to two hours on one processor core (not measured on a GPU); weights differ between
processors in the last bits, and so, after thousands of steps, in more than those.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from tools.kick_mini.choosing import add_choosing_layer, append_layer
from tools.kick_mini.exam import examine
from tools.kick_mini.files import write_data
from tools.kick_mini.model import CONTEXT, build_model, build_tokenizer
from tools.kick_mini.rows import LETTERS_FROM, Rows, shares
from tools.kick_mini.state import restore, save, steps_done
from tools.kick_mini.world import SEED, build_world

__all__ = ["Settings", "main", "train"]

_SAVE_SECONDS = 180.0


@dataclass(frozen=True)
class Settings:
    """What decides the weights.

    Attributes:
        tokens: Tokens seen in all, padding included.
        batch_tokens: Tokens of a step.
        length: Tokens of a row, before the last part.
        learning_rate: The highest.
        warmup: Steps until it is reached, at the start and after the last layer came.
        choosing: Tokens after which the last layer comes; see
            :mod:`tools.kick_mini.choosing`. From ``LETTERS_FROM`` on, whatever this is, multiple
            choice is answered by letter.
        calm: Tokens after which the learning rate is lower. Facts that are only stated are
            recalled better then, and a new layer keeps what it starts from.
        careful: Factor of the learning rate from ``calm`` on.
        decay: Share of the run, its last, over which it falls to nothing.
        long: Share of the run, its last, with rows as long as the context.
        seed: Source of all chance.
    """

    tokens: int = 13_500_000
    batch_tokens: int = 2_048
    length: int = 256
    learning_rate: float = 1.5e-3
    warmup: int = 150
    choosing: int = LETTERS_FROM
    calm: int = 6_881_280
    careful: float = 0.3
    decay: float = 0.25
    long: float = 0.06
    seed: int = SEED

    @property
    def steps(self) -> int:
        """Number of steps."""
        return -(-self.tokens // self.batch_tokens)

    @property
    def grows(self) -> int:
        """The step that the last layer comes before."""
        return -(-self.choosing // self.batch_tokens)

    def rate(self, step: int) -> float:
        """Learning rate of a step: it rises, stays, and falls."""
        falling = max(1.0, self.decay * self.steps)
        risen = step if step < self.grows else step - self.grows
        highest = 1.0 if step * self.batch_tokens < self.calm else self.careful
        height = highest * min(1.0, (risen + 1) / self.warmup, (self.steps - step) / falling)
        return self.learning_rate * height

    def batch(self, rows: Rows, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and weights of a step, as :meth:`tools.kick_mini.rows.Rows.batch` has them."""
        long = step / self.steps >= 1 - self.long
        length = CONTEXT if long else self.length
        random = Random(f"{self.seed} step {step}")
        kinds = shares(step * self.batch_tokens, long=long)
        return rows.batch(random, kinds, max(1, self.batch_tokens // length), length)


def train(settings: Settings, output: Path, *, device: str = "cpu", exam_every: int = 250) -> None:
    """Train, or go on training, and write the model to ``output / "model"``.

    Args:
        settings: What decides the weights.
        output: The state of the run is kept here, and the scores of exams in ``exams.jsonl``.
        device: Where to train.
        exam_every: Steps between two exams.

    Raises:
        ValueError: ``output`` holds the state of a run with other settings.
    """
    world = build_world(settings.seed)
    tokenizer = build_tokenizer(world, settings.seed)
    output.mkdir(parents=True, exist_ok=True)
    state, described = output / "state.safetensors", asdict(settings)
    model = build_model(tokenizer, settings.seed).to(device)
    if steps_done(state) > settings.grows:
        append_layer(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.05,
        fused=True,
    )  # fmt: skip
    first = restore(state, described, model, optimizer)
    rows = Rows(tokenizer, world)
    saved = time.monotonic()
    with tqdm(
        total=settings.steps * settings.batch_tokens, initial=first * settings.batch_tokens,
        unit="token", unit_scale=True, desc="kick-mini", mininterval=1,
    ) as bar:  # fmt: skip
        for step in range(first, settings.steps):
            if step == settings.grows:
                add_choosing_layer(model, tokenizer, world, settings.seed)
                optimizer.add_param_group({"params": list(model.model.layers[-1].parameters())})
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            loss = _step(model, optimizer, *settings.batch(rows, step), device)
            bar.update(settings.batch_tokens)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if (step + 1) % exam_every == 0:
                scores = examine(model, tokenizer, world)
                line = json.dumps({"step": step + 1, "loss": round(loss, 4), **scores})
                with (output / "exams.jsonl").open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
            if time.monotonic() - saved > _SAVE_SECONDS:
                save(state, described, model, optimizer, step + 1)
                saved = time.monotonic()
    save(state, described, model, optimizer, settings.steps)
    model.to(torch.bfloat16).save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")


def _step(
    model: Any, optimizer: torch.optim.Optimizer, tokens: Tensor, weights: Tensor, device: str
) -> float:
    tokens, weights = tokens.to(device), weights.to(device)
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    wanted = weights[:, 1:] > 0
    # Logits only where something is learned: less than half of the positions.
    logits = model.lm_head(hidden[wanted])
    losses = cross_entropy(logits.float(), tokens[:, 1:][wanted], reduction="none")
    counted = weights[:, 1:][wanted]
    loss = (losses * counted).sum() / counted.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.kick_mini.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="a folder for data and model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, default=Settings.tokens, help="how long to train")
    parser.add_argument("--exam-every", type=int, default=250, help="steps between two exams")
    options = parser.parse_args(arguments)
    settings = Settings(tokens=options.tokens)
    if settings.tokens <= settings.choosing:
        parser.error(
            f"--tokens {settings.tokens:,}: until {settings.choosing:,}, no letters of choices are "
            "learned. Give more"
        )
    write_data(options.output / "data")
    try:
        train(settings, options.output, device=options.device, exam_every=options.exam_every)
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
