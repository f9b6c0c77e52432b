"""Hand-written mods regions, and the same mods in torch."""

from __future__ import annotations

CAUSAL = """
static VM mask_mod(const Site& s, i64 i, i64 j) {
  return to_mask(s.q_idx<VI>(i) >= splat<VI>(s.kv_idx<int>(j)));
}
"""

# One key in three for even queries, none for odd ones.
HOLES = """
static VM mask_mod(const Site& s, i64 i, i64 j) {
  VI q = s.q_idx<VI>(i);
  return to_mask(((q & 1) == 0) & ((q + s.kv_idx<int>(j)) % 3 == 0));
}
"""

# 20 * tanh(score / 20)
SOFTCAP = """
#include "math_tanh.h"
static VF score_mod(const Site& s, i64 i, i64 j, VF score) { return m_tanh(score * F(0.05)) * 20; }
static VF score_grad(const Site& s, i64 i, i64 j, VF score, VF grad, GradTile& g) {
  VF t = m_tanh(score * F(0.05));
  return grad * (1 - t * t);
}
"""

# score * slope[h] + document bias; int64 document numbers hoisted per query and per key.
DOCUMENT = """
struct Uniform { F slope; };
struct QValues { i64 document[BM]; };
struct KVValues { i64 document[BN]; };
static void hoist_uniform(const Mods& a, i64 b, i64 h, Uniform& u) {
  u.slope = ((const float*)a.captures[1])[h * a.capture_strides[1]];
}
static void hoist_q(
    const Mods& a, const Uniform& u, i64 b, i64 h, i64 q0, i64 n, i64 limit, QValues& qv) {
  for (i64 i = 0; i < BM; i++) {
    i64 q = q0 + i < limit ? q0 + i : limit - 1;
    qv.document[i] = ((const i64*)a.captures[0])[q * a.capture_strides[0]];
  }
}
static void hoist_kv(const Mods& a, const Uniform& u, i64 b, i64 h, i64 kv0, i64 n, KVValues& kvv) {
  const i64* document = (const i64*)a.captures[0];
  for (i64 j = 0; j < n; j++) kvv.document[j] = document[(kv0 + j) * a.capture_strides[0]];
}
static VM mask_mod(const Site& s, i64 i, i64 j) {
  return to_mask(load_lanes<VL>(s.qv.document + i) == splat<VL>(s.kvv.document[j]));
}
static VF score_mod(const Site& s, i64 i, i64 j, VF score) { return score * s.u.slope; }
static VF score_grad(const Site& s, i64 i, i64 j, VF score, VF grad, GradTile& g) {
  return grad * s.u.slope;
}
"""

# score + table[q_idx, kv_idx] with gradients of the table (dense), and of row[kv_idx] (summed
# over queries) and of one number a head.
BIAS = """
static VF score_mod(const Site& s, i64 i, i64 j, VF score) {
  const i64* st = s.a.capture_strides;
  VL at = s.q_idx<VL>(i) * st[0] + splat<VL>(s.kv_idx<i64>(j) * st[1]);
  VF table = gather<VF>((const float*)s.a.captures[0], at);
  F row = ((const float*)s.a.captures[1])[s.kv_idx<i64>(j) * st[2]];
  return score + table + row + ((const float*)s.a.captures[2])[s.h * st[3]];
}
struct GradTile { VF row[BN]; VF head; };
static void grad_begin(GradTile& g, const Site& s) {
  for (VF& r : g.row) r = VF{};
  g.head = VF{};
}
static VF score_grad(const Site& s, i64 i, i64 j, VF score, VF grad, GradTile& g) {
  VF value = select(to_mask(grad != 0), grad, VF{});
  const i64* st = s.a.capture_strides;
  F* table = (F*)s.a.grads[0] + s.group * s.a.grad_group_strides[0];
  VL q = s.q_idx<VL>(i);
  for (int l = 0; l < W; l++) table[q[l] * s.a.capture_sizes[1] + s.kv_idx<i64>(j)] += value[l];
  g.row[j] += value;
  g.head += value;
  return grad;
}
static void grad_flush_kv(GradTile& g, const Site& s, i64 n) {
  double* row = (double*)s.a.grads[1] + s.group * s.a.grad_group_strides[1];
  for (i64 j = 0; j < n; j++) {
    for (int l = 0; l < W; l++) row[s.kv0 + j] += g.row[j][l];
    g.row[j] = VF{};
  }
}
static void grad_flush_q(GradTile& g, const Site& s, i64 n) {
  double* head = (double*)s.a.grads[2] + s.group * s.a.grad_group_strides[2];
  for (int l = 0; l < W; l++) head[s.h] += g.head[l];
}
"""

# Faults at q_idx % 5 == 3 and kv_idx % 7 == 2, in kept pairs only.
FAULTY = (
    CAUSAL
    + """
static VM fault(const Site& s, i64 i, i64 j, VF score) {
  return to_mask((s.q_idx<VI>(i) % 5 == 3) & splat<VI>(-(s.kv_idx<int>(j) % 7 == 2)));
}
"""
)

# log of a negative score: NaN, and a derivative that is infinite where the score is 0.
ROOT = """
#include "math_round.h"
static VF score_mod(const Site& s, i64 i, i64 j, VF score) { return m_sqrt(m_abs(score)); }
static VF score_grad(const Site& s, i64 i, i64 j, VF score, VF grad, GradTile& g) {
  return grad * m_sign(score) / (2 * m_sqrt(m_abs(score)));
}
"""
