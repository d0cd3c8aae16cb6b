"""Many targets of an image cost one forward and one backward, and give what each gives alone."""

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, Config, targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture
from cfcam_gpu.hooks.gradients import AT_ONCE
from cfcam_gpu.hooks.laying_out import laid_out


class Counted(torch.autograd.Function):
    """The identity, which counts its forwards and backwards; `reads` takes a value to the host on the way back."""

    counts: dict
    reads = False

    @staticmethod
    def forward(ctx, x):
        Counted.counts["forward"] += 1
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Counted.counts["backward"] += 1
        if Counted.reads:
            gradient.sum().item()
        return gradient.clone()


class Net(nn.Module):
    def __init__(self, classes=20):
        super().__init__()
        torch.manual_seed(0)
        self.fine = nn.Conv2d(3, 6, 3, padding=1)
        self.coarse = nn.Conv2d(6, 8, 3, stride=2)
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        features = self.coarse(torch.relu(self.fine(images)))
        return self.head(Counted.apply(torch.relu(features)).mean((2, 3)))


@pytest.fixture
def net():
    Counted.counts = {"forward": 0, "backward": 0}
    Counted.reads = False
    return Net().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(1))


def first(logits):
    return logits[0]


def take(net, images, target, **options):
    return capture(net, layers.find(net, "fine"), images, targets.read(target, len(images)), **options)


def test_one_forward_and_one_backward(net, images):
    fine, coarse = laid_out(net, images, [layers.find(net, name) for name in ("fine", "coarse")])
    Counted.counts["forward"] = 0
    found = CFCAM(net, coarse)(images, [list(range(10)), list(range(10, 20))])
    assert found.maps.shape == (2, 10, 9, 11)
    assert Counted.counts == {"forward": 1, "backward": 1}
    CFCAM(net, [fine, coarse])(images, [[targets.Contrast(k, k + 1) for k in range(10)]] * 2)
    assert Counted.counts == {"forward": 2, "backward": 2}
    capture(net, fine, images, targets.read([list(range(AT_ONCE + 1))] * 2, 2))
    assert Counted.counts == {"forward": 3, "backward": 4}


@pytest.mark.parametrize("how", ["batched", "reads on the host", "watched"])
@pytest.mark.parametrize("contrast", [0.0, 1.0])
def test_each_target_has_the_gradients_that_it_has_alone(net, images, how, contrast):
    classes = torch.randint(20, (2, AT_ONCE + 3), generator=torch.Generator().manual_seed(2))
    seen = []
    if how == "watched":  # by a hook of the user's, which is to see plain gradients
        net.coarse.register_full_backward_hook(lambda module, given, returned: seen.append(returned[0].sum().item()))
    Counted.reads = how == "reads on the host"
    options = {"coarse": layers.find(net, "coarse"), "contrast": contrast}
    several = take(net, images, classes, **options)
    assert len(seen) == (classes.shape[1] if seen else 0)
    assert bool(seen) == (how == "watched")
    for t in range(classes.shape[1]):
        alone = take(net, images, classes[:, t], **options)
        torch.testing.assert_close(several.gradients[:, t], alone.gradients[:, 0])
        torch.testing.assert_close(several.coarse[1][:, t], alone.coarse[1][:, 0])


@pytest.mark.parametrize("name", ["coarse", "head"])
@pytest.mark.parametrize("before", [False, True], ids=["hook", "pre-hook"])
def test_a_backward_hook_behind_the_layer_sees_plain_tensors_once_a_target(net, images, name, before):
    """Not the batch of them that vmap makes, which has the shape of one and no values to read."""
    classes = torch.randint(20, (2, AT_ONCE + 3), generator=torch.Generator().manual_seed(2))
    explain = CFCAM(net, "fine", config=Config(importance="contribution"))
    expected = explain(images, classes)
    plain, given = [], []

    def watch(module, *gradients):
        plain.append(not any(torch._C._functorch.is_batchedtensor(each) for part in gradients for each in part))
        given.append(gradients[-1][0].clone())

    module = getattr(net, name)
    register = module.register_full_backward_pre_hook if before else module.register_full_backward_hook
    handle = register(watch)
    found = explain(images, classes)
    handle.remove()
    assert plain == [True] * classes.shape[1]
    # Of the score of one class in each image the gradient is 1 there.
    if name == "head":
        for t, gradient in enumerate(given):
            assert torch.equal(gradient, torch.nn.functional.one_hot(classes[:, t], 20).float())
    for field in ("raw_maps", "weights", "eps"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field))
    for field in ("target", "logits", "labels"):
        assert torch.equal(getattr(found, field), getattr(expected, field))


def test_where_memory_does_not_suffice_for_many_one_is_taken_at_a_time(net, images, monkeypatch):
    expected = take(net, images, [[0, 3], [2, 1]])
    grad = torch.autograd.grad

    def tight(*args, is_grads_batched=False, **options):
        if is_grads_batched:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", tight)
    torch.testing.assert_close(take(net, images, [[0, 3], [2, 1]]).gradients, expected.gradients)


@pytest.mark.parametrize("watched", [False, True])
def test_the_backward_of_a_target_does_not_go_through_the_others(net, images, watched):
    passed = []

    class Score(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits):
            return logits * 1

        @staticmethod
        def backward(ctx, gradient):
            passed.append(1)
            return gradient * 1

    if watched:
        net.coarse.register_full_backward_hook(lambda module, given, returned: None)
    count = AT_ONCE + 2
    take(net, images, [[lambda logits, k=k: Score.apply(logits)[k] for k in range(count)]] * 2)
    assert len(passed) == 2 * count


@pytest.mark.parametrize("watched", [False, True])
def test_a_callable_that_does_not_depend_on_the_layer_is_refused_alone_and_among_others(net, images, watched):
    def beside(logits):
        return own * 2

    own = torch.ones((), requires_grad=True)
    if watched:
        net.coarse.register_full_backward_hook(lambda module, given, returned: None)
    for image, target in (
        (0, beside),
        (1, [first, beside]),
        (0, [[first, beside]] * 2),
        (1, [[first, first], [first, beside]]),
    ):
        with pytest.raises(ValueError, match=f"target: what callable beside returned for image {image} .* on fine"):
            take(net, images, target)


def test_a_callable_whose_gradient_is_zero_has_an_empty_map(net, images):
    assert not take(net, images, [[first, lambda logits: logits[1] * 0]] * 2).gradients[:, 1].any()


def test_a_layer_that_no_output_depends_on_is_refused_where_callables_are_given(net, images):
    net.register_forward_hook(lambda module, given, logits: logits.detach() * torch.ones(1, requires_grad=True))
    with pytest.raises(ValueError, match="target_layer: the target's score does not depend on fine"):
        take(net, images, [[first, first]] * 2)


class Detecting(nn.Module):
    """Like YOLO: predictions and feature maps in eval mode, feature maps alone in training mode."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.norm(self.features(images))
        return [maps] if self.training else (maps.flatten(2).mT, [maps])


def test_a_model_that_answers_otherwise_in_training_mode_stays_in_eval_mode(images):
    """pytorch-grad-cam#507: an explanation switched YOLO to training."""
    net = Detecting().eval()
    modes = []
    net.register_forward_hook(lambda module, args, output: modes.append([m.training for m in net.modules()]))
    explain = CFCAM(net, "norm")
    explain(images, lambda predictions: predictions[:, 2].max())  # rows are (anchors, 4)
    explain(images, targets.WholeOutput(lambda output: output[1][0].amax()))
    assert len(modes) >= 2
    assert not any(map(any, modes))
    assert not any(module.training for module in net.modules())
