"""Models of images and texts: a map for each text, from one forward of the image tower."""

import copy
import io
import json
import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu import CAM, CFCAM, explain_text, targets
from cfcam_gpu.explain import TextExplanation, ZeroShot

from ..needs import module
from ..two_towers import (
    LENGTH,
    TEXTS,
    Regions,
    TokensFirst,
    coloured,
    of_transformers,
    photographs,
    pictures,
    preprocess,
    tokenizer,
    tokens_of,
)


@pytest.fixture(scope="module")
def processor():
    return preprocess("CLIP"), tokenizer()


@pytest.fixture(scope="module")
def clip():
    return of_transformers("CLIP")


@pytest.fixture(scope="module")
def explained(clip):
    """By chosen layers, whose layouts another call need not look for."""
    return explain_text(clip, tokenizer(), pictures(), TEXTS)


def inputs_of(kind, texts):
    filled = {"padding": "max_length", "max_length": LENGTH} if kind == "Siglip" else {"padding": True}
    return tokenizer()(texts, return_tensors="pt", **filled)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip", "MetaClip2", "ChineseCLIP", "AltCLIP", "VisionTextDualEncoder"])
def test_similarities_are_those_of_the_models_own_forward(kind):
    model, images = of_transformers(kind), pictures()
    result = explain_text(model, tokenizer(), images, TEXTS, method="gradcam")
    with torch.no_grad():
        own = model(**inputs_of(kind, TEXTS), pixel_values=images).logits_per_image
    torch.testing.assert_close(result.logits, own, atol=1e-5, rtol=1e-5)
    assert own.std(dim=1).min() > 0.01
    probabilities = own.sigmoid() if kind == "Siglip" else own.softmax(dim=1)
    torch.testing.assert_close(result.probability, probabilities, atol=1e-5, rtol=1e-5)
    assert result.classes == [TEXTS, TEXTS]
    assert result.class_names == tuple(TEXTS)
    assert result.maps.shape == (2, 3, 64, 64)


def test_files_and_components_have_the_probabilities_of_siglip(tmp_path):
    model = of_transformers("Siglip")
    result = explain_text(model, tokenizer(), pictures(1), TEXTS, target_layer="vision_model.post_layernorm")
    result.save(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "explanations.jsonl").read_text().splitlines()]
    assert [line["probability"] for line in lines] == pytest.approx(result.probability[0].tolist())
    assert result.probability.sum() > 1.01 or result.probability.sum() < 0.99
    classifier = ZeroShot(model, tokenizer(), TEXTS)
    alone = CFCAM(classifier, result.layers[0])(pictures(1), target=0)
    known = {each.name: getattr(alone, each.name) for each in fields(alone)}
    of_text = TextExplanation(**known, images=result.images, inputs=result.inputs, sigmoid=True)
    component = of_text.components(result.inputs, measured=True)[0][0]
    assert component.probability == pytest.approx(result.probability[0, 0].item())


def by_hand(model, images, texts, layer, score):
    """Grad-CAM at tokens with a class token or none, (B, T, 4, 4), by plain hooks and autograd."""
    kept = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    logits = model(**texts, pixel_values=images).logits_per_image
    handle.remove()
    maps = []
    for k in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(score(logits, k).sum(), kept[0], retain_graph=True)
        tokens, gradient = (one[:, -16:] for one in (kept[0], gradient))
        maps.append((tokens * gradient.mean(dim=1, keepdim=True)).sum(dim=2).relu().unflatten(1, (4, 4)))
    return torch.stack(maps, dim=1).detach()


def log_odds(logits, k):
    others = [i for i in range(logits.shape[1]) if i != k]
    return logits[:, k] - logits[:, others].logsumexp(dim=1)


@pytest.mark.parametrize(
    ("kind", "texts", "layer", "score"),
    [
        ("CLIP", TEXTS, "vision_model.encoder.layers.2.layer_norm1", log_odds),
        ("CLIP", TEXTS[:1], "vision_model.encoder.layers.2.layer_norm1", lambda logits, k: logits[:, k]),
        ("Siglip", TEXTS, "vision_model.post_layernorm", lambda logits, k: logits[:, k]),
    ],
    ids=["log-odds", "one text alone", "each for itself"],
)
def test_maps_are_those_of_autograd_by_hand(kind, texts, layer, score):
    model, images = of_transformers(kind), pictures()
    result = explain_text(model, tokenizer(), images, texts, method="gradcam")
    assert [each.name for each in result.layers] == [layer]
    expected = by_hand(model, images, inputs_of(kind, texts), model.get_submodule(layer), score)
    torch.testing.assert_close(result.raw_maps, expected, atol=1e-6, rtol=1e-4)
    assert expected.amax() > 0


@pytest.mark.parametrize("method", ["cfcam", "gradcam", "layercam", "ablationcam", "finercam"])
def test_each_text_has_its_map_where_it_looks(method):
    result = explain_text(Regions(), tokens_of, coloured(), ["blue", "red"], target_layer="visual.1", method=method)
    quarters = torch.nn.functional.avg_pool2d(result.maps, 32).flatten(2)
    assert quarters.argmax(dim=2).tolist() == [[2, 0]] * 2
    if method == "layercam":  # others weigh channels as a whole, and some of each colour is everywhere
        assert (quarters.amax(dim=2) / quarters.sum(dim=2)).min() > 0.9


def test_a_method_that_compares_classes_has_the_texts_as_classes(clip, explained):
    layer, classifier = explained.layers[0], ZeroShot(clip, tokenizer(), TEXTS)
    result = explain_text(clip, tokenizer(), pictures(), TEXTS, method="finercam", target_layer=layer)
    own = CAM(classifier, layer, method="finercam")(pictures(), [[0, 1, 2]] * 2)
    assert torch.equal(result.raw_maps, own.raw_maps)
    assert not torch.allclose(result.raw_maps, explained.raw_maps)


def test_texts_are_encoded_once_and_the_image_tower_runs_once(clip, explained):
    runs = {"vision_model": [], "text_model": []}
    for name, seen in runs.items():
        clip.get_submodule(name).register_forward_hook(
            lambda module, args, output, seen=seen: seen.append(output.pooler_output.requires_grad)
        )
    again = explain_text(clip, tokenizer(), pictures(), TEXTS, target_layer=explained.layers)
    for name in runs:
        clip.get_submodule(name)._forward_hooks.clear()
    assert runs == {"vision_model": [True], "text_model": [False]}
    assert torch.equal(again.maps, explained.maps)


def test_one_text_as_a_str_has_no_axis_of_its_own(clip, explained):
    alone, several = (
        explain_text(clip, tokenizer(), pictures(), texts, target_layer=explained.layers)
        for texts in (TEXTS[0], TEXTS[:1])
    )
    assert alone.maps.shape == (2, 64, 64)
    assert alone.classes == [TEXTS[0]] * 2
    assert torch.equal(alone.maps, several.maps[:, 0])
    assert alone.probability.isnan().all()


def test_what_follows_from_an_explanation_scores_texts_as_it_did(clip, explained):
    alone = explain_text(clip, tokenizer(), pictures(1), TEXTS[0], target_layer=explained.layers)
    assert alone.components(alone.inputs)[0][0].share > 0
    assert "stability" in str(alone.trust(alone.inputs))
    # As trust asks for another class beside the target: by indices.
    again = explained.origin.explain(explained.inputs, targets.read([[2, 0]] * 2, 2))
    torch.testing.assert_close(again.maps, explained.maps[:, [2, 0]], atol=1e-5, rtol=1e-4)
    assert again.classes == [[TEXTS[2], TEXTS[0]]] * 2


def test_a_part_a_copy_and_a_pickle_keep_what_the_model_saw(explained):
    result = explained
    for part in (result[1], copy.deepcopy(result)[1], pickle.loads(pickle.dumps(result))[1]):
        assert isinstance(part, TextExplanation)
        assert part.classes == [TEXTS]
        assert torch.equal(part.images, result.images[1:])
        assert torch.equal(part.overlay(), result.overlay()[1:])
        assert torch.equal(part.probability, result.probability[1:])


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_photographs_are_prepared_and_shown_as_the_model_saw_them(kind):
    model, (wide, high), transform = of_transformers(kind), photographs(), preprocess(kind)
    result = explain_text(model, (transform, tokenizer()), [wide, high], TEXTS, method="eigencam")
    in_colour = [wide, high.convert("RGB")]
    assert torch.equal(result.inputs, transform(in_colour, return_tensors="pt")["pixel_values"])
    unnormalised = transform(in_colour, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert (result.images / 255 - unnormalised).abs().max() < 1 / 255
    assert result.overlay().shape == (2, 3, 64, 64, 3)


def test_images_of_an_unknown_normalisation_are_stretched(clip, processor, explained):
    shown = explain_text(clip, processor, pictures() * 5, TEXTS, target_layer=explained.layers).images
    assert (shown.amin().item(), shown.amax().item()) == (0, 255)
    assert (shown.float().diff(dim=-1) == 0).float().mean() < 0.05  # nothing is cut off at black or white


def test_a_photograph_is_seen_as_its_exif_data_turn_it(clip, processor, explained):
    upright = photographs()[0].convert("RGB")
    turned, tag = upright.rotate(90, expand=True), Image.Exif()
    tag[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "PNG", exif=tag)
    known = {"target_layer": explained.layers}
    shown = explain_text(clip, processor, Image.open(file), TEXTS, **known)
    assert torch.equal(shown.images, explain_text(clip, processor, upright, TEXTS, **known).images)


def test_legrad_takes_texts(clip):
    result = explain_text(clip, tokenizer(), pictures(), TEXTS, method="legrad")
    assert result.maps.shape[:2] == (len(pictures()), len(TEXTS))
    assert not torch.equal(result.maps[:, 0], result.maps[:, 1])


def test_a_pair_in_the_wrong_order_is_refused(clip):
    with pytest.raises(TypeError, match=r"processor: expected a pair \(preprocess, tokenizer\), in this order"):
        explain_text(clip, (tokenizer(), preprocess("CLIP").preprocess), photographs()[0], TEXTS)


def test_whatever_prepares_photographs_gets_them_in_colour():
    def as_tensor(photograph):
        return torch.from_numpy(np.array(photograph)).reshape(64, 64, -1).movedim(-1, 0) / 255

    gray = Image.new("L", (64, 64), 100)
    result = explain_text(Regions(), (as_tensor, tokens_of), gray, "red", target_layer="visual.1")
    assert result.inputs.shape == (1, 3, 64, 64)


def test_a_processor_of_transformers_is_taken_whole(clip, processor, explained):
    whole = module("transformers", "PEERS").CLIPProcessor(*processor)
    pair, of_whole = (
        explain_text(clip, each, photographs(), TEXTS, target_layer=explained.layers) for each in (processor, whole)
    )
    assert torch.equal(of_whole.maps, pair.maps)
    alone = explain_text(clip, processor, photographs()[0], TEXTS, target_layer=explained.layers)
    torch.testing.assert_close(alone.maps, pair.maps[:1], atol=1e-4, rtol=1e-4)


def test_nothing_of_the_model_is_changed(clip, explained):
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    explain_text(clip, tokenizer(), pictures(), TEXTS, target_layer=explained.layers)
    assert all(torch.equal(before[name], value) for name, value in clip.state_dict().items())
    assert all(parameter.grad is None for parameter in clip.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in clip.modules())
    clip.vision_model.train()
    classifier = ZeroShot(clip, tokenizer(), TEXTS)
    assert (clip.training, clip.vision_model.training, classifier.training) == (False, True, False)
    clip.eval()


def test_a_classifier_by_texts_is_explained_by_name(clip, explained):
    images = pictures()
    classifier = ZeroShot(clip, tokenizer(), TEXTS)
    explain = CFCAM(classifier, explained.layers[0])
    result = explain(images, target="a dog")
    assert result.classes == ["a dog"] * 2
    by_score = explain(images, [targets.Contrast(2)] * 2)
    torch.testing.assert_close(by_score.maps, explained.maps[:, 2], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(by_score.maps, result.maps, atol=1e-2)
    copied = copy.deepcopy(classifier)
    there = CAM(copied, explained.layers[0].name, method="gradcam")(images, target="a dog")
    here = CAM(classifier, explained.layers[0], method="gradcam")(images, target="a dog")
    assert torch.equal(there.maps, here.maps)
    assert copied.vision_model is not classifier.vision_model


def test_blocks_that_take_tokens_before_the_batch_are_explained():
    model, images = TokensFirst(), pictures()

    def tokens(texts):
        return torch.tensor([[len(text) % 4] for text in texts])

    texts = ["a", "bc", "def"]
    layer = model.visual.transformer.resblocks[2].ln_1
    hooks = [dict(vars(module)) for module in model.modules()]
    result = explain_text(model, tokens, images, texts, method="gradcam")
    assert [each.name for each in result.layers] == ["visual.transformer.resblocks.2.ln_1"]
    blocks = (model.visual.transformer.resblocks[1], "visual.transformer.resblocks.1")
    by_module, by_name = (explain_text(model, tokens, images, texts, target_layer=block) for block in blocks)
    assert torch.equal(by_module.maps, by_name.maps)

    kept = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    embeddings = torch.nn.functional.normalize(model.encode_image(images), dim=1)
    handle.remove()
    encoded = torch.nn.functional.normalize(model.encode_text(tokens(texts)), dim=1)
    logits = model.logit_scale.exp() * embeddings @ encoded.T
    torch.testing.assert_close(result.logits, logits)
    for k in range(3):
        (gradient,) = torch.autograd.grad(log_odds(logits, k).sum(), kept[0], retain_graph=True)
        activations, gradient = kept[0][1:], gradient[1:]
        expected = (activations * gradient.mean(dim=0)).sum(dim=2).relu().mT.unflatten(1, (4, 4))
        torch.testing.assert_close(result.raw_maps[:, k], expected, atol=1e-6, rtol=1e-4)
    assert hooks == [dict(vars(module)) for module in model.modules()]
    assert not model.visual.transformer.resblocks[0].attn.batch_first
    copied = copy.deepcopy(ZeroShot(model, tokens, texts))
    maps = CAM(copied)(images, [[targets.Contrast(k) for k in range(3)]] * 2).maps
    assert torch.equal(maps, result.maps)


def refused(match, **changed):
    return pytest.param(changed, match, id=match)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        refused("^texts: expected a str or a list of them; got int", texts=3),
        refused("^texts: expected one at least, and none of them empty; got", texts=[]),
        refused("^texts: expected one at least, and none of them empty; got .*' '", texts=["a cat", " "]),
        refused("^texts: expected each once, .* 'a cat' twice", texts=["a cat", "a dog", "a cat"]),
        refused("^texts: expected at most 16 tokens in each; got 20, in 'a a a", texts=["a dog", "a " * 19]),
        refused("^images: expected a PIL image, a list of them, or .* got a list of none", images=[]),
        refused(
            "^images: expected a PIL image, a list of them, or .* got a list of Tensor", images=[torch.zeros(3, 64, 64)]
        ),
        refused("^images: expected a PIL image, .* got str", images="photograph.png"),
        refused("^images: expected 8 bits a channel; got mode 'I;16'", images=Image.new("I;16", (64, 64))),
        refused(r"^images: expected shape \(B, 3, H, W\).*got \(3, 64, 64\)", images=torch.zeros(3, 64, 64)),
        refused(
            "^images: expected a floating dtype; got torch.uint8", images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
        ),
        refused("^processor: expected one that prepares images", images=Image.new("RGB", (64, 64))),
        refused("^processor: expected one with a tokenizer.* got NoneType", processor=None),
        refused("^processor: expected a processor of transformers, a pair .* got int", processor=3),
        refused("^model: expected one of images and texts.* got Linear", model=torch.nn.Linear(2, 2)),
        refused("^method: ", method="no-cam"),
        refused("^target_layer: the model has no layer 'layer4'", target_layer="layer4"),
    ],
)
def test_what_is_refused(clip, changed, match):
    given = {"model": clip, "processor": tokenizer(), "images": pictures(1), "texts": TEXTS} | changed
    with pytest.raises((TypeError, ValueError), match=match):
        explain_text(**given)


def test_patches_in_any_number_are_refused(clip):
    class Patches:
        image_mean = image_std = None

        def __call__(self, images, return_tensors):
            return {"pixel_values": torch.zeros(len(images), 16, 48)}

    with pytest.raises(ValueError, match=r"processor: expected it to make \(B, 3, H, W\).*\(1, 16, 48\).*NaFlex"):
        explain_text(clip, (Patches(), tokenizer()), Image.new("RGB", (64, 64)), TEXTS)


@pytest.mark.parametrize("tower", ["transformer", "ResNet"])
def test_towers_of_open_clip(peer, tower):
    open_clip = peer("open_clip")
    torch.manual_seed(0)
    sizes = {"patch_size": 16, "layers": 3, "width": 64, "head_width": 16}
    if tower == "ResNet":
        sizes = {"patch_size": None, "layers": [1, 1, 1, 1], "width": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    model = open_clip.CLIP(24, {"image_size": 64, **sizes}, text).eval()
    tokens = open_clip.SimpleTokenizer(context_length=16)
    transform = open_clip.image_transform(64, is_train=False)
    result = explain_text(model, (transform, tokens), photographs(), TEXTS, method="gradcam")
    prepared = torch.stack([transform(one) for one in photographs()])
    assert torch.equal(result.inputs, prepared)
    with torch.no_grad():
        logits, _ = model.get_logits(prepared, tokens(TEXTS))
    torch.testing.assert_close(result.logits, logits, atol=1e-5, rtol=1e-5)
    assert [each.name for each in result.layers] == [
        "visual.transformer.resblocks.2.ln_1" if tower == "transformer" else "visual.layer4"
    ]
    assert not result.empty.all()
    with pytest.raises(ValueError, match=r"^texts: expected at most 16 tokens in each"):
        explain_text(model, (transform, tokens), photographs(), ["a cat", "cat " * 30])
