"""Walks over the blocks that ranges of keys, or of queries, name: arithmetic in place of lists.

A span is a begin and an end, in blocks, half-open; a tuple of spans holds them one after the
other. `blocks` of a walk are where its first block lies, then the gaps that it passes over, spans
in ascending order that do not overlap.
"""

import triton
import triton.language as tl

from codegen_templates.triton.mods import KV_RANGES, Q_RANGES, kv_ranges, q_ranges


@triton.jit
def key_blocks(captures, tables, b, h, r, M, N, EVEN: tl.constexpr):
    """The blocks of keys that row r of blocks of queries meets, see `blocks_of_ranges`."""
    q_block = tables[-2]
    first = r * q_block
    beyond = first + q_block
    return blocks_of_ranges(
        kv_ranges(captures, b, h, first),
        kv_ranges(captures, b, h, tl.minimum(beyond, M) - 1),
        (tables[0] != 0) & (beyond <= M), tables[-1], N, KV_RANGES, EVEN)


@triton.jit
def query_blocks(captures, tables, b, h, j, M, N, EVEN: tl.constexpr):
    """The blocks of queries that column j of blocks of keys meets, see `blocks_of_ranges`."""
    kv_block = tables[-1]
    first = j * kv_block
    beyond = first + kv_block
    return blocks_of_ranges(
        q_ranges(captures, b, h, first),
        q_ranges(captures, b, h, tl.minimum(beyond, N) - 1),
        (tables[0] != 0) & (beyond <= N), tables[-2], M, Q_RANGES, EVEN)


@triton.jit
def blocks_of_ranges(first, last, may_fill, block, length, PIECES: tl.constexpr,
                     EVEN: tl.constexpr):
    """(blocks kept whole, their number, other blocks, their number) of one row of blocks.

    `first` and `last` are low and high of each range for the row's first and last index. What a
    piece touches it touches for one of them; what it keeps whole it keeps for both.
    """
    touched = ()
    kept = ()
    for p in tl.static_range(PIECES):
        touched += span_of(first[2 * p], last[2 * p + 1], block, length, True, True)
        kept += span_of(last[2 * p], first[2 * p + 1], block, length, may_fill, False)
    touched = apart(in_order(touched, PIECES), PIECES)
    kept = apart(in_order(kept, PIECES), PIECES)
    whole = blocks_in(kept, PIECES)
    others = (touched[0],)
    others += in_order(between(touched, PIECES) + kept, 2 * PIECES - 1)
    inner = (kept[0],)
    inner += between(kept, PIECES)
    rest = blocks_in(touched, PIECES) - whole
    if EVEN:
        return scaled(inner, block), whole, scaled(others, block), rest
    else:
        return inner, whole, others, rest


@triton.jit
def scaled(places, factor):
    """Each of `places` times `factor`."""
    found = ()
    for i in tl.static_range(len(places)):
        found += (places[i] * factor,)
    return found


@triton.jit
def span_of(low, high, block, length, wanted, OUTWARD: tl.constexpr):
    """The blocks that [low, high) reaches into if OUTWARD, else those it holds, up to `length`.

    A span that is empty, or not `wanted`, lies behind all blocks.
    """
    behind = tl.cdiv(length, block)
    begin = tl.maximum(tl.minimum(low, length), 0).to(tl.int32)
    end = tl.maximum(tl.minimum(high, length), 0).to(tl.int32)
    real = (begin < end) & wanted
    if OUTWARD:
        begin, end = begin // block, tl.cdiv(end, block)
    else:
        begin, end = tl.cdiv(begin, block), end // block
        real = real & (begin < end)
    return (tl.where(real, begin, behind), tl.where(real, end, behind))


@triton.jit
def in_order(spans, COUNT: tl.constexpr):
    """The spans by rising begin."""
    for i in tl.static_range(COUNT - 1):
        for at in tl.static_range(COUNT - 1 - i):
            spans = with_pair_in_order(spans, at, COUNT)
    return spans


@triton.jit
def with_pair_in_order(spans, AT: tl.constexpr, COUNT: tl.constexpr):
    """The spans with those at AT and AT + 1 exchanged if the second one begins first."""
    swap = spans[2 * AT + 2] < spans[2 * AT]
    found = ()
    for i in tl.static_range(2 * COUNT):
        if i // 2 == AT:
            found += (tl.where(swap, spans[i + 2], spans[i]),)
        elif i // 2 == AT + 1:
            found += (tl.where(swap, spans[i - 2], spans[i]),)
        else:
            found += (spans[i],)
    return found


@triton.jit
def apart(spans, COUNT: tl.constexpr):
    """Ordered spans cut so that none begins before another ends."""
    found = (spans[0], spans[1])
    for i in tl.static_range(1, COUNT):
        begin = tl.maximum(spans[2 * i], found[2 * i - 1])
        found += (begin, tl.maximum(spans[2 * i + 1], begin))
    return found


@triton.jit
def between(spans, COUNT: tl.constexpr):
    """What lies between spans that are apart."""
    found = ()
    for i in tl.static_range(1, COUNT):
        found += (spans[2 * i - 1], spans[2 * i])
    return found


@triton.jit
def blocks_in(spans, COUNT: tl.constexpr):
    """Number of blocks in spans that are apart."""
    count = spans[1] - spans[0]
    for i in tl.static_range(1, COUNT):
        count += spans[2 * i + 1] - spans[2 * i]
    return count


@triton.jit
def place_at(places, count):
    """Where a walk comes to after `count` steps, in the unit of `places`."""
    place = places[0] + count
    for i in tl.static_range(1, len(places), 2):
        place += tl.where(place >= places[i], places[i + 1] - places[i], 0)
    return place


@triton.jit
def out_of_gaps(places, place):
    """`place`, or the end of the gap that it lies in."""
    for i in tl.static_range(1, len(places), 2):
        inside = (place >= places[i]) & (place < places[i + 1])
        place = tl.where(inside, places[i + 1], place)
    return place


@triton.jit
def begin_ranged_walk(blocks, size, first, TILE: tl.constexpr, EVEN: tl.constexpr):
    """(start of a tile,) or (start, tile of the block, block): tile `first` of blocks of `size`.

    If EVEN blocks hold whole tiles, and `blocks` counts elements.
    """
    each = tl.cdiv(size, TILE)
    place = first // each
    inside = first - place * each
    if EVEN:
        return (place_at(blocks, first * TILE),)
    else:
        block = place_at(blocks, place)
        return block * size + inside * TILE, inside, block


@triton.jit
def next_ranged_tile(blocks, size, walk, TILE: tl.constexpr, EVEN: tl.constexpr):
    """The walk one tile on."""
    if EVEN:
        return (out_of_gaps(blocks, walk[0] + TILE),)
    else:
        over = walk[1] + 1 == tl.cdiv(size, TILE)
        inside = tl.where(over, 0, walk[1] + 1)
        block = tl.where(over, out_of_gaps(blocks, walk[2] + 1), walk[2])
        return block * size + inside * TILE, inside, block


@triton.jit
def end_of_tile(walk, size, length, EVEN: tl.constexpr):
    """Up to where the tile of a walk may reach."""
    if EVEN:
        return length
    else:
        return tl.minimum(walk[2] * size + size, length)
