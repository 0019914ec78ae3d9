"""Matrix products of bfloat16 with sums in float32, on CPUs that have an instruction for them (AVX512_BF16).

A bfloat16 is the upper half of a float32. The instruction takes two vectors of 16 words, each word two of them,
multiplies them and adds both products to 16 float32 sums: twice the multiplications of float32 in the same time. NumPy
knows no bfloat16, so this is a matrix product after K. Goto and R. van de Geijn, "Anatomy of high-performance matrix
multiplication", 2008: both factors are rounded and packed in the order in which they will be read; a tile of the result
is summed in registers, over all of k; and the tiles are taken in such an order that what they read stays in the cache.
The innermost loops are written in LLVM's own language, so that the sums stay in registers.

Packed, a factor is cut into panels of 16 rows (of columns, for the right one), the last filled up with zeros. A panel
has for each two neighbouring numbers of k a vector of 16 words, one a row, k filled up to whole blocks of 32. The order
of the sums follows from k alone: results are the same for any number of threads, and whatever is beside them."""
import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from chainer_caption.functions.buffers import acquire, release
from chainer_caption.functions.compiled import compiled, parallel_for

# Rows of a panel, which are the words of a vector, and the numbers of k that are packed at once.
_ROWS, _BLOCK = 16, 32

# A tile is so many rows of the left factor, and panels of the right one: 16 sums, enough to hide how long one takes.
_TALL, _WIDE = 8, 2

_LARGE = 2 ** 19        # Below this many numbers a factor is packed before a second thread has woken up.
_CACHED = 2 ** 17       # Words of the left factor that tiles take in turn: 512 KiB, half of a core's cache.

_I16, _I32, _I64 = map(ir.IntType, (16, 32, 64))
_WORDS, _SUMS, _NUMBERS = ir.VectorType(_I32, 16), ir.VectorType(ir.FloatType(), 16), ir.VectorType(_I16, 32)


@functools.cache
def available() -> bool:
    """Whether this CPU has the instructions, and Numba may use them."""
    try:
        # Private to Numba; setup.cfg bounds its version.
        from numba.core import cgutils  # noqa: F401 (what is needed later must be there)
        from numba.core.registry import cpu_target
        *_, features = cpu_target.target_context.codegen().magic_tuple()
    except (ImportError, AttributeError, TypeError, ValueError):
        return False
    return '+avx512bf16' in features.split(',')


class PackedMatrix:
    """The right factor of products, (k, m) float32, rounded and packed once; `loop` as for `bfloat16_matmul`."""

    def __init__(self, b: np.ndarray, loop: Callable = parallel_for) -> None:
        self.shape = b.shape
        self.packed = _packed(b.T, _WIDE, loop)         # in the order in which the numbers are read
        weakref.finalize(self, release, self.packed)


def bfloat16_matmul(a: np.ndarray, b: Any, out: np.ndarray, loop: Callable = parallel_for) -> None:
    """The matrix product a b of factors that are rounded to bfloat16, to the nearest, ties to even; sums in float32.

    Infinities and NaN pass through; numbers too small to be normal count as zero.

    Args:
        a, b: (n, k) float32, and (k, m) float32 or a PackedMatrix.
        out: Output, (n, m) float32, C-contiguous.
        loop: What shares the work among threads: `parallel_for`, or `serial`.
    """
    (n, k), m = a.shape, b.shape[1]
    if not k:
        out[:] = 0
        return
    panel = _panel(k)
    piece = max(1, _CACHED // panel) * _ROWS            # the rows of the left factor that tiles take in turn
    left, right = _packed(a, 1, loop), b if isinstance(b, PackedMatrix) else PackedMatrix(b, loop)
    loop(_multiply, -(-n // piece) * -(-m // (_WIDE * _ROWS)), left, right.packed, k, panel, piece, out)
    release(left)


def serial(loop: Callable, rows: int, *args: Any) -> None:
    """Calls a loop as `parallel_for` would, in the caller's thread."""
    loop(*args, 0, rows)


def _panel(k):
    """The words of a panel."""
    return -(-k // _BLOCK) * _BLOCK // 2 * _ROWS


def _packed(x, multiple, loop):
    """The factor (rows, k) in panels, of which there are a multiple of so many."""
    if not (x.flags.c_contiguous or x.flags.f_contiguous):
        x = np.ascontiguousarray(x)
    panels, panel = -(-len(x) // (multiple * _ROWS)) * multiple, _panel(x.shape[1])
    words = acquire(np, (panels * panel + _ROWS,)).view(np.uint32)
    # A vector that begins with a line of the cache is loaded in half the time.
    packed = words[-words.ctypes.data % 64 // words.itemsize:]
    (loop if x.size >= _LARGE else serial)(_pack, panels, x, panel, packed)
    return packed


@compiled
def _pack(x, panel, packed, start, stop):
    rows, k = x.shape
    panels, blocks = stop - start, -(-k // _BLOCK)
    edge = np.empty((_ROWS, _BLOCK), np.float32)
    for part in range(panels * blocks):
        # In the order in which the numbers lie in memory.
        p, i = (part // blocks, part % blocks) if x.strides[1] == x.itemsize else (part % panels, part // panels)
        row, column = (start + p) * _ROWS, i * _BLOCK
        to = (start + p) * panel + i * _BLOCK // 2 * _ROWS
        if row + _ROWS <= rows and column + _BLOCK <= k:
            _pack_block(x, row, column, packed, to)
        else:
            edge[:] = 0
            edge[:max(0, rows - row), :k - column] = x[row:row + _ROWS, column:column + _BLOCK]
            _pack_block(edge, 0, 0, packed, to)


@compiled
def _multiply(left, right, k, panel, piece, out, start, stop):
    (n, m), pairs = out.shape, (k + 1) // 2
    columns = -(-m // (_WIDE * _ROWS))
    edge = np.empty((_TALL, _WIDE * _ROWS), np.float32)
    for part in range(start, stop):
        first, column = part // columns * piece, part % columns * _WIDE * _ROWS
        b = column // _ROWS * panel
        for row in range(first, min(first + piece, n), _TALL):
            a = row // _ROWS * panel + row % _ROWS
            if row + _TALL <= n and column + _WIDE * _ROWS <= m:
                _tile(left, a, right, b, panel, pairs, out, row * m + column, m)
            else:
                _tile(left, a, right, b, panel, pairs, edge, 0, _WIDE * _ROWS)
                out[row:row + _TALL, column:column + _WIDE * _ROWS] = edge[:n - row, :m - column]


@intrinsic
def _pack_block(typing, x, row, column, packed, to):
    """Rounds and packs x[row:row + 16, column:column + 32]; x is C- or F-contiguous."""
    from numba.core import cgutils
    transposed = x.layout == 'F'

    def generate(context, builder, signature, args):
        x_type, *_, packed_type, _ = signature.args
        array = context.make_array(x_type)(context, builder, args[0])
        stride = builder.sdiv(cgutils.unpack_tuple(builder, array.strides)[transposed], _number(4))
        down, across = (args[2], args[1]) if transposed else (args[1], args[2])
        source = builder.gep(array.data, [builder.add(builder.mul(down, stride), across)])
        target = builder.gep(context.make_array(packed_type)(context, builder, args[3]).data, [args[4]])

        def load(down, across):
            at = builder.add(builder.mul(stride, _number(down)), _number(across))
            return _load(builder, builder.gep(source, [at]), _SUMS, 4)

        def rounded(low, high):
            return _call(builder, 'cvtne2ps2bf16.512', _NUMBERS, high, low)

        if transposed:
            # Two numbers of k at a time, of 16 rows each: they are put side by side.
            pairs = _lanes(place for r in range(_ROWS) for place in (r, _ROWS + r))
            words = [rounded(load(i, 0), load(i + 1, 0)) for i in range(0, _BLOCK, 2)]
            words = [builder.bitcast(builder.shuffle_vector(y, y, pairs), _WORDS) for y in words]
        else:
            # A row of 16 words at a time: a square, to be transposed. Halves, quarters … of rows change places.
            words = [builder.bitcast(rounded(load(r, 0), load(r, _ROWS)), _WORDS) for r in range(_ROWS)]
            for d in 8, 4, 2, 1:
                upper = _lanes(_ROWS + i - d if i & d else i for i in range(_ROWS))
                lower = _lanes(_ROWS + i if i & d else i + d for i in range(_ROWS))
                for i in range(_ROWS):
                    if not i & d:
                        two = words[i], words[i + d]
                        words[i], words[i + d] = (builder.shuffle_vector(*two, lanes) for lanes in (upper, lower))
        for i, vector in enumerate(words):
            _store(builder, vector, builder.gep(target, [_number(i * _ROWS)]), 64)

    return types.void(x, types.intp, types.intp, packed, types.intp), generate


@intrinsic
def _tile(typing, left, a, right, b, panel, pairs, out, to, stride):
    """Computes 8 rows of two panels of columns: sums over `pairs` of k, which stay in registers. `a`, `b` and `to` are
    where the rows, the panels, which are `panel` words apart, and the result begin, whose rows are `stride` apart."""

    def generate(context, builder, signature, args):
        _, at_left, _, at_right, apart, last, _, at_out, stride = args
        left, right, out = (
            builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [at])
            for i, at in ((0, at_left), (2, at_right), (6, at_out)))
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        pair = builder.phi(_I64)
        pair.add_incoming(_number(0), before)
        sums = [[builder.phi(_SUMS) for _ in range(_WIDE)] for _ in range(_TALL)]
        at = builder.mul(pair, _number(_ROWS))
        columns = [_load(builder, builder.gep(right, [builder.add(at, builder.mul(apart, _number(j)))]), _WORDS, 64)
                   for j in range(_WIDE)]
        following = builder.add(pair, _number(1))
        pair.add_incoming(following, loop)
        results = []
        for r, row in enumerate(sums):
            word = builder.load(builder.gep(left, [builder.add(at, _number(r))]))
            vector = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), word, ir.Constant(_I32, 0))
            vector = builder.shuffle_vector(vector, vector, _lanes([0] * _ROWS))
            for j, sum_ in enumerate(row):
                sum_.add_incoming(ir.Constant(_SUMS, None), before)
                result = _call(builder, 'dpbf16ps.512', _SUMS, sum_, vector, columns[j])
                sum_.add_incoming(result, loop)
                results.append((result, builder.add(builder.mul(stride, _number(r)), _number(j * _ROWS))))
        builder.cbranch(builder.icmp_signed('<', following, last), loop, after)
        builder.position_at_end(after)
        for result, at in results:
            _store(builder, result, builder.gep(out, [at]), 4)

    return types.void(left, types.intp, right, *[types.intp] * 3, out, types.intp, types.intp), generate


def _number(i):
    return ir.Constant(_I64, i)


def _lanes(places):
    places = list(places)
    return ir.Constant(ir.VectorType(_I32, len(places)), places)


def _load(builder, pointer, kind, align):
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


def _store(builder, value, pointer, align):
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=align)


def _call(builder, name, result, *args):
    from numba.core import cgutils
    # The types are those that the instructions had before LLVM knew bfloat16; later versions convert them.
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f'llvm.x86.avx512bf16.{name}'), args)
