// Vector types, lane masks and widening loads over GCC/Clang vector extensions, no system header.
//
// FLEX_INPUT  storage type T of q, k, v: 0 float32, 1 bfloat16, 2 float16, 3 float64
// FLEX_ISA    0 portable 16-byte vectors, 1 AVX2+FMA+F16C, 2 AVX512 F/BW/DQ/VL, 3 and AVX512_BF16,
//             4 and AMX_TILE, AMX_BF16
//
// F is the compute type and W its lanes; VF, VI, VL hold W of F, int, i64. VM is a lane mask of
// 0 / -1 as wide as VF. Arithmetic and comparison are the plain operators; a comparison goes
// through to_mask.
#ifndef FLEX_SIMD_H
#define FLEX_SIMD_H
#ifndef FLEX_INPUT
#define FLEX_INPUT 0
#endif
#ifndef FLEX_ISA
#define FLEX_ISA 0
#endif
#define FLEX_PAIRS (FLEX_INPUT == 1 && FLEX_ISA >= 3)  // products of bf16 pairs by vdpbf16ps
#define FLEX_TILES (FLEX_INPUT == 1 && FLEX_ISA >= 4)  // and of whole tiles of them by tdpbf16ps
// A kernel may be compiled as a whole, or as two parts at once, for speed: 1 the products and packing,
// which know nothing of the mods, 2 all the rest.
#if FLEX_PART
#define FLEX_KIT __attribute__((visibility("hidden")))
#else
#define FLEX_KIT static
#endif
#define FLEX_MEMBER inline __attribute__((always_inline))
#define FLEX_INLINE static FLEX_MEMBER

typedef long long i64;
typedef unsigned int u32;
typedef unsigned short u16;
struct bf16_t { u16 bits; };
struct f16_t { u16 bits; };

#if FLEX_INPUT == 3
typedef double F;
typedef double T;
typedef i64 MaskLane;
#else
typedef float F;
typedef int MaskLane;
#if FLEX_INPUT == 0
typedef float T;
#elif FLEX_INPUT == 1
typedef bf16_t T;
#else
typedef f16_t T;
#endif
#endif

constexpr int VECTOR_BYTES = FLEX_ISA == 0 ? 16 : FLEX_ISA == 1 ? 32 : 64;
constexpr int W = VECTOR_BYTES / sizeof(F);
constexpr int BM = FLEX_TILES ? 128 : 64;  // queries of a tile, at most
constexpr int BN = 128;  // keys of a tile, at most
#define FLEX_LANES(Type) Type __attribute__((vector_size(sizeof(Type) * W)))
typedef FLEX_LANES(F) VF;
typedef FLEX_LANES(int) VI;
typedef FLEX_LANES(MaskLane) VM;
typedef FLEX_LANES(u16) VH;
typedef FLEX_LANES(u32) VU;

constexpr F INF = __builtin_inff();
constexpr F LOG2E = F(1.44269504088896340735992468100189214L);
constexpr F LN2 = F(0.693147180559945309417232121458176568L);

#if FLEX_INPUT == 3
typedef FLEX_LANES(i64) VL;
template <class To, class X> struct Convert {
  static FLEX_MEMBER To from(X x) { return __builtin_convertvector(x, To); }
};
template <int Bytes> struct IntLanes { typedef VI type; };
template <> struct IntLanes<8> { typedef VL type; };
#else
#include "wide.h"
template <int Bytes> struct IntLanes { typedef VI type; };
#endif

// x - 0 keeps the sign of a negative zero, x + 0 would not.
template <class V, class X> FLEX_INLINE V splat(X x) { return decltype(V{}[0] + 0)(x) - V{}; }

template <class V> FLEX_INLINE V lane_index() {
  VI v = {};
  for (int l = 0; l < W; l++) v[l] = l;
  return Convert<V, VI>::from(v);
}

template <class V, class X> FLEX_INLINE V load_lanes(const X* p) {
  static_assert(sizeof(V) == sizeof(X) * W, "one element a lane");
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class X> FLEX_INLINE void store_lanes(X* p, V v) {
  static_assert(sizeof(V) == sizeof(X) * W, "one element a lane");
  __builtin_memcpy(p, &v, sizeof v);
}

template <class V> FLEX_INLINE V reverse_lanes(V v) {
  V r;
  for (int l = 0; l < W; l++) r[l] = v[W - 1 - l];
  return r;
}

// Towards zero from float to int; lane masks keep 0 / -1.
template <class V, class X> FLEX_INLINE V convert(X x) { return Convert<V, X>::from(x); }
template <class X> FLEX_INLINE VM to_mask(X comparison) { return Convert<VM, X>::from(comparison); }

template <class M, class V> FLEX_INLINE V select(M mask, V yes, V no) {
  return __builtin_convertvector(mask, typename IntLanes<sizeof(yes[0])>::type) ? yes : no;
}

// One bit a lane, lane 0 lowest.
FLEX_INLINE u32 lane_bits(VM mask) {
  u32 bits = 0;
#if FLEX_ISA >= 2
  unsigned short k;
  if constexpr (sizeof(F) == 4) asm("vpmovd2m %1, %0" : "=k"(k) : "v"(mask));
  else asm("vpmovq2m %1, %0" : "=k"(k) : "v"(mask));
  bits = k & ((1u << W) - 1);
#elif FLEX_ISA == 1
  if constexpr (sizeof(F) == 4) asm("vmovmskps %1, %0" : "=r"(bits) : "x"(mask));
  else asm("vmovmskpd %1, %0" : "=r"(bits) : "x"(mask));
#else
  for (int l = 0; l < W; l++) bits |= u32(mask[l] != 0) << l;
#endif
  return bits;
}
FLEX_INLINE bool any(VM mask) { return lane_bits(mask) != 0; }
FLEX_INLINE bool all(VM mask) { return lane_bits(mask) == (1u << W) - 1; }
FLEX_INLINE VM first_lanes(i64 n) { return to_mask(lane_index<VM>() < splat<VM>(n)); }

// x itself, but with its last product rounded before a sum takes it: no multiply-add across this.
FLEX_INLINE VF rounded(VF x) {
#if FLEX_ISA >= 1
  asm("" : "+v"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#elif !defined(__x86_64__)  // which has no multiply-add without AVX2
  asm("" : "+m"(x));
#endif
  return x;
}

// The larger, or b where either is NaN.
FLEX_INLINE VF max_lanes(VF a, VF b) {
#if FLEX_ISA >= 1
  VF r;
  if constexpr (sizeof(F) == 4) asm("vmaxps %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  else asm("vmaxpd %2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  return r;
#else
  return select(to_mask(a > b), a, b);
#endif
}

// ---- storage types ----

FLEX_INLINE float bits_to_float(u32 bits) { float f; __builtin_memcpy(&f, &bits, 4); return f; }
FLEX_INLINE u32 float_to_bits(float f) { u32 bits; __builtin_memcpy(&bits, &f, 4); return bits; }

template <class To, class X> FLEX_INLINE To widen(X x) { return To(x); }
template <class To> FLEX_INLINE To widen(bf16_t x) { return To(bits_to_float(u32(x.bits) << 16)); }
template <class To> FLEX_INLINE To widen(f16_t x) {
  u32 magnitude = u32(x.bits & 0x7fff) << 13;
  u32 bits = float_to_bits(bits_to_float(magnitude) * 0x1p112f);  // also right for subnormals
  if (magnitude >= 0x0f800000) bits |= 0x7f800000;                 // infinities and NaNs
  return To(bits_to_float(bits | u32(x.bits & 0x8000) << 16));
}

template <class V, class X, class Index> FLEX_INLINE V gather(const X* base, Index index) {
  typedef decltype(V{}[0] + 0) Lane;
#if FLEX_ISA >= 2 && FLEX_INPUT != 3
  if constexpr (sizeof(X) == 4 && sizeof(Index) == sizeof(VI)) {
    unsigned short k = 0xffff;
    FLEX_LANES(X) r;
    asm("vpgatherdd (%2,%3,4), %0%{%1%}" : "=&v"(r), "+Yk"(k) : "r"(base), "v"(index), "m"(*(const X(*)[])base));
    return convert<V>(r);
  }
#endif
  decltype(Index{}[0] + 0) at[W];
  store_lanes(at, index);
  Lane lanes[W];
  for (int l = 0; l < W; l++) lanes[l] = widen<Lane>(base[at[l]]);
  return load_lanes<V>(lanes);
}

// W consecutive elements of T as F.
FLEX_INLINE VF load_wide(const F* p) { return load_lanes<VF>(p); }
#if FLEX_INPUT != 3
FLEX_INLINE VF load_wide(const bf16_t* p) {
  return (VF)(__builtin_convertvector(load_lanes<VH>((const u16*)p), VU) << 16);
}
FLEX_INLINE VF load_wide(const f16_t* p) {
  VF v;
#if FLEX_ISA >= 1
  asm("vcvtph2ps %1, %0" : "=v"(v) : "v"(load_lanes<VH>((const u16*)p)));
#else
  for (int l = 0; l < W; l++) v[l] = widen<F>(p[l]);
#endif
  return v;
}
#endif

// To nearest, ties to even, NaN kept.
FLEX_INLINE void narrow(F x, F* p) { *p = x; }
#if FLEX_INPUT != 3
FLEX_INLINE void narrow(float x, bf16_t* p) {
  u32 bits = float_to_bits(x);
  p->bits = x != x ? u16(bits >> 16 | 0x40) : u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
FLEX_INLINE void narrow(float x, f16_t* p) {
  u32 bits = float_to_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  u32 half;
  if (magnitude > 0x7f800000) half = 0x7e00;
  else if (magnitude >= 0x477ff000) half = 0x7c00;  // 65520 and more round to infinity
  else if (magnitude < 0x38800000)                  // subnormal: the adder rounds at 2^-24
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000;
  else half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  p->bits = u16(half | sign);
}
FLEX_INLINE void store_narrow(bf16_t* p, VF x) {
  VU bits = (VU)x;
  VU rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
  store_lanes((u16*)p, __builtin_convertvector(select(to_mask(x != x), quiet, rounded), VH));
}
FLEX_INLINE void store_narrow(f16_t* p, VF x) {
#if FLEX_ISA >= 1
  VH half;
  asm("vcvtps2ph $0, %1, %0" : "=v"(half) : "v"(x));
  store_lanes((u16*)p, half);
#else
  for (int l = 0; l < W; l++) narrow(x[l], p + l);
#endif
}
#endif
FLEX_INLINE void store_narrow(F* p, VF x) { store_lanes(p, x); }
#endif
