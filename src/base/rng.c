/* xoshiro256** and its helpers; see rng.h. */
#include "base/rng.h"

#include <math.h>

static uint64_t splitmix64(uint64_t *state) {
  uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

void qb_rng_seed(qb_rng *rng, uint64_t seed, uint64_t stream) {
  uint64_t mixer = seed;
  mixer = splitmix64(&mixer) ^ (stream * UINT64_C(0xd1342543de82ef95));
  for (int i = 0; i < 4; i++)
    rng->state[i] = splitmix64(&mixer);
}

static uint64_t rotate_left(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

uint64_t qb_rng_u64(qb_rng *rng) {
  uint64_t *s = rng->state;
  uint64_t result = rotate_left(s[1] * 5, 7) * 9;
  uint64_t t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotate_left(s[3], 45);
  return result;
}

uint64_t qb_rng_below(qb_rng *rng, uint64_t n) {
  uint64_t limit = UINT64_MAX - UINT64_MAX % n; /* a multiple of n: values at or above it would be biased */
  uint64_t value;
  do
    value = qb_rng_u64(rng);
  while (value >= limit);
  return value % n;
}

double qb_rng_double(qb_rng *rng) { return (double)(qb_rng_u64(rng) >> 11) * 0x1p-53; }

double qb_rng_range(qb_rng *rng, double lo, double hi) { return lo + (hi - lo) * qb_rng_double(rng); }

double qb_rng_normal(qb_rng *rng) {
  double u, v, s;
  do {
    u = qb_rng_range(rng, -1, 1);
    v = qb_rng_range(rng, -1, 1);
    s = u * u + v * v;
  } while (s >= 1 || s == 0);
  return u * sqrt(-2 * log(s) / s);
}
