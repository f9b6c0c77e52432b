"""Functions that mods call and `tl` lacks, for float32 and float64, compiled and interpreted.

Arguments are tensors (scalars among them) of one dtype; bool and integer forms are told apart by
name. What torch says of NaN, infinities, signed zeros and negative operands holds here. Errors
are a few units in the last place.
"""

import triton
import triton.language as tl

# Whole numbers. The lowest one divided by -1 wraps.


@triton.jit
def m_step(index, stride):
    """A 64-bit index times a stride, in the type of the stride."""
    if isinstance(stride, tl.tensor):
        return index.to(stride.dtype) * stride
    else:
        return index * stride


@triton.jit
def m_int_truncdiv(a, b):
    minus = b == -1
    return tl.where(minus, -a, a // tl.where(minus, 1, b))


@triton.jit
def m_int_fmod(a, b):
    return a % tl.where(b == -1, 1, b)


@triton.jit
def m_int_floordiv(a, b):
    r = m_int_fmod(a, b)
    q = m_int_truncdiv(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)


@triton.jit
def m_int_mod(a, b):
    r = m_int_fmod(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def m_int_sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


# Floats: rounding, quotients, remainders.


@triton.jit
def m_div(a, b):
    """Correctly rounded, so that quotients of whole numbers compare as they should."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def m_sqrt(x):
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@triton.jit
def m_trunc(x):
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def m_round(x):
    """To the nearest, halves to even."""
    size = tl.abs(x)
    low = tl.floor(size)
    odd = tl.floor(0.5 * low) != 0.5 * low
    up = (size - low > 0.5) | ((size - low == 0.5) & odd)
    r = tl.where(up, low + 1.0, low)
    return tl.where((r == size) | (x != x), x, tl.where(x < 0, -1.0 * r, r))


@triton.jit
def m_sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def m_high(x):
    """The upper half of the digits; what is left has no more of them than that."""
    if x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        return ((bits + 0x800) & -0x1000).to(tl.float32, bitcast=True)
    else:
        bits = x.to(tl.int64, bitcast=True)
        return ((bits + 0x4000000) & -0x8000000).to(tl.float64, bitcast=True)


@triton.jit
def m_product_rest(a, b, product):
    """a * b - product without rounding, for a product that was rounded (Dekker).

    All partial products are exact, so that it makes no difference which ones are fused.
    """
    ah, bh = m_high(a), m_high(b)
    al, bl = a - ah, b - bh
    return ((ah * bh - product) + ah * bl + al * bh) + al * bl


@triton.jit
def m_fmod(a, b):
    """a - b * trunc(a / b) without rounding, for quotients below 2^120.

    A quotient rounded to nearest leaves a remainder that is a float, so a few rounds of it,
    24 or 53 bits each, get to the end.
    """
    a, b = tl.broadcast(a, b)
    size = tl.abs(b)
    r = tl.abs(a)
    for _ in tl.static_range(5 if a.dtype == tl.float32 else 3):
        q = m_round(m_div(r, size))
        product = q * size
        r = tl.where(tl.abs(r) < size, r, (r - product) - m_product_rest(q, size, product))
    r = tl.where(r < 0, r + size, r)
    r = tl.where(tl.abs(a) < size, tl.abs(a), r)  # also an infinite divisor
    return m_copysign(r, a)


@triton.jit
def m_mod(a, b):
    """The remainder with the divisor's sign."""
    a, b = tl.broadcast(a, b)
    r = m_fmod(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def m_truncdiv(a, b):
    return m_trunc(m_div(a, b))


@triton.jit
def m_floordiv(a, b):
    """As torch derives it: from the exact remainder."""
    a, b = tl.broadcast(a, b)
    r = m_fmod(a, b)
    q = m_div(a - r, b)
    q = tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1.0, q)
    whole = tl.floor(q)
    whole = tl.where(q - whole > 0.5, whole + 1.0, whole)
    exact = m_div(a, b)
    return tl.where(b == 0, exact, tl.where(q == 0, 0.0 * exact, whole))


@triton.jit
def m_negative(x):
    """Whether the sign bit is set."""
    if x.dtype == tl.float32:
        return x.to(tl.int32, bitcast=True) < 0
    else:
        return x.to(tl.int64, bitcast=True) < 0


@triton.jit
def m_copysign(x, sign):
    """A value that is not negative, with the sign bit of another; -x would be 0 - x."""
    return tl.where(m_negative(sign), -1.0 * x, x)


# Exponentials.


@triton.jit
def m_expm1(x):
    """Kahan's: the error of u = exp(x) cancels in (u - 1) / log(u)."""
    u = tl.exp(x)
    small = tl.where(u == 1.0, x, (u - 1.0) * (x / tl.log(u)))
    return tl.where(tl.abs(x) < 1.0, small, u - 1.0)


@triton.jit
def m_log1p(x):
    u = 1.0 + x
    small = tl.where(u == 1.0, x, tl.log(u) * (x / (u - 1.0)))
    return tl.where(tl.abs(x) < 1.0, small, tl.log(u))


@triton.jit
def m_log10(x):
    return tl.log2(x) * 0.30102999566398119521


@triton.jit
def m_sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def m_tanh(x):
    """Two transcendental instructions; an odd polynomial where 1 - 2 / (1 + e^2x) cancels."""
    if x.dtype == tl.float32:
        y = x * x
        p = 0.002246003686 * y - 0.008301695361
        p = p * y + 0.02175570035
        p = p * y - 0.05395759513
        p = p * y + 0.1333329635
        p = p * y - 0.3333333312
        near = (p * y + 1.0) * x
        far = 1.0 - 2.0 / (1.0 + tl.exp2(2.8853900817779268 * x))
        return tl.where(y < 0.4096, near, far)
    else:
        e = m_expm1(2.0 * tl.abs(x))
        t = tl.where(e > 1e20, 1.0, e / (e + 2.0))
        return m_copysign(t, x)


@triton.jit
def m_tanh_approx(x):
    """One instruction of NVIDIA's processors, with errors of 2^-11; float32 alone."""
    return tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
