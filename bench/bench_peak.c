/* The machine's float32 peak: independent fused multiply-adds in registers, all threads at once.
 * Usage: bench_peak THREADS; prints GFLOP/s of all threads together (a multiply-add counts two). */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STEPS = 2000000, ROUNDS = 60 };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* CHAINS vectors of LANES numbers: more chains than latency times units, and no more than registers, else they spill.
 * The result is used so that nothing is dropped. */
#define DEFINE_CHAINS(NAME, LANES, CHAINS, TARGET)                                                 \
  typedef float NAME##_lanes __attribute__((vector_size(LANES * sizeof(float))));                  \
  TARGET static float NAME(float seed) {                                                           \
    NAME##_lanes sums[CHAINS], factor, term;                                                       \
    for (int i = 0; i < LANES; i++) {                                                              \
      factor[i] = 0.999f + seed;                                                                   \
      term[i] = 0.001f;                                                                            \
    }                                                                                              \
    for (int c = 0; c < CHAINS; c++)                                                               \
      for (int i = 0; i < LANES; i++)                                                              \
        sums[c][i] = (float)(c + i);                                                               \
    for (int64_t step = 0; step < STEPS; step++)                                                   \
      _Pragma("GCC unroll 24") for (int c = 0; c < CHAINS; c++) sums[c] = sums[c] * factor + term; \
    float total = 0.0f;                                                                            \
    for (int c = 0; c < CHAINS; c++)                                                               \
      for (int i = 0; i < LANES; i++)                                                              \
        total += sums[c][i];                                                                       \
    return total;                                                                                  \
  }

#ifdef __x86_64__
DEFINE_CHAINS(run_wide, 16, 20, __attribute__((target("avx512f"))))
DEFINE_CHAINS(run_middle, 8, 12, __attribute__((target("avx2,fma"))))
#endif
DEFINE_CHAINS(run_narrow, 4, 12, )

typedef struct kernel {
  float (*run)(float seed);
  int numbers; /* that one step changes */
} kernel;

static kernel choose_kernel(void) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f"))
    return (kernel){run_wide, 16 * 20};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return (kernel){run_middle, 8 * 12};
#endif
  return (kernel){run_narrow, 4 * 12};
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : omp_get_num_procs();
  kernel chosen = choose_kernel();
  double best = 0.0;
  volatile float keep = 0.0f;
  for (int round = 0; round < ROUNDS; round++) {
    float total = 0.0f;
    double start = now();
#pragma omp parallel num_threads(threads) reduction(+ : total)
    total += chosen.run(0.0f);
    double seconds = now() - start;
    keep = keep + total;
    double rate = 2.0 * chosen.numbers * (double)STEPS * threads / seconds * 1e-9;
    best = rate > best ? rate : best;
  }
  printf("%.1f\n", best);
  return 0;
}
