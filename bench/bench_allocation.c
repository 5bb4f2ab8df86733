/* Bits chosen layer by layer against the same bits everywhere, at equal average bits: one CSV row per average on
 * standard output.
 *
 *   bench_allocation NAME MODEL CALIBRATION SAMPLES TEST PREPROCESS SCHEME GRID BITS..
 *
 * Data and preprocessing as for `qbound quantize --calibrate`. Both networks use the same scheme, per channel, with the
 * same SAMPLES calibration samples, and no test sample. A win is an image that only the chosen bits decide rightly, a
 * loss one that only the uniform ones do; the exact McNemar p tells whether that can be chance, and below 0.05 it is
 * called better or worse, else a tie. Errors are means over images of the largest change of an output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/model.h"
#include "api/open_data.h"
#include "run/measure.h"
#include "stats/binomial.h"

static qb_error failure;

static void check(qb_status status) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "bench_allocation: %s\n", failure.message);
  exit(1);
}

typedef struct bench {
  const char *name, *grid;
  qb_model *model;
  qb_dataset *test;
  qb_quantize_settings settings;
} bench;

static qb_status read_sample(const void *dataset, int64_t index, float *sample, qb_error *error) {
  return qb_dataset_read(dataset, index, sample, error);
}

static int32_t read_label(const void *dataset, int64_t index) { return qb_dataset_label(dataset, index); }

static qb_run_measure_info measure(const bench *b, const qb_model *quantized) {
  const qb_run_samples samples = {b->test, qb_dataset_count(b->test), read_sample, read_label};
  qb_run_measure_settings settings;
  qb_run_measure_info info;
  qb_run_measure_settings_default(&settings);
  check(qb_run_measure(&b->model->graph, &quantized->graph, &samples, &settings, NULL, &info, &failure));
  return info;
}

static int64_t stored_bytes(const qb_quantize_info *info) {
  int64_t bytes = 0;
  for (int l = 0; l < info->layer_count; l++)
    bytes += qb_quantize_layer_bytes(&info->layers[l], false);
  return bytes;
}

static void print_row(const bench *b, int bits, const qb_run_measure_info *uniform, const qb_run_measure_info *chosen,
                      const qb_quantize_info infos[2], const qb_allocation *allocation) {
  int64_t wins = 0, losses = 0;
  double p;
  for (int64_t i = 0; i < uniform->count; i++) {
    bool first = uniform->samples[i].other_rank == 0, second = chosen->samples[i].other_rank == 0;
    wins += !first && second;
    losses += first && !second;
  }
  check(qb_mcnemar_p(wins, losses, &p, &failure));
  printf("%s,%s,%s,%d,%.4f,%s,%lld,%.2f,%.2f,%.2f,%lld,%lld,%.3g,%s,%lld,%lld,%.4f,%.4f,%s,%lld,%lld,%.1f\n", b->name,
         qb_scheme_name(b->settings.scheme), b->grid, bits, allocation->average_bits,
         qb_allocation_rule_name(allocation->rule), (long long)uniform->count, 100 * uniform->model.top1,
         100 * uniform->other.top1, 100 * chosen->other.top1, (long long)wins, (long long)losses, p,
         p >= 0.05       ? "tie"
         : wins > losses ? "better"
                         : "worse",
         (long long)uniform->flip_count, (long long)chosen->flip_count, uniform->error_mean, chosen->error_mean,
         chosen->error_mean < uniform->error_mean ? "lower" : "not lower", (long long)stored_bytes(&infos[0]),
         (long long)stored_bytes(&infos[1]), allocation->plan_seconds);
  fflush(stdout);
}

static void print_plans(const qb_allocation *allocation) {
  for (int i = 0; i < QB_ALLOCATION_PLANS; i++)
    fprintf(stderr, "  %-12s %.4f bits, mean square %.5g\n", qb_allocation_rule_name(allocation->plans[i].rule),
            allocation->plans[i].average_bits, allocation->plans[i].error);
  for (int l = 0; l < allocation->layer_count; l++)
    fprintf(stderr, "  %-40s %d bits, %lld weights\n", allocation->layers[l].node, allocation->layers[l].bits,
            (long long)allocation->layers[l].weights);
}

static void run_row(const bench *b, int bits) {
  qb_quantize_settings settings = b->settings;
  qb_allocate_settings how;
  qb_allocation allocation;
  qb_model *uniform, *chosen;
  qb_quantize_info infos[2];
  settings.bits = bits;
  check(qb_quantize(b->model, &settings, NULL, &uniform, &infos[0], &failure));
  qb_allocate_settings_default(&how);
  how.target = bits;
  check(qb_quantize_auto(b->model, &b->settings, &how, NULL, &chosen, &infos[1], &allocation, &failure));
  qb_run_measure_info first = measure(b, uniform), second = measure(b, chosen);
  print_row(b, bits, &first, &second, infos, &allocation);
  print_plans(&allocation);
  qb_run_measure_info_free(&first);
  qb_run_measure_info_free(&second);
  qb_allocation_free(&allocation);
  for (int i = 0; i < 2; i++)
    qb_quantize_info_free(&infos[i]);
  qb_model_free(uniform);
  qb_model_free(chosen);
}

int main(int argc, char **argv) {
  if (argc < 10) {
    fprintf(stderr, "bench_allocation NAME MODEL CALIBRATION SAMPLES TEST PREPROCESS SCHEME GRID BITS..\n");
    return 2;
  }
  bench b = {.name = argv[1], .grid = argv[8]};
  const qb_data calibration = {.path = argv[3], .preprocess = argv[6], .samples = atoll(argv[4])};
  const qb_data test = {.path = argv[5], .preprocess = argv[6]};
  check(qb_model_load(argv[2], &b.model, &failure));
  check(qb_data_open(&test, "measuring", &b.test, &failure));
  qb_quantize_settings_default(&b.settings);
  b.settings.calibration_data = &calibration;
  b.settings.scheme = strcmp(argv[7], "gptq") == 0       ? QB_SCHEME_GPTQ
                      : strcmp(argv[7], "adaround") == 0 ? QB_SCHEME_ADAROUND
                                                         : QB_SCHEME_UNIFORM;
  b.settings.grid = strcmp(b.grid, "minmax") == 0 ? QB_GRID_MINMAX
                    : strcmp(b.grid, "mse") == 0  ? QB_GRID_MSE
                                                  : QB_GRID_OUTPUT;
  b.settings.bias_correction = true;
  for (int i = 9; i < argc; i++)
    run_row(&b, atoi(argv[i]));
  qb_dataset_free(b.test);
  qb_model_free(b.model);
  return 0;
}
