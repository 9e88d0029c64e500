# SPDX-License-Identifier: Apache-2.0
"""How fast ``--model kick`` evaluates against ``--model hf``, on real questions.

    python -m benchmarks.eval_throughput --data DIR --shape stories
    python -m benchmarks.eval_throughput --data DIR --shape llama-100m --questions 16 --prompts 16
    python -m benchmarks.eval_throughput --data DIR --shape llama-7b --device cuda \
        --dtype bfloat16 --questions 2000 --prompts 1000 --batch-size 16
    python -m benchmarks.eval_throughput --data DIR --model FOLDER --plain --num-fewshot 5

All sides evaluate the same model object in one process, in turn, on the same requests, as lm-eval
builds them: five-shot MMLU (consecutive questions of as few subjects as it takes) and FreebaseQA,
or what ``--task`` names. ``--plain`` adds a third side, a plain loop of batches: one forward pass
over padded texts for scores, ``generate`` of transformers for answers. Ratios are of medians, over
``kick``'s. Answers are compared in the same run. ``tokens`` are those that went through the model,
padding included. Peak memory is beyond what the process held before: of the device, or of the
process on Linux. Weights are random, other than those of ``stories`` and ``--model``.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lmkick_plugin.model import KickLM

#: hidden, inner, blocks, heads
SHAPES = {"llama-100m": (768, 2048, 12, 12), "llama-7b": (4096, 11008, 32, 32)}
#: Llama's number of tokens. With GPT-2's 50,257, a small shape would be mostly head, which is where
#: ``hf`` is slowest.
VOCABULARY = 32000
TASK_FOLDER = Path(__file__).resolve().parent.parent / "task_yaml"
CONTEXT = 4096


def load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    folder = arguments.data.resolve().parent / "models"
    if arguments.model or arguments.shape == "stories":
        path = arguments.model or folder / "stories260K-hf"
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=arguments.dtype)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    else:
        tokenizer = cut_tokenizer(folder / "gpt2" / "tokenizer.json")
        hidden, inner, blocks, heads = SHAPES[arguments.shape]
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        torch.manual_seed(0)
        with torch.device(arguments.device):
            model = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, dtype=arguments.dtype
            )
    return model.to(arguments.device).eval(), tokenizer


def cut_tokenizer(path: Path) -> Any:
    """GPT-2's tokenizer without its last merges, so that it has :data:`VOCABULARY` tokens."""
    state = json.loads(path.read_text(encoding="utf-8"))
    tokens = VOCABULARY - 1  # and one that ends texts
    state["model"]["vocab"] = {
        token: number for token, number in state["model"]["vocab"].items() if number < tokens
    }
    state["model"]["merges"] = state["model"]["merges"][: tokens - 256]  # the rest are bytes
    state["added_tokens"] = []
    tokenizer = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(state)),
        eos_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    if len(tokenizer) != VOCABULARY:
        raise SystemExit(f"{path}: {len(tokenizer)} tokens are left, not {VOCABULARY}.")
    return tokenizer


def requests_of(
    manager: TaskManager, tasks: Sequence[str], count: int, shots: int | None = None
) -> list[Any]:
    """The requests of the first documents of some tasks, as lm-eval builds them."""
    found: list[Any] = []
    documents = 0
    for name in tasks:
        task = manager.load([name])["tasks"][name]
        left = count - documents
        if shots is not None:
            task.set_config(key="num_fewshot", value=shots)
        task.build_all_requests(limit=left)
        found += task.instances
        documents += len({instance.doc_id for instance in task.instances})
        if documents >= count:
            break
    return found


class Meter:
    """Counts what goes through a model, and what memory that takes."""

    def __init__(self, model: Any, clock: Callable[[], float]) -> None:
        self.tokens = 0
        self._clock = clock
        self._device = model.device
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _module: Any, args: Any, kwargs: Any) -> None:
        self.tokens += (args[0] if args else kwargs["input_ids"]).numel()

    def run(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Time one run."""
        self.tokens = 0
        gc.collect()
        before = self._reset_peak()
        start = self._clock()
        answers = work()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        seconds = self._clock() - start
        peak = self._peak()
        return {
            "answers": answers,
            "seconds": seconds,
            "tokens": self.tokens,
            "peak": None if peak is None or before is None else (peak - before) / 2**20,
        }

    def _reset_peak(self) -> int | None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return None
        return _status("VmRSS")

    def _peak(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return _status("VmHWM")


def _status(name: str) -> int | None:
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


class PlainLoop:
    """Batches of padded texts, longest first; nothing is shared between them."""

    def __init__(self, lm: HFLM) -> None:
        self._lm, self._model, self._tokenizer = lm, lm.model, lm.tokenizer

    def _batches(self, rows: Sequence[Any], length: Callable[[int], int]) -> Iterator[list[int]]:
        order = sorted(range(len(rows)), key=lambda at: -length(at))
        step = int(self._lm.batch_size)
        return (order[at : at + step] for at in range(0, len(order), step))

    @torch.no_grad()
    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Log-likelihood and greedy flag of each continuation."""
        pairs = [self._lm._encode_pair(*request.args) for request in requests]
        found: list[Any] = [None] * len(pairs)
        for batch in self._batches(pairs, lambda at: sum(map(len, pairs[at]))):
            rows = [torch.tensor(pairs[at][0] + pairs[at][1]) for at in batch]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            logits = self._model(padded.to(self._model.device)).logits.cpu()
            for at, row in zip(batch, logits, strict=True):
                context, continuation = pairs[at]
                scored = row[len(context) - 1 :][: len(continuation)].float().log_softmax(-1)
                tokens = torch.tensor(continuation)
                likelihood = float(scored.gather(1, tokens[:, None]).sum())
                found[at] = (likelihood, bool((scored.argmax(-1) == tokens).all()))
        return found

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy answers of one task, up to its first stop string."""
        texts = [request.args[0] for request in requests]
        settings = requests[0].args[1]
        found = [""] * len(texts)
        for batch in self._batches(texts, lambda at: len(texts[at])):
            inputs, mask = self._lm.tok_batch_encode([texts[at] for at in batch])
            made = self._model.generate(
                inputs.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                max_new_tokens=settings["max_gen_toks"],
                stop_strings=settings["until"],
                tokenizer=self._tokenizer,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
            )
            for at, row in zip(batch, made[:, inputs.shape[1] :], strict=True):
                text = self._tokenizer.decode(row, skip_special_tokens=True)
                for stop in settings["until"]:
                    text = text.split(stop)[0]
                found[at] = text
        return found


def compare(
    meter: Meter, repeats: int, sides: dict[str, Callable[[], Any]], same: Callable[[Any, Any], str]
) -> dict[str, Any]:
    """Run all sides in turn; the last is ``kick``."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            runs[name].append(meter.run(work))
    row: dict[str, Any] = {}
    for name, found in runs.items():
        row[f"{name}_seconds"] = statistics.median(run["seconds"] for run in found)
        row[f"{name}_tokens"] = found[-1]["tokens"]
        row[f"{name}_peak_mib"] = found[-1]["peak"]
    *others, ours = sides
    for other in others:
        row[f"{other}/{ours}"] = row[f"{other}_seconds"] / row[f"{ours}_seconds"]
        row[f"{other}={ours}"] = same(runs[other][-1]["answers"], runs[ours][-1]["answers"])
    return row


def same_scores(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    """How far two lists of log-likelihoods and greedy flags are apart."""
    pairs = list(zip(ours, theirs, strict=True))
    worst = max(abs(one[0] - two[0]) for one, two in pairs)
    flags = sum(one[1] != two[1] for one, two in pairs)
    choices = range(0, len(pairs) - len(pairs) % 4, 4)

    def best(at: int, side: int) -> int:
        return max(range(4), key=lambda choice: pairs[at + choice][side][0])

    moved = sum(best(at, 0) != best(at, 1) for at in choices)
    return f"largest difference {worst:.1e}, {flags} greedy flags and {moved} answers differ"


def same_texts(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How many answers differ."""
    differ = sum(one != two for one, two in zip(ours, theirs, strict=True))
    return f"{differ} of {len(ours)} answers differ"


def start_up(model: str, path: Path) -> float:
    """Processor seconds from the start of a process to its first answer."""
    code = (
        "import sys, resource\n"
        "from lm_eval.api.registry import get_model\n"
        "from lm_eval.api.instance import Instance\n"
        f"lm = get_model({model!r})(pretrained={str(path)!r}, device='cpu')\n"
        "lm.loglikelihood([Instance('loglikelihood', {}, ('Once', ' upon'), 0)])\n"
        "spent = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(spent.ru_utime + spent.ru_stime)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure, and print a row of JSON for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=["stories", *SHAPES], default="stories")
    parser.add_argument("--model", type=Path, help="a checkpoint instead of a shape")
    parser.add_argument("--plain", action="store_true", help="also a plain loop of batches")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--questions", type=int, default=40, help="of MMLU; 0: leave it out")
    parser.add_argument("--prompts", type=int, default=64, help="of the task; 0: leave it out")
    parser.add_argument("--task", default="kick_freebaseqa", help="whose prompts")
    parser.add_argument(
        "--num-fewshot", type=int, help="examples in each prompt of the task (MMLU has five)"
    )
    parser.add_argument("--alone", type=int, default=0, help="prompts for hf one at a time")
    parser.add_argument("--until", action="append", help="other stop strings than the task's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--start-up", action="store_true", help="also a process's fixed cost")
    arguments = parser.parse_args()
    arguments.dtype = getattr(torch, arguments.dtype)
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]

    model, tokenizer = load(arguments)
    manager = TaskManager(
        include_path=[str(TASK_FOLDER)],
        include_defaults=False,
        metadata={"data_dir": str(arguments.data)},
    )
    # Longer than stories was trained for: five shots take 2,000 of its short tokens.
    given: dict[str, Any] = {"pretrained": model, "tokenizer": tokenizer, "max_length": CONTEXT}
    hf = HFLM(batch_size=arguments.batch_size, softmax_dtype="float32", **given)
    kick = KickLM(batch_size=arguments.batch_size, **given)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    meter = Meter(model, clock)
    plain = PlainLoop(hf)

    def sides(kind: str, requests: list[Any]) -> dict[str, Callable[[], Any]]:
        found = {"hf": lambda: getattr(hf, kind)(requests, disable_tqdm=True)}
        if arguments.plain:
            found["plain"] = lambda: getattr(plain, kind)(requests)
        return {**found, "kick": lambda: getattr(kick, kind)(requests, disable_tqdm=True)}

    print(
        json.dumps(
            {
                "model": arguments.model.name if arguments.model else arguments.shape,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "device": arguments.device,
                "threads": arguments.threads,
                "dtype": str(arguments.dtype),
                "batch_size": arguments.batch_size,
                "clock": arguments.clock,
                "load": [round(one, 1) for one in os.getloadavg()],
                "machine": platform.processor() or platform.machine(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
        )
    )
    if arguments.questions:
        names = sorted(name for name in manager.all_subtasks if name.startswith("mmlu_kick_"))
        requests = requests_of(manager, names, arguments.questions)
        _show(
            "mmlu",
            len(requests),
            compare(meter, arguments.repeats, sides("loglikelihood", requests), same_scores),
        )
    if arguments.prompts:
        prompts = requests_of(manager, [arguments.task], arguments.prompts, arguments.num_fewshot)
        if arguments.until:
            for instance in prompts:
                text, settings = instance.args
                instance.arguments = (text, {**settings, "until": arguments.until})
        row = compare(meter, arguments.repeats, sides("generate_until", prompts), same_texts)
        _show(arguments.task, len(prompts), row)
        if arguments.alone:
            some = prompts[: arguments.alone]
            single = HFLM(**{**given, "batch_size": 1})
            run = meter.run(lambda: single.generate_until(some, disable_tqdm=True))
            a_prompt = row["kick_seconds"] / len(prompts)
            ours = kick.generate_until(some, disable_tqdm=True)
            alone = {
                "hf_seconds_a_prompt": run["seconds"] / len(some),
                "kick_seconds_a_prompt": a_prompt,
                "hf/kick": run["seconds"] / len(some) / a_prompt,
                "hf=kick": same_texts(run["answers"], ours),
            }
            _show(f"{arguments.task}, hf one at a time", len(some), alone)
    if arguments.start_up:
        path = arguments.data.resolve().parent / "models" / "stories260K-hf"
        starts = [(start_up("hf", path), start_up("kick", path)) for _ in range(arguments.repeats)]
        both = [statistics.median(column) for column in zip(*starts, strict=True)]
        print(json.dumps({"start_up_hf": both[0], "start_up_kick": both[1]}))


def _show(what: str, requests: int, row: dict[str, Any]) -> None:
    rounded = {
        name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()
    }
    print(json.dumps({"what": what, "requests": requests, **rounded}), flush=True)


if __name__ == "__main__":
    main()
