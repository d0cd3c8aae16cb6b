"""``cfcam-gpu bench`` where the device fails on the way."""

import json

from cfcam_gpu.evaluation import evaluate

from .test_evaluation import bench, folder

__all__ = ["folder"]


def test_what_was_measured_before_a_device_failed_is_written(folder, tmp_path, monkeypatch):
    measure = evaluate.Run._measure

    def fails_late(run, candidate, batch, samples):
        if candidate.name == "layercam":
            raise RuntimeError("the device is out of order")
        return measure(run, candidate, batch, samples)

    monkeypatch.setattr(evaluate.Run, "_measure", fails_late)
    done = bench("localisation", folder, tmp_path / "out", "--methods", "gradcam,layercam", "--metrics", "energy")
    assert done.exit_code == 1
    assert "the device is out of order" in done.stderr
    (file,) = (tmp_path / "out").glob("localisation-*.json")
    images = {line["method"]: line["images"] for line in json.loads(file.read_text())["table"]}
    assert images["gradcam"] == 4
