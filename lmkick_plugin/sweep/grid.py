# SPDX-License-Identifier: Apache-2.0
"""Cells of a sweep: each model with each recipe once, its dense model first."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from compressors.errors import SettingsError
from lmkick_plugin.recipe.allocation import FILE, applies
from lmkick_plugin.recipe.argument_table import ARGUMENTS
from lmkick_plugin.recipe.arguments import parse_arguments
from lmkick_plugin.recipe.calibration_source import text_files
from lmkick_plugin.recipe.pretrained import check_pretrained
from lmkick_plugin.recipe.readers import is_unset, read_seeds, suggest
from lmkick_plugin.recipe.recipe import Recipe
from lmkick_plugin.sweep.config import SweepConfig

__all__ = ["DENSE", "SPEED", "Cell", "list_cells", "slug"]

DENSE = "dense"
#: Arguments that say how fast and where, not what.
SPEED = frozenset(
    {
        "batch_size", "max_batch_size", "device", "resume_dir", "compress_cache",
        "compress_cache_gb",
    }
)  # fmt: skip
# Of one recipe: more takes minutes to plan.
_MOST_CELLS = 10_000
# Each cell gets its own folder below the given one.
_FOLDERS = ("resume_dir", "save_compressed")


@dataclass(frozen=True)
class Cell:
    """One model with one recipe.

    Attributes:
        name: Its folder below the sweep's.
        model: Arguments of ``--model kick`` that belong to the model.
        recipe: Those that belong to the compression; none for the dense model.
        settings: The recipe as read, defaults included: what tells it from others.
    """

    name: str
    model: Mapping[str, Any]
    recipe: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments of ``--model kick``, but batch size and device."""
        return {**self.model, **(self.recipe or {"compressor": "none"})}

    @property
    def group(self) -> str:
        """Folder of its model; cells of one group share dense weights."""
        return self.name.partition("/")[0]

    @property
    def is_dense(self) -> bool:
        """Whether nothing is compressed."""
        return self.name.endswith(f"/{DENSE}")

    @property
    def compressor(self) -> str:
        """The method's name."""
        return str(self.settings["compressor"])

    @property
    def identity(self) -> dict[str, Any]:
        """Model and recipe with defaults: everything that decides the weights."""
        model = {name: value for name, value in self.model.items() if name not in SPEED}
        found: dict[str, Any] = {"model": model, "recipe": dict(self.settings)}
        files = _contents(self.settings)
        return {**found, "files": files} if files else found


def list_cells(config: SweepConfig) -> tuple[list[Cell], int]:
    """Expand the grid and check each point; loads nothing.

    Args:
        config: The configuration.

    Returns:
        The cells, and the number of duplicates left out.

    Raises:
        SettingsError: A model or recipe is wrong; the message names its place and the point of
            the grid.
    """
    models = [
        (f"models[{number}]", _model_arguments(config, number, model))
        for number, model in enumerate(config.models)
    ]
    names = _model_names(config.models)
    points = [("dense", dict[str, Any]())] if config.dense else []
    for number, recipe in enumerate(config.recipes):
        points += _points(f"recipes[{number}]", recipe, config.seeds)
    cells: dict[str, Cell] = {}
    repeated = 0
    for (place, arguments), name in zip(models, names, strict=True):
        _check(place, lambda given=arguments: check_pretrained(given["pretrained"]))
        for where, recipe in points:
            point = where if where != "dense" else place
            settings = _check(point, lambda a=arguments, r=recipe: _settings({**a, **r}))
            folder = f"{name}/{_recipe_name(settings)}"
            if folder in cells:
                repeated += 1
                continue
            kept = {} if folder.endswith(f"/{DENSE}") else _own_folders(recipe, folder)
            cells[folder] = Cell(folder, arguments, kept, settings)
    return list(cells.values()), repeated


def _check(place: str, read: Any) -> Any:
    try:
        return read()
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{place}: {error}") from error


def _settings(arguments: dict[str, Any]) -> dict[str, Any]:
    recipe, _ = parse_arguments(arguments)
    recipe.build_compressor()
    found = {
        setting.name: getattr(recipe, setting.name) for setting in fields(Recipe) if setting.compare
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return {name: value for name, value in plain.items() if value is not None}


def _contents(settings: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that a recipe names, by path, without missing ones."""
    paths = text_files(str(settings.get("calibration", "c4")))
    allocation = str(settings.get("allocation", ""))
    if allocation.startswith(FILE):
        paths.append(allocation.removeprefix(FILE))
    files = [(path, Path(path).stat()) for path in paths if Path(path).is_file()]
    return {path: _file_digest(path, stat.st_mtime_ns, stat.st_size) for path, stat in files}


@cache
def _file_digest(path: str, _modified: int, _size: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _own_folders(recipe: Mapping[str, Any], folder: str) -> dict[str, Any]:
    return {
        name: f"{value}/{folder}" if name in _FOLDERS and not is_unset(value) else value
        for name, value in recipe.items()
    }


# --- recipes --------------------------------------------------------------------------------------


def _points(
    place: str, recipe: Mapping[str, Any], seeds: Sequence[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Points of one recipe's grid, each with its place for messages."""
    known = {name for name in ARGUMENTS if name not in ("data_dir", "reference")}
    for name in recipe:
        if name not in known:
            hint = suggest(name, known) or f"Known: {', '.join(sorted(known))}. "
            raise SettingsError(f"{place}.{name}: not a setting of a recipe. {hint}")
    spread = {
        name: list(value) if isinstance(value, list | tuple) else [value]
        for name, value in recipe.items()
    }
    if "seed" in spread:
        spread["seed"] = [
            seed for value in spread["seed"] for seed in _check(place, lambda v=value: _seeds(v))
        ]
    cells = math.prod(map(len, spread.values())) * max(1, len(seeds))
    if cells > _MOST_CELLS:
        raise SettingsError(
            f"{place}: its lists span {cells:,} cells; at most {_MOST_CELLS:,} are planned. Give "
            "fewer values, or several sweeps."
        )
    varied = [name for name, values in spread.items() if len(values) > 1]
    for values in itertools.product(*spread.values()):
        point = dict(zip(spread, values, strict=True))
        where = ", ".join(f"{name}={point[name]}" for name in varied)
        compressor = str(point.get("compressor", "none")).strip().lower()
        takes_seed = compressor in ARGUMENTS["seed"].goes_with and applies(
            compressor, "seed", point
        )
        repeated = seeds if seeds and takes_seed and "seed" not in point else (None,)
        for seed in repeated:
            chosen = point if seed is None else {**point, "seed": seed}
            yield f"{place} with {where}" if where else place, chosen


def _seeds(value: Any) -> tuple[int, ...]:
    return read_seeds("seed", value)


def _recipe_name(settings: Mapping[str, Any]) -> str:
    """Compressor and settings that differ from the defaults."""
    parts = []
    for name, value in settings.items():
        argument = ARGUMENTS.get("seed" if name == "seeds" else name)
        default = None if argument is None else argument.default
        if name == "compressor" or value == default or (name, value) == ("pattern", "unstructured"):
            continue
        if name == "seeds":
            if list(value) != list(default or ()):
                parts.append(f"seed={value[0]}")
            continue
        shown = str(value).lower() if isinstance(value, bool) else value
        parts.append(f"{name}={slug(shown)}")
    compressor = settings["compressor"]
    if not parts and compressor == "none":
        return DENSE
    return "_".join([str(compressor), *parts])


def slug(value: object) -> str:
    """Part of a folder name for a value, different for different values.

    >>> slug("2:4"), slug(0.5), slug("task:alpaca")
    ('2-4', '0.5', 'task-alpaca')
    """
    text = str(value)
    plain = re.sub(r"[^\w.+-]+", "-", text)
    if plain == text or text.startswith(("task:", "mix:")) or re.fullmatch(r"\d+:\d+", text):
        return plain
    last = re.sub(r"[^\w.+-]+", "-", Path(text).name)
    return f"{last[-40:]}-{_digest(text)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


# --- models ---------------------------------------------------------------------------------------


def _model_arguments(config: SweepConfig, number: int, model: Mapping[str, Any]) -> dict[str, Any]:
    common: dict[str, Any] = dict(config.model_args)
    if config.dtype is not None:
        common["dtype"] = config.dtype
    if config.data_dir is not None:
        common["data_dir"] = config.data_dir
    for place, given in (("model_args", config.model_args), (f"models[{number}]", model)):
        for name in given:
            if place == "model_args" and name == "pretrained":
                raise SettingsError("model_args.pretrained: name the models under models.")
            if name in ("batch_size", "max_batch_size", "device"):
                raise SettingsError(f"{place}.{name}: set it once, at the top level.")
            ours = ARGUMENTS.get(name)
            if ours is not None and (name == "compressor" or "none" not in ours.goes_with):
                raise SettingsError(
                    f"{place}.{name} belongs to a recipe: the dense model is evaluated too. Move "
                    "it to recipes."
                )
    return common | dict(model)


def _model_names(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Folder name of each model: its own name, with a hash of other arguments.

    Names do not depend on the other models, so that a sweep can be extended; only two folders of
    one name, which do not tell the models apart, both get a hash.
    """
    plain: dict[str, set[str]] = {}
    for model in models:
        if set(model) == {"pretrained"}:
            plain.setdefault(_short(model["pretrained"]), set()).add(model["pretrained"])
    names = []
    for model in models:
        name = _short(model["pretrained"])
        alone = set(model) == {"pretrained"} and len(plain[name]) == 1
        names.append(name if alone else f"{name}-{_digest(dict(model))}")
    return names


def _short(pretrained: str) -> str:
    path = Path(pretrained).expanduser()
    name = path.resolve().name if path.is_dir() else pretrained.strip("/").replace("/", "__")
    return re.sub(r"[^\w.+-]+", "-", name) or "model"
