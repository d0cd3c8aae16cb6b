"""Every architecture of docs/architectures.md has a map, and the layers that the document tells."""

import re

import pytest

from bench import architectures

DOCUMENT = architectures.DOCUMENT.read_text(encoding="utf-8")


def parameters():
    """The first of each library and of each kind of choice, which is layouts and reasons; the others are long."""
    rows = {tuple(line.split(" | ")[:2]): line.split(" | ")[5:] for line in DOCUMENT.splitlines()}
    seen = set()
    for one in architectures.ARCHITECTURES:
        row = rows.get((f"| {one.library}", one.name), one.id)  # one that is not in the table yet is a kind by itself
        news = {one.library, re.sub(r"\d+ x \d+", "", str(row))} - seen
        seen |= news
        yield pytest.param(one, id=one.id, marks=() if news else pytest.mark.long)


@pytest.mark.parametrize("architecture", [*parameters()])
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
