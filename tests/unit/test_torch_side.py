"""How the suite runs a PyTorch model: what it switches and gives back, and which dropouts it draws for."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conformance import precision
from conformance.mutation import CONFIG
from conformance.sides import Masks
from conformance.torch_side import Drawing, Twin
from conformance.weights import random_weights

WEIGHTS = random_weights(CONFIG, seed=0)
IMAGES = np.zeros((1, *CONFIG.image_size, CONFIG.channels), np.float32)
UPSTREAM = {"logits": np.ones((1, CONFIG.num_classes), np.float32)}
X = torch.arange(1.0, 9.0, dtype=torch.float64).reshape(2, 4)


def switches():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "convolutions in TF32": cudnn.allow_tf32,
        "float16 sums rounded": matmul.allow_fp16_reduced_precision_reduction,
        "bfloat16 sums rounded": matmul.allow_bf16_reduced_precision_reduction,
        "cuDNN": cudnn.enabled,
        "cuDNN benchmark": cudnn.benchmark,
        "cuDNN deterministic": cudnn.deterministic,
    }


IN_FULL = {"convolutions in TF32": False, "float16 sums rounded": False, "bfloat16 sums rounded": False}
RUNS = {
    "taps": lambda side: side.taps(WEIGHTS, IMAGES),
    "gradients": lambda side: side.gradients(WEIGHTS, IMAGES, UPSTREAM),
}


@pytest.fixture(params=(False, True), ids=("usual", "unusual"))
def before(request):
    """PyTorch's own switches, or most of them the other way round."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    turned = (
        (cudnn, "benchmark"),
        (cudnn, "deterministic"),
        (cudnn, "allow_tf32"),
        (matmul, "allow_fp16_reduced_precision_reduction"),
    )
    usual = [getattr(module, switch) for module, switch in turned]
    if request.param:
        for (module, switch), value in zip(turned, usual, strict=True):
            setattr(module, switch, not value)
    yield switches()
    for (module, switch), value in zip(turned, usual, strict=True):
        setattr(module, switch, value)


def seen_inside(run):
    """The switches as they are while the model runs forwards and, if it does, backwards."""
    seen, side = [], Twin(CONFIG, "cpu")

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(switches())
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(switches())
            return grad

    side.model.embedding.register_forward_hook(lambda module, inputs, output: Look.apply(output))
    run(side)
    return seen


@pytest.mark.parametrize("run", RUNS)
def test_a_model_runs_in_full_precision_with_cudnn_and_leaves_all_as_it_was(run, before):
    seen = seen_inside(RUNS[run])
    assert len(seen) == {"taps": 1, "gradients": 2}[run]
    assert all(inside == before | IN_FULL for inside in seen)
    assert switches() == before
    assert before["cuDNN"]


def test_by_default_convolutions_are_as_they_are_by_default(before):
    with precision.regime("float32 default"):
        assert switches() == before | IN_FULL | {"convolutions in TF32": True}
        (inside,) = seen_inside(RUNS["taps"])
    assert inside["convolutions in TF32"]
    assert switches() == before


def test_the_switches_return_when_the_model_fails(before):
    side = Twin(CONFIG, "cpu")
    side.model.embedding.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        side.taps(WEIGHTS, IMAGES)
    assert switches() == before


def drawn(function, seed=0):
    masks = Masks(seed)
    with Drawing(masks):
        return function(), masks.asked


def test_both_of_pytorchs_dropouts_take_the_same_draw_by_the_same_rule():
    """The fused one is what GPUs run; it can be called on a CPU too."""
    (fused, mask), asked = drawn(lambda: torch.ops.aten.native_dropout(X, 0.75, True))
    plain, again = drawn(lambda: F.dropout(X, 0.75, training=True))

    assert asked == again == [((2, 4), 0.25)]
    assert mask.dtype == torch.bool
    assert set(mask.unique().tolist()) == {False, True}
    assert torch.equal(mask, torch.from_numpy(Masks(0)((2, 4), 0.25)))
    assert torch.equal(fused, torch.where(mask, 4 * X, 0))  # exact: what is kept is a power of two
    assert torch.equal(fused, plain)


def test_a_fused_dropout_that_does_not_say_is_in_training():
    (_, mask), asked = drawn(lambda: torch.ops.aten.native_dropout(X, 0.75, None))
    assert asked == [((2, 4), 0.25)]
    assert not mask.all()


@pytest.mark.parametrize(("rate", "training"), ((0.75, False), (0.0, True), (0.0, False), (1.0, True), (1.0, False)))
def test_a_fused_dropout_that_draws_nothing_is_pytorchs_own(rate, training):
    own = torch.ops.aten.native_dropout(X, rate, training)

    found, asked = drawn(lambda: torch.ops.aten.native_dropout(X, rate, training))

    assert asked == []
    for ours, theirs in zip(found, own, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_the_fused_dropouts_gradient_has_the_same_draw():
    x = X.clone().requires_grad_()
    with Drawing(Masks(0)):
        output, mask = torch.ops.aten.native_dropout(x, 0.75, True)
        output.sum().backward()
    assert torch.equal(x.grad, mask.to(x) * 4)


def test_only_a_model_in_training_draws():
    layer, masks = nn.Dropout(0.5), Masks(0)
    with Drawing(masks):
        assert torch.equal(layer.eval()(X), X)
        assert masks.asked == []
        assert not torch.equal(layer.train()(X), X)
    assert masks.asked == [((2, 4), 0.5)]
