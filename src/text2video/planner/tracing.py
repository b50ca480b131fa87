"""What a computation would take in memory and work, found by running it on tensors that have shapes and no contents.

The model's own code runs on torch's meta device, forward and backward. A dispatch mode sees every operation, counts its
products and the bytes it moves, and follows every storage from its birth to its death: the largest sum of those alive
at one time is the peak. Attention, autocast and the device's name are put in by hand (`_AsOn`): meta tensors have none.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

META, CPU = torch.device("meta"), torch.device("cpu")
# Kernels that update their arguments in place and have no meta version: there is nothing to compute.
_IN_PLACE = {torch.ops.aten._fused_adamw_, torch.ops.aten._fused_adam_, torch.ops.aten._fused_sgd_}
_DEVICE: Any = torch.Tensor.device.__get__  # pyright: ignore[reportAttributeAccessIssue] - what asks for a tensor's device

_AS_NEEDED = {torch.ops.aten.nonzero, torch.ops.aten._local_scalar_dense, torch.ops.aten.index}
_OPPOSITE = {torch.ops.aten.bitwise_not, torch.ops.aten.logical_not}

# What autocast runs in the lower type; names of torch's functions.
_LOWER = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "addbmm", "baddbmm", "einsum", "prelu"}
_LOWER |= {f"conv{n}d" for n in (1, 2, 3)} | {f"conv_transpose{n}d" for n in (1, 2, 3)}
_LOWER |= {"scaled_dot_product_attention", "multi_head_attention_forward"}
# What it runs in float32 on a GPU; on a CPU hardly anything.
_FLOAT = {"layer_norm", "group_norm", "softmax", "log_softmax", "mse_loss", "pow", "__pow__", "exp", "log", "rsqrt"}
_FLOAT |= {"reciprocal", "cumsum", "cumprod", "prod", "norm"}


@dataclass
class Work:
    """What was computed: how often an operation of so many products, bytes moved and bytes a number came up."""

    operations: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    @property
    def flops(self) -> int:
        """Floating point operations of matrix products, convolutions and attention, two for each product."""
        return sum(flops * count for (flops, _, _), count in self.operations.items())

    def seconds(self, rate: Callable[[int], float], bandwidth: float) -> float:
        """By the roofline: each operation takes as long as its products, or its way through memory, if that is longer.

        Args:
            rate: bytes a number -> floating point operations a second.
            bandwidth: bytes a second.
        """
        return sum(
            count * max(flops / rate(size), moved / bandwidth)
            for (flops, moved, size), count in self.operations.items()
        )

    def __add__(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations)

    def __mul__(self, times: float) -> "Work":
        return Work(Counter({kind: count * times for kind, count in self.operations.items()}))


@dataclass
class Traced:
    """What running something takes, in bytes, over what was in memory before."""

    peak: int  # the most alive at one time
    besides: int  # the most alive at one time, gradients of weights not counted
    left: int  # alive at the end
    gradients: int  # of weights, alive at the end
    work: Work


class _Storages(TorchDispatchMode):
    """Follows the storages that operations make, and what they compute."""

    def __init__(self, on_gpu: bool) -> None:
        super().__init__()
        self.on_gpu = on_gpu
        self.alive: dict[int, int] = {}  # storage -> bytes
        self.gradients: set[int] = set()
        self.opposites: set[int] = set()  # storages of masks that are another's opposite
        self.now = self.of_gradients = self.peak = self.besides = 0
        self.work = Work()
        self.on_operation: Callable[[], None] = lambda: None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.on_operation()
        if func._overloadpacket in _IN_PLACE:
            return None
        # what was made outside torch, such as a table of numpy's, lies on the CPU
        args, kwargs = _mapped(Tensor, _without_contents, args, kwargs or {})
        if func._overloadpacket in _AS_NEEDED and any(tensor.is_meta for tensor in _tensors(args)):
            args = self._with_contents(func._overloadpacket, args)
            if not isinstance(args, tuple):
                return args
        out = func(*args, **kwargs)
        made = self._follow(out)
        if func._overloadpacket in _OPPOSITE:
            self.opposites.add(out.untyped_storage()._cdata)
        self._count(func, args, kwargs, out, made)
        return out

    def _follow(self, out: Any) -> int:
        """Take note of what was made; its bytes, 0 for a view."""
        made = 0
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self.alive or not size or not tensor.is_meta:
                continue
            self.alive[key] = size = self._rounded(size)
            weakref.finalize(storage, self._freed, key).atexit = False
            self.now += size
            made += size
        self.peak = max(self.peak, self.now)
        self.besides = max(self.besides, self.now - self.of_gradients)
        return made

    def _with_contents(self, packet: Any, args: Any) -> Any:
        """What depends on contents, of tensors that have none: numbers are 0, a mask chooses all and its opposite none.

        Returns:
            The arguments with masks as places, or the result where it is known already.
        """
        if packet == torch.ops.aten._local_scalar_dense:
            return False if args[0].dtype == torch.bool else 0.0 if args[0].is_floating_point() else 0
        if packet == torch.ops.aten.nonzero:
            return torch.empty(self._chosen(args[0]), args[0].ndim, dtype=torch.long, device=META)
        places: list[Tensor | None] = []
        for index in args[1]:
            if index is None or index.dtype != torch.bool:
                places.append(index)
                continue
            count = self._chosen(index)
            places += [torch.empty(count, dtype=torch.long, device=META) for _ in range(index.ndim)]
        return (args[0], places, *args[2:])

    def _chosen(self, mask: Tensor) -> int:
        return 0 if mask.untyped_storage()._cdata in self.opposites else mask.numel()

    def _rounded(self, size: int) -> int:
        return -(-size // 512) * 512 if self.on_gpu else size  # the block of CUDA's allocator

    def known(self, tensors: Iterable[Tensor]) -> None:
        """These were there before: they are not counted, but what is freed of them is there for others."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.alive:
                self.alive[storage._cdata] = self._rounded(storage.nbytes())
                weakref.finalize(storage, self._freed, storage._cdata).atexit = False

    def is_gradient(self, parameter: Tensor) -> None:
        """A parameter's gradient is there from now on."""
        if parameter.grad is None:
            return
        key = parameter.grad.untyped_storage()._cdata
        if key not in self.gradients and key in self.alive:
            self.gradients.add(key)
            self.of_gradients += self.alive[key]

    def _freed(self, key: int) -> None:
        size = self.alive.pop(key, 0)
        self.now -= size
        self.opposites.discard(key)
        if key in self.gradients:
            self.gradients.discard(key)
            self.of_gradients -= size

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any, made: int) -> None:
        if not made and not func._schema.is_mutable:
            return  # a view
        packet = func._overloadpacket
        flops = flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
        operands = [*_tensors((args, kwargs)), *_tensors(out)]
        moved = sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in operands)
        self.add(flops, moved, max((t.element_size() for t in operands if t.is_floating_point()), default=4))

    def add(self, flops: int, moved: int, size: int) -> None:
        """Take note of an operation."""
        self.work.operations[int(flops), int(moved), min(size, 4)] += 1


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, dict)):
        for leaf in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(leaf)


def _without_contents(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta or not tensor.ndim else torch.empty_like(tensor, device=META)


def _mapped(kind: type, change: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Arguments with those of a kind changed, also in a list of tensors."""

    def changed(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], kind):
            return type(value)(changed(each) for each in value)
        return change(value) if isinstance(value, kind) else value

    return tuple(map(changed, args)), {name: changed(value) for name, value in kwargs.items()}


class _AsOn(TorchFunctionMode):
    """Lets meta tensors do as those of a real device do: autocast, fused attention, and on a CPU the device's name.

    Whether autocast is on is read from the CPU's own switch, which has no effect on meta tensors themselves but is
    turned off and on by models and by gradient checkpointing.
    """

    def __init__(self, storages: _Storages) -> None:
        super().__init__()
        self.storages = storages
        self.cache: dict[int, Tensor] = {}  # of cast weights, which autocast keeps until it ends
        storages.on_operation = self._autocast_may_have_ended

    def _autocast_may_have_ended(self) -> None:
        if self.cache and not torch.is_autocast_enabled("cpu"):
            self.cache.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return CPU if func == _DEVICE and not self.storages.on_gpu else func(*args, **kwargs)
        if name in ("cpu", "cuda"):
            return args[0]
        if name in ("numpy", "tolist") and args[0].is_meta:  # a picture for an encoder, say: it is black
            kind = str(args[0].dtype).removeprefix("torch.")
            black = np.zeros(args[0].shape, kind if hasattr(np, kind) else "float32")
            return black if name == "numpy" else black.tolist()
        args, kwargs = _mapped(torch.device, lambda _: META, args, kwargs)
        kwargs.pop("generator", None)  # nothing is drawn, and there is none for this device
        if func in _device_constructors() or kwargs.get("device") is not None:
            kwargs["device"] = META
        if torch.is_autocast_enabled("cpu"):
            if name in _LOWER:
                args, kwargs = self._cast(args, kwargs, torch.get_autocast_dtype("cpu"))
            elif name in _FLOAT and self.storages.on_gpu:
                args, kwargs = self._cast(args, kwargs, torch.float32)
        if name == "scaled_dot_product_attention":
            return _attention(self.storages, *args, **kwargs)
        return func(*args, **kwargs)

    def _cast(self, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
        def cast(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or tensor.dtype in (dtype, torch.float64):
                return tensor
            if not (tensor.is_leaf and tensor.requires_grad and tensor.dtype == torch.float32):
                return tensor.to(dtype)
            if id(tensor) not in self.cache:
                self.cache[id(tensor)] = tensor.to(dtype)
            return self.cache[id(tensor)]

        return _mapped(Tensor, cast, args, kwargs)


def _attention(
    storages: _Storages, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *_: Any, **__: Any
):
    return _Attention.apply(query, key, value, attn_mask, storages)


class _Attention(torch.autograd.Function):
    """Fused attention: no matrix of scores; kept for backward are its arguments, its result and a number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, storages: _Storages) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, mask, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        ctx.storages = storages
        ctx.flops = 2 * query.numel() * key.shape[-2] + 2 * out.numel() * key.shape[-2]
        storages.add(ctx.flops, 0, query.element_size())
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, _, _, _ = ctx.saved_tensors
        # five products where forward has two: the scores are computed again (Dao et al. 2022)
        ctx.storages.add(ctx.flops * 5 // 2, 0, query.element_size())
        sums = torch.empty_like(query, dtype=torch.float32) if ctx.storages.on_gpu else None
        found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        del sums
        return *found, None, None


def trace(
    run: Callable[[], Any],
    weights: Iterable[Tensor] = (),
    *,
    on_gpu: bool,
    autocast: torch.dtype | None = None,
    backward: bool = False,
) -> Traced:
    """What `run`, a computation on meta tensors, would take on a GPU or a CPU.

    Args:
        run: it makes its own inputs. Its result is kept to the end, and with `backward` is a loss.
        weights: are there before. Those that require it get gradients, which stay.
        autocast: the lower type, as in mixed precision.
        backward: whether to go back through it.
    """
    weights = list(weights)
    storages = _Storages(on_gpu)
    storages.known(weights)
    with ExitStack() as stack:
        for parameter in weights:
            if backward and parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(storages.is_gradient)
                stack.callback(handle.remove)
        stack.enter_context(_AsOn(storages))
        stack.enter_context(storages)
        with torch.set_grad_enabled(backward):
            with torch.autocast("cpu", autocast) if autocast else nullcontext():
                result = run()
            if backward:
                _back(result)
        left, gradients = storages.now, storages.of_gradients
    del result
    return Traced(storages.peak, storages.besides, left, gradients, storages.work)


def _back(loss: Tensor) -> None:
    # loss.backward() is a torch function, and within one function modes are off: what is computed anew for gradient
    # checkpointing would not be what was computed first
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, True)
