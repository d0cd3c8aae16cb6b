"""How the page names and explains what the files hold, and which file's names mean the same: all of it data."""

from __future__ import annotations

from typing import NamedTuple

from ..methods import METHODS


class Metric(NamedTuple):
    """A metric in print: its name, what it tells, its unit and how many decimals are worth reading."""

    name: str
    tells: str = ""
    unit: str = ""
    decimals: int = 2

    @property
    def axis(self) -> str:
        """Name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


def _percent(name: str, tells: str) -> Metric:
    return Metric(name, tells, "%", 1)


SUITES = {
    "faithfulness": "Does the map show what the model looks at?",
    "localisation": "Does the map lie on the object?",
    "robustness": "Does the map stay when gradients or pixels change a little?",
    "sanity": "Does the map change when the model forgets what it learned, and with the class?",
}

#: Metrics of ``cfcam-gpu bench``; one that is not here goes by its own name.
METRICS = {
    "average_drop": _percent("Average Drop", "probability lost where only what the map shows is left"),
    "average_increase": _percent("Average Increase", "images whose probability rises then"),
    "average_gain": _percent("Average Gain", "how much of what is missing to 1 it gains then"),
    "insertion_auc": _percent("Insertion AUC", "probability while the image returns into a blur, strongest first"),
    "deletion_auc": _percent("Deletion AUC", "probability while the image is erased, strongest first"),
    "adcc": _percent("ADCC", "harmonic mean of coherency, 100 - complexity and 100 - drop"),
    "coherency": _percent("Coherency", "correlation with the map of what the map shows"),
    "complexity": _percent("Complexity", "mean of the map"),
    "road": _percent("ROAD", "half of: probability without the weakest pixels, less that without the strongest"),
    "single_deletion": _percent("Single deletion", "rank correlation with what each of 16 patches alone is worth"),
    "energy_pointing_game": _percent("Energy in mask", "share of the map that lies on the object"),
    "pointing_game": _percent("Pointing game", "maps whose maximum lies on the object"),
    "best_iou": _percent("IoU", "of object and map at the best threshold"),
    "grid_2x2": _percent("Grid 2 x 2", "share of the map in the class's own cell of a mosaic; chance is 25"),
    "grid_3x3": _percent("Grid 3 x 3", "share of the map in the class's own cell of a mosaic; chance is 11"),
    "gradient_noise_ssim": _percent("SSIM, gradient noise", "likeness of the map under noise in the gradients"),
    "pixel_noise_ssim": _percent("SSIM, pixel noise", "likeness of the map under noise in the pixels"),
    "max_sensitivity": Metric("Max-sensitivity", "largest relative change of the map under small changes of pixels"),
    "classifier_randomisation_ssim": _percent("SSIM, new classifier", "likeness to the map of a random classifier"),
    "class_agreement": _percent("Class agreement", "top of the map that the map of the second likeliest class shares"),
    "cascade_correlation_mean": _percent(
        "Cascade, mean", "correlation with maps of the model made random from the top"
    ),
    "cascade_correlation_last": _percent("Cascade, last", "correlation with the map of a wholly random model"),
}

#: Methods in print; one that is not here goes by its own name.
NAMES = {name: method.title for name, method in METHODS.items()} | {
    "layercam-fine": "LayerCAM, fine layer",
    "gradcam*layercam-fine": "Grad-CAM x LayerCAM",
}


class Timed(NamedTuple):
    """A candidate of a latency record: its name in print, and the method of the evaluation that it computes."""

    name: str
    method: str | None = None


#: Candidates of ``bench/latency.py``. There "cfcam" is given one layer, so it is what the evaluation calls cfcam-one.
TIMED = {
    "forward": Timed("bare forward"),
    "capture-only": Timed("capture alone"),
    "cfcam": Timed("CF-CAM, one level", "cfcam-one"),
    "cfcam-paper": Timed("CF-CAM, paper", "cfcam-paper"),
    "two-level": Timed("CF-CAM", "cfcam"),
    "pytorch-grad-cam": Timed("Grad-CAM by pytorch-grad-cam", "gradcam"),
    "torch-cam": Timed("Grad-CAM by torch-cam", "gradcam"),
}

#: What latency records call the models of ``cfcam-gpu bench``; others have one name in both.
NETWORKS = {
    "lite0": "efficientnet-lite0",
    "lite1": "efficientnet-lite1",
    "lite2": "efficientnet-lite2",
    "torchvision:resnet50": "resnet50",
}

#: Models in print.
MODELS = {
    "lite0": "EfficientNet-Lite0",
    "lite1": "EfficientNet-Lite1",
    "lite2": "EfficientNet-Lite2",
    "torchvision:resnet50": "ResNet-50",
}


def metric(name: str) -> Metric:
    """A metric in print."""
    return METRICS.get(name, Metric(name))


def network(name: str) -> str:
    """A latency record's network in print."""
    return {NETWORKS[model]: printed for model, printed in MODELS.items()}.get(name, name)
