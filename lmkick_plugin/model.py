# SPDX-License-Identifier: Apache-2.0
"""``--model kick``: lm-eval's ``hf`` model, compressed before it is evaluated."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import CacheHook
from torch import Tensor

from compressors.errors import SettingsError
from lmkick_plugin import bundled
from lmkick_plugin.checkpoints.detect import Recognised
from lmkick_plugin.data.calibration import PreparedCalibration, prepare
from lmkick_plugin.data.sources import data_directory
from lmkick_plugin.inference import answer_cache, loaded_models
from lmkick_plugin.inference.conversations import answer_turns
from lmkick_plugin.inference.recording import WatchedHFLM
from lmkick_plugin.inference.token_windows import score_windows
from lmkick_plugin.inference.truncation import fit_generation
from lmkick_plugin.loading import checks, compress, precompressed
from lmkick_plugin.loading.placement import merge_adapter, refuse_offloaded, spread
from lmkick_plugin.loading.reference import Reference, check_reference
from lmkick_plugin.recipe.arguments import parse_arguments
from lmkick_plugin.recipe.readers import is_unset
from lmkick_plugin.record import build
from lmkick_plugin.record.weights import WeightSurvey, require_same_weights, survey_weights

if TYPE_CHECKING:
    from compressors import Compressor

__all__ = ["KickLM"]


class KickLM(WatchedHFLM):
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
    """

    _model: Any
    _report: Any = None
    _calibration_shape: tuple[int, int] | None = None
    _compressed: WeightSurvey | None = None
    _recognised: Recognised | None = None
    _loaded_with: dict[str, Any]
    cache_hook: CacheHook

    def __init__(self, pretrained: Any = None, **kwargs: Any) -> None:
        """Check, load, compress.

        Args:
            pretrained: Name or path of the model, or the model itself.
            **kwargs: As described by the class.

        Raises:
            SettingsError: An argument or the calibration text is wrong.
            UnsupportedModelError: The model is of a kind that cannot be compressed.
            NumericalError: Weights or activations are not finite.
            RuntimeError: The weights changed after compression, or differ between processes.
        """
        if isinstance(pretrained, str):
            pretrained = bundled.model_folder(pretrained)
        self.recipe, self._passed = parse_arguments({"pretrained": pretrained, **kwargs})
        precompressed.check_gguf(pretrained, self._passed)
        checks.check_pretrained(pretrained)
        checks.check_placement(self._passed)
        checks.check_adapter(self._passed)
        _ = self.recipe.seed  # several seeds: an error, before anything is loaded
        self._compressor = self.recipe.build_compressor()
        self._prebuilt = not isinstance(pretrained, str)
        if "softmax_dtype" not in self._passed:
            self._passed["softmax_dtype"] = "float32"
        elif is_unset(self._passed["softmax_dtype"]):
            self._passed["softmax_dtype"] = None
        self.prefix_reuse = bool(self.recipe.prefix_reuse)
        super().__init__(**self._passed)
        if self._prebuilt:
            self._check_reference()
        if self._prebuilt and self._compressor is not None:
            self._compress(self._compressor, self._load_calibration())
            self._model.eval()
        self._share_documents_on_cpu()
        self.weights = survey_weights(self.model)
        if self._compressed is not None and self._compressed.sha256 != self.weights.sha256:
            raise RuntimeError(
                f"The weights changed between compression ({self._compressed.sha256}) and "
                f"evaluation ({self.weights.sha256}), so the results would not be those of the "
                "compressed model. Tying of weights is the usual cause: check the model's "
                "tie_word_embeddings against its checkpoint."
            )
        if hasattr(self, "accelerator"):
            require_same_weights(self.weights.sha256, self.accelerator)
        if self._compressor is None:
            self._recognised = precompressed.find_out(
                self._model,
                self.recipe,
                pretrained,
                self.config,
                self._passed,
                sha256=self.weights.sha256,
            )
        loaded_models.announce(self)

    # Before the weights: lm-eval calls these in this order.

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        try:
            super()._get_config(pretrained, **kwargs)
        except OSError as error:
            raise checks.config_error(pretrained, error) from error

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **kwargs: Any) -> None:
        try:
            super()._create_tokenizer(pretrained, tokenizer, **kwargs)
        except (OSError, ValueError) as error:
            named = tokenizer if isinstance(tokenizer, str) else self._base_model
            raise checks.tokenizer_error(named, error) from error

    def _get_backend(self, config: Any, **kwargs: Any) -> None:
        super()._get_backend(config=config, **kwargs)
        checks.check_hf_arguments(self._passed, config, prebuilt=self._prebuilt)
        checks.check_model_kind(self.recipe, config, self.backend, self._passed)
        compress.check_before_load(self.recipe, config, self._passed)
        precompressed.check_before_load(
            self.recipe, self._passed["pretrained"], config, self._passed, prebuilt=self._prebuilt
        )

    def _create_model(self, pretrained: str, **kwargs: Any) -> None:
        kwargs = precompressed.loading_arguments(self.recipe, self.config, kwargs)
        self._loaded_with = {"pretrained": pretrained, **kwargs}
        self._check_reference()
        if self._compressor is None:
            with precompressed.without_repeated_config():
                self._load(pretrained=pretrained, **kwargs)
            return
        calibration = self._load_calibration()
        if kwargs.get("parallelize"):
            # Offloaded weights cannot be changed: load to main memory, compress, then spread.
            whole = {**kwargs, "parallelize": False, "device_map": "cpu"}
            self._load(pretrained=pretrained, **whole)
            self._compress(self._compressor, calibration)
            self._model = spread(self._model, self._get_accelerate_args, kwargs)
        else:
            self._load(pretrained=pretrained, **kwargs)
            self._compress(self._compressor, calibration)

    def _load(self, **arguments: Any) -> None:
        """Load the dense model; a sweep has it already, and lets it be taken from there."""
        super()._create_model(**arguments)

    def _load_calibration(self) -> PreparedCalibration | None:
        """Calibration text; None where the method needs none."""
        recipe = self.recipe
        if recipe.calibration is None:
            return None
        folder = data_directory(recipe.data_dir)
        size: dict[str, Any] = {"nsamples": recipe.nsamples, "seqlen": recipe.seqlen}
        return prepare(
            recipe.calibration,
            self.tokenizer,
            **size,
            seed=recipe.seed or 0,
            max_length=checks.context_length(self.config, self.tokenizer),
            data_dir=None if folder is None else str(folder),
            progress=self._is_main_process,
        )

    def _write(self, nsamples: int, seqlen: int, seed: int) -> Tensor:
        """Let the model, which is still dense, write calibration text."""
        from lmkick_plugin.data.calibration_generated import write_text

        # Not prefix_token_id: lm-eval knows that only once the model is there.
        tokens = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        start = next((token for token in tokens if token is not None), None)
        if start is None:
            raise SettingsError(
                "calibration=self: the tokenizer has neither a token that begins texts nor one "
                "that ends them, so it is unknown how a text begins. Use another calibration."
            )
        progress = self._is_main_process
        return write_text(self._model, start, nsamples, seqlen, seed, progress=progress)

    def _compress(self, compressor: Compressor, calibration: PreparedCalibration | None) -> None:
        from compressors import compress_model

        if hasattr(self._model, "peft_config"):
            self._model = merge_adapter(self._model)
        refuse_offloaded(self._model)
        tokens = None if calibration is None else calibration.tokens(self._write)
        if tokens is not None:
            self._calibration_shape = (int(tokens.shape[0]), int(tokens.shape[1]))
        settings = compress.driver_settings(self.recipe, self._is_main_process)
        self._report = compress_model(
            self._model,
            compress.fit(self.recipe, compressor, self._model),
            calibration=tokens,
            device=self._compression_device(),
            true_sequential=bool(self.recipe.true_sequential),
            progress=self._is_main_process,
            **settings,
        )
        self._compressed = survey_weights(self._model)
        if self._is_main_process:
            grids, kick = settings.get("grids"), self._record(self._compressed)
            compress.keep(self.recipe, self._model, self.tokenizer, grids, kick)

    def _compression_device(self) -> torch.device | None:
        """Where to compress; None leaves each block where a device map has put it."""
        device_map = getattr(self._model, "hf_device_map", None) or {}
        return None if len(set(device_map.values())) > 1 else torch.device(self.device)

    @property
    def _is_main_process(self) -> bool:
        return int(os.environ.get("LOCAL_RANK", "0")) == 0

    def _share_documents_on_cpu(self) -> None:
        """Under ``accelerate launch`` on CPUs, lm-eval lets every process evaluate everything."""
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and accelerator.device.type == "cpu":
            self._rank = accelerator.process_index
            self._world_size = accelerator.num_processes

    def windows(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Serve ``windows`` requests: loss over whole windows of a text.

        Args:
            requests: Instances whose arguments are the text and a mapping with ``limit`` (windows,
                or None) and ``max_window``.

        Returns:
            For each, what :func:`lmkick_plugin.inference.token_windows.score_windows` returns.
        """
        return [score_windows(self, text, **settings) for text, settings in map(_args, requests)]

    def turns(self, requests: list[Any]) -> list[list[str]]:
        """Serve ``turns`` requests: conversations with the model's own earlier answers in them.

        Args:
            requests: As :func:`lmkick_plugin.inference.conversations.answer_turns` takes them.

        Returns:
            For each, the model's answers turn by turn.
        """
        return answer_turns(self, requests)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As in ``hf``, with what :class:`WatchedHFLM` adds."""
        loaded_models.note_answered(self, requests)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _generate(self, requests: list[Any], *, disable_tqdm: bool) -> list[str]:
        plain = functools.partial(super()._generate, disable_tqdm=disable_tqdm)
        if not self.prefix_reuse:
            return plain(requests)
        from lmkick_plugin.inference.generation import generate_until

        return generate_until(self, requests, plain, disable_tqdm=disable_tqdm)

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        """As in ``hf`` on a GPU; on a CPU, by memory and throughput instead of by trying."""
        from lmkick_plugin.inference.batch_sizes import detect_batch_size

        return detect_batch_size(self, requests, pos, super()._detect_batch_size)

    def answer_as_dense(self, requests: list[Any]) -> list[Any]:
        """Answer ``generate_until`` or ``turns`` requests as before compression.

        Args:
            requests: Of one of the two types.

        Returns:
            What the dense model answers; no cache of answers sees it.

        Raises:
            SettingsError: The model was given as an object, so its dense weights are gone.
            RuntimeError: The weights are not those from before.
        """
        hook, self.cache_hook = self.cache_hook, CacheHook(None)
        try:
            with self._dense_reference() as reference, reference.ready():
                dense = reference.model
                if requests and requests[0].request_type == "turns":
                    answers: list[Any] = answer_turns(dense, requests)
                else:
                    answers = dense.generate_until(fit_generation(requests, dense.max_length))
        finally:
            self.cache_hook = hook
        self._require_own_weights()
        return answers

    @property
    def dense_problem(self) -> str | None:
        """Why :meth:`answer_as_dense` cannot work; None where nothing speaks against it."""
        if self._prebuilt and self._compressor is not None and self.recipe.reference is None:
            return "the model was given as an object and compressed in place"
        if self._lacks_reference and self._recognised is not None:
            return precompressed.no_reference(self._recognised)
        if self.world_size > 1:
            return "the run is data parallel"
        return None

    @property
    def is_dense(self) -> bool:
        """Whether nothing was compressed, neither here nor before."""
        return self._compressor is None and self._recognised is None

    def divergence(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Serve ``divergence`` requests: how far this model is from its dense reference.

        Without ``reference``, that is the model's own dense weights. They are read from its
        checkpoint again now, and let go afterwards: no other task pays for them.

        Args:
            requests: As :func:`lmkick_plugin.inference.divergence.measure` takes them.

        Returns:
            For each, what that function returns.

        Raises:
            SettingsError: The model was given as an object, so its dense weights are gone.
            RuntimeError: The weights are not those from before the measurement.
        """
        from lmkick_plugin.inference.divergence import measure

        with self._dense_reference() as reference:
            answers = measure(self, reference, requests)
        self._require_own_weights()
        self.note_truncated(
            requests, [one for one, answer in zip(requests, answers, strict=True) if answer["cut"]]
        )
        return answers

    @property
    def _lacks_reference(self) -> bool:
        """Whether the dense weights of a checkpoint compressed before are nowhere to be found."""
        given = self.recipe.reference is not None or self.recipe.quantize is not None
        return self._recognised is not None and not given

    def _require_own_weights(self) -> None:
        if self._recognised is not None:
            return  # nothing changed places; and quantized weights may unpack when first used
        if survey_weights(self.model).sha256 != self.weights.sha256:
            raise RuntimeError(
                "The weights are no longer those that were to be evaluated, after the dense ones "
                "were in their place: results from here on would not be the compressed model's. "
                "Please report this, with the model and its arguments."
            )

    def _dense_reference(self) -> AbstractContextManager[Reference]:
        from lmkick_plugin.loading import reference

        if self.recipe.reference is not None:
            other = reference.another_model(self, self.recipe.reference, self._passed)
            return nullcontext(other)
        if self.recipe.quantize is not None:
            given = ("revision", "subfolder")
            again = {key: self._passed[key] for key in given if key in self._passed}
            dense = reference.another_model(self, self._base_model, self._passed, **again)
            return nullcontext(dense)
        if self._lacks_reference and self._recognised is not None:
            problem = precompressed.no_reference(self._recognised)
            raise SettingsError(f"{problem[0].upper()}{problem[1:]}.")
        if self._compressor is None:
            return nullcontext(reference.itself(self))
        if self._prebuilt:
            raise SettingsError(
                "The model was given as an object and compressed in place, so its dense weights "
                "are gone. Give pretrained=NAME, or a dense model as reference=NAME."
            )
        return reference.dense_weights(self, self._dense_parameters)

    def _dense_parameters(self) -> Mapping[str, Tensor]:
        """The dense model's parameters by name, in main memory."""
        return dict(self._load_again().named_parameters())

    def _load_again(self) -> Any:
        """The dense model, in main memory."""
        again = {**self._loaded_with, "parallelize": False, "device_map": "cpu"}
        again["revision"] = self._base_revision or again.get("revision")
        evaluated = self._model
        try:
            super()._create_model(**again)
            dense = self._model
        finally:
            self._model = evaluated
        return merge_adapter(dense) if hasattr(dense, "peft_config") else dense

    def _check_reference(self) -> None:
        name = self.recipe.reference
        if name is not None:
            remote = bool(self._passed.get("trust_remote_code"))
            check_reference(name, self.tokenizer, self.config, trust_remote_code=remote)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """As in ``hf``; refuses a cache of answers that another model has filled."""
        if cache_hook.dbdict is not None:
            already = answer_cache.guard_cache(cache_hook.dbdict, self._fingerprint())
            # Requests answered from the cache never get here, so cut prompts cannot be counted.
            self.truncation_known = not already
        super().set_cache_hook(cache_hook)

    def _fingerprint(self) -> dict[str, Any]:
        """What decides this model's answers."""
        return {
            "base_model": self._base_model,
            "compressor": self.recipe.compressor,
            "weights_sha256": self.weights.sha256,
            "dtype": str(self.model.dtype),
            "softmax_dtype": str(self.softmax_dtype),
            "mixed_precision_dtype": str(self.mixed_precision_dtype),
            "max_length": self.max_length,
            "tokenizer": self.tokenizer_name,
            "add_bos_token": self.add_bos_token,
            "prefix_token_id": self.custom_prefix_token_id,
            "think_end_token": self.think_end_token,
            "prefix_reuse": self.prefix_reuse,
        }

    @property
    def _base_model(self) -> str:
        if not self._prebuilt:
            return bundled.model_name(str(self._passed["pretrained"]))
        return str(getattr(self.config, "_name_or_path", "") or type(self.model).__name__)

    @property
    def _base_revision(self) -> str | None:
        return checks.base_revision(
            self._passed["pretrained"],
            revision=str(self._passed.get("revision") or "main"),
            subfolder=str(self._passed.get("subfolder") or ""),
            cache_dir=self._passed.get("cache_dir"),
        )

    def get_model_info(self) -> dict[str, Any]:
        """As in ``hf``, with the ``kick`` record added; goes into ``results["config"]``."""
        info: dict[str, Any] = super().get_model_info()
        info["kick"] = self._record(self.weights)
        if self._recognised is not None:
            size = self.model.dtype.itemsize
            info["kick"] = self._recognised.complete(info["kick"], element_size=size)
        return info

    def _record(self, survey: WeightSurvey) -> dict[str, Any]:
        return build.build_record(
            recipe=self.recipe,
            survey=survey,
            report=self._report,
            calibration_shape=self._calibration_shape,
            base_model=self._base_model,
            base_revision=self._base_revision,
            dtype=str(self.model.dtype).removeprefix("torch."),
            device=build.device_name(torch.device(self.device)),
            chat_template=self.chat_template_used,
            truncated_prompts=self.truncated_prompts,
        )


def _args(instance: Any) -> tuple[str, dict[str, Any]]:
    text, settings = instance.args
    return text, settings
