# SPDX-License-Identifier: Apache-2.0
"""Files with something wrong in them, made once for the whole table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

STAMP = "2026-01-02T03-04-05.678901"
ROW = {"Question-ID": "1", "RawQuestion": "q?", "Parses": [{"Answers": [{"AnswersName": ["a"]}]}]}


def lines(path: Path, *rows: Any) -> None:
    """Write rows as JSON Lines; text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")


def make_data(root: Path) -> None:
    """Data directories: ``data`` is whole, each of the others has one fault."""
    good = {f"freebase_qa/{name}.jsonl": [ROW, {**ROW, "RawQuestion": "r?"}] * 20 for name in
            ("eval", "train")}  # fmt: skip
    good["wikitext/test.jsonl"] = [{"text": "one two three"}] * 20
    faults: dict[str, dict[str, list[Any]]] = {
        "data": {},
        "null_question": {"freebase_qa/eval.jsonl": [ROW, {**ROW, "RawQuestion": None}]},
        "no_parses": {"freebase_qa/eval.jsonl": [{**ROW, "Parses": []}]},
        "number_question": {"freebase_qa/eval.jsonl": [{**ROW, "RawQuestion": 7}]},
        "text_parses": {"freebase_qa/eval.jsonl": [{**ROW, "Parses": "a"}]},
        "null_answers": {"freebase_qa/eval.jsonl": [{**ROW, "Parses": [{"Answers": None}]}]},
        "no_field": {"freebase_qa/eval.jsonl": [{"Question-ID": "1"}]},
        "not_json": {"freebase_qa/eval.jsonl": ["{half"]},
        "not_object": {"freebase_qa/eval.jsonl": ["[1]"]},
        "empty": {"freebase_qa/eval.jsonl": [""]},
        "digits": {"freebase_qa/eval.jsonl": ['{"a": ' + "9" * 5000 + "}"]},
        "deep": {"freebase_qa/eval.jsonl": ["[" * 100_000]},
        "surrogate": {"freebase_qa/eval.jsonl": [json.dumps({**ROW, "RawQuestion": "\ud800"})]},
        "null_text": {"wikitext/test.jsonl": [{"text": None}]},
    }  # fmt: skip
    for name, changed in faults.items():
        for file, rows in {**good, **changed}.items():
            lines(root / name / file, *rows)
    (root / "bytes" / "freebase_qa").mkdir(parents=True)
    (root / "bytes" / "freebase_qa" / "eval.jsonl").write_bytes(b"\xff\xfe\x00")
    (root / "folder_file" / "freebase_qa" / "eval.jsonl").mkdir(parents=True)


def make_models(root: Path, good: Path) -> None:
    """Folders of models with one fault each, named after it."""

    def copy(name: str, change: Callable[[Path], object]) -> None:
        folder = root / "models" / name
        shutil.copytree(good, folder)
        change(folder)

    def config(**changes: Any) -> Callable[[Path], object]:
        def write(folder: Path) -> None:
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

        return write

    copy("no_config", lambda folder: (folder / "config.json").unlink())
    copy("broken_config", lambda folder: (folder / "config.json").write_text("{"))
    copy("list_config", lambda folder: (folder / "config.json").write_text("[]"))
    copy("bytes_config", lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"))
    copy("no_weights", lambda folder: (folder / "model.safetensors").unlink())
    copy("empty_weights", lambda folder: (folder / "model.safetensors").write_bytes(b""))
    copy("half_weights", lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:5000]))  # fmt: skip
    copy("no_tokenizer", lambda folder: [path.unlink() for path in folder.glob("tok*")])
    copy("broken_tokenizer", lambda folder: (folder / "tokenizer.json").write_text("{"))

    def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
        def write(folder: Path) -> None:
            file = folder / "model.safetensors"
            found = load_file(file)
            change(found)
            save_file(found, file, metadata={"format": "pt"})

        return write

    def index(text: str) -> Callable[[Path], object]:
        def write(folder: Path) -> None:
            (folder / "model.safetensors").rename(folder / "part.safetensors")
            (folder / "model.safetensors.index.json").write_text(text)

        return write

    def pickled(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x02garbage")

    copy("pickled", pickled)
    copy("deep_record", lambda folder: (folder / "kick.json").write_text("[" * 100_000))
    copy("deep_index", index("[" * 100_000))
    copy("zero_layers", config(num_hidden_layers=0))
    copy("minus_layers", config(num_hidden_layers=-1))
    copy("no_context", config(max_position_embeddings=1))
    copy("small_vocabulary", config(vocab_size=64))

    def no_tokens(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        content["model"] |= {"vocab": {}, "merges": []}
        path.write_text(json.dumps(content))

    copy("no_tokens", no_tokens)
    copy("half_template", lambda f: (f / "chat_template.jinja").write_text("{{ messages"))
    copy("long_template", lambda f: (f / "chat_template.jinja").write_text(
        "{% for number in range(10 ** 9) %}a{% endfor %}"))  # fmt: skip
    copy("angry_template", lambda f: (f / "chat_template.jinja").write_text(
        "{{ raise_exception('no') }}"))  # fmt: skip
    copy("missing_tensor", tensors(lambda found: found.pop("model.norm.weight")))
    copy("nan", tensors(lambda found: found["lm_head.weight"][0].fill_(float("nan"))))
    copy("more_layers", config(num_hidden_layers=3))
    copy("endless_layers", config(num_hidden_layers=10**12))
    copy("fills_masks", config(architectures=["BertForMaskedLM"], is_decoder=True))
    copy("classifies", config(architectures=["LlamaForSequenceClassification"]))
    copy("empty_index", index('{"weight_map": {}}'))
    copy("index_elsewhere", index('{"weight_map": {"a": "../nan/model.safetensors"}}'))
    copy("unknown_type", config(model_type="no-such-model"))
    copy("number_type", config(model_type=7))
    copy("other_width", config(hidden_size=32, head_dim=16))
    copy("text_width", config(hidden_size="wide"))
    copy("no_heads", config(num_attention_heads=0))
    (root / "models" / "nothing").mkdir()
    shutil.copytree(good, root / "models" / "gguf", ignore=lambda *_: ["model.safetensors"])
    (root / "models" / "gguf" / "q4.gguf").write_bytes(b"GGUF")


def make_results(root: Path) -> None:
    """Results folders: ``run`` is whole, each of the others has one fault."""
    item = {
        "doc_id": 0, "doc": {"question": "q"}, "target": "a",
        "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": {"until": ["\n"]}}},
        "resps": [["a"]], "filtered_resps": ["a"], "filter": "none", "metrics": ["exact_match"],
        "doc_hash": "1", "prompt_hash": "2", "target_hash": "3", "exact_match": 1.0,
    }  # fmt: skip
    data = {
        "results": {"t": {"alias": "t", "exact_match,none": 1.0, "exact_match_stderr,none": "N/A"}},
        "group_subtasks": {}, "configs": {"t": {"task": "t"}}, "versions": {"t": 1},
        "n-shot": {"t": 0}, "higher_is_better": {"t": {"exact_match": True}},
        "n-samples": {"t": {"original": 1, "effective": 1}},
        "config": {"model": "hf", "model_args": "pretrained=m", "limit": None}, "model_name": "m",
    }  # fmt: skip
    whole = json.dumps(data)
    score = '"exact_match,none": '
    faults = {
        "run": whole, "run2": whole, "empty": "", "half": whole[:100], "list": "[1]",
        "results_list": json.dumps({**data, "results": [1]}),
        "results_null": json.dumps({**data, "results": None}),
        "digits": whole.replace(f"{score}1.0", score + "9" * 400),
        "many_digits": whole.replace(f"{score}1.0", score + "9" * 5000),
        "deep": "[" * 100_000,
        "group_cycle": json.dumps({**data, "group_subtasks": {"t": ["u"], "u": ["t"]}}),
        **{
            name: json.dumps({**data, "config": {"model": "kick", "kick": record}})
            for name, record in {
                "record_list": [1],
                "record_earlier": {"base_model": "m", "earlier": 5},
                "record_step": {"base_model": "m", "earlier": [7]},
                "record_name": {"base_model": 7},
                "layers_text": {"base_model": "m", "layers": ["name,error", "a,many"]},
                "layers_long": {"base_model": "m", "layers": ["name", '"' + "a" * 200_000 + '"']},
            }.items()
        },
    }  # fmt: skip
    for name, text in faults.items():
        folder = root / "runs" / name
        folder.mkdir(parents=True)
        (folder / f"results_{STAMP}.json").write_text(text, encoding="utf-8")
        lines(folder / f"samples_t_{STAMP}.jsonl", item)
    for name, row in {
        "sample_half": "{", "sample_list": "[1]", "sample_fields": {"doc_id": 1},
        "sample_digits": json.dumps(item).replace(": 1.0", ": " + "9" * 400),
    }.items():  # fmt: skip
        folder = root / "runs" / name
        folder.mkdir(parents=True)
        (folder / f"results_{STAMP}.json").write_text(whole, encoding="utf-8")
        lines(folder / f"samples_t_{STAMP}.jsonl", row)
    (root / "runs" / "bytes").mkdir()
    (root / "runs" / "bytes" / f"results_{STAMP}.json").write_bytes(b"\xff\xfe")
    (root / "runs" / "folder" / f"results_{STAMP}.json").mkdir(parents=True)
    (root / "runs" / "nothing").mkdir()


def make_texts(root: Path) -> None:
    """Calibration texts."""
    texts = root / "texts"
    texts.mkdir()
    (texts / "good.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 300)
    (texts / "empty.txt").write_text("")
    (texts / "short.txt").write_text("few words")
    (texts / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (texts / "folder.txt").mkdir()
    lines(texts / "surrogate.jsonl", '{"text": "' + "word \\ud800 " * 400 + '"}')
    lines(texts / "null.jsonl", {"text": None})
    lines(texts / "no_field.jsonl", {"words": "a"})
    lines(texts / "number.jsonl", {"text": 7})
    lines(texts / "deep.jsonl", "[" * 100_000)
    lines(texts / "half.jsonl", "{")
    lines(texts / "digits.jsonl", '{"text": ' + "9" * 5000 + "}")


def make_settings(root: Path) -> None:
    """Files that arguments name: sparsities of blocks, prompts, experts' scores, adapters."""
    block = '{"model.layers.0": '
    folders = {
        "allocations": {
            "digits.json": block + "9" * 400 + "}", "deep.json": "[" * 100_000,
            "long.json": json.dumps({"b" * 900: 2}), "twice.json": f"{block}0.1, {block[1:]}0.9}}",
            "list.json": "[1]",
        },
        "prompts": {
            "list.yaml": "[1]", "unknown.yaml": "{par: a}", "lacks.yaml": "{pair: hello}",
            "number.yaml": "{pair: 7}", "half.yaml": "{",
        },
        "experts": {
            "half.jsonl": "{", "fields.jsonl": '{"a": 1}', "empty.jsonl": "",
            "digits.jsonl": '{"id": "1", "score": ' + "9" * 400 + "}", "deep.jsonl": "[" * 100_000,
        },
    }  # fmt: skip
    for name, text in {
        "half": "{", "list": "[]", "number": '{"peft_type": 7}', "no_weights":
        '{"peft_type": "LORA"}',
    }.items():  # fmt: skip
        (root / "peft" / name).mkdir(parents=True)
        (root / "peft" / name / "adapter_config.json").write_text(text)
    for folder, files in folders.items():
        (root / folder).mkdir()
        for name, text in files.items():
            (root / folder / name).write_text(text + "\n")


def make_yaml(root: Path, model: Path) -> None:
    """Configurations of sweeps; ``MODEL``, ``OUT`` and ``DATA`` are filled in."""
    good = "models: [MODEL]\ntasks: [kick_freebaseqa]\ndevice: cpu\ndata_dir: DATA\noutput: OUT\n"
    recipe = "recipes: [{compressor: wanda, sparsity: 0.5, calibration: TEXT"
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for number in range(98, 107):
        name, before = chr(number), chr(number - 1)
        bomb += f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    configs = {
        "good": good,
        "bomb": bomb + good,
        "cycle": "models: &a [*a]\n" + good.split("\n", 1)[1],
        "twice": good + "output: other\n",
        "twice_inline": good + "recipes: [{compressor: wanda, sparsity: 0.5, sparsity: 0.6}]\n",
        "merge": f"base: &b {{dtype: float32}}\n<<: *b\n{good}",
        "merge_wrong": f"<<: 3\n{good}",
        "python_tag": good + "limit: !!python/object/apply:os.system ['true']\n",
        "list": "- a\n",
        "empty": "",
        "tab": "models:\t[\n",
        "deep": "[" * 20_000,
        "limit_zero": good + "limit: 0\n",
        "limit_nan": good + "limit: .nan\n",
        "limit_text": good + "limit: few\n",
        "limit_digits": good + f"limit: {'9' * 400}\n",
        "device": good.replace("device: cpu", "device: cuda:99"),
        "device_gpu": good.replace("device: cpu", "device: gpu"),
        "batch_zero": good + "batch_size: 0\n",
        "batch_auto": good + "batch_size: auto:-1\n",
        "max_gen_toks": good + "max_gen_toks: 0\n",
        "gen_kwargs": good + "gen_kwargs: {max_gen_toks: 0}\n",
        "nul": good.replace("OUT", '"a\\0b"'),
        "nul_model": good.replace("MODEL", '"a\\0b"'),
        "nul_data": good.replace("DATA", '"a\\0b"'),
        "long_output": good.replace("OUT", "x" * 300),
        "output_file": good.replace("OUT", "FILE"),
        "task_case": good.replace("kick_freebaseqa", "KICK_FREEBASEQA"),
        "task_pattern": good.replace("kick_freebaseqa", "kick_zzz*"),
        "task_empty": good.replace("[kick_freebaseqa]", "kick_freebaseqa,"),
        "trust": good + "model_args: {trust_remote_code: maybe}\n",
        "unknown_key": good + "taks: [a]\n",
        "pattern": good + "recipes: [{compressor: magnitude, pattern: 2:7}]\n",
        "pattern_group": good + "recipes: [{compressor: magnitude, pattern: 5:9}]\n",
        "text_missing": good + recipe.replace("TEXT", "/no/such.txt") + "}]\n",
        "nsamples": good + recipe.replace("TEXT", "GOODTEXT") + ", nsamples: 1.0e+9}]\n",
        "null_model": good.replace("[MODEL]", "[null]"),
        "model_missing": good.replace("MODEL", "/no/such/model"),
        **{
            name: good.replace("MODEL", str(root / "models" / name))
            for name in ("missing_tensor", "nan", "more_layers", "fills_masks", "empty_index")
        },
        "grid": good + f"recipes: [{{compressor: magnitude, sparsity: {[0.5] * 200}, "
        f"owl_lambda: {[0.1] * 200}}}]\n",
        "allocation": good + "recipes: [{compressor: magnitude, sparsity: 0.5, allocation: 'file:"
        f"{root / 'allocations' / 'deep.json'}'}}]\n",
        "gen_misspelt": good + "gen_kwargs: {temprature: 1}\n",
        "recipe_text": good + "recipes: [[1]]\n",
        "seed_negative": good + recipe.replace("TEXT", "c4") + ", seed: -1}]\n",
    }
    folder = root / "yaml"
    folder.mkdir()
    (folder / "folder.yaml").mkdir()
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name, text in configs.items():
        for word, value in {
            "MODEL": model, "DATA": root / "data", "OUT": root / "out" / name,
            "FILE": root / "file", "GOODTEXT": root / "texts" / "good.txt",
        }.items():  # fmt: skip
            text = text.replace(word, str(value))
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
