# SPDX-License-Identifier: Apache-2.0
"""``--model kick``: lm-eval's ``hf`` model, compressed before it is evaluated."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lm_eval.api.model import CacheHook
from lm_eval.utils import simple_parse_args_string
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmkick_plugin import bundled
from lmkick_plugin.checkpoints.checked_loader import CheckedLoader, untie_where_different
from lmkick_plugin.checkpoints.detect import Recognised
from lmkick_plugin.checkpoints.processor import processor_files
from lmkick_plugin.data.calibration import PreparedCalibration
from lmkick_plugin.inference import answer_cache, loaded_models
from lmkick_plugin.inference.answer_ranks import rank_answers
from lmkick_plugin.inference.conversations import answer_turns
from lmkick_plugin.inference.divergence import measure
from lmkick_plugin.inference.hf import FastHFLM
from lmkick_plugin.inference.token_windows import score_windows
from lmkick_plugin.inference.truncation import fit_generation
from lmkick_plugin.loading import checks, compress, precompressed
from lmkick_plugin.loading.compress import Compression
from lmkick_plugin.loading.dense_source import DenseSource
from lmkick_plugin.loading.placement import merge_adapter, spread
from lmkick_plugin.loading.reference import DenseReference
from lmkick_plugin.recipe.arguments import parse_arguments
from lmkick_plugin.recipe.readers import is_unset
from lmkick_plugin.record import build
from lmkick_plugin.record.weights import (
    WeightSurvey,
    require_finite,
    require_same_weights,
    survey_weights,
)

__all__ = ["KickLM"]

log = logging.getLogger(__name__)


class KickLM(FastHFLM):
    """A Hugging Face causal language model that is compressed, then evaluated.

    Takes every argument of lm-eval's ``hf`` model, and those of
    :data:`lmkick_plugin.recipe.arguments.ARGUMENTS`. Arguments, model and calibration text
    are checked before any weights are loaded. Differences to ``hf``:

    1. ``softmax_dtype`` defaults to float32: in bfloat16, near-equal choices tie.
    2. A LoRA adapter (``peft``) is merged into the weights before these are compressed.
    3. With ``parallelize``, a model to be compressed is loaded to main memory, which has to hold
       it; blocks visit the device one after the other, and the compressed model is spread over the
       devices. So it may be larger than a GPU.
    4. Processes on CPUs share the documents, as those on GPUs do.
    5. A model given as an object is compressed in place.
    6. What prompts share is computed once (:mod:`lmkick_plugin.inference`), unless
       ``prefix_reuse=false``, with which every answer is that of ``hf``, bit for bit.

    Under data parallel, every process loads and compresses the model by itself, and all stop
    unless their weights are equal, bit for bit. That costs no time, but as much memory as there
    are processes; it needs devices of one kind.

    Attributes:
        recipe: What was asked for.
        passed: Arguments of lm-eval's ``hf`` model.
        prebuilt: The model was given as an object.
        compression: How it is compressed here; None where it is not.
        recognised: How the checkpoint had been compressed before; None for a dense one.
        reference: Its dense side.
        weights: What the evaluated weights are.
        profile: Measured speed and memory, for the record; a sweep fills it.
    """

    AUTO_MODEL_CLASS = CheckedLoader(AutoModelForCausalLM)
    _model: Any
    _loaded_with: dict[str, Any]
    cache_hook: CacheHook

    def __init__(self, pretrained: Any = None, *, dense_source: Any = None, **kwargs: Any) -> None:
        """Check, load, compress.

        Args:
            pretrained: Name or path of the model, or the model itself.
            dense_source: A :class:`DenseSource`; None reads the checkpoint.
            **kwargs: As described by the class.

        Raises:
            SettingsError: An argument or the calibration text is wrong.
            UnsupportedModelError: The model is of a kind that cannot be compressed.
            NumericalError: Weights or activations are not finite.
            RuntimeError: The weights changed after compression, or differ between processes.
        """
        if isinstance(pretrained, str):
            pretrained = checks.plain_path(bundled.model_folder(pretrained))
        if dense_source is None:
            dense_source = DenseSource()
        elif not isinstance(dense_source, DenseSource):
            kwargs["dense_source"] = dense_source  # from a command line: unknown, refused below
        self.recipe, self.passed = parse_arguments({"pretrained": pretrained, **kwargs})
        if isinstance(pretrained, str) and is_unset(self.passed.get("device")):
            self.passed["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        precompressed.check_gguf(pretrained, self.passed)
        checks.check_pretrained(pretrained)
        checks.check_placement(self.passed)
        checks.check_adapter(self.passed)
        _ = self.recipe.seed  # several seeds: an error, before anything is loaded
        self._source: DenseSource = dense_source
        compressor = self.recipe.build_compressor()
        self.compression = (
            None if compressor is None else Compression(self.recipe, compressor, self._source)
        )
        self.reference = DenseReference(self, self._source)
        self.recognised: Recognised | None = None
        self.profile: dict[str, Any] | None = None
        self.prebuilt = not isinstance(pretrained, str)
        if "softmax_dtype" not in self.passed:
            self.passed["softmax_dtype"] = "float32"
        elif is_unset(self.passed["softmax_dtype"]):
            self.passed["softmax_dtype"] = None
        self.prefix_reuse = bool(self.recipe.prefix_reuse)
        if isinstance(pretrained, PreTrainedModel):
            untie_where_different(pretrained)
        super().__init__(**self.passed)
        if self.prebuilt:
            self.reference.check()
            require_finite(self._model, self.base_model)
            if self.compression is not None:
                self._model = self._compress(self.compression, self._load_calibration())
                self._model.eval()
        self._share_documents_on_cpu()
        self.weights = survey_weights(self.model)
        self._check_weights()
        loaded_models.announce(self)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> KickLM:
        """As in ``hf``; device and batch size may stand among the arguments, and win there."""
        given = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**given, **arg_dict})

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> KickLM:
        """As in ``hf``; device and batch size may stand among the arguments, and win there."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def _check_weights(self) -> None:
        """Stop where the evaluated weights are not the intended ones; recognise what they are."""
        made = None if self.compression is None else self.compression.weights
        if made is not None and made.sha256 != self.weights.sha256:
            raise RuntimeError(
                f"The weights changed between compression ({made.sha256}) and evaluation "
                f"({self.weights.sha256}). Tied weights are the usual cause: check the model's "
                "tie_word_embeddings against its checkpoint."
            )
        if hasattr(self, "accelerator"):
            require_same_weights(self.weights.sha256, self.accelerator)
        if self.compression is None:
            self.recognised = self._detect(self.weights.sha256)

    def _detect(self, sha256: str | None) -> Recognised | None:
        """How the model had been compressed before; None where it had not."""
        return precompressed.detect_compression(
            self._model, self.recipe, self.passed["pretrained"], self.config, self.passed,
            sha256=sha256,
        )  # fmt: skip

    # Before the weights: lm-eval calls these in this order.

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        try:
            super()._get_config(pretrained, **kwargs)
        except OSError as error:
            raise checks.config_error(pretrained, error) from error

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **kwargs: Any) -> None:
        named = tokenizer if isinstance(tokenizer, str) else self.base_model
        try:
            super()._create_tokenizer(pretrained, tokenizer, **kwargs)
        except (OSError, ValueError) as error:
            raise checks.tokenizer_error(named, error) from error
        checks.check_tokenizer(self.tokenizer, self.config, named, self.passed)

    def _get_backend(self, config: Any, **kwargs: Any) -> None:
        super()._get_backend(config=config, **kwargs)
        checks.check_hf_arguments(self.passed, config, prebuilt=self.prebuilt)
        checks.check_model_kind(self.recipe, config, self.backend, self.passed)
        compress.check_before_load(self.recipe, config, self.passed)
        precompressed.check_before_load(
            self.recipe, self.passed["pretrained"], config, self.passed, prebuilt=self.prebuilt
        )

    def _create_model(self, pretrained: str, **kwargs: Any) -> None:
        kwargs = precompressed.loading_arguments(self.recipe, self.config, kwargs)
        self._loaded_with = {"pretrained": pretrained, **kwargs}
        self.reference.check()
        if self.compression is None:
            with precompressed.without_repeated_config():
                self._model = self._load(self._loaded_with)
            return
        calibration = self._load_calibration()
        how = self._loaded_with
        if kwargs.get("parallelize"):
            # Offloaded weights cannot be changed: load to main memory, compress, then spread.
            how = {**how, "parallelize": False, "device_map": "cpu"}
        self._model = self._load(how)
        self._model = self._compress(self.compression, calibration)
        if kwargs.get("parallelize"):
            self._model = spread(self._model, self._get_accelerate_args, kwargs)

    def _load(self, arguments: dict[str, Any]) -> Any:
        placed = {**arguments, "device": str(self._device)}
        return self._source.load(placed, lambda: self._read(arguments))

    def _read(self, arguments: dict[str, Any]) -> Any:
        with checks.readable_weights(arguments["pretrained"]):
            super()._create_model(**arguments)
        return self._model

    def read_dense(self) -> Any:
        """The dense model, read from its checkpoint again, in main memory."""
        again = {**self._loaded_with, "parallelize": False, "device_map": "cpu"}
        again["revision"] = self._base_revision or again.get("revision")
        evaluated = self._model
        try:
            dense = self._read(again)
        finally:
            self._model = evaluated
        return merge_adapter(dense) if hasattr(dense, "peft_config") else dense

    def _load_calibration(self) -> PreparedCalibration | None:
        assert self.compression is not None  # noqa: S101  # for the type checker
        return self.compression.load_calibration(
            self.tokenizer,
            max_length=checks.context_length(self.config, self.tokenizer),
            progress=self._is_main_process,
        )

    def _compress(self, compression: Compression, calibration: PreparedCalibration | None) -> Any:
        self.recognised = self._source.once(
            ["recognised"], lambda: self._detect(survey_weights(self._model).sha256)
        )
        if self.recognised is not None:
            log.warning("The checkpoint is already compressed; it is compressed once more.")
        device_map = getattr(self._model, "hf_device_map", None) or {}
        several = len(set(device_map.values())) > 1
        return compression.run(
            self._model,
            self.tokenizer,
            calibration,
            device=None if several else torch.device(self.device),
            main_process=self._is_main_process,
            files=processor_files(self.passed["pretrained"], self.passed),
            zeros=None if self.recognised is None else self.recognised.zeros,
            record=self._record,
        )

    @property
    def _is_main_process(self) -> bool:
        return int(os.environ.get("LOCAL_RANK", "0")) == 0

    def _share_documents_on_cpu(self) -> None:
        """Under ``accelerate launch`` on CPUs, lm-eval lets every process evaluate everything."""
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and accelerator.device.type == "cpu":
            self._rank = accelerator.process_index
            self._world_size = accelerator.num_processes

    # Requests.

    def windows(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Serve ``windows`` requests: loss over whole windows of a text.

        Args:
            requests: Instances whose arguments are the text and a mapping with ``limit`` (windows,
                or None) and ``max_window``.

        Returns:
            For each, what :func:`lmkick_plugin.inference.token_windows.score_windows` returns.
        """
        return [score_windows(self, one.args[0], **one.args[1]) for one in requests]

    def ranks(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Serve ``ranks`` requests: how far a known answer is from being said.

        Args:
            requests: As :func:`lmkick_plugin.inference.answer_ranks.rank_answers` takes them.

        Returns:
            For each, what that function returns.
        """
        return rank_answers(self, requests)

    def turns(self, requests: list[Any]) -> list[list[str]]:
        """Serve ``turns`` requests: conversations with the model's own earlier answers in them.

        Args:
            requests: As :func:`lmkick_plugin.inference.conversations.answer_turns` takes them.

        Returns:
            For each, the model's answers turn by turn.
        """
        answers = answer_turns(self, requests)
        if self.is_dense:
            self._source.keep_answers(requests, answers)
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As in ``hf``, with what :class:`FastHFLM` adds."""
        loaded_models.note_answered(self, requests)
        answers = super().generate_until(requests, disable_tqdm=disable_tqdm)
        if self.is_dense:
            self._source.keep_answers(requests, answers)
        return answers

    def divergence(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Serve ``divergence`` requests: how far this model is from its dense reference.

        Without ``reference``, that is the model's own dense weights. They are read from its
        checkpoint again now, and let go afterwards: no other task pays for them.

        Args:
            requests: As :func:`lmkick_plugin.inference.divergence.measure` takes them.

        Returns:
            For each, what that function returns.

        Raises:
            SettingsError: The dense weights are gone, and no reference is named.
            RuntimeError: The weights are not those from before the measurement.
        """
        with self.reference.ready() as reference:
            answers = measure(self, reference, requests)
        self.note_truncated(
            requests, [one for one, answer in zip(requests, answers, strict=True) if answer["cut"]]
        )
        return answers

    def answer_as_dense(self, requests: list[Any]) -> list[Any]:
        """Answer ``generate_until`` or ``turns`` requests as before compression.

        Args:
            requests: Of one of the two types.

        Returns:
            What the dense model answers; no cache of answers sees it.

        Raises:
            SettingsError: The dense weights are gone, and no reference is named.
            RuntimeError: The weights are not those from before.
        """
        if self.recipe.reference is not None:
            return self._ask_dense(requests)
        return self._source.answers(requests, self._ask_dense)

    def _ask_dense(self, requests: list[Any]) -> list[Any]:
        hook, self.cache_hook = self.cache_hook, CacheHook(None)
        try:
            with self.reference.ready() as reference, reference.ready():
                dense = reference.model
                if requests and requests[0].request_type == "turns":
                    return list(answer_turns(dense, requests))
                return list(dense.generate_until(fit_generation(requests, dense.max_length)))
        finally:
            self.cache_hook = hook

    @property
    def dense_problem(self) -> str | None:
        """Why :meth:`answer_as_dense` cannot work; None where nothing speaks against it."""
        return self.reference.problem

    @property
    def is_dense(self) -> bool:
        """Whether nothing was compressed, neither here nor before."""
        return self.compression is None and self.recognised is None

    # Record.

    def set_cache_hook(self, cache_hook: Any) -> None:
        """As in ``hf``; refuses a cache of answers that another model has filled."""
        if cache_hook.dbdict is not None:
            already = answer_cache.guard_cache(cache_hook.dbdict, answer_cache.fingerprint(self))
            # Requests answered from the cache never get here, so cut prompts cannot be counted.
            self.truncation_known = not already
        super().set_cache_hook(cache_hook)

    @property
    def base_model(self) -> str:
        """Name or path of the model that was loaded."""
        if not self.prebuilt:
            return bundled.model_name(str(self.passed["pretrained"]))
        return str(getattr(self.config, "_name_or_path", "") or type(self.model).__name__)

    def _identity(self) -> build.BaseModel:
        if self.compression is not None and self.recognised is not None:
            base = self.recognised.base_model
            if base is not None:
                return build.BaseModel(name=base)
        given = {name: self.passed.get(name) for name in ("revision", "subfolder", "peft", "delta")}
        known = {name: None if is_unset(value) else str(value) for name, value in given.items()}
        return build.BaseModel(
            name=self.base_model,
            commit=self._base_revision,
            revision=None if known["revision"] == "main" else known["revision"],
            subfolder=known["subfolder"],
            adapter=known["peft"] or known["delta"],
        )

    @property
    def _base_revision(self) -> str | None:
        return checks.base_revision(
            self.passed["pretrained"],
            revision=str(self.passed.get("revision") or "main"),
            subfolder=str(self.passed.get("subfolder") or ""),
            cache_dir=self.passed.get("cache_dir"),
        )

    def get_model_info(self) -> dict[str, Any]:
        """As in ``hf``, with the ``kick`` record added; goes into ``results["config"]``."""
        info: dict[str, Any] = super().get_model_info()
        info["kick"] = self._record(self.weights)
        if self.recognised is not None and self.compression is None:
            size = self.model.dtype.itemsize
            info["kick"] = self.recognised.complete(info["kick"], element_size=size)
        info["kick"]["profile"] = self.profile
        return info

    def _record(self, survey: WeightSurvey) -> dict[str, Any]:
        made = self.compression
        again = self.recognised if made is not None else None
        return build.build_record(
            recipe=self.recipe,
            survey=survey,
            report=None if made is None else made.report,
            calibration_shape=None if made is None else made.calibration_shape,
            calibration_sources=None if made is None else made.calibration_sources,
            base=self._identity(),
            earlier=() if again is None else again.steps(),
            dtype=str(self.model.dtype).removeprefix("torch."),
            device=build.device_name(torch.device(self.device)),
            chat_template=self.chat_template_used,
            truncated_prompts=self.truncated_prompts,
        )
