// What generated functions call: whole numbers as Python has them, float functions that JavaScript
// lacks, and elements of captured tensors. Whole numbers are doubles, exact below 2^53; where a
// product or a shift may go beyond, it is taken in 64 bits and wraps around there, as in the kernels.
"use strict";

const flexRuntime = (() => {
  const wrap = (value) => Number(BigInt.asIntN(64, value));
  const small = (a) => (a | 0) === a;
  const both = (a, b, narrow, wide) =>
    small(a) && small(b) ? narrow(a, b) : wrap(wide(BigInt(a), BigInt(b)));

  function mod(a, b) {
    if (b === 0) return 0; // the kernels report it; no value is promised
    const rest = a % b;
    return rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest + 0;
  }

  function floatMod(a, b) {
    const rest = a % b;
    return rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest;
  }

  // As torch: the quotient less the remainder, which is exact, then rounded to a whole number.
  function floatFloorDiv(a, b) {
    if (b === 0) return a / b;
    const rest = a % b;
    let quotient = (a - rest) / b;
    if (rest !== 0 && b < 0 !== rest < 0) quotient -= 1;
    if (quotient === 0) return a / b < 0 ? -0 : 0;
    const floor = Math.floor(quotient);
    return quotient - floor > 0.5 ? floor + 1 : floor;
  }

  function ipow(base, exponent) {
    let out = 1n, square = BigInt(base);
    for (; exponent > 0; exponent = Math.floor(exponent / 2)) {
      if (exponent % 2 === 1) out = BigInt.asIntN(64, out * square);
      square = BigInt.asIntN(64, square * square);
    }
    return Number(out);
  }

  // As C has it: 1 to any power is 1, and so is -1 to an infinite one.
  function pow(base, exponent) {
    if (base === 1 || (base === -1 && Math.abs(exponent) === Infinity)) return 1;
    return Math.pow(base, exponent);
  }

  function round(x) {
    const floor = Math.floor(x), part = x - floor; // a NaN for an infinity
    if (part < 0.5) return floor;
    if (part > 0.5) return floor + 1;
    return floor % 2 === 0 ? floor : floor + 1;
  }

  // Series near 0, continued fraction beyond (Abramowitz and Stegun 7.1.6 and 7.1.14).
  function erfc(x) {
    if (x !== x) return x;
    if (x < 0) return 2 - erfc(-x);
    if (x > 27) return 0;
    if (x < 2) {
      let term = x, sum = x;
      for (let n = 1; n < 60; n++) {
        term *= (2 * x * x) / (2 * n + 1);
        sum += term;
      }
      return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
    }
    let tail = 0;
    for (let n = 60; n > 0; n--) tail = n / 2 / (x + tail);
    return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + tail);
  }

  function erf(x) {
    if (Math.abs(x) >= 0.5) return 1 - erfc(x);
    let term = x, sum = x;
    for (let n = 1; n < 30; n++) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }

  // Element of a capture {shape, data}; negative indices count from the end. Beyond the ends the
  // first element: only where the result is not used, else the kernels report it.
  function load(capture, ...indices) {
    let at = 0;
    for (let d = 0; d < indices.length; d++) {
      const size = capture.shape[d];
      const index = indices[d] < 0 ? indices[d] + size : indices[d];
      if (!(index >= 0 && index < size)) return capture.data[0];
      at = at * size + index;
    }
    return capture.data[at];
  }

  return {
    load, mod, floatMod, floatFloorDiv, ipow, pow, round, erf, erfc,
    mul: (a, b) => (Number.isSafeInteger(a * b) ? a * b + 0 : wrap(BigInt(a) * BigInt(b))),
    floorDiv: (a, b) => (b === 0 ? 0 : (a - mod(a, b)) / b + 0),
    truncDiv: (a, b) => (b === 0 ? 0 : (a - (a % b)) / b + 0),
    rest: (a, b) => (b === 0 ? 0 : (a % b) + 0),
    and: (a, b) => both(a, b, (x, y) => x & y, (x, y) => x & y),
    or: (a, b) => both(a, b, (x, y) => x | y, (x, y) => x | y),
    xor: (a, b) => both(a, b, (x, y) => x ^ y, (x, y) => x ^ y),
    not: (a) => -1 - a,
    shl: (a, b) => (b >= 0 && b < 64 ? wrap(BigInt(a) << BigInt(b)) : 0),
    shr: (a, b) => (b >= 0 && b < 64 ? Math.floor(a / 2 ** b) : a < 0 ? -1 : 0),
    toInt: (x) => (Math.abs(x) < 2 ** 63 ? Math.trunc(x) + 0 : -(2 ** 63)), // as processors do
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
    sign: (x) => (x > 0 ? 1 : x < 0 ? -1 : 0),
    same: (x) => x,
  };
})();
