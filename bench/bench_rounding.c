/* Speed and objectives of what calibration does, on one layer of a real network: one line of text each.
 *
 *   bench_rounding MODEL CALIBRATION PREPROCESS SAMPLES NODE BITS STEPS PEAK
 *
 * Accumulates the layer's second moments (GFLOP/s, counting H alone, upper half), beside it what the BLAS does on one
 * product of that size per thread, then solves the same rounding problem with nearest, gptq, adaround by search and
 * adaround by the published gradient solver (STEPS): CPU seconds and objective |v(q) - t|_A^2 summed over rows. PEAK is
 * what bench_peak prints, GFLOP/s of the machine. */
#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "data/dataset.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "quant/adaround.h"
#include "quant/frontier.h"
#include "quant/gptq.h"
#include "quant/gram.h"
#include "quant/layer.h"

static qb_error failure;

static void check(qb_status status) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "bench_rounding: %s\n", failure.message);
  exit(1);
}

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double wall_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static qb_status read_sample(const void *context, int64_t index, float *sample, qb_error *error) {
  return qb_dataset_read(context, index, sample, error);
}

typedef struct adding {
  qb_gram *gram;
  double seconds;
} adding;

static qb_status add(void *context, const float *x, const float *xh, int64_t first, int32_t count, qb_error *error) {
  adding *a = context;
  (void)error;
  double start = wall_seconds();
  qb_gram_add(a->gram, x, xh, first, count);
  a->seconds += wall_seconds() - start;
  return QB_OK;
}

/* GFLOP/s of one product a thread, as large as those that second moments are made of, and nothing else. */
static double product_rate(void) {
  enum { SIDE = 512, TIMES = 6 };
  double seconds = INFINITY;
  float *block = qb_alloc((size_t)SIDE * QB_GRAM_COLUMNS, sizeof *block);
  float *products = qb_alloc((size_t)SIDE * SIDE * (size_t)omp_get_max_threads(), sizeof *products);
  if (block == NULL || products == NULL) {
    fprintf(stderr, "bench_rounding: no memory\n");
    exit(1);
  }
  for (size_t i = 0; i < (size_t)SIDE * QB_GRAM_COLUMNS; i++)
    block[i] = (float)(i % 251) / 251.0F;
  for (int k = 0; k < TIMES; k++) {
    double start = wall_seconds();
#pragma omp parallel
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, SIDE, SIDE, QB_GRAM_COLUMNS, 1, block, SIDE, block, SIDE, 0,
                products + (size_t)omp_get_thread_num() * SIDE * SIDE, SIDE);
    seconds = fmin(seconds, wall_seconds() - start);
  }
  qb_free(block);
  qb_free(products);
  return 2e-9 * SIDE * SIDE * QB_GRAM_COLUMNS * omp_get_max_threads() / seconds;
}

static double total(const qb_rounding *p, const qb_grid *grids, const int32_t *codes, double *rows) {
  double sum = 0;
  qb_rounding_objectives(p, grids, codes, rows);
  for (size_t i = 0; i < p->rows; i++)
    sum += rows[i];
  return sum;
}

static void report(const char *name, double seconds, double objective) {
  printf("%-10s %10.3f CPU s, objective %.6g\n", name, seconds, objective);
  fflush(stdout);
}

static void compare_solvers(const qb_rounding *p, const qb_layer_codes *layer, int steps) {
  double *rows = qb_alloc(p->rows, sizeof *rows), start;
  int32_t *codes = layer->codes;
  for (size_t row = 0; row < p->rows; row++)
    qb_grid_nearest_run(&layer->grids[row], p->weights + row * p->length, p->length, codes + row * p->length);
  report("nearest", 0, total(p, layer->grids, codes, rows));
  start = cpu_seconds();
  qb_gptq(p, layer->grids, false, codes, rows);
  double seconds = cpu_seconds() - start;
  report("gptq", seconds, total(p, layer->grids, codes, rows));
  start = cpu_seconds();
  check(qb_adaround(p, layer->grids, 1, codes, rows, &failure));
  double search = cpu_seconds() - start, objective = total(p, layer->grids, codes, rows);
  report("search", search, objective);
  qb_gradient_settings settings;
  qb_gradient_settings_default(&settings);
  settings.steps = steps;
  start = cpu_seconds();
  check(qb_adaround_gradient(p, layer->grids, &settings, NULL, codes, &failure));
  seconds = cpu_seconds() - start;
  double published = total(p, layer->grids, codes, rows);
  report("gradient", seconds, published);
  printf("search takes 1/%.0f of the CPU time of gradient (%d steps), its objective is %.2f %% lower\n",
         seconds / search, steps, 100 * (1 - objective / published));
  qb_free(rows);
}

static void find_layer(const qb_graph *graph, const char *name, qb_linear *linear) {
  for (qb_node_id n = 0; n < graph->node_count; n++)
    if (strcmp(graph->nodes[n].name, name) == 0 && qb_graph_linear(graph, n, linear) && linear->group == 1)
      return;
  fprintf(stderr, "bench_rounding: no ungrouped layer '%s'\n", name);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc < 9) {
    fprintf(stderr, "usage: bench_rounding MODEL CALIBRATION PREPROCESS SAMPLES NODE BITS STEPS PEAK\n");
    return 2;
  }
  qb_onnx *document;
  qb_graph graph;
  qb_fold_bn_info folded;
  check(qb_onnx_read(argv[1], &document, &failure));
  check(qb_onnx_to_graph(document, &graph, &failure));
  check(qb_fold_bn(&graph, &folded, &failure));
  qb_dataset_settings data = {0};
  qb_dataset *dataset;
  check(qb_preprocess_parse(argv[3], &data.preprocess, &failure));
  check(qb_dataset_open(argv[2], &data, &dataset, &failure));
  qb_calibration source = {.read = read_sample,
                           .context = dataset,
                           .count = qb_dataset_count(dataset),
                           .samples = atoll(argv[4])};
  qb_samples samples = qb_samples_of(&source, &graph, 0);
  qb_linear linear;
  find_layer(&graph, argv[5], &linear);

  qb_frontier *frontier;
  qb_frontier_settings how = {.batch = 16, .memory_bytes = (size_t)1 << 30};
  qb_gram gram;
  qb_gram_settings statistics = {.matrix = true, .positions = 32};
  const float *weights = qb_view_f32(&graph.values[linear.weight].constant);
  check(qb_frontier_create(&graph, &graph, &samples, &how, &frontier, &failure));
  check(qb_gram_create(&graph, &linear, weights, &statistics, &gram, &failure));
  adding a = {&gram, 0};
  check(qb_frontier_visit(frontier, graph.nodes[linear.node].inputs[0], add, &a, &failure));
  double flops = (double)gram.columns * (double)gram.length * (double)(gram.length + 1);
  double last = wall_seconds();
  qb_gram_finish(&gram, true);
  a.seconds += wall_seconds() - last;
  printf("%s: %zu rows of %zu weights, %lld columns\n", argv[5], gram.rows, gram.length, (long long)gram.columns);
  double rate = 1e-9 * flops / a.seconds, peak = atof(argv[8]);
  printf("gram       %10.3f s, %.1f GFLOP/s, %.0f %% of the peak %.1f, gathering included\n", a.seconds, rate,
         100 * rate / peak, peak);
  rate = product_rate();
  printf("product    %23.1f GFLOP/s, %.0f %% of it\n", rate, 100 * rate / peak);

  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.grid = QB_GRID_MSE;
  qb_layer_codes layer;
  qb_cut cut = qb_cut_weight(&graph, &linear, QB_PER_CHANNEL);
  check(qb_layer_codes_create(&cut, weights, &settings, atoi(argv[6]), &layer, &failure));
  qb_rounding problem;
  double start = cpu_seconds();
  check(qb_rounding_create(gram.rows, gram.length, weights, gram.h, gram.r, false, 0.01, true, &problem, &failure));
  printf("factor     %10.3f CPU s\n", cpu_seconds() - start);
  compare_solvers(&problem, &layer, atoi(argv[7]));

  qb_rounding_free(&problem);
  qb_layer_codes_free(&layer);
  qb_gram_free(&gram);
  qb_frontier_free(frontier);
  qb_dataset_free(dataset);
  qb_graph_free(&graph);
  qb_onnx_free(document);
  return 0;
}
