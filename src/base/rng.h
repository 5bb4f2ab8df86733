/* A seeded random generator (xoshiro256**, seeded through splitmix64; Blackman and Vigna 2018): the same seed gives
 * the same numbers on every machine. `stream` separates independent sequences of one seed, such as one per layer. */
#ifndef QB_BASE_RNG_H
#define QB_BASE_RNG_H

#include <stdint.h>

typedef struct qb_rng {
  uint64_t state[4];
} qb_rng;

void qb_rng_seed(qb_rng *rng, uint64_t seed, uint64_t stream);
uint64_t qb_rng_u64(qb_rng *rng);

/* Uniform in {0, .., n - 1}, without modulo bias; n > 0. */
uint64_t qb_rng_below(qb_rng *rng, uint64_t n);

/* Uniform in [0, 1), a multiple of 2^-53. */
double qb_rng_double(qb_rng *rng);

/* Uniform in [lo, hi). */
double qb_rng_range(qb_rng *rng, double lo, double hi);

/* Standard normal (polar Box-Muller, one value per call). */
double qb_rng_normal(qb_rng *rng);

#endif
