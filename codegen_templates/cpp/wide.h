// VL for float kernels: W int64 lanes as two registers' halves, because compilers take vectors
// wider than a register apart lane by lane.
#ifndef FLEX_WIDE_H
#define FLEX_WIDE_H

typedef i64 HalfL __attribute__((vector_size(4 * W)));
typedef int HalfI __attribute__((vector_size(2 * W)));
typedef float HalfF __attribute__((vector_size(2 * W)));

#if FLEX_ISA == 0
#define FLEX_LOW 0, 1
#define FLEX_HIGH 2, 3
#elif FLEX_ISA == 1
#define FLEX_LOW 0, 1, 2, 3
#define FLEX_HIGH 4, 5, 6, 7
#else
#define FLEX_LOW 0, 1, 2, 3, 4, 5, 6, 7
#define FLEX_HIGH 8, 9, 10, 11, 12, 13, 14, 15
#endif

// Comparisons give lanes 0 / -1.
struct VL {
  HalfL lo, hi;
  VL() = default;
  FLEX_MEMBER VL(i64 x) : lo(x - HalfL{}), hi(x - HalfL{}) {}
  FLEX_MEMBER VL(HalfL low, HalfL high) : lo(low), hi(high) {}
  FLEX_MEMBER i64 operator[](int l) const { return l < W / 2 ? lo[l] : hi[l - W / 2]; }
#define FLEX_BINARY(op) \
  friend FLEX_MEMBER VL operator op(VL a, VL b) { return VL(a.lo op b.lo, a.hi op b.hi); } \
  FLEX_MEMBER VL& operator op##=(VL b) { return *this = *this op b; }
#define FLEX_COMPARE(op) \
  friend FLEX_MEMBER VL operator op(VL a, VL b) { \
    return VL(__builtin_convertvector(a.lo op b.lo, HalfL), __builtin_convertvector(a.hi op b.hi, HalfL)); \
  }
  FLEX_BINARY(+) FLEX_BINARY(-) FLEX_BINARY(*) FLEX_BINARY(&) FLEX_BINARY(|) FLEX_BINARY(^)
  FLEX_BINARY(<<) FLEX_BINARY(>>)
  FLEX_COMPARE(<) FLEX_COMPARE(<=) FLEX_COMPARE(>) FLEX_COMPARE(>=) FLEX_COMPARE(==) FLEX_COMPARE(!=)
#undef FLEX_BINARY
#undef FLEX_COMPARE
  friend FLEX_MEMBER VL operator-(VL a) { return VL(-a.lo, -a.hi); }
  friend FLEX_MEMBER VL operator~(VL a) { return VL(~a.lo, ~a.hi); }
};

// One narrow vector from two halves, and its halves.
template <class V, class Half> FLEX_INLINE V join(Half lo, Half hi) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(lo, hi, FLEX_LOW, FLEX_HIGH);
#else
  V v;
  __builtin_memcpy(&v, &lo, sizeof lo);
  __builtin_memcpy((char*)&v + sizeof lo, &hi, sizeof hi);
  return v;
#endif
}
template <class Half, class V> FLEX_INLINE Half low_half(V v) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(v, v, FLEX_LOW);
#else
  Half h;
  __builtin_memcpy(&h, &v, sizeof h);
  return h;
#endif
}
template <class Half, class V> FLEX_INLINE Half high_half(V v) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(v, v, FLEX_HIGH);
#else
  Half h;
  __builtin_memcpy(&h, (char*)&v + sizeof h, sizeof h);
  return h;
#endif
}

template <class To, class X> struct Convert {
  static FLEX_MEMBER To from(X x) { return __builtin_convertvector(x, To); }
};
template <> struct Convert<VL, VL> {
  static FLEX_MEMBER VL from(VL x) { return x; }
};
template <> struct Convert<VI, VL> {
  static FLEX_MEMBER VI from(VL x) {
    return join<VI>(__builtin_convertvector(x.lo, HalfI), __builtin_convertvector(x.hi, HalfI));
  }
};
template <> struct Convert<VF, VL> {
  static FLEX_MEMBER VF from(VL x) {
    return join<VF>(__builtin_convertvector(x.lo, HalfF), __builtin_convertvector(x.hi, HalfF));
  }
};
template <class X, class HalfX> FLEX_INLINE VL widen_halves(X x) {
  return VL(__builtin_convertvector(low_half<HalfX>(x), HalfL), __builtin_convertvector(high_half<HalfX>(x), HalfL));
}
template <> struct Convert<VL, VI> {
  static FLEX_MEMBER VL from(VI x) { return widen_halves<VI, HalfI>(x); }
};
template <> struct Convert<VL, VF> {
  static FLEX_MEMBER VL from(VF x) { return widen_halves<VF, HalfF>(x); }
};

FLEX_INLINE VL select(VL mask, VL yes, VL no) {
  return VL(mask.lo ? yes.lo : no.lo, mask.hi ? yes.hi : no.hi);
}
FLEX_INLINE VL select(VI mask, VL yes, VL no) { return select(Convert<VL, VI>::from(mask), yes, no); }
#endif
