// exp, exp2 and the softmax weight. Provides: m_exp m_exp2
#ifndef FLEX_MATH_EXP_H
#define FLEX_MATH_EXP_H
#include "simd.h"

// e^r for |r| <= ln2 / 2: the Taylor series, as long as F can see it.
FLEX_INLINE VF exp_series(VF r) {
  constexpr int DEGREE = sizeof(F) == 8 ? 13 : 7;
  constexpr double INVERSE_FACTORIAL[] = {1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320,
      1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
  VF y = splat<VF>(F(INVERSE_FACTORIAL[DEGREE]));
  for (int i = DEGREE - 1; i >= 0; i--) y = y * r + F(INVERSE_FACTORIAL[i]);
  return y;
}

// Nearest integer, for |x| < 2^22 (float) or 2^51 (double).
FLEX_INLINE VF near_integer(VF x) {
  VF magic = splat<VF>(sizeof(F) == 8 ? F(0x1.8p52) : F(0x1.8p23));
#if defined(__clang__)
#pragma clang fp reassociate(off)
#endif
  return (x + magic) - magic;
}

// y * 2^n for integer n of up to twice the exponent range: subnormals and overflow come out right.
FLEX_INLINE VF scale_by_power(VF y, VF n) {
#if FLEX_ISA >= 2
  VF r;
  if constexpr (sizeof(F) == 4) asm("vscalefps %2, %1, %0" : "=v"(r) : "v"(y), "v"(n));
  else asm("vscalefpd %2, %1, %0" : "=v"(r) : "v"(y), "v"(n));
  return r;
#else
  constexpr int BIAS = sizeof(F) == 8 ? 1023 : 127, SHIFT = sizeof(F) == 8 ? 52 : 23;
  VM whole = convert<VM>(n), half = whole >> 1, rest = whole - half;
  return y * (VF)((half + BIAS) << SHIFT) * (VF)((rest + BIAS) << SHIFT);
#endif
}

FLEX_INLINE VF clamp_exponent(VF x, F low, F high) {  // NaN passes
  x = max_lanes(splat<VF>(low), x);
  return select(x > high, splat<VF>(high), x);
}

FLEX_INLINE VF m_exp2(VF x) {
  x = sizeof(F) == 8 ? clamp_exponent(x, -1080, 1030) : clamp_exponent(x, -152, 130);
  VF n = near_integer(x);
  return scale_by_power(exp_series((x - n) * LN2), n);
}

FLEX_INLINE VF m_exp(VF x) {
  x = sizeof(F) == 8 ? clamp_exponent(x, -750, 712) : clamp_exponent(x, -105, 90);
  constexpr F HIGH = sizeof(F) == 8 ? F(0x1.62e42fee00000p-1) : F(0x1.62e4p-1f);  // few bits: n * HIGH is exact
  constexpr F LOW = F(0.693147180559945309417232121458176568L - (long double)HIGH);
  VF n = near_integer(x * LOG2E);
  return scale_by_power(exp_series(x - n * HIGH - n * LOW), n);
}
FLEX_INLINE float m_exp(float x) { return __builtin_expf(x); }
FLEX_INLINE double m_exp(double x) { return __builtin_exp(x); }
FLEX_INLINE float m_exp2(float x) { return __builtin_exp2f(x); }
FLEX_INLINE double m_exp2(double x) { return __builtin_exp2(x); }

// 2^x for a softmax weight, x <= 0 up to rounding: -inf gives 0, NaN stays. A relative error of
// 8e-8 (3e-6 where weights are rounded to bf16) in half the instructions of m_exp2; polynomials
// of least maximal relative error on [0, 1) among those with 2^0 = 1: sums are multiplied by that
// once a tile of keys.
FLEX_INLINE VF exp2_weight(VF x) {
#if FLEX_ISA >= 2 && FLEX_INPUT != 3
  VF fraction;
  asm("vreduceps $9, %1, %0" : "=v"(fraction) : "v"(x));  // x - floor(x)
  VF y;
#if FLEX_PAIRS
  y = fraction * 0.01342668436f + 0.05224247403f;
  y = y * fraction + 0.2412802049f;
  y = y * fraction + 0.6930448449f;
#else
  y = fraction * 0.00186713007f + 0.009017030322f;
  y = y * fraction + 0.0557999131f;
  y = y * fraction + 0.2401644502f;
  y = y * fraction + 0.6931513118f;
#endif
  y = y * fraction + 1;
  // vscalefps floors x itself. What would be subnormal is 0: each multiply-add of one may cost a
  // hundred. ($5: not less than; NaN stays)
  unsigned short normal;
  asm("vcmpps $5, %2, %1, %0" : "=Yk"(normal) : "v"(x), "v"(splat<VF>(-126)));
  VF weight;
  asm("vscalefps %2, %1, %0%{%3%}%{z%}" : "=v"(weight) : "v"(y), "v"(x), "Yk"(normal));
  return weight;
#else
  constexpr F SMALLEST = sizeof(F) == 8 ? -1022 : -126;
  VF safe = max_lanes(splat<VF>(SMALLEST), x), n = near_integer(safe);
  return select(to_mask(x < SMALLEST), VF{}, scale_by_power(exp_series((safe - n) * LN2), n));
#endif
}
// Scores stay natural up to their difference from the maximum: only that can be brought to base 2
// without rounding a large score once more, or overflowing a lowest one.
FLEX_INLINE VF weight(VF difference) { return exp2_weight(difference * LOG2E); }
#endif
