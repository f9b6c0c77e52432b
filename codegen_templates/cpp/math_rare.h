// Functions seldom met in an attention mod, lane by lane through libm. Provides: m_expm1 m_log10
// m_log1p m_erf m_erfc m_sin m_cos m_tan m_asin m_acos m_atan m_atan2 m_sinh m_cosh m_asinh
// m_acosh m_atanh m_pow
#ifndef FLEX_MATH_RARE_H
#define FLEX_MATH_RARE_H
#include "math_int.h"

// Not inlined: sixteen calls a use would bloat a kernel.
#define FLEX_RARE(name) \
  FLEX_INLINE float m_##name(float x) { return __builtin_##name##f(x); } \
  FLEX_INLINE double m_##name(double x) { return __builtin_##name(x); } \
  static __attribute__((noinline, unused)) VF m_##name(VF x) { \
    for (int l = 0; l < W; l++) x[l] = m_##name(F(x[l])); \
    return x; \
  }
FLEX_RARE(expm1)
FLEX_RARE(log10)
FLEX_RARE(log1p)
FLEX_RARE(erf)
FLEX_RARE(erfc)
FLEX_RARE(sin)
FLEX_RARE(cos)
FLEX_RARE(tan)
FLEX_RARE(asin)
FLEX_RARE(acos)
FLEX_RARE(atan)
FLEX_RARE(sinh)
FLEX_RARE(cosh)
FLEX_RARE(asinh)
FLEX_RARE(acosh)
FLEX_RARE(atanh)
#undef FLEX_RARE

#define FLEX_RARE2(name) \
  FLEX_INLINE float m_##name(float x, float y) { return __builtin_##name##f(x, y); } \
  FLEX_INLINE double m_##name(double x, double y) { return __builtin_##name(x, y); } \
  static __attribute__((noinline, unused)) VF m_##name(VF x, VF y) { \
    for (int l = 0; l < W; l++) x[l] = m_##name(F(x[l]), F(y[l])); \
    return x; \
  }
FLEX_RARE2(atan2)
FLEX_RARE2(pow)
#undef FLEX_RARE2

FLEX_INLINE int m_pow(int x, int exponent) { return int_power(u32(x), exponent); }
FLEX_INLINE i64 m_pow(i64 x, i64 exponent) { return i64(int_power((unsigned long long)x, exponent)); }
FLEX_INLINE VI m_pow(VI x, i64 exponent) { return int_power(x, exponent); }
FLEX_INLINE VL m_pow(VL x, i64 exponent) { return int_power(x, exponent); }
#endif
