"""Config: every choice is named and checked."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

from cfcam_gpu import Config


def test_the_paper_preset_differs_in_dead_channels_and_softmax_only():
    paper, default = dataclasses.asdict(Config.paper()), dataclasses.asdict(Config())
    assert {name for name in paper if paper[name] != default[name]} == {"dead_threshold", "weighting"}
    assert (paper["dominant_percentile"], paper["eps_percentile"], paper["min_samples"]) == (75, 25, 0.05)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dead_threshold", -0.1),
        ("dead_threshold", 1.0),
        ("dead_threshold", float("nan")),
        ("importance", "norm"),
        ("dominant_percentile", 100.1),
        ("distance", "cosine"),
        ("eps_rule", ""),
        ("eps_percentile", -1),
        ("eps_neighbor", 1),
        ("eps_neighbor", 2.5),
        ("min_samples", 0),
        ("min_samples", 1.0),
        ("min_samples", 0.0),
        ("sigma", -1),
        ("sigma", float("inf")),
        ("boundary", "constant"),
        ("boundary", "nearest"),
        ("combine", "sum"),
        ("weighting", "relu"),
        ("gradient", "mean"),
        ("noise_floor", -1),
        ("gate", 0.0),
        ("contrast", 1.5),
        ("saturation", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=rf"Config: {option} must be .*; got {value!r}"):
        Config(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("contrast", None),
        ("contrast", True),
        ("sigma", None),
        ("min_samples", None),
        ("min_samples", True),
        ("dead_threshold", True),
        ("boundary", None),
        ("sigma", np.True_),
        ("sigma", np.array(0.5)),
        ("sigma", 1j),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(option, value):
    with pytest.raises(TypeError, match=f"Config: {option} must be"):
        Config(**{option: value})


@pytest.mark.parametrize(
    ("option", "value", "plain"),
    [
        ("sigma", np.float32(0.5), 0.5),
        ("sigma", np.float64(0.5), 0.5),
        ("sigma", np.int8(2), 2),
        ("sigma", Fraction(1, 2), 0.5),
        ("eps_neighbor", np.int64(3), 3),
        ("min_samples", np.uint16(4), 4),
        ("min_samples", np.float16(0.25), 0.25),
        ("dead_threshold", np.float32(0.25), 0.25),
        ("gate", np.float32(0.5), 0.5),
        ("saturation", np.int32(1), 1),
    ],
)
def test_numbers_of_other_types_are_kept_as_pythons(option, value, plain):
    found, expected = Config(**{option: value}), Config(**{option: plain})
    assert type(getattr(found, option)) is type(plain)
    assert (found, hash(found), repr(found)) == (expected, hash(expected), repr(expected))
    assert json.loads(json.dumps(dataclasses.asdict(found))) == dataclasses.asdict(expected)
    assert found.min_samples_for(100) == expected.min_samples_for(100)


@pytest.mark.parametrize("value", [np.float32("nan"), np.float64("inf"), np.int64(-1)])
def test_numbers_of_other_types_out_of_range_are_refused_as_pythons(value):
    with pytest.raises(ValueError, match=rf"Config: sigma must be a number in \[0, 64\]; got {value.item()!r}"):
        Config(sigma=value)


def test_softmax_does_not_go_with_elementwise_weights():
    with pytest.raises(ValueError, match="weighting must be 'linear' where combine is not 'pooled'"):
        Config(weighting="softmax", combine="elementwise")


def test_min_samples_is_a_count_or_a_fraction_of_at_least_two():
    assert Config(min_samples=3).min_samples_for(1000) == 3
    assert [Config().min_samples_for(n) for n in (1, 59, 60, 960)] == [2, 2, 3, 48]


@pytest.mark.parametrize("options", [{"combine": "pooled"}, {"combine": "positive", "sigma": 0}])
def test_a_noise_floor_needs_a_filter_and_positive_parts(options):
    with pytest.raises(ValueError, match="noise_floor must be 0 where combine is not 'positive' or sigma is 0; got 1"):
        Config(noise_floor=1, **options)


def test_levels():
    assert (Config().levels, Config.paper().levels, Config.two_level().levels) == (1, 1, 2)


def test_extents_put_positions_in_the_same_order():
    broad, balanced, tight = (dataclasses.asdict(Config.two_level(extent)) for extent in ("broad", "balanced", "tight"))
    assert balanced == dataclasses.asdict(Config.two_level())
    assert [one.pop("saturation") for one in (broad, balanced, tight)] == [0.1, 0.25, None]
    assert broad == balanced == tight


@pytest.mark.parametrize("extent", ["wide", None, ["tight"]])
def test_another_extent_is_refused(extent):
    with pytest.raises(ValueError, match=r"extent: expected one of broad, balanced, tight; got "):
        Config.two_level(extent)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().sigma = 2.0
