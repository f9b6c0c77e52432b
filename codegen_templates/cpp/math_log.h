// Logarithms. Provides: m_log m_log2
#ifndef FLEX_MATH_LOG_H
#define FLEX_MATH_LOG_H
#include "simd.h"

FLEX_INLINE float m_log(float x) { return __builtin_logf(x); }
FLEX_INLINE double m_log(double x) { return __builtin_log(x); }
FLEX_INLINE float m_log2(float x) { return __builtin_log2f(x); }
FLEX_INLINE double m_log2(double x) { return __builtin_log2(x); }

#if FLEX_INPUT == 3
FLEX_INLINE VF m_log(VF x) {
  for (int l = 0; l < W; l++) x[l] = __builtin_log(x[l]);
  return x;
}
FLEX_INLINE VF m_log2(VF x) {
  for (int l = 0; l < W; l++) x[l] = __builtin_log2(x[l]);
  return x;
}
#else
// x = 2^exponent * (1 + r) with sqrt(1/2) <= 1 + r < sqrt(2); log(1 + r) = r - r^2/2 + tail, by
// Cephes' logf.
struct LogParts {
  VF exponent, r, tail;
  FLEX_MEMBER explicit LogParts(VF x) {
    VM tiny = to_mask(x < 0x1p-126f);  // subnormals first become normal
    x = select(tiny, x * 0x1p23f, x);
    VI bits = (VI)x - 0x3f3504f3;  // bits of sqrt(1/2)
    VI power = bits >> 23;
    r = (VF)((bits & 0x7fffff) + 0x3f3504f3) - 1;
    exponent = convert<VF>(power) - select(tiny, splat<VF>(23.f), VF{});
    VF y = r * 7.0376836292e-2f + -1.1514610310e-1f;
    y = y * r + 1.1676998740e-1f;
    y = y * r + -1.2420140846e-1f;
    y = y * r + 1.4249322787e-1f;
    y = y * r + -1.6668057665e-1f;
    y = y * r + 2.0000714765e-1f;
    y = y * r + -2.4999993993e-1f;
    y = y * r + 3.3333331174e-1f;
    tail = y * r * r * r;
  }
  // Zero, infinity, negative numbers and NaN.
  static FLEX_MEMBER VF finish(VF x, VF y) {
    y = select(to_mask(x == 0), splat<VF>(-INF), y);
    y = select(to_mask(x == INF), x, y);
    return select(to_mask(x >= 0), y, splat<VF>(__builtin_nanf("")));
  }
};
FLEX_INLINE VF m_log(VF x) {
  LogParts p(x);
  VF y = p.tail + p.exponent * -2.12194440e-4f - 0.5f * p.r * p.r;  // ln 2 in two parts
  return LogParts::finish(x, p.r + y + p.exponent * 0.693359375f);
}
FLEX_INLINE VF m_log2(VF x) {
  LogParts p(x);
  VF y = p.tail - 0.5f * p.r * p.r;
  VF low = y * 0.44269504088896341f + p.r * 0.44269504088896341f;  // log2(e) - 1
  return LogParts::finish(x, low + y + p.r + p.exponent);
}
#endif
#endif
