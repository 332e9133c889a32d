"""The catalogue of known faults: every way in which ports of a ViT have been seen, or must be expected, to differ."""

from conformance.catalogue_attention import ATTENTION
from conformance.catalogue_augmentation import AUGMENTATION
from conformance.catalogue_blocks import BLOCKS
from conformance.catalogue_epochs import EPOCHS
from conformance.catalogue_gradient import GRADIENT
from conformance.catalogue_initial import INITIAL
from conformance.catalogue_loops import LOOPS
from conformance.catalogue_loss import LOSS, METRIC
from conformance.catalogue_norms import NORMS
from conformance.catalogue_optimizer import OPTIMIZER
from conformance.catalogue_pixels import PIXELS
from conformance.catalogue_randomness import RANDOMNESS
from conformance.catalogue_rounding import BACKWARD, ROUNDING
from conformance.catalogue_rules import CLIPPING, SCHEDULE
from conformance.catalogue_sides import SIDES
from conformance.catalogue_trajectory import TRAJECTORY
from conformance.catalogue_weights import WEIGHTS
from conformance.elementary import ELEMENTARY
from conformance.faults import Fault
from vit_flax.config import one_of

MODEL = (*WEIGHTS, *NORMS, *ATTENTION, *BLOCKS, *ROUNDING, *BACKWARD)
TRAINING = (*PIXELS, *INITIAL, *LOSS, *METRIC, *CLIPPING, *SCHEDULE, *OPTIMIZER, *RANDOMNESS, *TRAJECTORY, *GRADIENT)
AROUND = (*EPOCHS, *AUGMENTATION, *LOOPS)
FAULTS: tuple[Fault, ...] = MODEL + TRAINING + AROUND + SIDES


def fault_named(name: str) -> Fault:
    """The known or elementary fault of that name. Raises `ValueError`, listing the near names, if there is none."""
    by_name = {fault.name: fault for fault in (*FAULTS, *ELEMENTARY)}
    one_of("fault", name, by_name)
    return by_name[name]
