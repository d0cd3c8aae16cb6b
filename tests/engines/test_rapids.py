"""The RAPIDS engine without a GPU: NumPy in CuPy's place, scikit-learn's DBSCAN in cuML's, the same code path."""

import ctypes
import importlib
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import scipy.ndimage
import skimage.filters
import sklearn.cluster
import torch
from scipy.spatial import distance

from cfcam_gpu import Config, engines
from cfcam_gpu.core.cluster_filter import cluster_channels, weigh
from cfcam_gpu.engines import dlpack, rapids, reference

from ..cases import CASES, COMBINATIONS, CONFIGS, draw
from ..needs import lacking
from ..pairwise import in_pairs

CALLS = []
NDIMAGE = rapids.of_ndimage(scipy.ndimage.gaussian_filter)


class LikeCuML:
    """scikit-learn's DBSCAN, that takes what cuML's takes, and answers in its dtype."""

    def __init__(self, *, eps, min_samples, metric, calc_core_sample_indices, output_type):
        assert (metric, calc_core_sample_indices, output_type) == ("precomputed", False, "cupy")
        assert np.int32(min_samples) == min_samples
        self.model = sklearn.cluster.DBSCAN(eps=np.float32(eps), min_samples=min_samples, metric=metric)

    def fit_predict(self, distances):
        CALLS.append("fit")
        assert distances.dtype == np.float32
        assert distances.flags.c_contiguous
        assert set(np.unique(distances)) <= {0.0, 1.0}
        np.testing.assert_array_equal(distances, distances.T)
        assert not distances.diagonal().any()
        return self.model.fit_predict(distances).astype(np.int32)


def on_numpy(pdist=distance.pdist):
    synchronize = partial(CALLS.append, "synchronize")
    return rapids.primitives(np, pdist=pdist, dbscan_class=LikeCuML, gaussian=NDIMAGE, synchronize=synchronize)


def explain(activations, gradients, config, ops):
    activations, gradients = activations.astype(np.float64), gradients.astype(np.float64)
    clusters = cluster_channels(activations, gradients.mean(axis=(1, 2)), config, ops)
    return *clusters, *weigh(activations, gradients, clusters.labels, config, ops)


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize(("case", "config"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_labels_eps_weights_and_map_are_the_cpu_engines(case, config):
    activations, gradients = draw(case)
    expected = explain(activations, gradients, config, reference.PRIMITIVES)
    assert_same(explain(activations, gradients, config, on_numpy()), expected)


@pytest.mark.parametrize("seed", range(60))
def test_random_activations_of_random_shapes(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 200)), int(rng.integers(1, 8)), int(rng.integers(1, 8)))
    activations = np.maximum(rng.normal(size=shape), 0) * (rng.random(shape[0]) > rng.random())[:, None, None]
    gradients = rng.normal(size=shape)
    for config in (Config(), Config.paper()):
        expected = explain(activations, gradients, config, reference.PRIMITIVES)
        assert_same(explain(activations, gradients, config, on_numpy()), expected)


def test_cases_cover_clusters_noise_dominant_and_dead_channels():
    """Or else the comparisons above would compare little."""
    labels = {name: explain(*draw(name), Config(), on_numpy())[0] for name in CASES}
    assert {value for found in labels.values() for value in found} >= {-3, -2, -1, 0, 1}
    assert set(explain(*draw("a layer"), CONFIGS["all noise"], on_numpy())[0]) == {-1, -2}


@pytest.mark.parametrize(("min_samples", "label"), [(1, 0), (2, -1), (0.05, -1)])
def test_a_channel_that_is_clustered_alone(min_samples, label):
    labels = explain(*draw("two channels"), Config(min_samples=min_samples), on_numpy())[0]
    assert sorted(labels.tolist()) == [-2, label]


def test_border_points_join_the_lowest_numbered_cluster():
    line = np.array([0, 0.25, 0.5, 0.75, 1.75, 2.75, 3, 3.25, 3.5])[:, None]
    for points in (line, line[::-1]):
        found = on_numpy().dbscan(distance.pdist(points) <= 1.0, 9, 4)
        assert found.tolist() == [0] * 5 + [1] * 4


def test_work_on_the_current_stream_is_done_before_cuml_starts():
    CALLS.clear()
    on_numpy().dbscan(np.array([True, False, True]), 3, 2)
    assert CALLS == ["synchronize", "fit"]


@pytest.mark.parametrize("k", [0, 1, 57, 998, 999])
def test_order_statistics(k):
    values = np.random.default_rng(0).permutation(1000).astype(float)
    assert on_numpy().order_statistics(values, k).tolist() == [k, min(k + 1, 999)]


@pytest.mark.parametrize("n", [2, 3, 4, 31])
@pytest.mark.parametrize("dtype", [bool, np.float64])
def test_squareform(n, dtype):
    pairs = (np.arange(1, n * (n - 1) // 2 + 1) % 7).astype(dtype)
    square = on_numpy().squareform(pairs, n)
    assert square.dtype == dtype
    np.testing.assert_array_equal(square, distance.squareform(pairs))


GAUSSIANS = {"as cupyx": NDIMAGE, "as cucim": rapids.of_skimage(skimage.filters.gaussian)}


@in_pairs(gaussian=GAUSSIANS, sigma=[1.0, 0.1, 0.7, 3.3, 20.0], boundary=["reflect", "zero"])
def test_each_map_is_smoothed_on_its_own(gaussian, sigma, boundary):
    maps = np.random.default_rng(0).normal(size=(4, 7, 5)) * 100
    found = GAUSSIANS[gaussian](maps, sigma, boundary)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, reference.gaussian(maps, sigma, boundary), rtol=1e-12, atol=1e-12)


# The kernel's own source, on the CPU


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The body of the pair distance kernel in a C++ function: one pair, or all of them."""
    if shutil.which("g++") is None:
        lacking("there is no g++", "COMPILERS")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "pair.cpp").write_text(
        "#include <cmath>\n#include <cstddef>\nusing std::sqrt;\n"
        "static double one(const double *x, long long n, long long dimensions, std::ptrdiff_t i) {\n"
        f"double distance;\n{rapids.PAIR_DISTANCE}\nreturn distance;\n}}\n"
        'extern "C" void pairs(const double *x, long long n, long long dimensions, long long first, long long last,\n'
        "double *out) { for (long long i = first; i < last; ++i) out[i - first] = one(x, n, dimensions, i); }\n"
    )
    command = ["g++", "-std=c++17", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover", "-static-libubsan"]
    subprocess.run([*command, "-shared", "-fPIC", "pair.cpp", "-o", "pair.so"], cwd=folder, check=True)
    function = ctypes.CDLL(str(folder / "pair.so")).pairs
    pointer = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
    function.argtypes = [pointer, *[ctypes.c_longlong] * 4, pointer]
    function.restype = None

    def distances(columns, first, last):
        out = np.full(last - first, np.nan)
        function(columns, columns.shape[1], columns.shape[0], first, last, out)
        return out

    return distances


@pytest.mark.parametrize("shape", [(2, 1), (2, 49), (3, 5), (4, 1), (17, 3), (129, 7), (300, 2)])
def test_kernel_gives_scipys_distances(compiled, shape):
    points = np.random.default_rng(0).normal(size=shape)
    pairs = shape[0] * (shape[0] - 1) // 2
    found = compiled(np.ascontiguousarray(points.T), 0, pairs)
    np.testing.assert_array_equal(found, distance.pdist(points))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 1000, 1535, 1536, 2047, 2048, 4095, 4096, 1 << 20, (1 << 24) + 1])
def test_kernel_finds_the_pair_at_every_corner_of_the_triangle(compiled, n):
    """On a line the distance of a row's first pair is 1, that of its last the length of the row."""
    columns = np.arange(n, dtype=np.float64)[None]
    last = n * (n - 1) // 2

    def start(row):
        return row * (2 * n - row - 1) // 2

    rows = {0, 1, 2, n // 3, n // 2, n - 4, n - 3, n - 2}
    for row in [row for row in rows if row in range(n - 1)]:
        # The first and last pairs of the row, and those beside them in the rows around it.
        assert compiled(columns, start(row), start(row) + 1)[0] == 1
        assert compiled(columns, start(row + 1) - 1, start(row + 1))[0] == n - 1 - row
        if row:
            assert compiled(columns, start(row) - 1, start(row))[0] == n - row
    assert compiled(columns, 0, 1)[0] == 1
    assert compiled(columns, last - 1, last)[0] == 1


@pytest.mark.parametrize("n", [2, 3, 64, 1000, 4096])
def test_kernel_numbers_the_pairs_row_by_row(compiled, n):
    """Of points on a parabola no two pairs have one distance."""
    pairs = min(n * (n - 1) // 2, 3_000_000)
    t = np.arange(n, dtype=np.float64)
    columns = np.stack([t, 1000 * t * t])
    rows, others = (index[:pairs] for index in np.triu_indices(n, 1))
    expected = np.hypot(columns[0, rows] - columns[0, others], columns[1, rows] - columns[1, others])
    np.testing.assert_allclose(compiled(columns, 0, pairs), expected, rtol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_engine_with_the_kernels_distances(compiled, case):
    def pdist(points):
        return compiled(points.T.ravel().reshape(points.shape[::-1]), 0, len(points) * (len(points) - 1) // 2)

    activations, gradients = draw(case)
    for config in (Config(), Config.paper()):
        expected = explain(activations, gradients, config, reference.PRIMITIVES)
        assert_same(explain(activations, gradients, config, on_numpy(pdist)), expected)


# The engine's own loop


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("config", ["default", "paper", "contribution", "elementwise"])
def test_run_fills_torch_tensors_like_the_cpu_engine(monkeypatch, dtype, config):
    monkeypatch.setattr(dlpack, "cupy_on_torch", lambda device: nullcontext())
    monkeypatch.setattr(dlpack, "to_cupy", lambda tensor: tensor.detach().numpy())
    monkeypatch.setattr(rapids, "_on_gpu", on_numpy)
    torch.manual_seed(0)
    activations = torch.rand(3, 24, 5, 4).relu().to(dtype).contiguous(memory_format=torch.channels_last)
    gradients = torch.randn(3, 2, 24, 5, 4).to(dtype)
    found = rapids.run(activations, gradients, CONFIGS[config])
    expected = reference.run(activations, gradients, CONFIGS[config])
    for name, ours, theirs in zip(found._fields, found, expected):
        assert (ours.dtype, ours.shape, ours.device) == (theirs.dtype, theirs.shape, theirs.device), name
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)
    assert found.labels.unique().numel() >= 2


# Why it is missing


@pytest.fixture
def libraries(monkeypatch, tmp_path):
    """A torch with CUDA 12.8 and a device, and only those libraries that a test writes."""
    names = ("cupy", "cupy.cuda", "cuml")
    real = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(dlpack, "import_keeping_allocator", importlib.import_module)

    def write(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        for name in {"cupy", "cuml"} - set(sources):
            monkeypatch.setitem(sys.modules, name, None)
        importlib.invalidate_caches()

    yield write
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(real)


LONG = "try:\n    import absent\nexcept ImportError as error:\n    raise ImportError('===\\na page\\n===') from error"


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ({}, "CuPy is not installed; pip install 'cfcam-gpu[cuda12]'"),
        ({"cupy": ""}, "cuML is not installed; pip install 'cfcam-gpu[cuda12]'"),
        (
            {"cupy": "raise OSError('libcudart.so.12:\\n no such file')"},
            "CuPy can't be imported (OSError: libcudart.so.12: no such file); pip install 'cfcam-gpu[cuda12]'",
        ),
        (
            {"cupy": LONG},
            "CuPy can't be imported (ModuleNotFoundError: No module named 'absent'); pip install 'cfcam-gpu[cuda12]'",
        ),
        (
            {"cupy": "", "cuml": "import cudf_"},
            "cuML can't be imported (ModuleNotFoundError: No module named 'cudf_'); pip install 'cfcam-gpu[cuda12]'",
        ),
        ({"cupy": "", "cuml": ""}, None),
    ],
)
def test_reason_and_remedy_name_the_library(libraries, sources, reason):
    libraries(**sources)
    assert rapids.why_missing() == reason


def test_remedy_goes_with_torchs_cuda(libraries, monkeypatch):
    libraries()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert rapids.why_missing() == "CuPy is not installed; pip install 'cfcam-gpu[cuda13]'"
    monkeypatch.setattr(torch.version, "cuda", "11.8")
    assert "install a torch that is built for CUDA 12 or 13 (this one is for 11.8)" in rapids.why_missing()


def test_reasons_of_torch_come_first(libraries, monkeypatch):
    libraries(cupy="", cuml="")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rapids.why_missing().startswith("torch finds no CUDA device")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert rapids.why_missing().startswith("this torch is built without CUDA")


def test_tensors_of_the_host_are_refused_before_anything_is_imported():
    with pytest.raises(ValueError, match="'rapids' works on CUDA tensors; got tensors on 'cpu'"):
        engines.choose("rapids", torch.device("cpu"))


def test_importing_the_package_and_the_engine_imports_no_gpu_library():
    code = (
        "import sys, cfcam_gpu, cfcam_gpu.engines.rapids\n"
        "print([name for name in ('cupy', 'cuml', 'cucim', 'rmm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
