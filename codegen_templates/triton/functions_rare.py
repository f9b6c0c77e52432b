"""Functions seldom met in an attention mod; see functions.py for what holds of all."""

import triton
import triton.language as tl

from codegen_templates.triton.functions import (
    m_copysign,
    m_div,
    m_expm1,
    m_high,
    m_log1p,
    m_negative,
    m_product_rest,
    m_sqrt,
)

# Hyperbolic functions.


@triton.jit
def m_sinh(x):
    size = tl.abs(x)
    e = m_expm1(size)
    half = tl.exp(0.5 * size)
    r = tl.where(size < 1.0, 0.5 * (e + e / (e + 1.0)), 0.5 * half * half - 0.5 / half / half)
    return m_copysign(r, x)


@triton.jit
def m_cosh(x):
    half = tl.exp(0.5 * tl.abs(x))  # its square may overflow where the result does not
    return 0.5 * half * half + 0.5 / half / half


@triton.jit
def m_asinh(x):
    size = tl.abs(x)
    y = size * size
    near = m_log1p(size + y / (1.0 + m_sqrt(y + 1.0)))
    far = tl.log(size) + 0.69314718055994530942
    return m_copysign(tl.where(size < 1e9, near, far), x)


@triton.jit
def m_acosh(x):
    t = x - 1.0
    near = m_log1p(t + m_sqrt(t * (t + 2.0)))
    far = tl.log(x) + 0.69314718055994530942
    r = tl.where(x < 1e9, near, far)
    return tl.where(x < 1.0, float("nan"), r)


@triton.jit
def m_atanh(x):
    size = tl.abs(x)
    return m_copysign(0.5 * m_log1p(2.0 * size / (1.0 - size)), x)


# Trigonometry.


@triton.jit
def m_tan(x):
    return m_div(tl.sin(x), tl.cos(x))


@triton.jit
def m_atan_small(x):
    """On [-tan(pi/8), tan(pi/8)], to 2^-64."""
    y = x * x
    p = -0.0128984197218547303 * y + 0.0295193158950819932
    p = p * y - 0.0405049104049995606
    p = p * y + 0.0470425438324095363
    p = p * y - 0.0525530878500564315
    p = p * y + 0.0588159351396273145
    p = p * y - 0.0666661449924709791
    p = p * y + 0.0769230518201051215
    p = p * y - 0.0909090900861679957
    p = p * y + 0.111111111093586296
    p = p * y - 0.142857142856918814
    p = p * y + 0.199999999999998503
    p = p * y - 0.333333333333333329
    return p * y * x + x


@triton.jit
def m_angle(y, x):
    """atan(y / x) for y, x >= 0, by reduction to an eighth of a turn and then half of that."""
    low = tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
    high = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    t = m_div(low, tl.where(high == 0, 1.0, high))
    t = tl.where(low == float("inf"), 1.0, t)  # both are
    steep = t > 0.41421356237309504880
    near = m_atan_small(tl.where(steep, m_div(t - 1.0, t + 1.0), t))
    r = tl.where(steep, 0.78539816339744830962 + near, near)
    return tl.where(y > x, 1.57079632679489661923 - r, r)


@triton.jit
def m_atan2(y, x):
    y, x = tl.broadcast(y, x)
    r = m_angle(tl.abs(y), tl.abs(x))
    return m_copysign(tl.where(m_negative(x), 3.14159265358979323846 - r, r), y)


@triton.jit
def m_atan(x):
    one = tl.where(x != x, x, 1.0)
    return m_copysign(m_angle(tl.abs(x), one), x)


@triton.jit
def m_asin(x):
    size = tl.abs(x)
    return m_copysign(m_angle(size, m_sqrt((1.0 - size) * (1.0 + size))), x)


@triton.jit
def m_acos(x):
    return 2.0 * m_angle(m_sqrt(1.0 - x), m_sqrt(1.0 + x))


# Powers and the error function's tail.


@triton.jit
def m_pow(x, n):
    """By float exponents: what C's pow gives."""
    x, n = tl.broadcast(x, n)
    size = tl.abs(x)
    log = tl.log2(size)
    plain = (size == 0) | (size == float("inf")) | (tl.abs(n) == float("inf"))
    r = tl.where(plain, tl.exp2(n * log), m_power(tl.where(plain, 1.0, size), n))
    r = tl.where(x != x, x, tl.where(n != n, n, r))
    one = (x == 1.0) | (n == 0) | ((size == 1.0) & (tl.abs(n) == float("inf")))
    r = tl.where(one, 1.0, r)
    whole = tl.floor(n) == n
    half = 0.5 * n
    odd = whole & (tl.floor(half) != half)
    r = tl.where(m_negative(x) & odd, -1.0 * r, r)
    # No real root of a negative number.
    return tl.where((x < 0) & (size < float("inf")) & (n == n) & ~whole, float("nan"), r)


@triton.jit
def m_power(x, n):
    """x^n for finite x > 0: the logarithm in twice the digits."""
    if x.dtype == tl.float32:
        tiny = x < 1.17549435e-38
        x = tl.where(tiny, x * 16777216.0, x)
        bits = x.to(tl.int32, bitcast=True) - 0x3F3504F3  # of sqrt(1/2)
        power = (bits >> 23).to(tl.float32) - tl.where(tiny, 24.0, 0.0)
        m = ((bits & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True)
    else:
        tiny = x < 2.2250738585072014e-308
        x = tl.where(tiny, x * 18014398509481984.0, x)
        bits = x.to(tl.int64, bitcast=True) - 0x3FE6A09E667F3BCD
        power = (bits >> 52).to(tl.float64) - tl.where(tiny, 54.0, 0.0)
        m = ((bits & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD).to(tl.float64, bitcast=True)
    # log(m) = 2 (s + s^3 / 3 + ...), s = (m - 1) / (m + 1); only the first term needs its rest.
    a, b = m - 1.0, m + 1.0
    b_rest = m - (b - 1.0)
    s = m_div(a, b)
    product = s * b
    s_rest = ((a - product) - m_product_rest(s, b, product) - s * b_rest) / b
    y = s * s
    p = 0.065503606917517457 * y + 0.066337092982374417
    p = p * y + 0.0769314526732949599
    p = p * y + 0.0909089735044889979
    p = p * y + 0.111111112002738786
    p = p * y + 0.142857142853822251
    p = p * y + 0.200000000000004706
    p = p * y + 0.333333333333333332
    rest = s_rest + p * y * s
    # Times 2 log2(e), itself in two parts.
    if x.dtype == tl.float32:
        factor = 0.0 * s + 2.88539004
        low = s * 3.8519249e-8
    else:
        factor = 0.0 * s + 2.8853900817779268
        low = s * 4.0710547481862066e-17
    high = s * factor
    low += m_product_rest(s, factor, high) + rest * factor
    first = power + high
    low += high - (first - power)
    total = first + low
    low -= total - first
    product = total * n
    rest = m_product_rest(total, n, product) + low * n
    r = tl.exp2(product)
    sound = (tl.abs(rest) < 1.0) & (r < float("inf"))
    return tl.where(sound, r + r * rest * 0.69314718055994530942, r)


@triton.jit
def m_erfc(x):
    """erfc(z) = t exp(-z^2) g(t), t = 2 / (2 + z), for z >= 0; g a polynomial."""
    z = tl.abs(x)
    z = tl.where(z > 30.0, 30.0, z)
    t = 2.0 / (2.0 + z)
    w = 2.0 * t - 1.0
    p = -1.05903331435717986e-9 * w - 1.91117372860789394e-9
    p = p * w + 1.32163255176326486e-8
    p = p * w + 6.52043461440153958e-9
    p = p * w - 6.96584294340913831e-8
    p = p * w + 3.60008452920799344e-8
    p = p * w + 1.78672294791685345e-7
    p = p * w - 3.26246093529667201e-7
    p = p * w - 1.37545082331859451e-8
    p = p * w + 1.03056992152911054e-6
    p = p * w - 1.81503550805416656e-6
    p = p * w - 5.77642361151142675e-7
    p = p * w + 8.0578758671473404e-6
    p = p * w - 0.0000108429853299644102
    p = p * w - 0.0000170737811338189144
    p = p * w + 0.000072234188295048068
    p = p * w - 0.0000171858318748897515
    p = p * w - 0.000331536576690146124
    p = p * w + 0.00041864804327911113
    p = p * w + 0.00154530601410132869
    p = p * w - 0.00323959253458206746
    p = p * w - 0.0107553309440365314
    p = p * w + 0.0182211157534590399
    p = p * w + 0.139736046278014751
    p = p * w + 0.343580342206905137
    p = p * w + 0.510791352621011525
    high = m_high(z)
    r = t * p * tl.exp(-high * high) * tl.exp((high - z) * (high + z))
    return tl.where(x < 0, 2.0 - r, r)
