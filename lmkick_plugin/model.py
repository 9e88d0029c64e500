# SPDX-License-Identifier: Apache-2.0
"""``--model kick``: lm-eval's ``hf`` model, compressed before it is evaluated."""

from __future__ import annotations

import functools
from typing import Any

import torch
from lm_eval.utils import simple_parse_args_string
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmkick_plugin.checkpoints.checked_loader import CheckedLoader, untie_where_different
from lmkick_plugin.checkpoints.detect import Recognised
from lmkick_plugin.checkpoints.processor import processor_files
from lmkick_plugin.data.calibration import PreparedCalibration
from lmkick_plugin.inference import answer_cache, loaded_models
from lmkick_plugin.inference.answer_ranks import rank_answers
from lmkick_plugin.inference.conversations import answer_turns
from lmkick_plugin.inference.dense_answers import ask_dense
from lmkick_plugin.inference.divergence import measure
from lmkick_plugin.inference.hf import FastHFLM
from lmkick_plugin.inference.token_windows import score_windows
from lmkick_plugin.loading import checks, compress, model_checks, precompressed, run_record
from lmkick_plugin.loading.arguments import read_arguments
from lmkick_plugin.loading.compress import Compression
from lmkick_plugin.loading.dense_source import DenseSource
from lmkick_plugin.loading.placement import merge_adapter, spread, whole_adapter
from lmkick_plugin.loading.reference import DenseReference
from lmkick_plugin.record.weights import require_finite, require_same_weights, survey_weights

__all__ = ["KickLM"]


class KickLM(FastHFLM):
    """A Hugging Face causal language model that is compressed, then evaluated.

    Takes every argument of lm-eval's ``hf`` model, and those of
    :data:`lmkick_plugin.recipe.arguments.ARGUMENTS`. Arguments, model and calibration text
    are checked before any weights are loaded. Differences to ``hf``:

    1. ``softmax_dtype`` defaults to float32: in bfloat16, near-equal choices tie.
    2. A LoRA adapter (``peft``) is merged into the weights before these are compressed.
    3. With ``parallelize``, a model to be compressed is loaded to main memory, compressed block by
       block on a device, then spread over the devices. It may be larger than a GPU, not than main
       memory.
    4. Processes on CPUs share the documents, as those on GPUs do.
    5. A model given as an object is compressed in place.
    6. Common prefixes of prompts are computed once (:mod:`lmkick_plugin.inference`). With
       ``prefix_reuse=false``, every answer is that of ``hf``, bit for bit.

    Under data parallel, every process compresses its own copy; all stop unless their weights are
    equal, bit for bit. That needs memory for every copy, and devices of one kind.

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
        if dense_source is not None and not isinstance(dense_source, DenseSource):
            kwargs["dense_source"] = dense_source  # from a command line: refused as unknown
        self.recipe, self.passed = read_arguments({"pretrained": pretrained, **kwargs})
        self.prebuilt = not isinstance(pretrained, str)
        self.recognised: Recognised | None = None
        self.profile: dict[str, Any] | None = None
        self._source: DenseSource = dense_source or DenseSource()
        self.compression = Compression.of(self.recipe, self._source)
        self.reference = DenseReference(self, self._source)
        self.prefix_reuse = bool(self.recipe.prefix_reuse)
        if isinstance(pretrained, PreTrainedModel):
            untie_where_different(pretrained)
        super().__init__(**self.passed)
        if self.prebuilt:
            self.reference.check()
            require_finite(self._model, self.base_model)
            if self.compression is not None:
                calibration = self.compression.load_calibration(self.tokenizer, self.config)
                self._compress(self.compression, calibration)
                self._model.eval()
        self.weights = survey_weights(self.model)
        self._check_weights()
        loaded_models.announce(self)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> KickLM:
        """As in ``hf``; device and batch size among the arguments take precedence."""
        given = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**given, **arg_dict})

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> KickLM:
        """As in ``hf``; see :meth:`create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def _check_weights(self) -> None:
        """Stop where the evaluated weights are not the intended ones; recognise what they are."""
        if self.compression is not None:
            self.compression.require_unchanged(self.weights)
        if hasattr(self, "accelerator"):
            require_same_weights(self.weights.sha256, self.accelerator)
        if self.compression is None:
            self.recognised = self._detect(self.weights.sha256)

    def _detect(self, sha256: str | None) -> Recognised | None:
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
            raise model_checks.tokenizer_error(named, error) from error
        model_checks.check_tokenizer(self.tokenizer, self.config, named, self.passed)

    def _get_backend(self, config: Any, **kwargs: Any) -> None:
        super()._get_backend(config=config, **kwargs)
        checks.check_hf_arguments(self.passed, config, prebuilt=self.prebuilt)
        model_checks.check_model_kind(self.recipe, config, self.backend, self.passed)
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
        calibration = self.compression.load_calibration(self.tokenizer, self.config)
        how = self._loaded_with
        if kwargs.get("parallelize"):
            # Offloaded weights cannot be changed: load to main memory, compress, then spread.
            how = {**how, "parallelize": False, "device_map": "cpu"}
        self._model = self._load(how)
        self._compress(self.compression, calibration)
        if kwargs.get("parallelize"):
            self._model = spread(self._model, self._get_accelerate_args, kwargs)

    def _load(self, arguments: dict[str, Any]) -> Any:
        placed = {**arguments, "device": str(self._device)}
        return self._source.load(placed, lambda: self._read(arguments))

    def _read(self, arguments: dict[str, Any]) -> Any:
        pretrained, peft = arguments["pretrained"], arguments.get("peft")
        change = peft or arguments.get("delta")
        whole = f"{pretrained} with {change}" if change else pretrained
        with model_checks.readable_weights(whole), whole_adapter(peft):
            super()._create_model(**arguments)
        if change:
            require_finite(self._model, whole)
        return self._model

    def read_dense(self) -> Any:
        """The dense model, read from its checkpoint again, in main memory."""
        again = {**self._loaded_with, "parallelize": False, "device_map": "cpu"}
        again["revision"] = run_record.base_revision(self) or again.get("revision")
        evaluated = self._model
        try:
            dense = self._read(again)
        finally:
            self._model = evaluated
        return merge_adapter(dense) if hasattr(dense, "peft_config") else dense

    def _compress(self, compression: Compression, calibration: PreparedCalibration | None) -> None:
        self.recognised = self._source.once(
            ["recognised"], lambda: self._detect(survey_weights(self._model).sha256)
        )
        self._model = compression.run(
            self._model,
            self.tokenizer,
            calibration,
            device=torch.device(self.device),
            files=processor_files(self.passed["pretrained"], self.passed),
            recognised=self.recognised,
            record=lambda survey: run_record.describe(self, survey),
        )

    # Requests: lm-eval calls the method that a request's type names.

    def windows(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Loss over whole windows of a text.

        Args:
            requests: Instances whose arguments are the text and a mapping with ``limit`` (windows,
                or None) and ``max_window``.

        Returns:
            For each, what :func:`lmkick_plugin.inference.token_windows.score_windows` returns.
        """
        return [score_windows(self, one.args[0], **one.args[1]) for one in requests]

    def ranks(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Ranks of known answers: :func:`lmkick_plugin.inference.answer_ranks.rank_answers`."""
        return rank_answers(self, requests)

    def turns(self, requests: list[Any]) -> list[list[str]]:
        """Conversations: :func:`lmkick_plugin.inference.conversations.answer_turns`."""
        return self._keep(requests, answer_turns(self, requests))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As in ``hf``, with what :class:`FastHFLM` adds."""
        loaded_models.note_answered(self, requests)
        return self._keep(requests, super().generate_until(requests, disable_tqdm=disable_tqdm))

    def _keep(self, requests: list[Any], answers: list[Any]) -> list[Any]:
        if self.is_dense:
            self._source.keep_answers(requests, answers)
        return answers

    def divergence(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Divergences from the dense reference: :func:`lmkick_plugin.inference.divergence.measure`.

        Without ``reference``, the dense weights are read from the checkpoint again for these
        requests, and released afterwards.

        Raises:
            SettingsError: The dense weights are gone, and no reference is named.
            RuntimeError: The compressed weights were not restored afterwards.
        """
        with self.reference.ready() as reference:
            answers = measure(self, reference, requests)
        self.note_truncated(
            requests, [one for one, answer in zip(requests, answers, strict=True) if answer["cut"]]
        )
        return answers

    def answer_as_dense(self, requests: list[Any]) -> list[Any]:
        """Answers before compression: :func:`lmkick_plugin.inference.dense_answers.ask_dense`."""
        ask = functools.partial(ask_dense, self)
        return ask(requests) if self.recipe.reference else self._source.answers(requests, ask)

    @property
    def dense_problem(self) -> str | None:
        """Why :meth:`answer_as_dense` cannot work; None where it can."""
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
        return run_record.base_model(self)

    def get_model_info(self) -> dict[str, Any]:
        """As in ``hf``, with the ``kick`` record added; goes into ``results["config"]``."""
        info: dict[str, Any] = super().get_model_info()
        return {**info, "kick": run_record.describe_evaluated(self)}
