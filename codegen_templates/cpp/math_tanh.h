// Saturating functions. Provides: m_tanh m_sigmoid
#ifndef FLEX_MATH_TANH_H
#define FLEX_MATH_TANH_H
#include "math_exp.h"
#include "math_round.h"

FLEX_INLINE float m_tanh(float x) { return __builtin_tanhf(x); }
FLEX_INLINE double m_tanh(double x) { return __builtin_tanh(x); }

#if FLEX_INPUT == 3
FLEX_INLINE VF m_tanh(VF x) {
  for (int l = 0; l < W; l++) x[l] = __builtin_tanh(x[l]);
  return x;
}
#else
// e / (e + 2) with e = e^2x - 1 = 2^n (2^r - 1) + (2^n - 1), 2x = (n + r) ln 2: small x keep their
// relative accuracy without a branch. 2^r - 1 by a polynomial of least maximal relative error
// (1e-8) on |r| <= 1/2.
FLEX_INLINE VF m_tanh(VF x) {
  VF t = x * (2 * LOG2E);
  t = select(to_mask(t > 30), splat<VF>(30.f), t);  // tanh is 1 there; NaN passes
#if FLEX_ISA >= 2
  VF r;
  asm("vreduceps $8, %1, %0" : "=v"(r) : "v"(t));  // t - nearest integer; 0 for -inf
  VF n = t - r;
#else
  t = max_lanes(splat<VF>(-40.f), t);
  VF n = near_integer(t), r = t - n;
#endif
  VF y = r * 1.540351275e-4f + 1.339073548e-3f;
  y = y * r + 9.618237494e-3f;
  y = y * r + 5.550357434e-2f;
  y = y * r + 2.402264979e-1f;
  y = y * r + 6.931471879e-1f;
  VF power = scale_by_power(splat<VF>(1.f), n), e = y * r * power + (power - 1), d = e + 2;
#if FLEX_ISA >= 2
  VF inverse;  // to 2^-14, then Newton's step, then what the quotient still lacks; 1 <= d < 2^31
  asm("vrcp14ps %1, %0" : "=v"(inverse) : "v"(d));
  inverse = inverse * (2 - d * inverse);
  VF quotient = e * inverse;
  return quotient + (e - quotient * d) * inverse;
#else
  return e / d;
#endif
}
#endif

template <class X> FLEX_INLINE X m_sigmoid(X x) { return 1 / (1 + m_exp(-x)); }
#endif
