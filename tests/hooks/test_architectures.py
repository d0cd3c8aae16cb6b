"""Every architecture of docs/architectures.md has right maps, and the layers that the document tells."""

import re

import pytest

from bench import architectures

#: The first of their kinds, and slow.
SLOW = {
    "caformer_s18", "coat_lite_tiny", "resmlp_12_224", "sequencer2d_s", "twins_pcpvt_small", "mambaout_femto",
    "BeitForImageClassification", "DenseNet121", "pit_ti_distilled_224", "YolosForObjectDetection", "cait_xxs24_224",
    "TimesformerForVideoClassification", "swin_t", "swin_v2_t",
}  # fmt: skip
#: Quick ones of the library whose kinds of layouts others have.
BESIDE = {"UNet"}
DOCUMENT = architectures.DOCUMENT.read_text(encoding="utf-8")


def parameters():
    """The first of each kind of layout, but for slow ones, and those beside them; the others are long."""
    rows = {tuple(line.split(" | ")[:3]): line.split(" | ")[5:6] for line in DOCUMENT.splitlines()}
    seen = set()
    for one in architectures.ARCHITECTURES:
        # One that is not in the table yet is a kind by itself.
        row = rows.get((f"| {one.library}", one.name, architectures.sizes(one)))
        kinds = {re.sub(r"\d+( x \d+)*", "", layout) for layout in row[0].split("<br>")} if row else {one.id}
        long = one.name in SLOW or (kinds <= seen and one.name not in BESIDE)
        seen |= set() if long else kinds
        yield pytest.param(one, id=f"{one.id} {architectures.sizes(one)}", marks=pytest.mark.long if long else ())


@pytest.mark.parametrize("architecture", [*parameters()])
def test_maps_are_those_of_a_plain_hook_and_places_the_images(architecture, peer):
    peer(architecture.library)
    found = architectures.explain(architecture)
    assert found.finite
    assert not found.empty
    assert found.sized
    assert found.difference <= 1
    assert not found.astray
    assert f"| {' | '.join(found.row)} |" in DOCUMENT, "run python -m bench.architectures"


@pytest.mark.parametrize("architecture", architectures.REFUSED, ids=lambda one: one.id)
def test_the_refused_are_refused_with_the_documents_message(architecture, peer):
    peer(architecture.library)
    message = architectures.refusal(architecture)
    assert message
    assert f"| {message} |" in DOCUMENT, "run python -m bench.architectures"
