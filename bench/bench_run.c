/* The executor's speed on one model.
 * Usage: bench_run MODEL.onnx[.gz] BATCH THREADS SECONDS; prints three numbers: images per second by the median and by
 * the fastest call of a run of at least SECONDS after warming up, and the GMAC of one image. Inputs are seeded random
 * numbers. BatchNorm is folded first, as every command of qbound does. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "run/run.h"

enum { CALLS_MAX = 100000, WARM_UP = 3 };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void stop_on(qb_status status, const qb_error *error) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "bench_run: %s\n", error->message);
  exit(1);
}

static int compare_doubles(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

/* Seconds per call. */
static void time_calls(qb_run *run, const float *input, int32_t batch, double seconds, double *median, double *best) {
  qb_error error;
  double *times = qb_alloc(CALLS_MAX, sizeof *times);
  int count = 0;
  for (int i = 0; i < WARM_UP; i++)
    stop_on(qb_run_forward(run, input, batch, &error), &error);
  for (double start = now(); now() - start < seconds && count < CALLS_MAX; count++) {
    double begin = now();
    stop_on(qb_run_forward(run, input, batch, &error), &error);
    times[count] = now() - begin;
  }
  qsort(times, (size_t)count, sizeof *times, compare_doubles);
  *median = times[count / 2];
  *best = times[0];
  qb_free(times);
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: bench_run MODEL BATCH THREADS SECONDS\n");
    return 2;
  }
  qb_error error;
  qb_onnx *document;
  qb_graph graph;
  qb_fold_bn_info folded;
  qb_run *run;
  qb_run_settings settings;
  stop_on(qb_onnx_read(argv[1], &document, &error), &error);
  stop_on(qb_onnx_to_graph(document, &graph, &error), &error);
  stop_on(qb_fold_bn(&graph, &folded, &error), &error);
  qb_run_settings_default(&settings);
  settings.batch = atoi(argv[2]);
  settings.threads = atoi(argv[3]);
  stop_on(qb_run_create(&graph, &settings, &run, &error), &error);

  size_t count = qb_shape_elements(&graph.values[graph.inputs[0]].shape) * (size_t)settings.batch;
  float *input = qb_alloc(count, sizeof *input);
  qb_rng rng;
  qb_rng_seed(&rng, 1, 0);
  for (size_t i = 0; i < count; i++)
    input[i] = (float)qb_rng_range(&rng, -2.0, 2.0);
  int64_t macs = 0;
  for (int32_t n = 0; n < graph.node_count; n++)
    macs += qb_graph_node_macs(&graph, n);
  double median, best;
  time_calls(run, input, settings.batch, atof(argv[4]), &median, &best);
  printf("%.3f %.3f %.6f\n", settings.batch / median, settings.batch / best, (double)macs * 1e-9);

  qb_free(input);
  qb_run_free(run);
  qb_graph_free(&graph);
  qb_onnx_free(document);
  return 0;
}
