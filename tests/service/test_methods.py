"""Which methods a service answers by, each with the library's own map, in batches of one method."""

import pytest
import torch
from starlette.testclient import TestClient

from cfcam_gpu import CAM, Explanation
from cfcam_gpu.methods import METHODS
from cfcam_gpu.named_models.options import Settings
from cfcam_gpu.service import explainers
from cfcam_gpu.service.backend import MethodError, Question

from ..services import SMALL, application, array, backend, picture, values


@pytest.fixture(scope="module")
def answering():
    return backend()


@pytest.fixture(scope="module")
def client(answering):
    with TestClient(application(answering)) as found:
        yield found


def wanted(answering, data, method, target=None, **options):
    pixels = answering.decode(data)[None]
    explain = CAM(answering.model.module, method=method, **options)
    return explain(answering.model.preparation.normalize(pixels), target)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigencam", "shapleycam", "cfcam-paper", "randomcam"])
def test_a_request_is_answered_by_the_method_that_it_names(client, answering, method):
    data = picture(1)
    (found,) = client.post("/explain", content=data, params={"method": method, "target": 2}).json()["explanations"]
    assert (found["method"], found["target"]) == (method, 2)
    assert torch.equal(values(found["map"]), wanted(answering, data, method, 2).maps[0].half())


def test_a_form_names_one_method_for_all_its_images(client, answering):
    images = [picture(seed) for seed in range(2)]
    files = [("image", (f"{i}.png", data)) for i, data in enumerate(images)]
    found = client.post("/explain", files=files, data={"method": "gradcam"}).json()["explanations"]
    for one, data in zip(found, images):
        assert one["method"] == "gradcam"
        assert torch.equal(values(one["map"]), wanted(answering, data, "gradcam").maps[0].half())


def test_health_tells_the_methods_that_suit_the_model(client):
    found = client.get("/health").json()
    assert found["method"] == next(iter(found["methods"])) == "cfcam"
    assert found["methods"]["gradcam++"] == "Grad-CAM++"
    # Those of many layers, of which this model has one.
    assert set(METHODS) - set(found["methods"]) == explainers.COSTLY | {"refinecam", "winsorcam", "legrad"}


@pytest.mark.parametrize("error", [RuntimeError("no second derivatives"), LookupError("of the model")])
def test_a_method_that_fails_at_the_start_keeps_no_other_from_its_answers(monkeypatch, error):
    make = explainers.Explainers._make

    def failing(self, method):
        if method == "legrad":
            raise error
        return make(self, method)

    monkeypatch.setattr(explainers.Explainers, "_make", failing)
    assert "legrad" not in backend().about["methods"]


def test_a_costly_method_answers_where_the_service_is_started_with_it():
    looking = backend(Settings(model="tests.albums:small", method="scorecam"))
    assert looking.about["methods"]["scorecam"] == "Score-CAM"
    (answer,) = looking.explain([Question(picture(1))])
    assert answer.record["method"] == "scorecam"
    (other,) = looking.explain([Question(picture(1), method="cfcam")])
    assert torch.equal(array(other.map), wanted(backend(), picture(1), "cfcam").maps[0].half())


def test_views_and_layers_are_those_of_the_service():
    looking = backend(Settings(model="tests.albums:small", layers=("0",), augment=("flip",)))
    (answer,) = looking.explain([Question(picture(1), 3, method="layercam")])
    found = CAM(looking.model.module, "0", method="layercam", augment=["flip"])
    images = looking.model.preparation.normalize(looking.decode(picture(1))[None])
    assert torch.equal(array(answer.map), found(images, 3).maps[0].half())
    assert answer.record["layers"] == ["0"]


def test_a_batch_is_of_one_method(answering, monkeypatch):
    batches, explain = [], CAM.__call__

    def counted(self, images, target=None, **more) -> Explanation:
        batches.append((self.method, len(images)))
        return explain(self, images, target, **more)

    asked = ["gradcam", "cfcam", "gradcam", "layercam", "cfcam", "gradcam"]
    questions = [Question(picture(seed), method=method) for seed, method in enumerate(asked)]
    answering.explain(questions)  # each explainer is made, and tried
    monkeypatch.setattr(CAM, "__call__", counted)
    answers = answering.explain([*questions, Question(b"none", method="cfcam")])
    assert batches == [("gradcam", 3), ("cfcam", 2), ("layercam", 1)]
    assert [answer.record["method"] for answer in answers[:-1]] == asked
    assert isinstance(answers[-1], ValueError)


def test_components_are_those_of_the_services_own_method():
    looking = backend(SMALL, components=2)
    own, other = looking.explain([Question(picture(), method="cfcam"), Question(picture(), method="gradcam")])
    assert own.record["components"][-1]["name"] == "rest"
    assert "components" not in other.record


def test_a_method_that_the_model_turns_out_not_to_suit_is_refused_as_such(answering, client, monkeypatch):
    def refuse(self, method):
        return CAM(answering.model.module, method="legrad")(torch.zeros(1, 3, 64, 64))

    monkeypatch.setattr(explainers.Explainers, "_make", refuse)
    (answer,) = answering.explain([Question(picture(), method="xgradcam")])
    assert isinstance(answer, MethodError)
    answer = client.post("/explain?method=xgradcam", content=picture())
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("method: xgradcam does not suit this model: ")
