"""Arrays by DLPack on a GPU: one memory for torch and CuPy, torch's stream and allocator inside, the user's outside."""

import threading

import pytest
import torch

from cfcam_gpu.engines import dlpack

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("view", [lambda t: t, lambda t: t[1:, ::2], lambda t: t.permute(2, 0, 1)])
def test_torch_to_cupy_to_torch_is_one_memory(cupy, dtype, view):
    tensor = view(torch.rand(3, 4, 5, device="cuda", dtype=dtype))
    array = dlpack.to_cupy(tensor)
    assert isinstance(array, cupy.ndarray)
    assert array.data.ptr == tensor.data_ptr()
    back = dlpack.as_torch(array, "activations")
    assert back.data_ptr() == tensor.data_ptr()
    assert torch.equal(back, tensor)
    array[...] = 7
    assert bool((tensor == 7).all())


def test_cupy_to_torch_to_cupy_is_one_memory(cupy):
    array = cupy.arange(24, dtype=cupy.float32).reshape(2, 3, 4)
    again = dlpack.like(dlpack.as_torch(array, "activations"), array)
    assert isinstance(again, cupy.ndarray)
    assert again.data.ptr == array.data.ptr


@pytest.mark.parametrize("side", [False, True])
def test_inside_torchs_current_stream_is_cupys(cupy, device, side):
    stream = torch.cuda.Stream() if side else torch.cuda.default_stream()
    with cupy.cuda.Stream(non_blocking=True) as mine:
        with torch.cuda.stream(stream), dlpack.cupy_on_torch(device):
            assert cupy.cuda.get_current_stream().ptr == stream.cuda_stream
        assert cupy.cuda.get_current_stream() == mine


def test_inside_memory_is_torchs(cupy, device):
    pool = cupy.get_default_memory_pool()
    torch.cuda.synchronize()
    ours, torchs = pool.total_bytes(), torch.cuda.memory_allocated()
    with dlpack.cupy_on_torch(device):
        array = cupy.zeros(1 << 22, dtype=cupy.uint8)
        nothing = cupy.zeros(0)
    assert torch.cuda.memory_allocated() >= torchs + (1 << 22)
    assert pool.total_bytes() == ours
    del array, nothing
    assert torch.cuda.memory_allocated() == torchs


def test_the_users_allocator_is_theirs_again(cupy, device):
    mine = cupy.cuda.MemoryPool()
    before = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(mine.malloc)
    try:
        with dlpack.cupy_on_torch(device):
            assert cupy.cuda.get_allocator() != mine.malloc
        assert cupy.cuda.get_allocator() == mine.malloc
        with cupy.cuda.using_allocator(before):
            with pytest.raises(KeyError), dlpack.cupy_on_torch(device):
                raise KeyError
            assert cupy.cuda.get_allocator() == before
    finally:
        cupy.cuda.set_allocator(before)


def test_arrays_outlive_the_block_and_may_be_dropped_by_any_thread(cupy, device):
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with dlpack.cupy_on_torch(device):
        array = cupy.full(1 << 20, 3.0, dtype=cupy.float32)
    kept = [torch.from_dlpack(array)]
    del array
    crowd = [torch.zeros(1 << 20, device="cuda") for _ in range(8)]
    assert bool((kept[0] == 3).all())
    del crowd

    def drop():
        with torch.cuda.stream(torch.cuda.Stream()):
            kept.clear()

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_the_second_device(cupy):
    second = torch.device("cuda", 1)
    tensor = torch.rand(5, device=second)
    array = dlpack.to_cupy(tensor)
    assert (array.device.id, array.data.ptr) == (1, tensor.data_ptr())
    with dlpack.cupy_on_torch(second):
        assert dlpack.as_torch(cupy.zeros(3), "activations").device == second
    assert cupy.cuda.Device().id == torch.cuda.current_device() == 0
