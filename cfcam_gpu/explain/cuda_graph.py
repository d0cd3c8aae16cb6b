"""An explainer's whole call as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from threading import Lock
from typing import Any, TypeVar, cast

import torch
from torch import nn

from .. import engines, targets
from ..engines import execution
from ..results.explanation import Explanation
from ..targets.names import ClassNames
from ..targets.request import Request, Target
from .plan import Plan, named

Written = TypeVar("Written")

#: As torch's own documentation has it.
WARM_UPS = 3

#: One at a time: a capture begins by waiting for the device, which would break another one.
_capturing = Lock()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GraphedExplanation(Explanation):
    """An explanation from a graph, which can't raise for what it finds in the data.

    Parameters
    ----------
    finite : (B,) bool tensor
        Whether an image's logits, activations and gradients are finite in float32, which a call would refuse. Where
        they are not, the maps are zero, and labels, weights and eps mean nothing.
    overlays : (B, H, W, 3) uint8 tensor or None
        The maps over the images, of volumes (B, D, H, W, 3), where `cuda_graph` was asked for them.
    """

    finite: torch.Tensor
    overlays: torch.Tensor | None

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a replay writes, by name; `maps`, too."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)} | {"maps": self.maps}

    def copy(self) -> GraphedExplanation:
        """The same in memory of its own."""
        copies: dict[str, Any] = {name: tensor.clone() for name, tensor in self.tensors().items()}
        maps = copies.pop("maps")
        copied = replace(self, **copies)
        vars(copied)["maps"] = maps  # a cached property: it is found there
        return copied


class GraphedCFCAM:
    """A CUDA graph that explains batches of one shape. :meth:`cfcam_gpu.CFCAM.cuda_graph` makes it.

    Attributes
    ----------
    images : tensor
        What the graph reads. Fill it on the stream of the call and pass it to the call itself: that saves a copy.
    static : GraphedExplanation
        What the graph writes; overwritten by each replay.

    Notes
    -----
    It may be called from several threads and on any stream of its device: a replay waits, on the device, for the one
    before. ``out=replay.static`` is for one thread.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        engine: engines.CheckedEngine,
        images: torch.Tensor,
        request: Request,
        names: ClassNames,
        *,
        overlay: bool,
    ) -> None:
        self._lock = Lock()
        self._names = names = names.fixed()
        # The graph knows addresses only: what it reads must not be freed, even where the model gets other tensors.
        self._kept = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
        device = images.device

        def work(request: Request) -> GraphedExplanation:
            return explain_within_graph(model, plan, engine, self.images, request, names, overlay=overlay)

        def warm_up() -> None:
            logits = work(request).logits
            self._classes = 0 if logits is None else logits.shape[-1]  # of a request that is checked against them

        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
            self.images = torch.empty_like(images).copy_(images)
            self._first_indices = None if request.indices is None else request.indices.to(device, copy=True)
            self._indices = None if self._first_indices is None else self._first_indices.clone()
            still = replace(request, indices=self._indices, checked=True)
            self._graph, self.static = graph_of(device, warm_up, lambda: work(still))
            self._written = self.static.tensors()
            self._stream = torch.cuda.current_stream()
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def __call__(
        self, images: torch.Tensor, target: Target = None, *, out: GraphedExplanation | None = None
    ) -> GraphedExplanation:
        """Explain a batch, on torch's current stream; the host waits for nothing.

        Parameters
        ----------
        images : tensor
            Of the shape, dtype and device that the graph was made for; copied into `images` of the graph.
        target : None, int, str, sequence or tensor
            Class indices or names of the shape, (B,) or (B, T), that the graph was made with; None are the ones that
            it was made with. A graph of the predicted class or of callables takes None alone. Indices on the device are
            checked there, which makes the host wait; those on the host cost nothing.
        out : GraphedExplanation, optional
            An earlier result of this graph, which is overwritten; ``static`` saves all copies. By default the result
            has memory of its own.

        Returns
        -------
        GraphedExplanation
            `out`, where it is given.

        Raises
        ------
        TypeError, ValueError
            If an argument is not what the graph was made for; nothing has run then.
        """
        self._check_images(images)
        indices = self._read(target)
        into = {} if out is None or out is self.static else self._tensors_of(out)
        with self._lock, torch.inference_mode(False), torch.no_grad(), torch.cuda.device(self.images.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            if stream != self._stream:  # whose memory these are: it would hand them out while `stream` reads them
                for tensor in (self.images, self._first_indices, self._indices):
                    if tensor is not None:
                        tensor.record_stream(stream)
            self.images.copy_(images)
            if self._indices is not None and indices is not None:
                self._indices.copy_(indices, non_blocking=True)
            self._graph.replay()
            if out is None:
                out = self.static.copy()
            else:
                for name, tensor in into.items():
                    tensor.copy_(self._written[name])
                vars(out).pop("empty", None)  # it was of the maps before
            self._done.record(stream)
        return out

    def _check_images(self, images: object) -> None:
        if not isinstance(images, torch.Tensor):
            raise TypeError(f"images: expected a torch tensor; got {type(images).__name__}")
        if not _alike(images, self.images):
            expected, got = (
                f"{tuple(tensor.shape)} {tensor.dtype} on '{tensor.device}'" for tensor in (self.images, images)
            )
            raise ValueError(f"images: this graph was made for {expected}; got {got}. Make one for these")

    def _read(self, target: Target) -> torch.Tensor | None:
        """The class indices of a replay; None where the graph takes none."""
        if target is None:
            return self._first_indices
        if self._indices is None:
            raise ValueError(
                "target: this graph explains the predicted class, or callables; make one with class indices to name "
                "them at a replay"
            )
        request = targets.read(target, len(self.images), self._names)
        indices = request.indices if request.predicted is None else None
        if indices is None or indices.shape != self._indices.shape:
            got = "other targets" if indices is None else f"shape {tuple(indices.shape)}"
            raise ValueError(
                f"target: this graph was made with class indices of shape {tuple(self._indices.shape)}; got {got}"
            )
        targets.check_range(indices, self._classes)
        return indices

    def _tensors_of(self, out: object) -> dict[str, torch.Tensor]:
        """What a replay is to write to, by name."""
        if not isinstance(out, GraphedExplanation):
            raise TypeError(f"out: expected a result of this graph, or its `static`; got {type(out).__name__}")
        tensors, written = out.tensors(), self._written
        if tensors.keys() != written.keys() or not all(
            _alike(tensor, written[name]) for name, tensor in tensors.items()
        ):
            raise ValueError("out: expected a result of this graph; got one of another")
        return tensors


def _alike(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return tensor.shape == other.shape and tensor.dtype == other.dtype and tensor.device == other.device


def graph_of(
    device: torch.device, warm_up: Callable[[], object], work: Callable[[], Written]
) -> tuple[torch.cuda.CUDAGraph, Written]:
    """A CUDA graph of `work` on the current device, and what `work` returned: the memory that a replay writes.

    Parameters
    ----------
    device : torch.device
        The current one.
    warm_up : callable
        Runs before, several times and on the stream of the capture: cuDNN chooses its algorithms, kernels are compiled,
        libraries take their workspaces.
    work : callable
        Runs once, and does nothing yet.

    Raises
    ------
    RuntimeError
        If `work` does what no CUDA graph can hold.
    """
    # Autocast as the caller has it, without its cache: that frees the weights it has cast, and the graph reads them.
    device_type = device.type
    autocast = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
    with _capturing, torch.autocast(device_type, *autocast, cache_enabled=False):
        caller, stream = torch.cuda.current_stream(), _capture_stream(device)
        stream.wait_stream(caller)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                warm_up()
        caller.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Of other threads' work nothing is asked: they may allocate memory while this one captures.
            # And torch leaves its stream current where a capture fails: the caller's comes back by the outer block.
            with torch.cuda.stream(caller), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                written = work()
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            cause = error.__context__ or error  # ending a broken capture is an error of its own
            if isinstance(cause, torch.cuda.OutOfMemoryError):
                raise cause from None
            raise RuntimeError(
                "cuda_graph: the model or the target does what a CUDA graph can't hold, such as reading a value on the "
                f"host or copying from it ({' '.join(str(cause).split())[:300]})"
            ) from error
    return graph, written


def fused_engine(model: nn.Module, device: torch.device, engine: str) -> engines.CheckedEngine:
    """The fused engine, if a graph of `model` on `device` can be captured.

    Raises
    ------
    ValueError
        If the device is no CUDA device, `engine` is neither ``"auto"`` nor ``"fused"``, or a module is in training
        mode.
    RuntimeError
        If this machine lacks the fused engine, or its kernels fail the check that ``"auto"`` makes of them.
    """
    if device.type != "cuda":
        raise ValueError(f"cuda_graph: needs a CUDA device; got {device}")
    if engine not in ("auto", "fused"):
        raise ValueError(
            f"cuda_graph: needs engine='fused'; this explainer's is {engine!r}, whose run makes the host wait, so that "
            "no CUDA graph can hold it"
        )
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise ValueError(
            f"cuda_graph: expected a model in eval mode; {training or 'it'} is in training mode; call model.eval() "
            "first"
        )
    fused = cast(engines.CheckedEngine, engines.choose("fused", device))
    wrong = engines.disagreement(device) if engine == "auto" else None
    if wrong is not None:
        raise RuntimeError(
            f"cuda_graph: 'fused' {wrong}; call the explainer itself, or take the engine as it is by engine='fused'"
        )
    return fused


def explain_within_graph(
    model: nn.Module,
    plan: Plan,
    engine: engines.CheckedEngine,
    images: torch.Tensor,
    request: Request,
    names: ClassNames,
    *,
    overlay: bool,
) -> GraphedExplanation:
    """What the graph does: the explainer's steps, with the check of the values left to who reads `finite`."""
    captured = plan.capture(model, images, request)
    result, flags = execution.launch_checked(
        engine,
        captured.activations,
        captured.gradients,
        plan.config,
        coarse=captured.coarse,
        sound=captured.sound,
    )
    finite = torch.stack(list(flags.values())).all(dim=0)
    shown = finite.reshape(-1, *[1] * (result.raw_maps.ndim - 1))
    result = result._replace(raw_maps=result.raw_maps.masked_fill(~shown, 0.0))
    explanation = named(plan.explanation(model, captured, result, images, request), names)
    overlays = explanation.overlay(images) if overlay else None
    shared = {field.name: getattr(explanation, field.name) for field in fields(Explanation)}
    graphed = GraphedExplanation(**shared, finite=finite, overlays=overlays)
    vars(graphed)["maps"] = explanation.maps
    return graphed


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: torch keeps workspaces for each stream that a library has worked on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
