// Division and remainders, of integers and floats. A zero divisor of integers never arrives (the
// mods guard it). Provides: m_floordiv m_mod m_truncdiv m_fmod
#ifndef FLEX_MATH_INT_H
#define FLEX_MATH_INT_H
#include "math_round.h"

// Overflow (least value by -1) wraps rather than traps.
template <class I> FLEX_INLINE I m_truncdiv(I a, I b) { return b == -1 ? I(0 - (unsigned long long)a) : a / b; }
template <class I> FLEX_INLINE I m_fmod(I a, I b) { return b == -1 ? 0 : a % b; }
template <class I> FLEX_INLINE I m_mod(I a, I b) {  // the divisor's sign
  I r = m_fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
template <class I> FLEX_INLINE I m_floordiv(I a, I b) {  // towards minus infinity
  I r = m_fmod(a, b), q = m_truncdiv(a, b);
  return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
}

// Floats as torch has them: the remainder is exact, the quotient is derived from it.
FLEX_INLINE float m_fmod(float a, float b) { return __builtin_fmodf(a, b); }
FLEX_INLINE double m_fmod(double a, double b) { return __builtin_fmod(a, b); }
template <class X> FLEX_INLINE X float_mod(X a, X b) {
  X r = m_fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
template <class X> FLEX_INLINE X float_floordiv(X a, X b) {
  if (b == 0) return a / b;
  X r = m_fmod(a, b), q = (a - r) / b;
  if (r != 0 && (r < 0) != (b < 0)) q -= 1;
  if (q == 0) return X(0) * (a / b);  // the sign of the true quotient
  X whole = m_floor(q);
  return q - whole > X(0.5) ? whole + 1 : whole;
}
FLEX_INLINE float m_mod(float a, float b) { return float_mod(a, b); }
FLEX_INLINE double m_mod(double a, double b) { return float_mod(a, b); }
FLEX_INLINE float m_floordiv(float a, float b) { return float_floordiv(a, b); }
FLEX_INLINE double m_floordiv(double a, double b) { return float_floordiv(a, b); }
FLEX_INLINE float m_truncdiv(float a, float b) { return m_trunc(a / b); }
FLEX_INLINE double m_truncdiv(double a, double b) { return m_trunc(a / b); }

// Lane by lane: no instruction set has these.
template <class V, class Lane, class Function> FLEX_INLINE V each_lane(V a, V b, Function f) {
  Lane x[W], y[W];
  store_lanes(x, a);
  store_lanes(y, b);
  for (int l = 0; l < W; l++) x[l] = f(x[l], y[l]);
  return load_lanes<V>(x);
}
#define FLEX_EACH(name, V, Lane) \
  FLEX_INLINE V name(V a, V b) { \
    return each_lane<V, Lane>(a, b, [](Lane x, Lane y) { return name(x, y); }); \
  }
#define FLEX_EACH_TYPE(name) FLEX_EACH(name, VF, F) FLEX_EACH(name, VI, int) FLEX_EACH(name, VL, i64)
FLEX_EACH_TYPE(m_truncdiv)
FLEX_EACH_TYPE(m_fmod)
FLEX_EACH_TYPE(m_mod)
FLEX_EACH_TYPE(m_floordiv)
#undef FLEX_EACH_TYPE
#undef FLEX_EACH

// A power of an integer, exponent >= 0, by squaring; wraps.
template <class I> FLEX_INLINE I int_power(I x, i64 exponent) {
  I result = I{} + 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = result * x;
    x = x * x;
  }
  return result;
}
#endif
