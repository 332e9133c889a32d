"""What is compared with what: the references by name, and the cases of the main job."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from conformance.precision import on_gpu, torch_device
from conformance.rungs import SCOPES, Rung, Scope
from conformance.torch_side import BUILDERS, TorchSide
from vit_flax.config import PRESETS, ViTConfig, one_of, preset

# Reference name -> the preset it must equal.
REFERENCES = {f"twin:{name}": name for name in PRESETS} | {
    "timm:vit_tiny_patch16_224": "vit_ti16",
    "timm:vit_small_patch16_224": "vit_s16",
    "timm:vit_base_patch16_224": "vit_b16",
    "timm:vit_base_patch32_224": "vit_b32",
    "timm:vit_large_patch16_224": "vit_l16",
    "timm:vit_huge_patch14_224": "vit_h14",
    "torchvision:vit_b_16": "vit_b16",
    "torchvision:vit_b_32": "vit_b32",
}

DEFAULT_TARGET = "conformance.flax_side:FlaxSide"


@dataclasses.dataclass(frozen=True)
class Case:
    """One reference, at an image size and depth: its own, unless they are cut here to keep the suite quick."""

    reference: str
    image_size: tuple[int, int] | None = None
    num_layers: int | None = None
    scope: Scope = "training"  # how far it goes

    def __post_init__(self) -> None:
        one_of("reference", self.reference, REFERENCES)

    @property
    def subject(self) -> str:
        return REFERENCES[self.reference]

    @functools.cached_property
    def config(self) -> ViTConfig:
        # Once: a case keeps its name, whatever is done to the presets while it is climbed.
        full = preset(self.subject)
        return full.replace(
            image_size=self.image_size or full.image_size, num_layers=self.num_layers or full.num_layers
        )

    @property
    def batch_size(self) -> int:
        """More of the small images: ten logits of two images are too few numbers to form an error ratio of."""
        height, width = self.config.image_size
        return 16 if height * width <= 64 * 64 else 2

    def build_reference(self, config: ViTConfig) -> TorchSide:
        """The reference of this name, built for a config."""
        source, architecture = self.reference.split(":")
        return BUILDERS[source](architecture, config, torch_device())

    def climbs(self, rung: Rung) -> bool:
        return SCOPES.index(rung.scope) <= SCOPES.index(self.scope) and (not rung.gpu_only or on_gpu())

    def __str__(self) -> str:
        c = self.config
        return f"{self.subject}-{self.reference.split(':')[0]}-{c.image_size[0]}x{c.image_size[1]}-depth{c.num_layers}"


CASES = (
    Case("twin:article"),
    Case("twin:article", image_size=(32, 48), scope="model"),
    Case("twin:article-p4", scope="model"),
    Case("twin:article-p4-untied", scope="model"),
    Case("twin:article-p4-untied", image_size=(16, 24), num_layers=2),
    Case("twin:digits"),
    Case("twin:vit_ti16", scope="model"),
    Case("twin:vit_ti16", image_size=(96, 160), num_layers=2),
    Case("timm:vit_tiny_patch16_224", scope="model"),
    Case("timm:vit_tiny_patch16_224", image_size=(96, 160), num_layers=2),
    Case("twin:vit_s16", num_layers=2, scope="model"),
    Case("timm:vit_small_patch16_224", image_size=(112, 112), num_layers=2, scope="gradients"),
    Case("twin:vit_b16", num_layers=2, scope="model"),
    Case("timm:vit_base_patch16_224", scope="model"),
    Case("torchvision:vit_b_16", num_layers=2, scope="model"),
    Case("torchvision:vit_b_32", image_size=(128, 128), num_layers=2, scope="gradients"),
)


def cases_for(references: Sequence[str] | None) -> list[Case]:
    """These references, each once and whole; without any, the main job's."""
    return [Case(name) for name in dict.fromkeys(references)] if references else list(CASES)


def load_target(name: str) -> Callable[[ViTConfig], Any]:
    """The factory that `pkg.module:factory` names. Raises `ValueError` saying which part of the name is wrong."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"target {name!r} is not of the form pkg.module:factory")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports something that is not
        raise ValueError(f"target {name!r}: there is no module {error.name!r}") from error
    if not callable(factory := getattr(module, attribute, None)):
        raise ValueError(f"target {name!r}: module {module_name!r} has no factory {attribute!r}")
    return factory
