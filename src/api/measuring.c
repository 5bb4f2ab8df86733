/* Accuracy, flips and output errors over a stream of batches; see measuring.h. */
#include "api/measuring.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/progress.h"
#include "run/run.h"

double qb_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* One network at work. */
typedef struct measured_run {
  const qb_graph *graph;
  qb_run *run;
  bool reference;
  double seconds;
  int64_t top1, top5; /* right answers so far */
} measured_run;

typedef struct measuring {
  measured_run model, other;
  int64_t classes; /* elements of the first output of one sample */
  float *input;    /* (batch, ...) */
  int32_t *labels; /* (batch) */
  double *errors;  /* (images) E_i in the order of the images */
} measuring;

static double output_element(const measured_run *runner, qb_value_id id, size_t index) {
  return runner->reference ? qb_run_value_double(runner->run, id)[index] : (double)qb_run_value(runner->run, id)[index];
}

/* The position of the largest element of the first output; the first one among equals. */
static int64_t first_class(const measured_run *runner, int32_t sample, int64_t classes) {
  size_t base = (size_t)sample * (size_t)classes;
  int64_t best = 0;
  for (int64_t c = 1; c < classes; c++)
    if (output_element(runner, runner->graph->outputs[0], base + (size_t)c) >
        output_element(runner, runner->graph->outputs[0], base + (size_t)best))
      best = c;
  return best;
}

/* How many classes are ahead of `label`: larger, or equal and earlier. */
static int64_t rank_of(const measured_run *runner, int32_t sample, int64_t classes, int64_t label) {
  size_t base = (size_t)sample * (size_t)classes;
  qb_value_id id = runner->graph->outputs[0];
  double own = output_element(runner, id, base + (size_t)label);
  int64_t ahead = 0;
  for (int64_t c = 0; c < classes; c++) {
    double value = output_element(runner, id, base + (size_t)c);
    ahead += value > own || (value == own && c < label);
  }
  return ahead;
}

static void count_right(measured_run *runner, int32_t sample, int64_t classes, int32_t label) {
  if (label >= classes) /* a label that the network has no class for is never right */
    return;
  int64_t rank = rank_of(runner, sample, classes, label);
  runner->top1 += rank == 0;
  runner->top5 += rank < 5;
}

/* E of one sample: the largest difference over all outputs; NaN when one is not a number. */
static double sample_error(const measured_run *a, const measured_run *b, int32_t sample) {
  double largest = 0;
  for (int32_t o = 0; o < a->graph->output_count; o++) {
    size_t elements = qb_shape_elements(&a->graph->values[a->graph->outputs[o]].shape);
    for (size_t i = 0; i < elements; i++) {
      size_t index = (size_t)sample * elements + i;
      double difference =
          fabs(output_element(a, a->graph->outputs[o], index) - output_element(b, b->graph->outputs[o], index));
      largest = difference <= largest ? largest : difference;
    }
  }
  return largest;
}

/* ------------------------------------------------------------------------------------------------------- checking */

static qb_status check_fit(const qb_model *model, const qb_samples *samples, qb_error *error) {
  const qb_graph *graph = &model->graph;
  char wanted[QB_SHAPE_TEXT], given[QB_SHAPE_TEXT];
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_SHAPE, "%s: has %d inputs; measuring needs a network with one", model->path,
                   graph->input_count);
  const qb_shape *input = &graph->values[graph->inputs[0]].shape;
  if (qb_shape_elements(input) != qb_shape_elements(&samples->shape))
    return qb_fail(error, QB_ERROR_SHAPE,
                   "%s: its input is %s but a sample is %s; choose another --preprocess (resize, crop)", model->path,
                   qb_shape_print(input, wanted), qb_shape_print(&samples->shape, given));
  return QB_OK;
}

static qb_status check_alike(const qb_model *model, const qb_model *other, qb_error *error) {
  const qb_graph *a = &model->graph, *b = &other->graph;
  bool alike = a->output_count == b->output_count;
  for (int32_t i = 0; alike && i < a->output_count; i++)
    alike = qb_shape_elements(&a->values[a->outputs[i]].shape) == qb_shape_elements(&b->values[b->outputs[i]].shape);
  return alike ? QB_OK
               : qb_fail(error, QB_ERROR_SHAPE, "%s and %s have outputs of different sizes: not the same network",
                         model->path, other->path);
}

/* -------------------------------------------------------------------------------------------------------- running */

static qb_status create_runner(const qb_model *model, const qb_measure_settings *settings, int32_t batch,
                               measured_run *runner, qb_error *error) {
  qb_run_settings run;
  qb_run_settings_default(&run);
  run.engine = settings->reference ? QB_ENGINE_REFERENCE : QB_ENGINE_ONEDNN;
  run.batch = batch;
  run.threads = settings->threads;
  runner->graph = &model->graph;
  runner->reference = settings->reference;
  return qb_run_create(&model->graph, &run, &runner->run, error);
}

static qb_status forward(measured_run *runner, const float *input, int32_t count, qb_error *error) {
  double start = qb_seconds();
  QB_TRY(qb_run_forward(runner->run, input, count, error));
  runner->seconds += qb_seconds() - start;
  return QB_OK;
}

static qb_status measure_batch(measuring *state, int64_t first, int32_t count, qb_measurement *measurement,
                               qb_error *error) {
  bool has_other = state->other.run != NULL;
  QB_TRY(forward(&state->model, state->input, count, error));
  if (has_other)
    QB_TRY(forward(&state->other, state->input, count, error));
  for (int32_t i = 0; i < count; i++) {
    if (state->labels[i] >= 0) {
      measurement->labelled++;
      count_right(&state->model, i, state->classes, state->labels[i]);
      if (has_other)
        count_right(&state->other, i, state->classes, state->labels[i]);
    }
    if (has_other) {
      measurement->flip_count +=
          first_class(&state->model, i, state->classes) != first_class(&state->other, i, state->classes);
      state->errors[first + i] = sample_error(&state->model, &state->other, i);
    }
  }
  return QB_OK;
}

static qb_status measure_all(measuring *state, const qb_samples *samples, int32_t batch, const qb_progress *progress,
                             qb_measurement *measurement, qb_error *error) {
  for (int64_t first = 0; first < samples->count; first += batch) {
    if (!qb_progress_report(progress, "measuring", first, samples->count))
      return qb_fail(error, QB_ERROR_INTERRUPTED, "measuring was stopped");
    int32_t count = samples->count - first < batch ? (int32_t)(samples->count - first) : batch;
    QB_TRY(qb_samples_read(samples, first, count, state->input, state->labels, error));
    QB_TRY(measure_batch(state, first, count, measurement, error));
  }
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------- summarizing */

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The k-th smallest, k = ceil(p n). */
static double quantile(const double *sorted, int64_t count, double p) {
  int64_t k = (int64_t)ceil(p * (double)count);
  return sorted[k < 1 ? 0 : k - 1];
}

static void summarize_network(const measured_run *runner, int64_t labelled, qb_measure_network *network) {
  network->top1 = labelled > 0 ? (double)runner->top1 / (double)labelled : NAN;
  network->top5 = labelled > 0 ? (double)runner->top5 / (double)labelled : NAN;
  network->seconds = runner->seconds;
}

/* Sums in the order of the images, so that batches and threads do not change the mean. */
static void summarize_errors(double *errors, qb_measurement *measurement) {
  int64_t n = measurement->images;
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    sum += errors[i];
    if (!(errors[i] <= errors[measurement->error_argmax]))
      measurement->error_argmax = i;
  }
  measurement->flips = (double)measurement->flip_count / (double)n;
  measurement->error_max = errors[measurement->error_argmax];
  measurement->error_mean = sum / (double)n;
  qsort(errors, (size_t)n, sizeof *errors, compare_doubles);
  measurement->error_p50 = quantile(errors, n, 0.50);
  measurement->error_p90 = quantile(errors, n, 0.90);
  measurement->error_p99 = quantile(errors, n, 0.99);
}

static qb_status allocate(measuring *state, const qb_samples *samples, int32_t batch, qb_error *error) {
  size_t elements = qb_shape_elements(&samples->shape);
  state->input = qb_alloc((size_t)batch, elements * sizeof *state->input);
  state->labels = qb_alloc((size_t)batch, sizeof *state->labels);
  state->errors = qb_alloc((size_t)samples->count, sizeof *state->errors);
  if (state->input == NULL || state->labels == NULL || state->errors == NULL)
    return qb_fail_memory(error, "a batch of samples", (size_t)batch * elements * sizeof *state->input);
  return QB_OK;
}

static qb_status measure_with(measuring *state, const qb_model *model, const qb_model *other, const qb_samples *samples,
                              const qb_measure_settings *settings, const qb_progress *progress,
                              qb_measurement *measurement, qb_error *error) {
  int32_t batch = samples->count < settings->batch ? (int32_t)samples->count : (int32_t)settings->batch;
  state->classes = (int64_t)qb_shape_elements(&model->graph.values[model->graph.outputs[0]].shape);
  QB_TRY(allocate(state, samples, batch, error));
  QB_TRY(create_runner(model, settings, batch, &state->model, error));
  if (other != NULL)
    QB_TRY(create_runner(other, settings, batch, &state->other, error));
  QB_TRY(measure_all(state, samples, batch, progress, measurement, error));
  measurement->images = samples->count;
  summarize_network(&state->model, measurement->labelled, &measurement->model);
  if (other != NULL) {
    summarize_network(&state->other, measurement->labelled, &measurement->other);
    summarize_errors(state->errors, measurement);
  }
  return QB_OK;
}

qb_status qb_measure_samples(const qb_model *model, const qb_model *other, const qb_samples *samples,
                             const qb_measure_settings *settings, const qb_progress *progress,
                             qb_measurement *measurement, qb_error *error) {
  QB_TRY(check_fit(model, samples, error));
  if (other != NULL) {
    QB_TRY(check_fit(other, samples, error));
    QB_TRY(check_alike(model, other, error));
  }
  measuring state = {0};
  qb_status status = measure_with(&state, model, other, samples, settings, progress, measurement, error);
  qb_run_free(state.other.run);
  qb_run_free(state.model.run);
  qb_free(state.errors);
  qb_free(state.labels);
  qb_free(state.input);
  return status;
}
