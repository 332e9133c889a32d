"""The catalogue of known faults: every way in which ports of a ViT have been seen, or must be expected, to differ."""

import copyreg

from conformance.catalogue_model import MODEL
from conformance.catalogue_training import TRAINING
from conformance.faults import Fault
from vit_flax.config import one_of

FAULTS: tuple[Fault, ...] = MODEL + TRAINING


def fault_named(name: str) -> Fault:
    """The fault of that name. Raises `ValueError`, listing the near names, if there is none."""
    by_name = {fault.name: fault for fault in FAULTS}
    one_of("fault", name, by_name)
    return by_name[name]


copyreg.pickle(Fault, lambda fault: (fault_named, (fault.name,)))  # from process to process: by name
