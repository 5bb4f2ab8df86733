/* Accuracy of quantized networks: one CSV row per configuration on standard output.
 *
 *   bench_accuracy NAME MODEL CALIBRATION SAMPLES TEST PREPROCESS ROW..
 *
 * CALIBRATION and TEST are data as for `qbound measure --data`, PREPROCESS as there. SAMPLES calibration samples are
 * used (more than there are: seeded flips and shifts). A ROW is
 * equalize:scheme:bits:granularity:grid[:correct[:SAMPLES]], for example range:adaround:4:channel:mse:correct; equalize
 * is none, range or l1, scheme nearest, adaround, gptq or gradient, granularity tensor, channel or channel-affine (a
 * zero point per scale). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/dataset.h"
#include "graph/pass_equalize.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "quant/quant.h"
#include "run/run.h"
#include "stats/binomial.h"

enum { BATCH = 16, ROW_PARTS = 7 };

static qb_error failure;

static void check(qb_status status) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "bench_accuracy: %s\n", failure.message);
  exit(1);
}

static double seconds_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ------------------------------------------------------------------------------------------------------------ data */

static qb_dataset *open_data(const char *path, const char *preprocess) {
  qb_dataset_settings settings = {0};
  qb_dataset *dataset;
  check(qb_preprocess_parse(preprocess, &settings.preprocess, &failure));
  check(qb_dataset_open(path, &settings, &dataset, &failure));
  return dataset;
}

static qb_status read_sample(const void *context, int64_t index, float *sample, qb_error *error) {
  return qb_dataset_read(context, index, sample, error);
}

/* The first output of a network on a whole dataset, (samples, classes). */
static float *run_network(const qb_graph *graph, const qb_dataset *data) {
  int64_t count = qb_dataset_count(data);
  size_t elements = qb_shape_elements(&graph->values[graph->inputs[0]].shape);
  size_t classes = qb_shape_elements(&graph->values[graph->outputs[0]].shape);
  float *outputs = qb_alloc((size_t)count * classes, sizeof *outputs),
        *input = qb_alloc(BATCH * elements, sizeof *input);
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.batch = BATCH;
  qb_run *run;
  check(qb_run_create(graph, &settings, &run, &failure));
  for (int64_t first = 0; first < count; first += BATCH) {
    int32_t some = count - first < BATCH ? (int32_t)(count - first) : BATCH;
    bool good = true;
#pragma omp parallel for schedule(dynamic) reduction(&& : good)
    for (int32_t i = 0; i < some; i++)
      good = good && qb_dataset_read(data, first + i, input + (size_t)i * elements, NULL) == QB_OK;
    if (!good)
      check(qb_fail(&failure, QB_ERROR_IO, "a sample cannot be read"));
    check(qb_run_forward(run, input, some, &failure));
    memcpy(outputs + (size_t)first * classes, qb_run_value(run, graph->outputs[0]),
           (size_t)some * classes * sizeof *outputs);
  }
  qb_run_free(run);
  qb_free(input);
  return outputs;
}

static int32_t decision(const float *outputs, size_t classes) {
  size_t best = 0;
  for (size_t c = 1; c < classes; c++)
    best = outputs[c] > outputs[best] ? c : best;
  return (int32_t)best;
}

/* ------------------------------------------------------------------------------------------------------------ rows */

typedef struct bench {
  const char *name;
  qb_graph graph;
  qb_dataset *calibration, *test;
  int64_t samples;
  float *outputs; /* of the float network on the test data */
} bench;

static qb_quantize_settings parse_row(const bench *b, char *part[ROW_PARTS]) {
  qb_quantize_settings settings;
  qb_quantize_settings_default(&settings);
  settings.bits = atoi(part[2]);
  settings.scheme = strcmp(part[1], "gptq") == 0      ? QB_SCHEME_GPTQ
                    : strcmp(part[1], "nearest") == 0 ? QB_SCHEME_UNIFORM
                                                      : QB_SCHEME_ADAROUND;
  settings.solver = strcmp(part[1], "gradient") == 0 ? QB_SOLVER_GRADIENT : QB_SOLVER_DESCENT;
  settings.granularity = strcmp(part[3], "tensor") == 0 ? QB_PER_TENSOR : QB_PER_CHANNEL;
  settings.affine = strcmp(part[3], "channel-affine") == 0;
  settings.grid = strcmp(part[4], "minmax") == 0 ? QB_GRID_MINMAX
                  : strcmp(part[4], "mse") == 0  ? QB_GRID_MSE
                                                 : QB_GRID_OUTPUT;
  settings.bias_correction = part[5] != NULL ? QB_BIAS_DATA : QB_BIAS_KEEP;
  if (settings.scheme != QB_SCHEME_UNIFORM || settings.bias_correction || settings.grid == QB_GRID_OUTPUT) {
    settings.calibration.read = read_sample;
    settings.calibration.context = b->calibration;
    settings.calibration.count = qb_dataset_count(b->calibration);
    settings.calibration.samples = part[6] != NULL ? atoll(part[6]) : b->samples;
  }
  return settings;
}

static void print_layers(const qb_quantize_info *info) {
  for (int i = 0; i < info->layer_count; i++) {
    const qb_quantize_layer *layer = &info->layers[i];
    fprintf(stderr, "  %-40s %2d bits method %d error %.4g (nearest %.4g) of %.4g, %lld columns, %.2f s\n", layer->node,
            layer->bits, (int)layer->method, layer->error, layer->error_nearest, layer->power,
            (long long)layer->columns, layer->seconds);
  }
}

static void print_result(const bench *b, char *part[ROW_PARTS], int64_t samples, const float *outputs,
                         const qb_quantize_info *info, double wall, double cpu) {
  int64_t count = qb_dataset_count(b->test), flips = 0, right = 0, right_float = 0, lost = 0, gained = 0;
  size_t classes = qb_shape_elements(&b->graph.values[b->graph.outputs[0]].shape);
  double error_mean = 0, objective = 0, objective_nearest = 0, low, high;
  for (int64_t i = 0; i < count; i++) {
    const float *x = b->outputs + (size_t)i * classes, *y = outputs + (size_t)i * classes;
    int32_t label = qb_dataset_label(b->test, i), was = decision(x, classes), is = decision(y, classes);
    double largest = 0;
    for (size_t c = 0; c < classes; c++)
      largest = fmax(largest, fabs((double)x[c] - (double)y[c]));
    error_mean += largest / (double)count;
    flips += was != is;
    right += is == label;
    right_float += was == label;
    lost += was == label && is != label;
    gained += was != label && is == label;
  }
  for (int i = 0; i < info->layer_count; i++) {
    objective += isnan(info->layers[i].error) ? 0 : info->layers[i].error / info->layers[i].power;
    objective_nearest += isnan(info->layers[i].error) ? 0 : info->layers[i].error_nearest / info->layers[i].power;
  }
  check(qb_binomial_lower(count, right, 0.025, &low, &failure));
  check(qb_binomial_upper(count, right, 0.025, &high, &failure));
  printf("%s,%s,%s,%s,%s,%s,%s,%lld", b->name, part[0], part[1], part[2], part[3], part[4],
         part[5] == NULL ? "" : part[5], (long long)samples);
  printf(",%lld,%.2f,%.2f,%.2f,%.2f,%lld,%lld,%lld,%.4f,%.5g,%.5g,%d,%.1f,%.1f\n", (long long)count,
         100 * (double)right_float / (double)count, 100 * (double)right / (double)count, 100 * low, 100 * high,
         (long long)flips, (long long)gained, (long long)lost, error_mean, objective_nearest, objective,
         (int)info->kept_nearest, wall, cpu);
  fflush(stdout);
}

static void run_row(const bench *b, const char *row) {
  char text[128], *part[ROW_PARTS] = {NULL};
  snprintf(text, sizeof text, "%s", row);
  int parts = 0;
  for (char *p = strtok(text, ":"); p != NULL && parts < ROW_PARTS; p = strtok(NULL, ":"))
    part[parts++] = p;
  if (parts < 5)
    check(qb_fail(&failure, QB_ERROR_ARGUMENT, "row '%s': equalize:scheme:bits:granularity:grid[:correct[:SAMPLES]]",
                  row));
  qb_quantize_settings settings = parse_row(b, part);
  qb_graph quantized, equalized;
  qb_quantize_info info;
  check(qb_graph_clone(&b->graph, &equalized, &failure));
  if (strcmp(part[0], "none") != 0) {
    qb_equalize_settings how;
    qb_equalize_info done;
    qb_equalize_settings_default(&how);
    how.kind = strcmp(part[0], "l1") == 0 ? QB_EQUALIZE_L1 : QB_EQUALIZE_RANGE;
    check(qb_equalize(&equalized, &how, &done, &failure));
  }
  check(qb_graph_clone(&equalized, &quantized, &failure));
  double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  check(qb_quantize_weights(&quantized, &settings, NULL, &info, &failure));
  wall = seconds_of(CLOCK_MONOTONIC) - wall;
  cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
  if (getenv("LAYERS") != NULL)
    print_layers(&info);
  float *outputs = run_network(&quantized, b->test);
  print_result(b, part, settings.calibration.samples, outputs, &info, wall, cpu);
  qb_free(outputs);
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  qb_graph_free(&equalized);
}

int main(int argc, char **argv) {
  if (argc < 8) {
    fprintf(stderr, "usage: bench_accuracy NAME MODEL CALIBRATION SAMPLES TEST PREPROCESS ROW..\n");
    return 2;
  }
  bench b = {.name = argv[1], .samples = atoll(argv[4])};
  qb_onnx *document;
  qb_fold_bn_info folded;
  check(qb_onnx_read(argv[2], &document, &failure));
  check(qb_onnx_to_graph(document, &b.graph, &failure));
  check(qb_fold_bn(&b.graph, &folded, &failure));
  b.calibration = open_data(argv[3], argv[6]);
  b.test = open_data(argv[5], argv[6]);
  b.outputs = run_network(&b.graph, b.test);
  for (int i = 7; i < argc; i++)
    run_row(&b, argv[i]);
  qb_free(b.outputs);
  qb_dataset_free(b.test);
  qb_dataset_free(b.calibration);
  qb_graph_free(&b.graph);
  qb_onnx_free(document);
  return 0;
}
