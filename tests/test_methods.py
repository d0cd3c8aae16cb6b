"""The rival CAMs: against their papers' equations in plain loops, and against pytorch-grad-cam, recorded and live."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu import layers, targets
from cfcam_gpu.methods import METHODS, explain, forwards, gradient

BY_GRADIENT = [name for name, method in METHODS.items() if method.from_gradients]
BY_MODEL = [name for name, method in METHODS.items() if method.from_model]


def relu(value):
    return max(value, 0.0)


class Derivation:
    """Each method again, for one image and one target, in plain loops over lists."""

    def __init__(self, activations, gradients):
        self.a, self.g = activations.tolist(), gradients.tolist()
        self.channels, self.height, self.width = activations.shape

    def positions(self):
        return [(i, j) for i in range(self.height) for j in range(self.width)]

    def weigh(self, weights):
        return [
            [relu(sum(w * self.a[k][i][j] for k, w in enumerate(weights))) for j in range(self.width)]
            for i in range(self.height)
        ]

    def total(self, k):
        return sum(self.a[k][i][j] for i, j in self.positions())

    def gradcam(self):
        area = self.height * self.width
        return self.weigh([sum(g[i][j] for i, j in self.positions()) / area for g in self.g])

    def plusplus(self, first, second, third):
        weights = []
        for k in range(self.channels):
            weight = 0.0
            for i, j in self.positions():
                below = 2 * second[k][i][j] + self.total(k) * third[k][i][j]
                if below:
                    weight += second[k][i][j] / below * relu(first[k][i][j])
            weights.append(weight)
        return self.weigh(weights)

    def gradcam_plusplus(self):
        powers = [[[[value**p for value in row] for row in channel] for channel in self.g] for p in (1, 2, 3)]
        return self.plusplus(*powers)

    def elementwise(self, of):
        return [
            [relu(sum(of(self.g[k][i][j]) * self.a[k][i][j] for k in range(self.channels))) for j in range(self.width)]
            for i in range(self.height)
        ]

    def hirescam(self):
        return self.elementwise(float)

    def layercam(self):
        return self.elementwise(relu)

    def xgradcam(self):
        weights = []
        for k in range(self.channels):
            total = self.total(k)
            parts = [self.g[k][i][j] * self.a[k][i][j] / total for i, j in self.positions()] if total else []
            weights.append(sum(parts))
        return self.weigh(weights)

    def eigencam(self):
        """The first principal component by power iteration on the covariance of the positions."""
        points = [[self.a[k][i][j] for k in range(self.channels)] for i, j in self.positions()]
        means = [sum(column) / len(points) for column in zip(*points)]
        centred = [[value - mean for value, mean in zip(point, means)] for point in points]
        axis = [math.sin(k + 1) for k in range(self.channels)]
        for _ in range(3000):
            scores = [sum(x * v for x, v in zip(point, axis)) for point in centred]
            axis = [sum(s * point[k] for s, point in zip(scores, centred)) for k in range(self.channels)]
            norm = math.sqrt(sum(v * v for v in axis))
            axis = [v / norm for v in axis]
        scores = [sum(x * v for x, v in zip(point, axis)) for point in centred]
        norms = [math.sqrt(sum(x * x for x in point)) for point in points]
        sign = 1 if sum(s * n for s, n in zip(scores, norms)) >= 0 else -1
        rows = iter(scores)
        return [[relu(sign * next(rows)) for _ in range(self.width)] for _ in range(self.height)]


DERIVED = {
    "gradcam": Derivation.gradcam,
    "gradcam++": Derivation.gradcam_plusplus,
    "hirescam": Derivation.hirescam,
    "xgradcam": Derivation.xgradcam,
    "layercam": Derivation.layercam,
    "eigencam": Derivation.eigencam,
}


@pytest.fixture
def taken():
    """Activations (2, 5, 3, 4) with a dead channel, gradients (2, 3, 5, 3, 4)."""
    generator = torch.Generator().manual_seed(3)
    activations = torch.randn(2, 5, 3, 4, generator=generator).relu()
    activations[0, 2] = 0
    return activations, torch.randn(2, 3, 5, 3, 4, generator=generator)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_gradient_methods_are_their_papers_equations(name, taken):
    activations, gradients = taken
    found = METHODS[name].from_gradients(activations, gradients)
    assert found.shape == (2, 3, 3, 4)
    assert found.dtype == torch.float32
    for b in range(2):
        for t in range(3):
            derived = DERIVED[name](Derivation(activations[b].double(), gradients[b, t].double()))
            np.testing.assert_allclose(found[b, t], derived, rtol=1e-4, atol=1e-5)


#: What grad-cam 1.5.7 gave, before it normalises, for the activations and gradients of the test below.
RECORDED = {
    "gradcam": [[0.164847, 0.617775, 0.832418], [0.281739, 0.527969, 0.852265]],
    "gradcam++": [[0.369671, 1.026010, 1.478382], [0.571536, 0.860777, 1.501696]],
    "hirescam": [[0.056139, 0.565926, 0.727529], [0.643025, 0.847752, 0.508355]],
    "xgradcam": [[0.269894, 0.541094, 0.854602], [0.382393, 0.441386, 0.859357]],
    "layercam": [[0.171891, 0.857556, 1.333847], [0.897686, 0.898514, 1.288825]],
    "eigencam": [[0.0, 0.117970, 0.539282], [0.0, 0.0, 0.573740]],
}


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_gradient_methods_are_what_pytorch_grad_cam_recorded(name):
    count = torch.arange(24.0)
    activations = count.sin().abs().reshape(1, 4, 2, 3)
    activations[0, 3] = 0
    gradients = ((1.7 * count).cos() + 0.3).reshape(1, 1, 4, 2, 3)
    found = METHODS[name].from_gradients(activations, gradients)
    np.testing.assert_allclose(found[0, 0], RECORDED[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_gradient_methods_sum_in_float32(name, taken):
    activations, gradients = (100 * part.half() for part in taken)
    run = METHODS[name].from_gradients
    expected = run(activations.float(), gradients.float())
    found = run(activations, gradients)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(activations.float(), gradients.float()), expected)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_gradient_methods_bear_dead_layers(name):
    found = METHODS[name].from_gradients(torch.zeros(1, 3, 2, 2), torch.ones(1, 2, 3, 2, 2))
    assert torch.equal(found, torch.zeros(1, 2, 2, 2))


def test_gradcam_plusplus_of_small_gradients_is_the_limit_of_its_equation():
    # alpha = G^2 / (2 G^2 + S G^3) tends to 1/2, which an epsilon of 1e-6 below the line would make 1/3 at G = 1e-3.
    gradients = torch.full((1, 1, 1, 2, 2), 1e-12)
    found = gradient.gradcam_plusplus(torch.ones(1, 1, 2, 2), gradients)
    torch.testing.assert_close(found, torch.full((1, 1, 2, 2), 4 * 0.5e-12))


class Net(nn.Module):
    """Two convolutions with a ReLU behind each, pooling, and a head that is not linear."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU()
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.act2 = nn.ReLU()
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.scale = scale

    def tail(self, features):
        return self.scale * (self.head(torch.tanh(self.hidden(features.mean(dim=(2, 3))))) + 2)

    def forward(self, images):
        return self.tail(self.act2(self.second(self.act(self.first(images)))))


class Densely(Net):
    """What leaves the second layer joins what entered it, so that batches must agree on both sides."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(14, 8)

    def forward(self, images):
        features = self.act(self.first(images))
        return self.tail(torch.cat([features[..., ::2, ::2], self.act2(self.second(features))], dim=1))


class Reshaping(Net):
    """Writes the batch size of its input into its output, as EfficientNet does."""

    def forward(self, images):
        return super().forward(images).reshape(len(images), -1)


class Remembering(Net):
    """Writes the batch size of an early activation into its output."""

    def forward(self, images):
        features = self.act(self.first(images))
        return self.tail(self.act2(self.second(features))).reshape(len(features), -1)


def made(net, seed=7):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        net.second.bias[2] = -50  # a dead channel
    return net.eval()


@pytest.fixture
def net():
    return made(Net())


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(1))


def raw(model, layer, images, target, method, **options):
    return explain(model, layer, images, target, method, **options).raw_maps


def bilinear(field, height, width):
    """Plain bilinear interpolation, corners not aligned."""

    def sample(along, size, length):
        at = min(max((along + 0.5) * size / length - 0.5, 0.0), size - 1)
        low = int(at)
        return low, min(low + 1, size - 1), at - low

    out = np.zeros((height, width))
    for i in range(height):
        top, bottom, down = sample(i, len(field), height)
        for j in range(width):
            left, right, across = sample(j, len(field[0]), width)
            upper = (1 - across) * field[top][left] + across * field[top][right]
            lower = (1 - across) * field[bottom][left] + across * field[bottom][right]
            out[i, j] = (1 - down) * upper + down * lower
    return out


@torch.no_grad()
def test_scorecam_is_its_papers_algorithm(net, images):
    found = raw(net, "act2", images, [1, 3], "scorecam")
    for b, target in enumerate([1, 3]):
        activations = net.act2(net.second(net.act(net.first(images[b : b + 1]))))[0]
        assert not activations[2].any(), "a dead channel has to be among them"
        scores = []
        for channel in activations.tolist():
            mask = bilinear(channel, 8, 6)
            spread = mask.max() - mask.min()
            mask = (mask - mask.min()) / spread if spread else 0 * mask
            masked = images[b : b + 1] * torch.tensor(mask, dtype=torch.float32)
            scores.append(float(net(masked)[0, target]))
        exponentials = [math.exp(score) for score in scores]
        weights = [value / sum(exponentials) for value in exponentials]
        np.testing.assert_allclose(found[b], Derivation(activations, activations).weigh(weights), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [Net, Densely, Reshaping, Remembering])
@torch.no_grad()
def test_ablationcam_is_its_papers_equation(make, images):
    net = made(make())
    if make is Densely:
        net.forward_from = lambda image, activation: net.tail(
            torch.cat([net.act(net.first(image))[..., ::2, ::2], activation], dim=1)
        )
    else:
        net.forward_from = lambda image, activation: net.tail(activation)
    found = raw(net, "act2", images, [1, 3], "ablationcam")
    for b, target in enumerate([1, 3]):
        image = images[b : b + 1]
        activations = net.act2(net.second(net.act(net.first(image))))
        whole = float(net(image)[0, target])
        weights = []
        for k in range(8):
            ablated = activations.clone()
            ablated[0, k] = 0
            weights.append((whole - float(net.forward_from(image, ablated)[0, target])) / whole)
        derived = Derivation(activations[0], activations[0]).weigh(weights)
        np.testing.assert_allclose(found[b], derived, rtol=1e-3, atol=1e-5)


def test_ablationcam_of_a_negative_score_is_not_inside_out(net, images):
    """Shifting the score down by a constant takes no evidence away, so it may scale the map but not turn it over."""
    found = explain(net, "act2", images, lambda logits: logits[1], "ablationcam").maps
    shifted = explain(net, "act2", images, lambda logits: logits[1] - 100, "ablationcam").maps
    assert (found.amax(dim=(1, 2)) == 1).all()
    torch.testing.assert_close(shifted, found, rtol=0, atol=1e-3)


def test_smooth_gradcam_plusplus_is_gradcam_plusplus_of_mean_derivatives(net, images):
    layer = layers.find(net, "act2")
    found = forwards.smoothgradcam_plusplus(net, layer, images, targets.read([1, 3], 2), samples=3, noise=0.2, seed=5)
    generator = torch.Generator().manual_seed(5)
    gradients = torch.zeros(3, 2, 8, 4, 3)
    for sample in range(3):
        noise = torch.randn(images.shape, generator=generator)
        for b, target in enumerate([1, 3]):
            noisy = images[b] + 0.2 * (images[b].max() - images[b].min()) * noise[b]
            features = net.act2(net.second(net.act(net.first(noisy[None])))).detach().requires_grad_()
            net.tail(features)[0, target].backward()
            gradients[sample, b] = features.grad[0]
    gradients = gradients.double()
    for b in range(2):
        with torch.no_grad():
            activations = net.act2(net.second(net.act(net.first(images[b : b + 1]))))[0]
        powers = [(gradients[:, b] ** p).mean(dim=0).tolist() for p in (1, 2, 3)]
        derived = Derivation(activations.double(), gradients[0, b]).plusplus(*powers)
        np.testing.assert_allclose(found[b, 0], derived, rtol=1e-4, atol=1e-6)


def test_smooth_gradcam_plusplus_without_noise_is_gradcam_plusplus(net, images):
    layer = layers.find(net, "act2")
    request = targets.read([1, 3], 2)
    smooth = forwards.smoothgradcam_plusplus(net, layer, images, request, samples=2, noise=0.0)
    torch.testing.assert_close(smooth[:, 0], raw(net, "act2", images, [1, 3], "gradcam++"))


@pytest.mark.parametrize("name", METHODS)
def test_the_networks_of_these_tests_give_maps_that_say_something(name, images):
    for make in (Net, Densely):
        for layer in ("act", "act2"):
            assert (raw(made(make()), layer, images, [1, 3], name).amax(dim=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize("name", METHODS)
def test_several_targets_are_each_as_alone(name, net, images):
    together = explain(net, "act2", images, [[0, 3], [2, 1]], name)
    assert together.raw_maps.shape == (2, 2, 4, 3)
    assert together.maps.shape == (2, 2, 8, 6)
    for t, target in enumerate(([0, 2], [3, 1])):
        alone = explain(net, "act2", images, target, name)
        torch.testing.assert_close(together.raw_maps[:, t], alone.raw_maps)
        torch.testing.assert_close(together.maps[:, t], alone.maps)


@pytest.mark.parametrize("name", METHODS)
def test_targets_may_be_predicted_or_callable(name, net, images):
    predicted = net(images).argmax(dim=1)
    expected = raw(net, "act2", images, predicted, name)
    torch.testing.assert_close(raw(net, "act2", images, None, name), expected)
    scores = [lambda logits, k=int(k): logits[k] for k in predicted]
    torch.testing.assert_close(raw(net, "act2", images, scores, name), expected)


@pytest.mark.parametrize("name", METHODS)
def test_the_model_comes_out_as_it_went_in(name, images):
    net = made(Densely())
    before = copy.deepcopy(net.state_dict())
    explain(net, "act2.input", images, None, name)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", METHODS)
def test_the_input_of_a_layer_is_what_the_layer_before_gives(name, net, images):
    expected = raw(net, "act", images, [1, 3], name)
    torch.testing.assert_close(raw(net, "second.input", images, [1, 3], name), expected)


@pytest.mark.parametrize("name", ["scorecam", "ablationcam"])
@pytest.mark.parametrize("make", [Net, Densely])
def test_memory_changes_the_chunks_and_not_the_map(name, make, images):
    net = made(make())
    batches, steps = [], []
    net.hidden.register_forward_hook(lambda module, args, output: batches.append(len(output)))
    expected = raw(net, "act2", images, [1, 3], name)
    assert max(batches) > 2
    batches.clear()
    found = raw(net, "act2", images, [1, 3], name, memory=1, progress=lambda *step: steps.append(step))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert max(batches) == 2, "no more than the images themselves and the trial"
    total = steps[0][1]
    assert steps == [(n, total) for n in range(1, total + 1)]
    assert total < 2 * 8, "dead channels need no forward"


@pytest.mark.parametrize("make", [Net, Reshaping])
def test_ablationcam_runs_the_layers_before_on_one_image_only(make, images):
    net, batches = made(make()), []
    net.first.register_forward_hook(lambda module, args, output: batches.append(len(output)))
    explain(net, "act2", images, [1, 3], "ablationcam")
    assert batches == [2, 1, 1, 1], "the capture, the trial, and each image once"


def test_smooth_gradcam_plusplus_reports_its_samples(net, images):
    steps = []
    explain(net, "act2", images, None, "smoothgradcam++", progress=lambda *step: steps.append(step))
    assert steps == [(n, 8) for n in range(1, 9)]


def test_a_layer_is_chosen_where_none_is_named(net, images):
    torch.testing.assert_close(raw(net, None, images, 0, "layercam"), raw(net, "act2", images, 0, "layercam"))
    layer = layers.find(net, "act2")
    torch.testing.assert_close(raw(net, layer, images, 0, "layercam"), raw(net, "act2", images, 0, "layercam"))


def test_bad_input_is_refused(net, images):
    with pytest.raises(ValueError, match=r"method: expected one of gradcam, .*; got 'camcam'"):
        explain(net, "act2", images, 0, "camcam")
    with pytest.raises(ValueError, match=r"images: expected a floating tensor .* got torch.uint8 \(2, 3, 8, 6\)"):
        explain(net, "act2", images.byte(), 0)
    with pytest.raises(ValueError, match="memory: expected a positive number of bytes; got 0"):
        explain(net, "act2", images, 0, "scorecam", memory=0)
    images[1, 0, 0, 0] = torch.nan
    for name in [*BY_MODEL, "gradcam"]:
        with pytest.raises(ValueError, match=f"{re.escape(name)}: the map of image 1 is not finite"):
            explain(net, "act2", images, 0, name)


PEERS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "scorecam": "ScoreCAM",
    "ablationcam": "AblationCAM",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_pytorch_grad_cam_agrees(name, images, peer):
    peers = peer("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    # Gradients of 1 and more, so that the epsilons in their denominators don't count; a layer of the images' size,
    # because Score-CAM's masks are upsampled with aligned corners there.
    net = made(Net(scale=100.0 if name == "gradcam++" else 1.0))
    found = explain(net, "act", images, [1, 3], name).raw_maps
    assert (found.amax(dim=(1, 2)) > 0).all()
    with getattr(peers, PEERS[name])(net, [net.act]) as cam:
        expected = cam(images, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
    low = found.amin(dim=(1, 2), keepdim=True)
    stretched = ((found - low) / (found.amax(dim=(1, 2), keepdim=True) - low)).numpy()
    if name == "eigencam":
        # Its sign is the decomposition's, any: where it is not ours, theirs is the other side of the component.
        same = [np.abs(a - b).max() < 1e-4 for a, b in zip(stretched, expected)]
        apart = [((a > 0) & (b > 0)).sum() == 0 for a, b in zip(stretched, expected)]
        assert all(s or o for s, o in zip(same, apart))
        assert any(same)
    else:
        np.testing.assert_allclose(stretched, expected, atol=1e-4)
