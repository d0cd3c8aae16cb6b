"""Each CAM again in plain loops, and networks small enough to follow them."""

import math

import numpy as np
import torch
from torch import nn


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
        norms = [math.sqrt(sum(self.a[k][i][j] ** 2 for k in range(self.channels))) for i, j in self.positions()]
        return self.component(self.a, norms)

    def eigengradcam(self):
        products = [
            [[self.g[k][i][j] * self.a[k][i][j] for j in range(self.width)] for i in range(self.height)]
            for k in range(self.channels)
        ]
        return self.component(products, [sum(channel[i][j] for channel in products) for i, j in self.positions()])

    def component(self, channels, along):
        """The first principal component by power iteration on the covariance of the positions."""
        samples = [[channel[i][j] for channel in channels] for i, j in self.positions()]
        means = [sum(column) / len(samples) for column in zip(*samples)]
        centred = [[value - mean for value, mean in zip(sample, means)] for sample in samples]
        axis = [math.sin(k + 1) for k in range(self.channels)]
        for _ in range(3000):
            scores = [sum(x * v for x, v in zip(sample, axis)) for sample in centred]
            axis = [sum(s * sample[k] for s, sample in zip(scores, centred)) for k in range(self.channels)]
            norm = math.sqrt(sum(v * v for v in axis))
            axis = [v / norm for v in axis]
        scores = [sum(x * v for x, v in zip(sample, axis)) for sample in centred]
        sign = 1 if sum(s * n for s, n in zip(scores, along)) >= 0 else -1
        rows = iter(scores)
        return [[relu(sign * next(rows)) for _ in range(self.width)] for _ in range(self.height)]


class Net(nn.Module):
    """Two convolutions with a ReLU behind each, pooling, and a head that is not linear."""

    def __init__(self, scale=1.0, classes=4):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU()
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.act2 = nn.ReLU()
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, classes)
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


def batch():
    """Two images that the networks take."""
    return torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(1))


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
