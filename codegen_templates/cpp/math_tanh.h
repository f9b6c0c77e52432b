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
// |x| < 0.625: x + x^3 P(x^2), Cephes' tanhf; beyond: 1 - 2 / (e^2|x| + 1) with the sign of x.
FLEX_INLINE VF m_tanh(VF x) {
  VF magnitude = m_abs(x), square = x * x;
  VF y = square * -5.70498872745e-3f + 2.06390887954e-2f;
  y = y * square + -5.37397155531e-2f;
  y = y * square + 1.33314422036e-1f;
  y = y * square + -3.33332819422e-1f;
  VF small = y * square * x + x;
  VF large = 1 - 2 / (m_exp(magnitude + magnitude) + 1);
  VM sign = (VM)x & splat<VM>(int(0x80000000));
  return select(to_mask(magnitude < 0.625f), small, (VF)((VM)large | sign));
}
#endif

template <class X> FLEX_INLINE X m_sigmoid(X x) { return 1 / (1 + m_exp(-x)); }
#endif
