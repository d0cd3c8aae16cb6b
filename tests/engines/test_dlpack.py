"""The bridge, as far as it goes without a GPU: arrays in kind, and CuPy's state around a call by a fake of CuPy."""

import gc
import importlib
import itertools
import sys
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cfcam_gpu import Config, cluster_filter_cam
from cfcam_gpu.engines import dlpack, reference

VALUES = np.arange(24.0).reshape(2, 3, 4)


# Arrays in


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f2", ">f4", ">f8", "<f4"])
def test_numpy_of_any_float_dtype_and_byte_order(dtype):
    tensor = dlpack.as_torch(VALUES.astype(dtype), "activations")
    assert tensor.dtype == {2: torch.float16, 4: torch.float32, 8: torch.float64}[np.dtype(dtype).itemsize]
    np.testing.assert_array_equal(tensor.numpy(), VALUES)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a.transpose(2, 0, 1),
        lambda a: a[:, ::2, 1:],
        lambda a: a[::-1, :, ::-1],
        lambda a: a[:1][::-1],
        lambda a: a[:, :, :0],
        lambda a: np.broadcast_to(a[:, :1], a.shape),
        lambda a: np.asfortranarray(a),
    ],
)
def test_numpy_of_any_strides(view):
    array = view(VALUES)
    np.testing.assert_array_equal(dlpack.as_torch(array, "activations").numpy(), array)


def test_numpy_memory_is_shared():
    array = VALUES.copy()
    assert dlpack.as_torch(array, "activations").data_ptr() == array.ctypes.data


def test_read_only_memory_is_copied():
    array = VALUES.copy()
    array.setflags(write=False)
    tensor = dlpack.as_torch(array, "activations")
    tensor += 1
    np.testing.assert_array_equal(array, VALUES)


class OnlyDLPack:
    """An array of a library unknown to us, on the host."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class OfAnArrayAPI(OnlyDLPack):
    def __array_namespace__(self):
        return SimpleNamespace(from_dlpack=lambda other: OfAnArrayAPI(torch.from_dlpack(other)))


class OfNumPy:
    """An array of a library unknown to us, with NumPy's memory."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.fixture
def torchs_reader(monkeypatch):
    """What torch's reader of DLPack was given: a negative stride ends the process there, so nothing gets to it."""
    seen = []
    monkeypatch.setattr(dlpack, "from_dlpack", seen.append)
    return seen


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::-1, :, ::-1],
        lambda a: a[:1][::-1],
        lambda a: a.transpose(2, 0, 1)[::2],
        lambda a: np.lib.stride_tricks.as_strided(a, (2, 3, 4), (0, 32, 8)),
        lambda a: a[:, :, :0],
        lambda a: np.asarray(a[0, 0, 0]),
    ],
)
def test_other_libraries_arrays_of_any_strides(torchs_reader, view):
    array = view(VALUES.copy())
    tensor = dlpack.as_torch(OfNumPy(array), "activations")
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert not torchs_reader


def test_other_libraries_read_only_memory_is_copied():
    array = VALUES.copy()
    array.setflags(write=False)
    try:
        array.__dlpack__(max_version=(1, 0))
    except TypeError:
        pytest.skip("this NumPy gives out nothing that is read-only")
    tensor = dlpack.as_torch(OfNumPy(array), "activations")
    tensor += 1
    np.testing.assert_array_equal(array, VALUES)


class OnAGPU:
    """What CuPy says of an array, without the array."""

    def __init__(self, *strides):
        self.strides = strides

    def __dlpack__(self, **options):
        raise AssertionError("nobody may have asked")

    def __dlpack_device__(self):
        return 2, 0


def test_negative_strides_on_a_gpu_are_refused_before_torch_sees_them(torchs_reader):
    with pytest.raises(ValueError, match=r"gradients: expected strides of at least 0; got \(-24, 4\); give a copy"):
        dlpack.as_torch(OnAGPU(-24, 4), "gradients")
    assert not torchs_reader


@pytest.mark.parametrize("strides", [(24, 4), (0, 4), ()])
def test_other_arrays_on_a_gpu_are_torchs_to_read(monkeypatch, strides):
    monkeypatch.setattr(dlpack, "from_dlpack", lambda array: torch.ones(3))
    assert dlpack.as_torch(OnAGPU(*strides), "gradients").shape == (3,)


def test_dtypes_that_numpy_lacks():
    array = OnlyDLPack(torch.arange(3.0, dtype=torch.bfloat16))
    assert dlpack.as_torch(array, "activations").data_ptr() == array.tensor.data_ptr()


def negative():
    """Minus what is in its memory."""
    tensor = torch.randn(2, 5, 3, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).conj().imag
    assert tensor.is_neg()
    return tensor


def test_a_negative_bit_is_resolved_where_memory_is_handed_on(monkeypatch):
    tensor = negative()
    assert not dlpack.as_torch(tensor, "activations").is_neg()
    expected = cluster_filter_cam(tensor.clone().resolve_neg().abs(), tensor.resolve_neg())
    torch.testing.assert_close(cluster_filter_cam(tensor.abs(), tensor), expected, rtol=0, atol=0)
    found = reference.run(tensor.abs(), tensor[:, None], Config())
    torch.testing.assert_close(found.raw_maps[:, 0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [OnlyDLPack, OfAnArrayAPI])
def test_dlpack_objects_are_read_where_they_are(kind):
    array = kind(torch.arange(6.0))
    if not np.from_dlpack(array).flags.writeable:
        pytest.skip("here, libraries do not say what may be written")
    assert dlpack.as_torch(array, "activations").data_ptr() == array.tensor.data_ptr()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3, np.longdouble), "gradients: expected a floating dtype of at most 64 bits; got"),
        (np.ones(3, np.int32), "gradients: expected a floating dtype of at most 64 bits; got int32"),
        (np.ones(3, np.complex64), "gradients: expected a floating dtype of at most 64 bits; got complex64"),
        (np.array(["a"]), "gradients: expected a floating dtype of at most 64 bits; got <U1"),
        (torch.ones(3, dtype=torch.int64), "gradients: expected a floating dtype; got torch.int64"),
        (
            OnlyDLPack(torch.ones(3, dtype=torch.bool)),
            "gradients: expected a floating dtype of at most 64 bits; got bool",
        ),
        (OfNumPy(np.ones(3, np.int64)), "gradients: expected a floating dtype of at most 64 bits; got int64"),
        (
            OfNumPy(np.ones(3, ">f4")),
            "gradients: expected an array that DLPack can describe; got one with: DLPack only",
        ),
        ([1.0, 2.0], "gradients: expected a torch, CuPy or NumPy array, or an object with __dlpack__; got list"),
    ],
)
def test_what_is_refused_is_named(array, message):
    with pytest.raises(TypeError, match=message):
        dlpack.as_torch(array, "gradients")


# Arrays out


def test_answers_in_kind():
    tensor = torch.arange(6.0)
    assert dlpack.like(tensor, torch.ones(1)) is tensor
    assert dlpack.like(tensor, np.ones(1)).ctypes.data == tensor.data_ptr()
    answer = dlpack.like(tensor, OfAnArrayAPI(torch.ones(1)))
    assert isinstance(answer, OfAnArrayAPI)
    assert answer.tensor.data_ptr() == tensor.data_ptr()
    assert dlpack.like(tensor, OnlyDLPack(torch.ones(1))) is tensor  # it offers no way back


def test_the_functional_face_answers_in_kind():
    values = torch.rand(5, 3, 3)
    expected = cluster_filter_cam(values, values)
    assert isinstance(cluster_filter_cam(values.numpy(), values.numpy()), np.ndarray)
    maps = cluster_filter_cam(OfAnArrayAPI(values), OnlyDLPack(values))
    assert isinstance(maps, OfAnArrayAPI)
    torch.testing.assert_close(maps.tensor, expected, rtol=0, atol=0)


def test_cupy_gets_no_tensor_with_a_negative_bit(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(from_dlpack=lambda tensor: tensor))
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda", 0))
    tensor = dlpack.to_cupy(negative())
    assert not tensor.is_neg()


def test_cupy_takes_no_tensor_of_the_host():
    with pytest.raises(ValueError, match="expected a tensor on a CUDA device; got one on 'cpu'"):
        dlpack.to_cupy(torch.ones(3))


# CuPy's state


@pytest.fixture
def cupy(monkeypatch):
    """The fake of CuPy, with cuML and a broken library beside it."""
    names = ("cupy", "cupy.cuda", "cuml", "broken")
    real = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fake_libraries"))
    # Stands in for a GPU: the tensors that back CuPy's memory are on the host.
    stream = SimpleNamespace(cuda_stream=77, device=torch.device("cpu", 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    yield importlib.import_module("cupy")
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(real)


DEVICE = torch.device("cpu", 0)


@pytest.mark.parametrize("release", [13, 14])
def test_inside_cupy_has_torchs_device_stream_and_memory(cupy, release, monkeypatch):
    if release == 13:
        monkeypatch.delattr(cupy.cuda.Stream, "from_external")
    cupy.cuda.Device(3).__enter__()
    with dlpack.cupy_on_torch(DEVICE) as yielded:
        assert yielded is cupy
        assert cupy.cuda.current.device == 0
        assert cupy.cuda.current.stream.ptr == 77
        pointer = cupy.cuda.get_allocator()(1000)
        assert isinstance(pointer.mem.owner, torch.Tensor)
        assert pointer.ptr == pointer.mem.owner.data_ptr()
        assert (pointer.mem.size, pointer.mem.owner.nbytes, pointer.mem.device_id) == (1000, 1000, 0)
    assert cupy.cuda.current.device == 3
    assert cupy.cuda.current.stream is None
    assert cupy.cuda.get_allocator() == "CuPy's pool"


def test_afterwards_the_users_choice_is_back_after_an_error_too(cupy):
    with cupy.cuda.using_allocator("mine"), cupy.cuda.ExternalStream(5):
        with pytest.raises(KeyError), dlpack.cupy_on_torch(DEVICE):
            raise KeyError
        assert cupy.cuda.get_allocator() == "mine"
        assert cupy.cuda.current.stream.ptr == 5


def test_other_threads_see_nothing_of_it(cupy):
    seen = []
    with dlpack.cupy_on_torch(DEVICE):
        thread = threading.Thread(target=lambda: seen.append((cupy.cuda.get_allocator(), cupy.cuda.current.stream)))
        thread.start()
        thread.join()
    assert seen == [("CuPy's pool", None)]


def test_memory_outlives_the_block_and_goes_with_its_last_array(cupy):
    with dlpack.cupy_on_torch(DEVICE):
        pointers = [cupy.cuda.get_allocator()(64), cupy.cuda.get_allocator()(0)]
    owners = [weakref.ref(pointer.mem.owner) for pointer in pointers]
    gc.collect()
    assert all(owner() is not None for owner in owners)
    thread = threading.Thread(target=pointers.clear)
    thread.start()
    thread.join()
    assert [owner() for owner in owners] == [None, None]


def test_an_import_that_sets_the_allocator_leaves_the_users(cupy):
    cupy.cuda.set_allocator("mine")
    cupy.cuda.Device(2).__enter__()
    cuml = dlpack.import_keeping_allocator("cuml")
    assert cuml is sys.modules["cuml"]
    assert cuml.imported_on == 2
    assert cupy.cuda.get_allocator() == "mine"


def test_such_an_import_works_inside_using_allocator(cupy):
    with cupy.cuda.using_allocator("for now"):
        dlpack.import_keeping_allocator("cuml")
        assert cupy.cuda.get_allocator() == "for now"
    assert cupy.cuda.get_allocator() == "CuPy's pool"


def test_a_failed_import_leaves_the_users_allocator_too(cupy):
    with pytest.raises(OSError, match="libsomething"):
        dlpack.import_keeping_allocator("broken")
    assert cupy.cuda.get_allocator() == "CuPy's pool"


def test_a_module_that_the_user_imported_is_left_alone(cupy):
    importlib.import_module("cuml")
    cupy.cuda.set_allocator("chosen since")
    dlpack.import_keeping_allocator("cuml")
    assert cupy.cuda.get_allocator() == "chosen since"


def test_threads_that_import_at_once_leave_the_users_allocator(cupy, monkeypatch):
    device, waits = cupy.cuda.Device, itertools.count()

    def slow():
        time.sleep(0.01 * next(waits))  # so that the later ones come when the first one's import has begun
        return device()

    monkeypatch.setattr(cupy.cuda, "Device", slow)
    threads = [threading.Thread(target=dlpack.import_keeping_allocator, args=["cuml"]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cupy.cuda.get_allocator() == "CuPy's pool"
