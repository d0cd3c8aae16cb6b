"""The CAMs against those of pytorch-grad-cam and torch-cam, where these are right."""

import numpy as np
import pytest
import torch

from cfcam_gpu import CAM

from ..cams import Net, batch, made

GRAD_CAM = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "finercam": "FinerCAM",
    "shapleycam": "ShapleyCAM",
    "scorecam": "ScoreCAM",
    "ablationcam": "AblationCAM",
}

#: torch-cam's Grad-CAM++ leaves its weights undivided. Its Smooth Grad-CAM++ takes D_1 from the last sample
#: alone, and sums A D_3 where the paper has D_3 times the sum of A: right where there is no noise and all derivatives
#: are constant over space.
TORCH_CAM = {
    "gradcam": ("GradCAM", {}),
    "xgradcam": ("XGradCAM", {}),
    "layercam": ("LayerCAM", {}),
    "smoothgradcam++": ("SmoothGradCAMpp", {"std": 1e-7}),
    "scorecam": ("ScoreCAM", {}),
}


def stretched(maps):
    low = maps.amin(dim=(1, 2), keepdim=True)
    return ((maps - low) / (maps.amax(dim=(1, 2), keepdim=True) - low)).numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", GRAD_CAM)
def test_pytorch_grad_cam_agrees(name, peer):
    peers = peer("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget

    # Gradients of 1 and more, so that the epsilons in their denominators don't count; a layer of the images' size,
    # because Score-CAM's masks are upsampled with aligned corners there.
    net, images = made(Net(scale=100.0 if name == "gradcam++" else 1.0, classes=6)), batch()
    scored = ClassifierOutputReST if name == "shapleycam" else ClassifierOutputTarget
    # Finer-CAM takes no class there for each image.
    classes = net(images).argmax(dim=1).tolist() if name == "finercam" else [1, 3]
    found = CAM(net, "act", method=name)(images, classes).raw_maps
    assert (found.amax(dim=(1, 2)) > 0).all()
    with getattr(peers, GRAD_CAM[name])(net, [net.act]) as cam:
        expected = cam(images, None if name == "finercam" else [scored(k) for k in classes])
    ours = stretched(found)
    if name.startswith("eigen"):
        # Its sign is the decomposition's, any: where it is not ours, theirs is the other side of the component.
        same = [np.abs(a - b).max() < 1e-4 for a, b in zip(ours, expected)]
        apart = [((a > 0) & (b > 0)).sum() == 0 for a, b in zip(ours, expected)]
        assert all(s or o for s, o in zip(same, apart))
        assert any(same)
    else:
        np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TORCH_CAM)
def test_torch_cam_agrees(name, peer):
    peers = peer("torchcam.methods")
    method, options = TORCH_CAM[name]
    net, images = made(Net(scale=100.0 if name == "smoothgradcam++" else 1.0)), batch()
    layer = "act2" if name == "smoothgradcam++" else "act"
    found = CAM(net, layer, method=name, noise=0)(images, [1, 3]).raw_maps
    with getattr(peers, method)(net, layer, **options) as cam:
        scores = net(images)
        expected = cam([1, 3], scores, normalized=True)[0].detach()
    np.testing.assert_allclose(stretched(found), stretched(expected), atol=1e-4)
    assert not torch.equal(found[0], found[1])
