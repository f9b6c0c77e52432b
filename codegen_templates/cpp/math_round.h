// Rounding, sign, extremes and roots. Provides: m_floor m_ceil m_round m_trunc m_abs m_sign
// m_minimum m_maximum m_isnan m_isinf m_sqrt m_rsqrt
#ifndef FLEX_MATH_ROUND_H
#define FLEX_MATH_ROUND_H
#include "simd.h"

// One hardware rounding mode: 0 nearest, ties to even; 1 down; 2 up; 3 to zero.
#if FLEX_ISA >= 1
#if FLEX_ISA >= 2
#define FLEX_ROUND_NAME "vrndscale"
#else
#define FLEX_ROUND_NAME "vround"
#endif
#define FLEX_ROUNDING(name, mode, spelling) \
  FLEX_INLINE VF name(VF x) { \
    VF r; \
    if constexpr (sizeof(F) == 4) asm(FLEX_ROUND_NAME "ps $" #mode ", %1, %0" : "=v"(r) : "v"(x)); \
    else asm(FLEX_ROUND_NAME "pd $" #mode ", %1, %0" : "=v"(r) : "v"(x)); \
    return r; \
  } \
  FLEX_INLINE float name(float x) { return __builtin_##spelling##f(x); } \
  FLEX_INLINE double name(double x) { return __builtin_##spelling(x); }
#else
#define FLEX_ROUNDING(name, mode, spelling) \
  FLEX_INLINE float name(float x) { return __builtin_##spelling##f(x); } \
  FLEX_INLINE double name(double x) { return __builtin_##spelling(x); } \
  FLEX_INLINE VF name(VF x) { \
    for (int l = 0; l < W; l++) x[l] = name(F(x[l])); \
    return x; \
  }
#endif
FLEX_ROUNDING(m_round, 0, rint)
FLEX_ROUNDING(m_floor, 1, floor)
FLEX_ROUNDING(m_ceil, 2, ceil)
FLEX_ROUNDING(m_trunc, 3, trunc)
#undef FLEX_ROUNDING

// Scalars of one kind: float double int i64.
template <class X> FLEX_INLINE X m_abs(X x) { return x < 0 ? -x : x == 0 ? X(0) : x; }  // -0 -> 0
template <class X> FLEX_INLINE X m_sign(X x) { return X((x > 0) - (x < 0)); }  // NaN -> 0
template <class X> FLEX_INLINE X m_minimum(X a, X b) { return a < b || a != a ? a : b; }  // NaN wins
template <class X> FLEX_INLINE X m_maximum(X a, X b) { return a > b || a != a ? a : b; }

template <class V> FLEX_INLINE V abs_lanes(V x) { return select(x < V{}, -x, x); }
template <class V> FLEX_INLINE V sign_lanes(V x) {
  return select(x > V{}, splat<V>(1), select(x < V{}, splat<V>(-1), V{}));
}
template <class V> FLEX_INLINE V minimum_lanes(V a, V b) { return select(a < b, a, b); }
template <class V> FLEX_INLINE V maximum_lanes(V a, V b) { return select(a > b, a, b); }
template <> FLEX_MEMBER VF abs_lanes(VF x) { return (VF)((VM)x & splat<VM>((MaskLane)(~0ull >> (65 - 8 * sizeof(F))))); }
template <> FLEX_MEMBER VF minimum_lanes(VF a, VF b) { return select((a < b) | (a != a), a, b); }
template <> FLEX_MEMBER VF maximum_lanes(VF a, VF b) { return select((a > b) | (a != a), a, b); }
#define FLEX_EACH_VECTOR(V) \
  FLEX_INLINE V m_abs(V x) { return abs_lanes<V>(x); } \
  FLEX_INLINE V m_sign(V x) { return sign_lanes<V>(x); } \
  FLEX_INLINE V m_minimum(V a, V b) { return minimum_lanes<V>(a, b); } \
  FLEX_INLINE V m_maximum(V a, V b) { return maximum_lanes<V>(a, b); }
FLEX_EACH_VECTOR(VF)
FLEX_EACH_VECTOR(VI)
FLEX_EACH_VECTOR(VL)
#undef FLEX_EACH_VECTOR

FLEX_INLINE VM m_isnan(VF x) { return to_mask(x != x); }
FLEX_INLINE VM m_isinf(VF x) { return to_mask(m_abs(x) == splat<VF>(INF)); }
FLEX_INLINE bool m_isnan(F x) { return x != x; }
FLEX_INLINE bool m_isinf(F x) { return m_abs(x) == INF; }

FLEX_INLINE float m_sqrt(float x) { return __builtin_sqrtf(x); }
FLEX_INLINE double m_sqrt(double x) { return __builtin_sqrt(x); }
FLEX_INLINE VF m_sqrt(VF x) {
#if FLEX_ISA >= 1
  VF r;
  if constexpr (sizeof(F) == 4) asm("vsqrtps %1, %0" : "=v"(r) : "v"(x));
  else asm("vsqrtpd %1, %0" : "=v"(r) : "v"(x));
  return r;
#else
  for (int l = 0; l < W; l++) x[l] = m_sqrt(F(x[l]));
  return x;
#endif
}
template <class X> FLEX_INLINE X m_rsqrt(X x) { return 1 / m_sqrt(x); }
#endif
