"""Tiles of rows [ROWS, D] in memory, and walks over lists of blocks.

A tile is a tuple of one or two chunks of columns, powers of two of which the last may reach beyond
D (96 = 64 + 32, 80 = 64 + 16, 100 < 128); what lies beyond is 0.
"""

import triton
import triton.language as tl

# The interpreter keeps bfloat16 as bits, and would multiply the bits.
INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)
NO_FAULT: tl.constexpr = tl.constexpr((1 << 63) - 1)
NO_KEY: tl.constexpr = tl.constexpr((1 << 31) - 1)
# Row values of a head begin at a multiple of so many: the longest tile that may read beyond M.
PADDING: tl.constexpr = tl.constexpr(256)


@triton.constexpr_function
def lowest_of(dtype):
    """The lowest finite number."""
    return -1.7976931348623157e308 if dtype.primitive_bitwidth == 64 else -3.4028234663852886e38


@triton.constexpr_function
def chunk_of(D, which):
    """Columns of chunk 0 or 1: powers of two, 16 or more; 0 where there is no second one."""
    first = 16
    while 2 * first <= D:
        first *= 2
    second = 16
    while second < D - first:
        second *= 2
    if first < D and second >= first:
        first, second = 2 * first, 0
    return (first, second if first < D else 0)[which]


@triton.jit
def open_rows(base, rows, stride_row, stride_col, D: tl.constexpr, ROWS: tl.constexpr,
              DESCRIPTORS: tl.constexpr):
    """What `load_rows` reads: the matrix [rows, D] at `base`. Descriptors need stride_col = 1."""
    if DESCRIPTORS:
        D0: tl.constexpr = chunk_of(D, 0)
        D1: tl.constexpr = chunk_of(D, 1)
        first = tl.make_tensor_descriptor(
            base, shape=[rows, D], strides=[stride_row, 1], block_shape=[ROWS, D0])
        if D1 > 0:
            second = tl.make_tensor_descriptor(
                base, shape=[rows, D], strides=[stride_row, 1], block_shape=[ROWS, D1])
            return (first, second)
        else:
            return (first,)
    else:
        return (base, rows, stride_row, stride_col)


@triton.jit
def load_rows(source, start, D: tl.constexpr, ROWS: tl.constexpr, DESCRIPTORS: tl.constexpr,
              BOUNDED: tl.constexpr):
    """The tile of rows from `start` (a tensor): (x0,) or (x0, x1).

    Rows beyond the matrix are 0 if BOUNDED or by descriptor, and else must not be.
    """
    D0: tl.constexpr = chunk_of(D, 0)
    D1: tl.constexpr = chunk_of(D, 1)
    if DESCRIPTORS:
        x0 = source[0].load([start, 0])
        if D1 > 0:
            return (x0, source[1].load([start, D0]))
        else:
            return (x0,)
    else:
        x0 = load_columns(source, start, 0, D, ROWS, D0, BOUNDED)
        if D1 > 0:
            return (x0, load_columns(source, start, D0, D, ROWS, D1, BOUNDED))
        else:
            return (x0,)


@triton.jit
def load_columns(source, start, first: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
                 COLUMNS: tl.constexpr, BOUNDED: tl.constexpr):
    """Columns [first, first + COLUMNS) of the rows from `start`, through pointers."""
    row = tl.arange(0, ROWS)[:, None]
    col = first + tl.arange(0, COLUMNS)[None, :]
    # The start of the tile is one 64-bit scalar, so that offsets in it do not change in a loop.
    address = source[0] + start.to(tl.int64) * source[2] + (row * source[2] + col * source[3])
    if BOUNDED:
        if first + COLUMNS > D:
            return tl.load(address, mask=(start + row < source[1]) & (col < D), other=0.0)
        else:
            return tl.load(address, mask=start + row < source[1], other=0.0)
    elif first + COLUMNS > D:
        return tl.load(address, mask=col < D, other=0.0)
    else:
        return tl.load(address)


@triton.jit
def padded_rows(M):
    """Rows that a head has in `lse2` and `delta`, see delta.py."""
    return tl.cdiv(M, PADDING) * PADDING


@triton.jit
def store_rows(base, start, last, stride_row, values, D: tl.constexpr, ROWS: tl.constexpr):
    """Store the rows [start, last) of a tile, in the dtype of `base`; the column stride is 1."""
    D0: tl.constexpr = chunk_of(D, 0)
    D1: tl.constexpr = chunk_of(D, 1)
    store_columns(base, start, last, stride_row, values[0], 0, D, ROWS, D0)
    if D1 > 0:
        store_columns(base, start, last, stride_row, values[1], D0, D, ROWS, D1)


@triton.jit
def store_columns(base, start, last, stride_row, values, first: tl.constexpr, D: tl.constexpr,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Columns [first, first + COLUMNS) of `store_rows`."""
    row = tl.arange(0, ROWS)[:, None]
    col = first + tl.arange(0, COLUMNS)[None, :]
    address = base + start.to(tl.int64) * stride_row + (row * stride_row + col)
    mask = start + row < last
    if first + COLUMNS > D:
        mask = mask & (col < D)
    tl.store(address, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def matmul(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, in the dtype of acc."""
    if INTERPRETED:
        a, b = a.to(acc.dtype), b.to(acc.dtype)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def dot_rows(a, b, acc, PRECISION: tl.constexpr):
    """acc + a bᵀ for tiles a [X, D] and b [Y, D]."""
    acc = matmul(a[0], b[0].T, acc, PRECISION)
    if len(a) > 1:
        acc = matmul(a[1], b[1].T, acc, PRECISION)
    return acc


@triton.jit
def zero_rows(D: tl.constexpr, ROWS: tl.constexpr, F: tl.constexpr):
    """A tile of zeros in dtype F."""
    D0: tl.constexpr = chunk_of(D, 0)
    D1: tl.constexpr = chunk_of(D, 1)
    if D1 > 0:
        return (tl.zeros([ROWS, D0], F), tl.zeros([ROWS, D1], F))
    else:
        return (tl.zeros([ROWS, D0], F),)


@triton.jit
def add_rows(acc, weights, rows, PRECISION: tl.constexpr):
    """acc + weights · rows for weights [X, Y] (rounded to the dtype of rows) and rows [Y, D]."""
    weights = weights.to(rows[0].dtype)
    x0 = matmul(weights, rows[0], acc[0], PRECISION)
    if len(acc) > 1:
        return (x0, matmul(weights, rows[1], acc[1], PRECISION))
    else:
        return (x0,)


@triton.jit
def scale_rows(acc, factor):
    """Each row times its factor [ROWS, 1], or all times one number."""
    if len(acc) > 1:
        return (acc[0] * factor, acc[1] * factor)
    else:
        return (acc[0] * factor,)


@triton.jit
def heads_by_group(pid, heads, tiles, heads_at_once):
    """(head, tile) of a program: groups of heads, in a group tile after tile, for each its heads.

    The heads that run at once are few, so that their keys and values stay in the L2 cache.
    """
    group = pid // (heads_at_once * tiles)
    rest = pid - group * (heads_at_once * tiles)
    size = tl.minimum(heads - group * heads_at_once, heads_at_once)
    return group * heads_at_once + rest % size, rest // size


@triton.jit
def rows_of_tile(tile, length, block, TILE: tl.constexpr, TABLES: tl.constexpr):
    """(row of the tables, first row, end of rows) of a tile; a block starts a tile of its own."""
    if TABLES == 0:
        return tile * 0, tile * TILE, length
    else:
        tiles = tl.cdiv(block, TILE)
        r = tile // tiles
        return r, r * block + (tile - r * tiles) * TILE, tl.minimum((r + 1) * block, length)


@triton.jit
def list_of_blocks(tables, b, h, r, FULL: tl.constexpr):
    """(address of the entries, their number) of row r: of blocks kept whole, or of the others."""
    if FULL:
        count = tl.load(tables[7] + b * tables[8] + h * tables[9] + r)
        return tables[10] + b * tables[11] + h * tables[12] + r * tables[13], count
    else:
        count = tl.load(tables[0] + b * tables[1] + h * tables[2] + r)
        return tables[3] + b * tables[4] + h * tables[5] + r * tables[6], count


@triton.jit
def begin_walk(entries, count, tiles, first, beyond):
    """Start a walk over the tiles of listed blocks, `tiles` each, at tile number `first`.

    A walk is (place in the list, tile of the block, block); its tile starts at
    block * size of a block + tile of the block * size of a tile. After the list comes the block
    `beyond`.
    """
    place = first // tiles
    block = tl.load(entries + place, mask=place < count, other=beyond)
    return place, first - place * tiles, block


@triton.jit
def next_tile(entries, count, tiles, walk, beyond):
    """The walk one tile on. The entry is read an iteration before it is needed."""
    inside = walk[1] + 1
    over = inside == tiles
    place = tl.where(over, walk[0] + 1, walk[0])
    block = tl.load(entries + place, mask=place < count, other=beyond)
    return place, tl.where(over, 0, inside), block
