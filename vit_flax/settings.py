"""Everything that determines a training run, as one file of plain data."""

import dataclasses
import hashlib
from typing import Any

from vit_flax.config import ViTConfig, preset
from vit_flax.data import Data
from vit_flax.recipe import Recipe, recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One training run. The same settings on the same machine give the same bits.

    Raises `ValueError` if a batch takes more images than there are.
    """

    preset: str
    config: ViTConfig
    recipe_name: str
    recipe: Recipe
    seed: int
    data: str | None  # the path as it was given; None: scikit-learn's digits
    source: str  # what the data are
    digest: str  # sha256 of all images and labels
    train_images: int
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.recipe.steps_per_epoch(self.train_images)

    @property
    def steps_per_epoch(self) -> int:
        return self.recipe.steps_per_epoch(self.train_images)


def resolve(
    preset_name: str,
    recipe_name: str,
    changes: dict[str, Any],
    seed: int,
    path: str | None,
    data: Data,
    model_changes: dict[str, Any] | None = None,
) -> Settings:
    """The settings of a preset and a recipe on these data: the model takes their image size, channels and classes.

    Means and stds are the recipe's, or the data's where those were measured.

    Raises `ValueError` for unknown names, and for numbers that cannot work together.
    """
    base = recipe(recipe_name)
    warmup_epochs = base.warmup_epochs * changes.get("epochs", base.epochs) / base.epochs  # as long a share of the run
    measured = {} if data.normalisation is None else dict(zip(("means", "stds"), data.normalisation, strict=True))
    chosen = base.replace(**{"warmup_epochs": warmup_epochs} | measured | changes)
    return _fitted((preset_name, preset(preset_name)), (recipe_name, chosen), seed, path, data, model_changes or {})


def repeat(
    kept: Settings,
    changes: dict[str, Any],
    seed: int | None,
    path: str | None,
    data: Data,
    model_changes: dict[str, Any] | None = None,
) -> Settings:
    """The settings of a kept run, with these changes, on these data. Raises `ValueError` as `resolve`."""
    model, how = (kept.preset, kept.config), (kept.recipe_name, kept.recipe.replace(**changes))
    return _fitted(model, how, kept.seed if seed is None else seed, path, data, model_changes or {})


def _fitted(
    model: tuple[str, ViTConfig],
    how: tuple[str, Recipe],
    seed: int,
    path: str | None,
    data: Data,
    model_changes: dict[str, Any],
) -> Settings:
    (preset_name, config), (recipe_name, chosen) = model, how
    count, height, width, channels = data.train.images.shape
    if len(chosen.means) != channels:
        raise ValueError(
            f"recipe {recipe_name!r} has means for {len(chosen.means)} channels, "
            f"but {data.source} has images of {channels}"
        )
    sizes = dict(image_size=(height, width), channels=channels, num_classes=len(data.classes))
    config = chosen.regularised(config.replace(**sizes | model_changes))
    for name, value in model_changes.items():
        if getattr(config, name) != value:
            raise ValueError(f"model.{name} is {value}, but the recipe makes it {getattr(config, name)}: set it there")
    return Settings(
        preset=preset_name,
        config=config,
        recipe_name=recipe_name,
        recipe=chosen,
        seed=seed,
        data=path,
        source=data.source,
        digest=digest(data),
        train_images=count,
        classes=data.classes,
    )


def digest(data: Data) -> str:
    """sha256 of every image and label, in order."""
    sha256 = hashlib.sha256()
    for array in (*data.train, *data.validation, *data.test):
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def to_json(settings: Settings) -> dict[str, Any]:
    return dataclasses.asdict(settings)


def from_json(plain: dict[str, Any]) -> Settings:
    """The settings again, exactly. Raises `ValueError` or `TypeError` if fields are missing, unknown or wrong."""
    config, recipe = _untupled(ViTConfig, plain["config"]), _untupled(Recipe, plain["recipe"])
    return Settings(**plain | {"config": config, "recipe": recipe, "classes": tuple(plain["classes"])})


def _untupled(kind: Any, plain: dict[str, Any]) -> Any:
    # JSON knows no tuples.
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})


def differences(kept: Settings, asked: Settings) -> list[str]:
    """What is not the same in two settings, a line each; paths may differ, as long as the data are the same."""
    kept_fields, asked_fields = _flat(to_json(kept)), _flat(to_json(asked))
    return [
        f"{name} was {kept_fields[name]!r}, not {asked_fields[name]!r}"
        for name in kept_fields
        if name != "data" and kept_fields[name] != asked_fields[name]
    ]


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
