"""A warning of our own code, or of a call in it, is an error, as pyproject.toml says; a library's own is not."""

import warnings

import pytest

WARNS = "import warnings\ndef old(level=1): warnings.warn('old', DeprecationWarning, stacklevel=level)\n"


def module(name, code=WARNS, **names):
    """The names of a module called `name`."""
    names["__name__"] = name
    exec(compile(code, f"{name}.py", "exec"), names)
    return names


@pytest.mark.parametrize(
    "name", ["cfcam_gpu", "cfcam_gpu.core.maps", "bench.latency", "tests.cams", "examples.photographs"]
)
def test_a_warning_of_our_code_is_an_error(name):
    with pytest.raises(DeprecationWarning, match="old"):
        module(name)["old"]()


@pytest.mark.parametrize("library", ["torch.nn.functional", "numpy", "cfcam_gpu_like", "benchmarks"])
def test_one_of_a_library_is_not_but_where_our_code_calls_it(library):
    old = module(library)["old"]
    with warnings.catch_warnings(record=True) as told:
        old()
        module("another.library", "old(level=2)", old=old)
    assert [warning.filename for warning in told] == [f"{library}.py", "another.library.py"]
    with pytest.raises(DeprecationWarning, match="old"):
        module("cfcam_gpu.core.maps", "old(level=2)", old=old)


def test_what_pages_and_examples_run_is_ours(tmp_path):
    import runpy

    (tmp_path / "example.py").write_text(f"{WARNS}old()")
    with pytest.raises(DeprecationWarning, match="old"):
        runpy.run_path(str(tmp_path / "example.py"))
    with pytest.raises(DeprecationWarning, match="old"):
        exec(f"{WARNS}old()", {})


def test_pytests_own_are_errors_so_that_an_exception_in_a_destructor_is_seen():
    with pytest.raises(pytest.PytestUnraisableExceptionWarning):
        warnings.warn_explicit(pytest.PytestUnraisableExceptionWarning("lost"), None, "any.py", 1, module="any")
