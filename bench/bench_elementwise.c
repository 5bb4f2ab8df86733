/* What the elementwise bound costs beside one inference.
 * Usage: bench_elementwise MODEL.onnx[.gz] THREADS ROUNDS; the network against itself at 8 bits per tensor, inputs in
 * [-2, 2]. Prints, each the fastest of ROUNDS alternating rounds: milliseconds of processor time of one float inference
 * of one image, of the layerwise ranges, of the elementwise bound that reads them (splitting of the weights included),
 * the last in inferences, alone and with layerwise, and the number of passes through layers. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "bound/elementwise.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "quant/quant.h"
#include "run/run.h"

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void stop_on(qb_status status, const qb_error *error) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "bench_elementwise: %s\n", error->message);
  exit(1);
}

typedef struct bench {
  qb_onnx *document;
  qb_graph original, quantized;
  qb_pair pair;
  qb_domain domain;
  qb_run *run;
  float *input;
} bench;

static void prepare(bench *b, const char *path, int threads) {
  qb_error error;
  qb_fold_bn_info folded;
  qb_quantize_settings quantize;
  qb_quantize_info info = {0};
  qb_run_settings settings;
  stop_on(qb_onnx_read(path, &b->document, &error), &error);
  stop_on(qb_onnx_to_graph(b->document, &b->original, &error), &error);
  stop_on(qb_fold_bn(&b->original, &folded, &error), &error);
  stop_on(qb_graph_clone(&b->original, &b->quantized, &error), &error);
  qb_quantize_settings_default(&quantize);
  quantize.bits = 8;
  stop_on(qb_quantize_weights(&b->quantized, &quantize, NULL, &info, &error), &error);
  qb_quantize_info_free(&info);
  stop_on(qb_pair_match(&b->original, &b->quantized, &b->pair, &error), &error);
  stop_on(qb_domain_interval(&b->original, -2, 2, &b->domain, &error), &error);
  qb_run_settings_default(&settings);
  settings.batch = 1;
  settings.threads = threads;
  stop_on(qb_run_create(&b->original, &settings, &b->run, &error), &error);
  b->input = qb_alloc((size_t)b->domain.count, sizeof *b->input);
  qb_rng rng;
  qb_rng_seed(&rng, 1, 0);
  for (int64_t i = 0; i < b->domain.count; i++)
    b->input[i] = (float)qb_rng_range(&rng, -2.0, 2.0);
}

static void release(bench *b) {
  qb_free(b->input);
  qb_run_free(b->run);
  qb_domain_free(&b->domain);
  qb_pair_free(&b->pair);
  qb_graph_free(&b->quantized);
  qb_graph_free(&b->original);
  qb_onnx_free(b->document);
}

static double least(double a, double b) { return a < b ? a : b; }

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: bench_elementwise MODEL THREADS ROUNDS\n");
    return 2;
  }
  bench b = {0};
  qb_error error;
  double inference = 1e9, layers = 1e9, elements = 1e9;
  int32_t convolutions = 0;
  prepare(&b, argv[1], atoi(argv[2]));
  omp_set_num_threads(atoi(argv[2]));
  for (int round = 0; round < atoi(argv[3]); round++) {
    qb_layerwise layerwise;
    qb_elementwise elementwise;
    for (int i = 0; i < 5; i++) {
      double start = now();
      stop_on(qb_run_forward(b.run, b.input, 1, &error), &error);
      inference = least(inference, now() - start);
    }
    double start = now();
    stop_on(qb_layerwise_bound(&b.pair, &b.domain, &layerwise, &error), &error);
    layers = least(layers, now() - start);
    start = now();
    stop_on(qb_elementwise_bound(&b.pair, &b.domain, &layerwise, &elementwise, &error), &error);
    elements = least(elements, now() - start);
    convolutions = elementwise.convolutions;
    qb_elementwise_free(&elementwise);
    qb_layerwise_free(&layerwise);
  }
  printf("inference %.2f ms, layerwise %.2f ms, elementwise %.2f ms = %.2f inferences (with layerwise %.2f), %d "
         "passes\n",
         1e3 * inference, 1e3 * layers, 1e3 * elements, elements / inference, (elements + layers) / inference,
         convolutions);
  release(&b);
  return 0;
}
