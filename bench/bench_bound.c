/* What one bit width of `bound` costs beside the least it could cost: reading the file once and adding up the absolute
 * weights.
 *
 *   bench_bound MODEL [ROUNDS [spectral]]
 *
 * Prints, in CPU seconds and in wall seconds, the median over ROUNDS (default 9, alternating) of
 *   read    the file into a document and the sum of |w| over every weight
 *   width   quantizing at 8 bits per tensor, delta, the published bounds and layerwise over [-1, 1]
 * and their ratio. With `spectral` one more line times that bound once. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "bound/bound.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "quant/quant.h"

enum { MOST_ROUNDS = 99 };

static qb_error failure;

static void check(qb_status status) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "bench_bound: %s\n", failure.message);
  exit(1);
}

static double seconds_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double sum_of_weights(const qb_graph *graph) {
  double sum = 0;
  for (qb_value_id v = 0; v < graph->value_count; v++) {
    const qb_value *value = &graph->values[v];
    size_t count = value->is_constant ? qb_view_elements(&value->constant) : 0;
    for (size_t i = 0; i < count; i++)
      sum += fabs((double)((const float *)value->constant.data)[i]);
  }
  return sum;
}

static double read_once(const char *path) {
  qb_onnx *document;
  qb_graph graph;
  check(qb_onnx_read(path, &document, &failure));
  check(qb_onnx_to_graph(document, &graph, &failure));
  double sum = sum_of_weights(&graph);
  qb_graph_free(&graph);
  qb_onnx_free(document);
  return sum;
}

static double bound_once(const qb_graph *original, const qb_bounder *bounder) {
  qb_quantize_settings how;
  qb_graph quantized;
  qb_pair pair;
  qb_bounds bounds;
  qb_quantize_info info = {0};
  qb_quantize_settings_default(&how);
  how.granularity = QB_PER_TENSOR;
  check(qb_graph_clone(original, &quantized, &failure));
  check(qb_quantize_weights(&quantized, &how, NULL, &info, &failure));
  check(qb_pair_match(original, &quantized, &pair, &failure));
  check(qb_bounder_evaluate(bounder, &pair, &bounds, &failure));
  qb_pair_free(&pair);
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  return qb_magnitude_log10(bounds.bound[QB_BOUND_BEST].value);
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, compare);
  return values[count / 2];
}

int main(int argc, char **argv) {
  int rounds = argc > 2 ? atoi(argv[2]) : 9;
  double cpu[2][MOST_ROUNDS], wall[2][MOST_ROUNDS], checksum = 0;
  const qb_bound_conventions conventions = {0};
  qb_onnx *document;
  qb_graph graph;
  qb_fold_bn_info info;
  qb_domain domain;
  qb_bounder *bounder;
  if (argc < 2 || rounds < 1 || rounds > MOST_ROUNDS) {
    fprintf(stderr, "usage: bench_bound MODEL [ROUNDS [spectral]]\n");
    return 2;
  }
  check(qb_onnx_read(argv[1], &document, &failure));
  check(qb_onnx_to_graph(document, &graph, &failure));
  check(qb_fold_bn(&graph, &info, &failure));
  check(qb_domain_interval(&graph, -1, 1, &domain, &failure));
  check(qb_bounder_create(&graph, &domain, &conventions, &bounder, &failure));

  for (int i = 0; i < rounds; i++)
    for (int what = 0; what < 2; what++) {
      double cpu_start = seconds_of(CLOCK_PROCESS_CPUTIME_ID), wall_start = seconds_of(CLOCK_MONOTONIC);
      checksum += what == 0 ? read_once(argv[1]) : bound_once(&graph, bounder);
      cpu[what][i] = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_start;
      wall[what][i] = seconds_of(CLOCK_MONOTONIC) - wall_start;
    }
  double read_cpu = median(cpu[0], rounds), width_cpu = median(cpu[1], rounds);
  double read_wall = median(wall[0], rounds), width_wall = median(wall[1], rounds);
  printf("%s: read and sum %.3f s cpu, %.3f s wall; one width %.3f s cpu, %.3f s wall; ratio %.2f cpu, %.2f wall "
         "(checksum %g)\n",
         argv[1], read_cpu, read_wall, width_cpu, width_wall, width_cpu / read_cpu, width_wall / read_wall, checksum);

  if (argc > 3 && strcmp(argv[3], "spectral") == 0) {
    double start = seconds_of(CLOCK_MONOTONIC);
    qb_bounder_select(bounder, 1u << QB_BOUND_SPECTRAL);
    double spectral = bound_once(&graph, bounder);
    printf("spectral: log10 %.3f in %.1f s wall\n", spectral, seconds_of(CLOCK_MONOTONIC) - start);
  }
  qb_bounder_free(bounder);
  qb_domain_free(&domain);
  qb_graph_free(&graph);
  qb_onnx_free(document);
  return 0;
}
