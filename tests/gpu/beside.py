"""A model and its images on the host and on the device, and what their explanations have in common."""

import torch

FIELDS = ("raw_maps", "maps", "target", "logits", "labels", "weights", "eps", "empty", "probability")
NAMES = ("ant", "bee", "cat", "dog", "eel")


def double(model):
    """The same model in float64, so that no TF32 comes between the two."""
    return model.eval().double()


def close(found, expected, device, *, atol=1e-4):
    """A tensor on the device has the values of one on the host, to `atol` of the largest."""
    assert found.device == device
    assert found.dtype == expected.dtype
    largest = expected.nan_to_num().abs().max().item() if expected.is_floating_point() and expected.numel() else 0.0
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=atol * max(largest, 1e-12), equal_nan=True)


def same(found, expected, device):
    """All that an explanation holds is on the device, and what the host's is."""
    for name in FIELDS:
        ours, theirs = getattr(found, name), getattr(expected, name)
        if theirs is None:
            assert ours is None, name
        else:
            close(ours, theirs, device)
    assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers]
    assert found.classes == expected.classes
    assert float(expected.maps.max()) > 0.5, "an explanation of nothing shows nothing"
