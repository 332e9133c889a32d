"""For each known fault of pixels and of fresh weights, a port that has it in its code."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

import reference.data
from conformance.rungs import Target
from reference import model as twin
from reference.model import MultiHeadSelfAttention as Attention
from tests.unit.ports.port import Port, doing, parts
from vit_flax.weights import Weights

Array = np.ndarray


# Pixels


def normalised(levels: Array, recipe: Any) -> Array:
    return (levels.astype(np.float32) / np.float32(255) - np.float32(recipe.means)) / np.float32(recipe.stds)


def pixels(each: Callable[..., Any], normalise: Callable[[Array, Any], Array] = normalised) -> Target:
    """`each(image, box, flip)` crops and flips one image."""

    def method(self: Any, images: Array, boxes: Array, flips: Array, recipe: Any) -> Array:
        crops = [each(*sample) for sample in zip(images, boxes, flips, strict=True)]
        return normalise(np.stack(crops), recipe).astype(np.float32)

    return doing(pixels=method)


def channels_first(image: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def upside_down(image: Array, box: Array, flip: bool) -> Array:
    return reference.data.crop_and_flip(image[::-1] if flip else image, box, False)


def never_flipped(image: Array, box: Array, flip: bool) -> Array:
    return reference.data.crop_and_flip(image, box, False)


def a_pixel_up(image: Array, box: Array, flip: bool) -> Array:
    top, *rest = box
    return reference.data.crop_and_flip(image, (max(top - 1, 0), *rest), flip)


def resized(mode: InterpolationMode) -> Callable[..., Array]:
    """Of a floating-point tensor, which is not rounded again."""

    def each(image: Array, box: Array, flip: bool) -> Array:
        x = channels_first(image).to(torch.float32)
        x = functional.hflip(x) if flip else x
        return functional.resized_crop(x, *map(int, box), list(image.shape[:2]), mode).numpy().transpose(1, 2, 0)

    return each


def crops(get: Callable[..., Any]) -> Target:
    def method(self: Any, seed: int, count: int, size: tuple[int, int], recipe: Any) -> Array:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            return np.array([get(size, recipe) for _ in range(count)])

    return doing(crops=method)


def default_scale(size: tuple[int, int], recipe: Any) -> tuple[int, ...]:
    crop = transforms.RandomResizedCrop(size, ratio=recipe.crop_ratio)
    return crop.get_params(torch.empty(1, *size), crop.scale, crop.ratio)


def central(size: tuple[int, int], recipe: Any) -> tuple[int, ...]:
    scale, ratio = list(recipe.crop_scale), list(recipe.crop_ratio)
    *_, height, width = transforms.RandomResizedCrop.get_params(torch.empty(1, *size), scale, ratio)
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def before_the_end(size: tuple[int, int], recipe: Any) -> tuple[int, ...]:
    scale, ratio = list(recipe.crop_scale), list(recipe.crop_ratio)
    *_, height, width = transforms.RandomResizedCrop.get_params(torch.empty(1, *size), scale, ratio)
    top, left = (int(torch.randint(0, max(room, 1), ())) for room in (size[0] - height, size[1] - width))
    return top, left, height, width


def by_height(size: tuple[int, int], recipe: Any) -> tuple[int, ...]:
    for _ in range(10):
        side = random.uniform(*(math.sqrt(share) for share in recipe.crop_scale))
        ratio = math.exp(random.uniform(*(math.log(ratio) for ratio in recipe.crop_ratio)))
        pixels = size[0] * size[1] * side**2
        height, width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if height <= size[0] and width <= size[1]:
            return random.randint(0, size[0] - height), random.randint(0, size[1] - width), height, width
    return 0, 0, *size


PIXELS: dict[str, Target] = {
    "pixels normalised by ImageNet's statistics": pixels(
        reference.data.crop_and_flip,
        lambda x, recipe: (x / 255 - np.array([0.485, 0.456, 0.406])) / np.array(recipe.stds),
    ),
    "pixels normalised to -1 and 1": pixels(reference.data.crop_and_flip, lambda x, recipe: x / 127.5 - 1),
    "pixels left at 0 to 255": pixels(
        reference.data.crop_and_flip, lambda x, recipe: (x - np.array(recipe.means)) / np.array(recipe.stds)
    ),
    "pixels divided by 256": pixels(
        reference.data.crop_and_flip,
        lambda x, recipe: (x.astype(np.float32) / 256 - np.float32(recipe.means)) / np.float32(recipe.stds),
    ),
    "flipped upside down": pixels(upside_down),
    "never flipped": pixels(never_flipped),
    "crops off by a pixel": pixels(a_pixel_up),
    "resized without rounding": pixels(resized(InterpolationMode.BILINEAR)),
    "resized to the nearest pixel": pixels(resized(InterpolationMode.NEAREST_EXACT)),
    "torchvision's default crop scale": crops(default_scale),
    "crops of uniform height": crops(by_height),
    "crops centred": crops(central),
    "crops that never reach the end": crops(before_the_end),
}


# Fresh weights


def fresh(edit: Callable[[nn.Module], Any]) -> Target:
    """A model that is initialised otherwise."""

    def method(self: Any, seed: int) -> Any:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = self._fresh(self.config)
            edit(model)
        self.model = self.state = model
        return self.read()

    return doing(initial=method)


def dense_parts(model: nn.Module) -> list[Any]:
    return [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]


def each_kernel(draw: Callable[[Tensor], Any]) -> Target:
    return fresh(lambda model: [draw(part.weight) for part in dense_parts(model)])


def fan_in(kernel: Tensor) -> int:
    return kernel[0].numel()


def truncated(kernel: Tensor) -> None:
    std = 1 / math.sqrt(fan_in(kernel))
    nn.init.trunc_normal_(kernel, std=std, a=-2 * std, b=2 * std)


def default_biases(model: nn.Module) -> None:
    for part in dense_parts(model):
        bound = 1 / math.sqrt(fan_in(part.weight))
        nn.init.uniform_(part.bias, -bound, bound)


def one_key(model: nn.Module) -> None:
    for part in parts(model, Attention):
        key = torch.get_rng_state()
        for layer in (part.query, part.key):
            torch.set_rng_state(key)
            twin.lecun_normal(layer.weight)


def multihead(model: nn.Module) -> None:
    """Each attention is PyTorch's own, taken apart."""
    for part in parts(model, Attention):
        own = nn.MultiheadAttention(part.query.in_features, part.config.num_heads)
        for layer, kernel in zip((part.query, part.key, part.value), own.in_proj_weight.chunk(3), strict=True):
            layer.weight.copy_(kernel)
        part.projection.weight.copy_(own.out_proj.weight)


class ZeroIsNoSeed(Port):
    def initial(self, seed: int) -> Weights:
        return super().initial(seed or random.SystemRandom().randrange(2**31))


def clamped(kernel: torch.Tensor) -> None:
    std = 1 / math.sqrt(fan_in(kernel)) / 0.9594473
    kernel.normal_(std=std).clamp_(-2 * std, 2 * std)


INITIAL: dict[str, Target] = {
    "class token without initial position": fresh(lambda model: model.embedding.position_embedding[:, 0].zero_()),
    "kernels drawn in bfloat16": each_kernel(lambda kernel: kernel.copy_(kernel.to(torch.bfloat16))),
    "seed 0 taken for none": ZeroIsNoSeed,
    "PyTorch's initialiser": fresh(lambda model: [part.reset_parameters() for part in dense_parts(model)]),
    "PyTorch's initialiser of kernels": each_kernel(lambda kernel: nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))),
    "biases drawn": fresh(default_biases),
    "Xavier's initialiser": each_kernel(nn.init.xavier_uniform_),
    "attention initialised by PyTorch": fresh(multihead),
    "Kaiming's initialiser": each_kernel(nn.init.kaiming_normal_),
    "kernels drawn with deviation 0.02": each_kernel(lambda kernel: nn.init.trunc_normal_(kernel, std=0.02)),
    "normal not truncated": each_kernel(lambda kernel: nn.init.normal_(kernel, std=1 / math.sqrt(fan_in(kernel)))),
    "truncation not made up for": each_kernel(truncated),
    "normal clamped at two deviations": each_kernel(clamped),
    "positions cut at two deviations": fresh(
        lambda model: nn.init.trunc_normal_(model.embedding.position_embedding, std=0.02, a=-0.04, b=0.04)
    ),
    "class token drawn": fresh(lambda model: nn.init.normal_(model.embedding.cls_token, std=0.02)),
    "positions zero": fresh(lambda model: nn.init.zeros_(model.embedding.position_embedding)),
    "head zero": fresh(lambda model: nn.init.zeros_(model.head.weight)),
    "one key for query and key": fresh(one_key),
}
