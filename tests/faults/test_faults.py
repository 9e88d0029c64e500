# SPDX-License-Identifier: Apache-2.0
"""Bad inputs of every command: one clear line, exit status 2, no weights loaded.

A case is a line of :data:`CASES`: a command line and words that the message has to hold. ``{root}``
holds the files of ``places.py``, ``{model}`` is a model without a fault.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmkick_plugin import cli
from lmkick_plugin.registration import TASK_FOLDER
from tests.faults import places

ENDS = re.compile(r"^lmkick [a-z]+: (?P<message>.+)$")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A folder with everything that can be wrong."""
    folder = tmp_path_factory.mktemp("faults")
    places.make_data(folder)
    places.make_models(folder, tiny_model_dir)
    places.make_results(folder)
    places.make_settings(folder)
    places.make_texts(folder)
    places.make_yaml(folder, tiny_model_dir)
    (folder / "file").write_text("in the way")
    (folder / "link").symlink_to(folder / "nowhere")
    return folder


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No judge, no data directory, lm-eval's logging left alone; another working directory."""
    for name in os.environ:
        if name.startswith(("LMKICK_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    from lm_eval.tasks._index import TaskIndex

    build = TaskIndex.build

    def ours(paths: Any, **options: Any) -> Any:
        """Leave lm-eval's own 14,000 files unread."""
        kept = [path for path in paths if Path(path).parent.name != "lm_eval"]
        return build(list(dict.fromkeys([TASK_FOLDER, *kept])), **options)

    ours.adds_lmkick = True  # type: ignore[attr-defined]
    monkeypatch.setattr(TaskIndex, "build", staticmethod(ours))
    yield
    assert list(tmp_path.iterdir()) == []  # nothing is left of what was refused


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls that read weights."""
    from transformers import PreTrainedModel

    seen: list[str] = []
    load = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, name: Any, *args: Any, **options: Any) -> Any:
        found = load(cls, name, *args, **options)
        if options.get("device_map") != "meta":  # where no weights are
            seen.append(str(name))
        return found

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(counted))
    return seen


def run(command: str, root: Path, model: Path) -> list[str]:
    names = {"root": str(root), "model": str(model), "long": "x" * 300}
    parts = shlex.split(command)
    return [re.sub(r"\{(\w+)\}", lambda match: names[match[1]], part) for part in parts]


#: Command line, then words of the message, in this order.
KICK = "run --model kick --tasks kick_freebaseqa --metadata data_dir={root}/data --device cpu "
GOOD = KICK + "--model_args pretrained={model}"
PRUNE = GOOD + ",compressor=magnitude,"
WANDA = GOOD + ",compressor=wanda,sparsity=0.5,nsamples=2,seqlen=32,"
COMPRESS = "compress --pretrained {model} --compressor magnitude --device cpu --output {root}/new "
STUDY = (
    "study seeds --tasks kick_freebaseqa --output {root}/study --device cpu --metadata "
    "data_dir={root}/data --model_args pretrained={model},compressor=wanda,sparsity=0.5,"
)
JUDGE = "judge {root}/runs/run --judge_model m --judge_base_url http://127.0.0.1:9/v1 "
CALIBRATED = "calibration={root}/texts/good.txt,nsamples=2,seqlen=32"
CASES = [
    # --- run: where results go
    (GOOD + " --output_path {root}/file", "file is a file"),
    (GOOD + " --output_path {root}/file/below", "file is a file"),
    (GOOD + " --output_path {root}/link", "not writable|dangling link"),
    (GOOD + " --output_path {root}/{long}", "too long"),
    (GOOD + " --output_path /proc/nothing", "not writable"),
    (GOOD + " --output_path /dev/null/x", "is a file|not writable"),
    (GOOD + " --log_samples", "--output_path"),
    (GOOD + " --use_cache {root}/{long}", "too long"),
    # --- run: numbers
    (GOOD + " --batch_size 0", "--batch_size='0': expected a whole number of at least 1, auto"),
    (GOOD + " --batch_size -1", "--batch_size"),
    (GOOD + " --batch_size auto:-1", "--batch_size='auto:-1'"),
    (GOOD + " --batch_size auto:0", "--batch_size='auto:0'"),
    (GOOD + " --batch_size many", "--batch_size='many'"),
    (GOOD + " --batch_size auto --max_batch_size 0", "--max_batch_size=0"),
    (GOOD + ",batch_size=0", "batch_size=0"),
    (GOOD + ",max_batch_size=-3", "max_batch_size"),
    (GOOD + ",max_length=0", "max_length=0"),
    (GOOD + " --limit 0", "--limit=0.0"),
    (GOOD + " --limit -1", "--limit=-1.0"),
    (GOOD + " --limit nan", "--limit=nan"),
    (GOOD + " --limit inf", "--limit=inf"),
    (GOOD + " --limit 1.5", "--limit=1.5"),
    (GOOD + " --limit few", "limit"),
    (GOOD + " --num_fewshot -1", "--num_fewshot=-1"),
    (GOOD + " --gen_kwargs max_gen_toks=0", "--gen_kwargs max_gen_toks=0"),
    (GOOD + " --gen_kwargs max_new_tokens=-5", "--gen_kwargs max_new_tokens"),
    (GOOD + " --gen_kwargs temperature=-1", "--gen_kwargs temperature"),
    (GOOD + " --gen_kwargs do_sample=maybe", "--gen_kwargs do_sample='maybe': expected true"),
    (GOOD + " --gen_kwargs top_p=2", "--gen_kwargs top_p"),
    (GOOD + " --gen_kwargs temprature=1", "Did you mean 'temperature'"),
    (GOOD + " --gen_kwargs until=7", "expected text, or a list"),
    (GOOD + " --gen_kwargs num_return_sequences=2,num_beams=3", "one answer is scored"),
    (GOOD + " --gen_kwargs do_sample=true,temperature=0", "temperature=0 leaves nothing to"),
    (GOOD + " --seed -1", "--seed=-1: expected a whole number from 0"),
    (GOOD + " --samples {root}/nowhere.json", "--samples: expected .*No such file"),
    (GOOD + " --samples /dev/zero", "--samples: .*larger than"),
    (GOOD + " --samples '{\"kick_freebaseqa\": [99999]}'", "has 40 documents, 0 to 39"),
    (GOOD + " --samples '{\"kick_freebaseqa\": [-1]}'", "--samples=-1"),
    (GOOD + " --samples '{\"kick_freebaseqa\": 3}'", "--samples: expected"),
    (GOOD + " --samples '{\"kick_freebase\": [1]}'", "Did you mean 'kick_freebaseqa'"),
    # --- run: nothing, and JSON that is none
    (GOOD + " --output_path ''", "--output_path: the value is empty"),
    (GOOD + " --batch_size ''", "--batch_size: the value is empty"),
    (GOOD + " --device ''", "--device: the value is empty"),
    (GOOD + " --metadata {", "an option cannot be read: Invalid JSON"),
    (GOOD + " --hf_hub_log_args hub_result_org=a", "Did you mean 'hub_results_org'"),
    (GOOD + " --use_cache {root}/file/x", "--use_cache=.*file is a file"),
    # --- run: tasks
    (GOOD + " --tasks kick_freebaseqa,", "extra comma"),
    (GOOD + " --tasks ,", "extra comma"),
    (GOOD + " --tasks KICK_FREEBASEQA", "Did you mean 'kick_freebaseqa'"),
    (GOOD.replace("kick_freebaseqa", "kick*"), "in group kick.*, as in 'kick_\\*'"),
    (GOOD + " --tasks kick", "kick_freebaseqa is named twice, by itself and in group kick"),
    (GOOD + " --tasks kick_zzz*", "no task 'kick_zzz\\*'"),
    (GOOD + " --tasks kick_freebaseq", "Did you mean 'kick_freebaseqa'"),
    (GOOD + " --tasks no_such_task", "Tasks not found: .*no_such_task"),
    (GOOD + " --num_fewshot 100000", "num_fewshot=100000: kick_freebaseqa: .*Ask for fewer"),
    (GOOD.replace("data_dir=", "data_dr="), "Did you mean 'data_dir'"),
    ("run --model kick --model_args pretrained={model}", "--tasks: none given"),
    (GOOD.replace("--model kick", "--model kik"), "kik: no such model. Did you mean 'kick'"),
    (PRUNE.replace("--model kick", "--model hf") + "sparsity=0.5", "Use --model kick"),
    (GOOD + " --include_path {root}/file", "--include_path .*no such folder"),
    (GOOD + " --include_path {root}/nowhere", "--include_path .*no such folder"),
    # --- run: devices and switches
    (GOOD + " --device cuda:99", "device=cuda:99: torch .* sees"),
    (GOOD + " --device gpu", "Did you mean 'cuda'"),
    (GOOD + " --device mps", "device=mps"),
    (GOOD + " --device cuda:-1", "not a device"),
    (GOOD + " --device cuda:one", "not a device"),
    (GOOD + ",device=gpu", "Did you mean 'cuda'"),
    (GOOD + ",device=cuda:77", "device=cuda:77"),
    (GOOD + ",trust_remote_code=maybe", "trust_remote_code='maybe': expected true or false"),
    (GOOD.replace("kick ", "hf ", 1) + ",trust_remote_code=no", "takes any text for true"),
    (GOOD + ",parallelize=perhaps", "parallelize='perhaps'"),
    (GOOD + ",use_fast_tokenizer=2", "use_fast_tokenizer=2"),
    (GOOD + ",add_bos_token=si", "add_bos_token='si'"),
    (GOOD + ",load_in_8bit=maybe", "load_in_8bit='maybe'"),
    (GOOD + ",local_files_only=da", "local_files_only='da'"),
    (GOOD + ",dtype=int8", "dtype=int8"),
    (GOOD + ",backend=magic", "backend='magic'"),
    # --- run: names of arguments
    (GOOD + ",compresor=wanda,sparsity=0.5", "Did you mean 'compressor'"),
    (GOOD + ",compressor=wnada,sparsity=0.5", "Did you mean 'wanda'"),
    (PRUNE + "sparsity=0.5,sparsity=0.7", "sparsity was given twice"),
    (GOOD + ",pretrained=other", "pretrained was given twice"),
    (GOOD + " --gen_kwargs temperature=0,temperature=1", "temperature was given twice"),
    (GOOD + " --metadata data_dir=a data_dir=b", "data_dir was given twice"),
    (PRUNE + "sparcity=0.5", "Did you mean 'sparsity'"),
    (PRUNE + "bits=4,sparsity=0.5", "does not go with"),
    (GOOD + ",no_such=1", "Unknown model argument no_such"),
    (GOOD + ",prefix_token_id=99999999", "the model has tokens 0 to 127"),
    (GOOD + ",softmax_dtype=7", "softmax_dtype=7: not a floating dtype"),
    (GOOD + ",mixed_precision_dtype=16", "mixed_precision_dtype=16: not a floating dtype"),
    # --- run: recipe
    (PRUNE + "sparsity=1.5", "sparsity=1.5"),
    (PRUNE + "sparsity=" + "9" * 400, "sparsity"),
    (PRUNE + "sparsity=nan", "sparsity='?nan"),
    (PRUNE + "pattern=2:7", "divide"),
    (PRUNE + "pattern=4:2", "Did you mean pattern=2:4"),
    (PRUNE + "pattern=2:0", "pattern"),
    (PRUNE + "pattern=2/4", "pattern"),
    (GOOD + ",compressor=gptq,bits=1", "bits=1"),
    (GOOD + ",compressor=rtn,bits=4,group_size=0", "group_size=0"),
    (GOOD + ",compressor=rtn,bits=4,symmetric=maybe", "symmetric='maybe'"),
    (PRUNE + "sparsity=0.5,resume_dir={root}/file", "resume_dir.*file"),
    (PRUNE + "sparsity=0.5,resume_dir={root}/{long}", "resume_dir.*too long"),
    (PRUNE + "sparsity=0.5,resume_dir=/proc/nothing", "resume_dir.*not writable"),
    (PRUNE + "sparsity=0.5,compress_cache={root}/file", "compress_cache.*file"),
    (PRUNE + "sparsity=0.5,save_compressed={root}/data", "not empty"),
    (PRUNE + "sparsity=0.5,save_compressed={root}/{long}", "too long"),
    (PRUNE + "sparsity=0.5,allocation=file:{root}/allocations/digits.json", "400 digits"),
    (PRUNE + "sparsity=0.5,allocation=file:{root}/allocations/deep.json", "nested too deeply"),
    (PRUNE + "sparsity=0.5,allocation=file:{root}/allocations/long.json", "asks for 2"),
    (PRUNE + "sparsity=0.5,allocation=file:{root}/allocations/twice.json", "stands twice"),
    (PRUNE + "sparsity=0.5,allocation=file:{root}/allocations/list.json", "expected an object"),
    (PRUNE + "sparsity=0.5,allocation=file:{root}/allocations", "directory"),
    (PRUNE + "sparsity=0.5,allocation=file:/dev/zero", "larger than"),
    # --- run: calibration
    (WANDA + "calibration={root}/nowhere.txt", "nowhere.txt"),
    (WANDA + "calibration={root}/texts/empty.txt", "empty.txt"),
    (WANDA + "calibration={root}/texts/short.txt", "too short"),
    (WANDA + "calibration={root}/texts/bytes.txt", "UTF-8"),
    (WANDA + "calibration={root}/texts/folder.txt", "folder.txt"),
    (WANDA + "calibration={root}/texts/surrogate.jsonl", "surrogate"),
    (WANDA + "calibration={root}/texts/null.jsonl", "null.jsonl"),
    (WANDA + "calibration={root}/texts/no_field.jsonl", "no_field.jsonl"),
    (WANDA + "calibration={root}/texts/half.jsonl", "half.jsonl"),
    (WANDA + "calibration={root}/texts/digits.jsonl", "digits.jsonl"),
    (WANDA + "calibration={root}/texts/number.jsonl", "it has text=7"),
    (WANDA + "calibration={root}/texts/deep.jsonl", "deep.jsonl, line 1: not JSON"),
    (WANDA + "calibration={root}/{long}", "too long"),
    (WANDA + "calibration=c5", "no such file. Did you mean 'c4'.*self, task:NAME, mix:A"),
    (WANDA + "calibration=task:nothing", "no training text"),
    (WANDA.replace("nsamples=2", "nsamples=1e9") + "calibration={root}/texts/good.txt", "At most"),
    (WANDA.replace("nsamples=2", "nsamples=0") + "calibration={root}/texts/good.txt", "nsamples=0"),
    # --- run: models
    *(
        (KICK + f"--model_args pretrained={{root}}/models/{name}", words)
        for name, words in {
            "nothing": "no readable model config",
            "no_config": "no readable model config",
            "broken_config": "config",
            "list_config": "config",
            "bytes_config": "config",
            "no_weights": "no_weights",
            "empty_weights": "weights",
            "half_weights": "weights",
            "no_tokenizer": "tokenizer",
            "broken_tokenizer": "tokenizer",
            "unknown_type": "no-such-model",
            "number_type": "config",
            "other_width": "size|shape",
            "text_width": "config",
            "no_heads": "config",
            "gguf": "gguf_file=q4.gguf",
            "small_vocabulary": "has token 102, but the model has only 64",
            "no_context": "context is 1 tokens",
            "no_tokens": "tokenizer of .* cannot be read",
            "fills_masks": "BertForMaskedLM",
            "classifies": "LlamaForSequenceClassification",
            "endless_layers": "num_hidden_layers=1000000000000",
            "zero_layers": "num_hidden_layers=0",
            "minus_layers": "num_hidden_layers=-1",
            "pickled": "weights cannot be loaded",
            "deep_record": "kick.json cannot be read: nested too deeply",
            "deep_index": "index.json: not an index of weights",
            "empty_index": "names of files",
            "index_elsewhere": "names of files",
        }.items()
    ),
    *(
        (
            KICK + f"--apply_chat_template --model_args pretrained={{root}}/models/{name}",
            "chat template of .* cannot be used. Leave out --apply_chat_template",
        )
        for name in ("half_template", "long_template", "angry_template")
    ),
    (GOOD + " --apply_chat_template", "Leave out --apply_chat_template"),
    (KICK + "--model_args pretrained={root}/file", "file"),
    (KICK + "--model_args pretrained={root}/nowhere", "no such folder"),
    (KICK + "--model_args pretrained=", "pretrained"),
    (KICK + "--model_args pretrained={long}", "pretrained='x.*too long"),
    (KICK + "--model_args pretrained={long}{long}", "pretrained='x.*too long"),
    (GOOD + ",tokenizer={long}", "tokenizer='x.*too long"),
    (GOOD + ",peft={long}", "peft='x.*too long"),
    (GOOD + ",reference={long}", "reference='x.*too long"),
    *(
        (GOOD + f",peft={{root}}/peft/{name}", words)
        for name, words in {
            "half": "adapter_config.json cannot be read",
            "list": "adapter_config.json cannot be read",
            "number": "peft_type in adapter_config.json is 7",
            "no_weights": "holds no adapter_model.safetensors",
        }.items()
    ),
    (GOOD + ",delta={root}/nowhere", "delta=.*no such folder"),
    (GOOD + ",delta={root}/models/no_config", "delta=.*holds no config.json"),
    (KICK + "--model_args nonsense", "name=value|key=value"),
    (KICK + '--model_args \'{"pretrained": "a\\u0000b"}\'', "NUL"),
    (GOOD + ",reference={root}/nowhere", "reference"),
    *(
        (PRUNE + f"sparsity=0.5,reference={{root}}/models/{name}", words)
        for name, words in {
            "missing_tensor": "model.norm.weight",
            "nan": "lm_head.weight",
            "more_layers": "9 tensors are missing",
            "fills_masks": "BertForMaskedLM",
            "half_weights": "damaged",
        }.items()
    ),
    (GOOD + ",softmax_dtype=int8", "softmax_dtype=int8: not a floating dtype"),
    (GOOD + ",mixed_precision_dtype=half32", "mixed_precision_dtype=half32"),
    (GOOD + ",revision=v2", "is a folder, which has no revisions"),
    (GOOD + ",peft={root}/nowhere", "peft"),
    (GOOD + ",tokenizer={root}/nowhere", "tokenizer"),
    # --- run: data
    *(
        (GOOD.replace("{root}/data", f"{{root}}/{name}"), words)
        for name, words in {
            "null_question": "RawQuestion",
            "no_parses": "Parses",
            "number_question": "question is 7, expected text",
            "text_parses": "Parses",
            "null_answers": "Answers",
            "no_field": "no field 'RawQuestion'",
            "not_json": "not JSON",
            "not_object": "JSON object",
            "empty": "no rows",
            "digits": "eval.jsonl",
            "deep": "eval.jsonl",
            "surrogate": "surrogate",
            "bytes": "UTF-8",
            "folder_file": "eval.jsonl",
            "nowhere": "no such",
            "file": "no such|not a directory",
        }.items()
    ),
    (
        GOOD.replace("kick_freebaseqa", "kick_wikitext").replace("{root}/data", "{root}/null_text"),
        "text",
    ),
    # --- run: --config
    ("run --config {root}/nowhere.yaml", "no such file"),
    ("run --config {root}/yaml/folder.yaml", "no such file"),
    ("run --config {root}/yaml/bytes.yaml", "cannot be read"),
    ("run --config {root}/yaml/bomb.yaml", "more than"),
    ("run --config {root}/yaml/list.yaml", "expected a mapping"),
    ("run --config {root}/yaml/tab.yaml", "not YAML"),
    # --- compress
    (COMPRESS, "sparsity"),
    (COMPRESS + "--sparsity 2", "sparsity"),
    (COMPRESS + "--pattern 2:7", "divide"),
    (COMPRESS + "--sparsity 0.5 --device cuda:99", "device=cuda:99"),
    (COMPRESS + "--sparsity 0.5 --device gpu", "Did you mean 'cuda'"),
    (COMPRESS + "--sparsity 0.5 --output {root}/file", "file is a file"),
    (COMPRESS + "--sparsity 0.5 --output {root}/{long}", "too long"),
    (COMPRESS + "--sparsity 0.5 --output /proc/nothing", "not writable"),
    (COMPRESS + "--sparsity 0.5 --output {root}/data", "not empty"),
    (COMPRESS + "--sparsity 0.5 --pretrained {root}/models/no_weights", "no_weights"),
    (COMPRESS + "--sparsity 0.5 --pretrained {root}/models/other_width", "size|shape"),
    (COMPRESS + "--sparsity 0.5 --model-args trust_remote_code=maybe", "expected true or false"),
    (COMPRESS + "--sparsity 0.5 --model-args revision=a,revision=b", "given twice"),
    (
        (COMPRESS + "--sparsity 0.5 --calibration c5").replace("magnitude", "wanda"),
        "c5: no such file. Did you mean 'c4'",
    ),
    (COMPRESS + "--sparsity 0.5 --format gptq", "^--format gptq stores.*dense .--format dense."),
    (COMPRESS + "--sparsty 0.5", "--sparsty. Did you mean '--sparsity'"),
    (COMPRESS + "--sparsity 0.5 --resume-dir {root}/file", "resume_dir"),
    (COMPRESS + "--sparsity 0.5 --output ''", "--output: the value is empty"),
    (COMPRESS + "--allocation file:{root}/allocations/deep.json", "nested too deeply"),
    (COMPRESS + "--sparsity 0.5 --pretrained {root}/models/pickled", "weights cannot be loaded"),
    (COMPRESS + "--sparsity 0.5 --pretrained {root}/models/zero_layers", "num_hidden_layers=0"),
    (COMPRESS + "--sparsity 0.5 --pretrained {long}", "pretrained='x.*too long"),
    # --- sweep
    *(
        (f"sweep {{root}}/yaml/{name}.yaml", words)
        for name, words in {
            "bomb": "more than",
            "cycle": "more than|itself",
            "twice": "already set in line 5",
            "twice_inline": "already set in line 6",
            "merge": "base: no such key",
            "merge_wrong": "merging",
            "python_tag": "python",
            "list": "expected a mapping",
            "empty": "expected a mapping",
            "tab": "not YAML",
            "deep": "nested too deeply",
            "limit_zero": "limit=0",
            "limit_nan": "limit",
            "limit_text": "limit='few'",
            "limit_digits": "limit",
            "device": "device=cuda:99",
            "device_gpu": "Did you mean 'cuda'",
            "batch_zero": "batch_size=0",
            "batch_auto": "batch_size='auto:-1'",
            "max_gen_toks": "max_gen_toks=0",
            "gen_kwargs": "gen_kwargs max_gen_toks=0",
            "nul": "NUL",
            "nul_model": "NUL",
            "nul_data": "NUL",
            "long_output": "too long",
            "output_file": "file is a file",
            "task_case": "Did you mean 'kick_freebaseqa'",
            "task_pattern": "no task",
            "task_empty": "name of a task",
            "trust": "trust_remote_code='maybe'",
            "unknown_key": "Did you mean 'tasks'",
            "pattern": "divide",
            "pattern_group": "divide",
            "text_missing": "no such file",
            "nsamples": "At most",
            "null_model": "models",
            "model_missing": "no such folder",
            "missing_tensor": "model.norm.weight",
            "nan": "lm_head.weight",
            "more_layers": "9 tensors are missing",
            "fills_masks": "BertForMaskedLM",
            "empty_index": "index.json",
            "grid": "span 40,000 cells",
            "allocation": "nested too deeply",
            "gen_misspelt": "Did you mean 'temperature'",
            "recipe_text": "recipes",
            "seed_negative": "seed",
            "folder": "cannot be read",
            "bytes": "cannot be read",
            "nowhere": "cannot be read",
        }.items()
    ),
    ("sweep {root}/yaml/pattern.yaml --dry_run", "/magnitude_pattern=2-7: .*divide"),
    ("sweep {root}/yaml/good.yaml --device gpu", "Did you mean 'cuda'"),
    ("sweep {root}/yaml/good.yaml --limit 0", "limit='0'"),
    ("sweep {root}/yaml/good.yaml --limit nan", "limit='nan'"),
    ("sweep {root}/yaml/good.yaml --workers 0", "workers"),
    ("sweep {root}/yaml/good.yaml --retries -1", "retries"),
    ("sweep {root}/yaml/good.yaml --batch-size auto:0", "batch_size"),
    ("sweep {root}/yaml/good.yaml --data-dir {root}/nowhere", "no such"),
    ("sweep {root}/yaml/good.yaml --data-dir {root}/no_parses", "Parses"),
    ("sweep {root}/yaml/good.yaml --output {root}/file", "file is a file"),
    ("sweep /dev/zero", "larger than"),
    # --- study
    (STUDY + "calibration={root}/nowhere.txt", "no such file"),
    (STUDY + "calibration=c4 --seeds 3", "no spread"),
    (STUDY + "calibration=c4 --seeds 1 1", "repeats a seed"),
    (STUDY + "calibration=c4 --limit 0", "limit='0'"),
    (STUDY + "calibration=c4 --device gpu", "Did you mean 'cuda'"),
    (STUDY + "sparsity=0.7", "given twice"),
    (STUDY.replace("seeds", "nsamples", 1) + "nsamples=4", "nsamples=4: the study varies it"),
    (STUDY.replace("seeds", "nsamples", 1) + "calibration=c4 --values 0", "nsamples"),
    (STUDY.replace("seeds", "nsamples", 1) + "calibration=c4 --values many", "nsamples"),
    (STUDY.replace("seeds", "calibration", 1) + "seed=0 --values {root}/nowhere", "no such file"),
    (STUDY.replace("wanda", "magnitude") + "seed=0+1", "does not go with"),
    (STUDY.replace("compressor", "compresor") + "seed=0+1", "Did you mean 'compressor'"),
    *(
        (STUDY.replace("{model}", f"{{root}}/models/{name}") + CALIBRATED, words)
        for name, words in {
            "missing_tensor": "model.norm.weight",
            "nan": "lm_head.weight",
            "more_layers": "9 tensors are missing",
            "small_vocabulary": "has token 102, but the model has only 64",
            "fills_masks": "BertForMaskedLM",
        }.items()
    ),
    (STUDY + CALIBRATED + ",reference={root}/models/nan", "lm_head.weight"),
    (STUDY + CALIBRATED + ",reference={root}/models/small_vocabulary", "it scores 64 tokens"),
    (STUDY + "trust_remote_code=maybe", "trust_remote_code='maybe'"),
    (STUDY + CALIBRATED + " --metadata nonsense", "name=value"),
    (STUDY + CALIBRATED + " --metadata {", "name=value"),
    # --- results
    *(
        (f"{command} {{root}}/runs/{name}{more}", words)
        for command, more in {
            "compare {root}/runs/run": "",
            "report": " -o {root}/page",
            "export": " -o {root}/rows",
            "layers": "",
        }.items()
        for name, words in {
            "empty": "not a whole JSON|no lm-eval results",
            "half": "not a whole JSON|no lm-eval results",
            "list": "not lm-eval's results|no lm-eval results",
            "results_null": "not lm-eval's results|no lm-eval results",
            "results_list": "not lm-eval's results|no lm-eval results",
            "many_digits": "digits|no lm-eval results|not a whole",
            "digits": "digits|no lm-eval results|not a whole",
            "deep": "not a whole JSON|no lm-eval results",
            "bytes": "not a whole JSON|no lm-eval results",
            "folder": "no lm-eval results|cannot be read|directory|not a file",
            "group_cycle": "group 't' holds itself|no lm-eval results",
            "record_list": "found \\[1\\]|no lm-eval results",
            "record_earlier": "earlier of the model's record is 5|no lm-eval results",
            "record_step": "found 7|no lm-eval results",
            "record_name": "base_model of the model's record is 7|no lm-eval results",
            "nothing": "no lm-eval results",
            "nowhere": "nowhere",
        }.items()
    ),
    ("compare {root}/runs/run {root}/runs/sample_half", "line 1"),
    ("compare {root}/runs/run {root}/runs/run --json {root}/x --csv {root}/x", "name one file"),
    ("compare {root}/runs/run {root}/runs/sample_list", "line 1"),
    ("compare {root}/runs/run {root}/runs/sample_fields", "line 1"),
    ("compare {root}/runs/run {root}/runs/sample_digits", "samples_t"),
    ("compare {root}/runs/run {root}/runs/run2 --csv {root}/runs", "runs"),
    ("compare {root}/runs/run {root}/runs/run2 --csv {root}/file/x.csv", "file"),
    ("compare {root}/runs/run {root}/runs/run2 --csv {root}/{long}", "too long"),
    ("compare {root}/runs/run {root}/runs/run2 --tolerance nan", "tolerance"),
    ("compare {root}/runs/run {root}/runs/run2 --tolerance -1", "got -1.0$"),
    ("compare {root}/runs/run {root}/runs/run2 --tolerance 5", "got 5.0: 5 % is 0.05"),
    ("compare {root}/runs/run {root}/runs/run2 --resamples 0", "resamples"),
    ("compare {root}/runs/run {root}/runs/run2 --resamples 999999999999", "at most 10,000,000"),
    ("compare {root}/runs/run {root}/runs/run2 --json {root}/runs", "--json=.* is a folder"),
    ("compare {root}/runs/run {root}/runs/run2 --json ''", "--json: the path is empty"),
    ("compare {root}/runs/run {root}/runs/run2 --csv /proc/x.csv", "--csv=.*not writable"),
    ("compare /dev/zero {root}/runs/run", "not a file"),
    ("report {root}/runs/run -o ''", "the path is empty"),
    ("report {root}/runs/run -o {root}/page --seed -1", "seed must be at least 0"),
    ("report {root}/runs/run -o {root}/page --resamples 99999999999", "at most 10,000,000"),
    ("report {root}/runs/run -o {root}/page --label =x", "FOLDER=LABEL"),
    ("report {root}/runs/run -o {root}/link", "dangling link"),
    ("export {root}/runs/run -o ''", "the path is empty"),
    ("export {root}/runs/run -o {root}/link", "dangling link"),
    ("report {root}/runs/run -o {root}/file", "file"),
    ("report {root}/runs/run -o {root}/{long}", "too long"),
    ("report {root}/runs/run -o /proc/nothing", "proc|nothing"),
    ("report {root}/runs/run -o {root}/page --tolerance nan", "tolerance"),
    ("report {root}/runs/run -o {root}/page --resamples -4", "resamples"),
    ("report {root}/runs/run -o {root}/page --metric t", "TASK=METRIC"),
    ("report {root}/runs/run -o {root}/page --label x", "FOLDER=LABEL"),
    ("export {root}/runs/run -o {root}/file", "file"),
    ("export {root}/runs/run -o {root}/{long}", "too long"),
    ("export {root}/runs/run -o {root}/rows --metric t", "TASK=METRIC"),
    ("layers {root}/runs/run", "no table of layers|holds a table"),
    ("layers {root}/runs/run --worst many", "worst"),
    ("layers {root}/runs/run --worst -3", "--worst -3: expected 0 or more"),
    ("layers {root}/runs/layers_text", "table of layers is damaged"),
    ("layers {root}/runs/layers_long", "table of layers is damaged"),
    # --- judge, doctor, profile
    *(
        (f"judge {{root}}/runs/{name} --judge_model m", words)
        for name, words in {
            "empty": "not a whole JSON|no lm-eval results",
            "list": "not lm-eval's|no lm-eval results",
            "digits": "digits|no lm-eval results|not a whole|no task|nothing",
            "nothing": "no lm-eval results",
            "nowhere": "nowhere",
        }.items()
    ),
    ("judge {root}/runs/run --judge_model m", "no task with answers to judge"),
    ("judge {root}/runs/run --judge_modle m", "--judge_modle. Did you mean '--judge_model'"),
    *(
        (JUDGE + options, words)
        for options, words in {
            "--judge_prompt {root}/prompts/list.yaml": "expected a mapping",
            "--judge_prompt {root}/prompts/unknown.yaml": "Did you mean 'pair'",
            "--judge_prompt {root}/prompts/lacks.yaml": "lacks {answer_1}",
            "--judge_prompt {root}/prompts/number.yaml": "expected text",
            "--judge_prompt {root}/prompts/half.yaml": "cannot be read",
            "--judge_prompt /dev/zero": "larger than",
            "--check --experts {root}/experts/half.jsonl": "half.jsonl",
            "--check --experts {root}/experts/fields.jsonl": "expected an identity",
            "--check --experts {root}/experts/empty.jsonl": "no scores",
            "--check --experts {root}/experts/digits.jsonl": "400 digits",
            "--check --experts {root}/experts/deep.jsonl": "nested too deeply",
            "--experts {root}/experts/half.jsonl": "goes with --check",
            "--check --items 1": "--items",
            "--check --repeats many": "--repeats",
            "--judge_base_url http://h:99999/v1": "port",
            "--judge_reference magic:x": "judge_reference",
            "--judge_temperature nan": "judge_temperature",
            "--judge_concurrency 0": "judge_concurrency",
            "--judge_order up": "judge_order",
        }.items()
    ),
    ("profile {root}/nowhere", "nowhere"),
    ("profile {root}/models/nothing", "no lm-eval results"),
    ("profile {model} --device gpu", "Did you mean 'cuda'"),
    ("profile {model} --device cuda:99", "device=cuda:99"),
    ("profile {model} --batch_size 0", "batch_size"),
    ("profile {model} --new_tokens 1", "new_tokens"),
    ("profile {model} --model_args trust_remote_code=maybe", "expected true or false"),
    ("profile {model} --json {root}/file/x.json", "file"),
    ("profile {model} --json {root}/runs", "--json=.* is a folder"),
    ("profile {model} --prompt_tokens 100000000", "expected at most 1,000,000"),
    ("profile {model} --batch_size 1000000000", "expected at most 1,000,000"),
    ("profile {model} --model_args pretrained=x", "names pretrained"),
    ("demo --device gpu", "Did you mean 'cuda'"),
    ("demo --output {root}/file", "file is a file"),
    ("demo --output ''", "the path is empty"),
]


@pytest.mark.parametrize(("command", "words"), CASES, ids=range(len(CASES)))
def test_one_clear_line(
    command: str, words: str, root: Path, tiny_model_dir: Path, loads: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    try:
        status = cli.main(run(command, root, tiny_model_dir))
    except SystemExit as ended:  # argparse
        status = int(ended.code or 0)
    said = capsys.readouterr().err
    found = [match for line in said.splitlines() if (match := ENDS.match(line))]
    assert status == 2, said
    assert len(found) >= 1, said
    message = found[-1]["message"]
    assert re.search(words, message), message
    assert "LMKICK_TRACEBACK" not in message, message  # not foreseen
    assert "Traceback" not in said
    assert len(message) < 700, message
    assert loads == []


def test_a_key_that_no_header_holds_stops_any_run(
    root: Path, tiny_model_dir: Path, loads: list[str],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("LMKICK_JUDGE_MODEL", "m")
    monkeypatch.setenv("LMKICK_JUDGE_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("LMKICK_JUDGE_API_KEY", "sk-secret\nx")
    assert cli.main(run(GOOD, root, tiny_model_dir)) == 2
    said = capsys.readouterr().err
    assert "LMKICK_JUDGE_API_KEY holds a space, line break" in said
    assert "sk-secret" not in said
    assert loads == []


def test_the_table_is_large_and_its_control_runs(
    root: Path, tiny_model_dir: Path, loads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(CASES) >= 120
    config = root / "yaml" / "good.yaml"
    assert cli.main(["sweep", str(config), "--dry-run"]) == 0
    assert "1 to do" in capsys.readouterr().out
    # With nothing wrong, weights are loaded: the fixture sees it.
    assert cli.main([*run(GOOD, root, tiny_model_dir), "--limit", "1", "--output_path",
                     str(root / "saved")]) == 0  # fmt: skip
    assert loads == [str(tiny_model_dir)]
    (path,) = (root / "saved").rglob("results_*.json")
    assert "kick_freebaseqa" in json.loads(path.read_text())["results"]
