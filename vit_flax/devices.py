"""Several devices: each computes its own part of a batch, with a copy of the parameters.

A CPU counts as two devices here. As one, it splits every operation among its cores and joins them again; as two, each
half of a batch goes its way, and they join once (docs/performance.md).
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ON_A_CPU = 2  # measured on two cores; each more holds one more copy of the parameters
IMAGES = "images"  # the axis of a batch that is divided


def split_cpu() -> bool:
    """Make a CPU two devices, unless it has been given a number. Says whether it could be done.

    Call it before JAX looks for its devices.
    """
    if jax.config.values["jax_num_cpu_devices"] >= 0:
        return True
    try:
        jax.config.update("jax_num_cpu_devices", ON_A_CPU)
    except RuntimeError:
        return False
    return True


def mesh_for(batch_size: int) -> Mesh:
    """As many of the devices as such a batch divides among."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return Mesh(np.array(devices[:count]), (IMAGES,))


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on each device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def divided(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Arrays cut along an axis: a part on each device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, IMAGES)))


def mean_over_parts(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function(params, rng, batch)`, a tree of means over a batch, from the means over each device's part of it.

    Each part has a key of its own. What is averaged travels once, as one array: left to place its sums itself, XLA
    sends the gradient of a shared layer once for each of its uses.
    """
    if mesh.size == 1:
        return function

    def part(params: Any, rng: jax.Array, batch: Any) -> Any:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(IMAGES))
        flat, shaped = ravel_pytree(function(params, rng, batch))
        return shaped(jax.lax.pmean(flat, IMAGES))

    everyone, own = PartitionSpec(), PartitionSpec(IMAGES)
    return jax.shard_map(part, mesh=mesh, in_specs=(everyone, everyone, own), out_specs=everyone, check_vma=False)
