"""Every architecture of docs/architectures.md has a map, and the layers that the document tells."""

import pytest

from bench import architectures

DOCUMENT = architectures.DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("architecture", architectures.ARCHITECTURES, ids=lambda one: one.id)
def test_a_map_at_the_images_size(architecture, peer):
    peer(architecture.library)
    found = architectures.explain(architecture)
    assert found.finite
    assert not found.empty
    assert found.size == architecture.size
    assert f"| {' | '.join(found.row)} |" in DOCUMENT, "run python -m bench.architectures"


@pytest.mark.parametrize("architecture", architectures.REFUSED, ids=lambda one: one.id)
def test_tokens_in_another_order_are_refused(architecture, peer):
    peer(architecture.library)
    with pytest.raises(ValueError, match="in another order than that of the image"):
        architectures.explain(architecture)
