"""Activations and gradients of many layers in one forward and one backward."""

import pytest
import torch
from torch import nn

from cfcam_gpu import targets
from cfcam_gpu.hooks import layers
from cfcam_gpu.hooks.capture import capture

from ..cams import Net, batch, made


class Branches(nn.Module):
    """Two branches side by side, of which one begins at the image."""

    def __init__(self, frozen):
        super().__init__()
        self.left, self.right, self.joined = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 3)
        self.requires_grad_(not frozen)

    def forward(self, images):
        both = torch.cat([self.left(images).relu(), self.right(images).tanh()], dim=1)
        return self.head(torch.tanh(self.joined(both)).mean(dim=(2, 3)))


def take(model, names, images, target):
    first, *others = (layers.find(model, name) for name in names)
    return capture(model, first, images, targets.read(target, len(images)), others=others)


def pairs(captured):
    return [(captured.activations, captured.gradients), *captured.others]


@pytest.mark.parametrize("names", [["first", "act", "second", "act2"], ["act2", "first", "second.input"]], ids=str)
@pytest.mark.parametrize("frozen", [False, True])
def test_each_layer_is_as_alone_in_any_order(names, frozen):
    net, images, runs = made(Net()).requires_grad_(not frozen), batch(), []
    net.head.register_forward_hook(lambda *given: runs.append(1))
    classes = torch.tensor([[0, 1], [3, 2]])
    take(net, names, images, classes)  # finds the layouts, in forwards of its own
    found = take(net, names, images, classes)
    alone = [capture(net, layers.find(net, name), images, targets.read(classes, 2)) for name in names]
    for (activations, gradients), one in zip(pairs(found), alone, strict=True):
        torch.testing.assert_close(activations, one.activations)
        torch.testing.assert_close(gradients, one.gradients)
    assert [layer.name for layer in found.layers] == names
    runs.clear()
    first, *others = found.layers
    capture(net, first, images, targets.read(classes, 2), others=others)
    assert len(runs) == 1, "one forward for all, where their layouts are known"
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("names", [["left", "right"], ["right", "joined", "left"]], ids=str)
def test_layers_side_by_side_are_each_as_alone(names, frozen):
    torch.manual_seed(0)
    net, images = Branches(frozen), batch()
    found = take(net, names, images, 1)
    for (activations, gradients), name in zip(pairs(found), names, strict=True):
        one = capture(net, layers.find(net, name), images, targets.read(1, 2))
        torch.testing.assert_close(activations, one.activations)
        torch.testing.assert_close(gradients, one.gradients)
        assert gradients.any()


def test_a_layer_beside_the_way_to_the_score_is_named():
    class Aside(Net):
        def __init__(self):
            super().__init__()
            self.aside = nn.Conv2d(3, 2, 1)

        def forward(self, images):
            self.aside(images)
            return super().forward(images)

    with pytest.raises(ValueError, match="target_layer: the target's score does not depend on aside"):
        take(made(Aside()), ["first", "aside", "act2"], batch(), 1)
    model = made(Net())
    model.never = nn.Conv2d(3, 2, 1)
    with pytest.raises(ValueError, match="target_layer: never did not run"):
        take(model, ["first", "never"], batch(), 1)
