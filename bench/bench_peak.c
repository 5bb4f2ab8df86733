/* The machine's float32 peak: independent fused multiply-adds in registers, all threads at once.
 * Usage: bench_peak THREADS; prints GFLOP/s of all threads together (a multiply-add counts two). */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LANES = 16, CHAINS = 20, STEPS = 2000000, ROUNDS = 7 };

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* More chains than latency times units; the result is used so that nothing is dropped. */
static float run_chains(float seed) {
  lanes sums[CHAINS], factor, term;
  for (int i = 0; i < LANES; i++) {
    factor[i] = 0.999f + seed;
    term[i] = 0.001f;
  }
  for (int c = 0; c < CHAINS; c++)
    for (int i = 0; i < LANES; i++)
      sums[c][i] = (float)(c + i);
  for (int64_t step = 0; step < STEPS; step++)
#pragma GCC unroll 20
    for (int c = 0; c < CHAINS; c++)
      sums[c] = sums[c] * factor + term;
  float total = 0.0f;
  for (int c = 0; c < CHAINS; c++)
    for (int i = 0; i < LANES; i++)
      total += sums[c][i];
  return total;
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : omp_get_num_procs();
  double best = 0.0;
  volatile float keep = 0.0f;
  for (int round = 0; round < ROUNDS; round++) {
    float total = 0.0f;
    double start = now();
#pragma omp parallel num_threads(threads) reduction(+ : total)
    total += run_chains(0.0f);
    double seconds = now() - start;
    keep = keep + total;
    double rate = 2.0 * LANES * CHAINS * (double)STEPS * threads / seconds * 1e-9;
    best = rate > best ? rate : best;
  }
  printf("%.1f\n", best);
  return 0;
}
