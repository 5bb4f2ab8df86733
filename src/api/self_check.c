/* Reading a written file back and comparing what it computes; see self_check.h. */
#include "api/self_check.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"
#include "graph/pair.h"
#include "graph/quantizer.h"
#include "run/run.h"

enum { CHECK_SEED = 20, CHECK_SAMPLES = 2 };
static const double float_limit = 1e-3; /* float32 rounding of a folded network is about 1e-6 a layer */

/* Runs both graphs on the same inputs. *difference: largest |a - b| of any output; *largest: largest |a|. */
static qb_status compare_runs(qb_run *a_run, const qb_graph *a, qb_run *b_run, const qb_graph *b, double *difference,
                              double *largest, qb_error *error) {
  size_t count = qb_shape_elements(&a->values[a->inputs[0]].shape);
  float *input = qb_alloc(count, sizeof *input);
  if (input == NULL)
    return qb_fail_memory(error, "a test input", count * sizeof *input);
  qb_status status = QB_OK;
  for (int sample = 0; status == QB_OK && sample < CHECK_SAMPLES; sample++) {
    qb_rng rng;
    qb_rng_seed(&rng, CHECK_SEED, (uint64_t)sample);
    for (size_t i = 0; i < count; i++)
      input[i] = (float)qb_rng_normal(&rng);
    status = qb_run_forward(a_run, input, 1, error);
    if (status == QB_OK)
      status = qb_run_forward(b_run, input, 1, error);
    for (int32_t o = 0; status == QB_OK && o < a->output_count; o++) {
      const float *x = qb_run_value(a_run, a->outputs[o]), *y = qb_run_value(b_run, b->outputs[o]);
      size_t elements = qb_shape_elements(&a->values[a->outputs[o]].shape);
      for (size_t i = 0; i < elements; i++) {
        double distance = fabs((double)x[i] - (double)y[i]);
        *difference = distance <= *difference ? *difference : distance; /* a NaN stays */
        *largest = fmax(*largest, fabs((double)x[i]));
      }
    }
  }
  qb_free(input);
  return status;
}

/* The two graphs must have equal input and output shapes. */
static qb_status check_interfaces(const qb_graph *a, const qb_graph *b, const char *shown, qb_error *error) {
  bool equal = a->input_count == b->input_count && a->output_count == b->output_count;
  for (int32_t i = 0; equal && i < a->input_count; i++)
    equal = qb_shape_equal(&a->values[a->inputs[i]].shape, &b->values[b->inputs[i]].shape);
  for (int32_t i = 0; equal && i < a->output_count; i++)
    equal = qb_shape_equal(&a->values[a->outputs[i]].shape, &b->values[b->outputs[i]].shape);
  return equal ? QB_OK
               : qb_fail(error, QB_ERROR_NUMERIC, "%s: the written file has other inputs or outputs than the network",
                         shown);
}

static qb_status compare_graphs(const qb_graph *a, const qb_graph *b, int threads, const char *shown,
                                double *difference, double *largest, qb_error *error) {
  QB_TRY(check_interfaces(a, b, shown, error));
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.threads = threads;
  qb_run *a_run = NULL, *b_run = NULL;
  qb_status status = qb_run_create(a, &settings, &a_run, error);
  if (status == QB_OK)
    status = qb_run_create(b, &settings, &b_run, error);
  *difference = *largest = 0;
  if (status == QB_OK)
    status = compare_runs(a_run, a, b_run, b, difference, largest, error);
  qb_run_free(b_run);
  qb_run_free(a_run);
  return status;
}

/* Copies a constant of `from`, zeros where it has none (QB_NONE), into one of `to`. */
static qb_status restore(const qb_graph *from, qb_value_id original, qb_graph *to, qb_value_id written,
                         qb_error *error) {
  float *data = qb_graph_replace_constant(to, written); /* zeroed */
  if (data == NULL)
    return qb_fail_memory(error, "the original weights", sizeof *data);
  if (original != QB_NONE) {
    const qb_view *view = &from->values[original].constant;
    memcpy(data, view->data, qb_view_elements(view) * sizeof(float));
  }
  return QB_OK;
}

/* Copies the weights and biases of every linear layer of pair->original into `restored`, a clone of pair->quantized. */
static qb_status restore_weights(const qb_pair *pair, qb_graph *restored, qb_error *error) {
  for (qb_node_id id = 0; id < pair->quantized->node_count; id++) {
    qb_linear written, original;
    if (pair->partner[id] == QB_NONE || !qb_graph_linear(restored, id, &written) ||
        !qb_graph_linear(pair->original, pair->partner[id], &original))
      continue;
    QB_TRY(restore(pair->original, original.weight, restored, written.weight, error));
    if (written.bias != QB_NONE && restored->values[written.bias].is_constant)
      QB_TRY(restore(pair->original, original.bias, restored, written.bias, error));
  }
  return QB_OK;
}

/* The float weights in the written network, against the network as it was read: equalizing has not changed what it
 * computes. Absorbed biases do, so there the prepared network is what it must be. */
static qb_status check_float_path(const qb_model *model, const qb_model *written, const char *shown, int threads,
                                  double *relative, qb_error *error) {
  const qb_graph *goal = model->exact ? &model->source->read : &model->prepared;
  qb_pair pair = {0};
  qb_graph restored = {0};
  double difference = 0, largest = 0;
  qb_status status = qb_pair_match(&model->prepared, &written->graph, &pair, error);
  if (status == QB_OK)
    status = qb_graph_clone(&written->graph, &restored, error);
  if (status == QB_OK)
    status = restore_weights(&pair, &restored, error);
  if (status == QB_OK && !qb_graph_has_quantizers(&model->prepared))
    status = qb_graph_bypass_quantizers(&restored, error);
  if (status == QB_OK)
    status = compare_graphs(goal, &restored, threads, shown, &difference, &largest, error);
  *relative = largest > 0 ? difference / largest : difference;
  qb_graph_free(&restored);
  qb_pair_free(&pair);
  return status;
}

static qb_status check_model(const qb_model *model, const qb_model *written, const char *shown, int threads,
                             qb_save_info *info, qb_error *error) {
  double largest = 0;
  QB_TRY(compare_graphs(&model->graph, &written->graph, threads, shown, &info->output_difference, &largest, error));
  if (!(info->output_difference == 0))
    return qb_fail(error, QB_ERROR_NUMERIC, "%s: not written: read back, its outputs differ from the network by %g",
                   shown, info->output_difference);
  QB_TRY(check_float_path(model, written, shown, threads, &info->float_difference, error));
  if (!(info->float_difference < float_limit))
    return qb_fail(error, QB_ERROR_NUMERIC,
                   "%s: not written: with the original weights it is another network, by %g of its largest output",
                   shown, info->float_difference);
  return QB_OK;
}

qb_status qb_self_check(const qb_model *model, const char *path, const char *shown, int threads, qb_save_info *info,
                        qb_error *error) {
  qb_model *written = NULL;
  qb_status status = qb_model_load(path, &written, error);
  if (status != QB_OK)
    return qb_fail_context(error, status, "%s: not written: it cannot be read back", shown);
  status = check_model(model, written, shown, threads, info, error);
  qb_model_free(written);
  return status;
}
