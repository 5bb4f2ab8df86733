/* Multilayer perceptrons: layout, forward and backward passes, Adam; see mlp.h.
 *
 * A shard holds the activations of some rows of the minibatch. With rows of samples, layer l is
 *   Z_l = A_{l-1} W_l^T + b_l,  A_l = max(Z_l, 0),  dW_l = D_l^T A_{l-1},  D_{l-1} = D_l W_l where A_{l-1} > 0,
 * and D_L = (softmax(Z_L) - onehot) / batch for the mean cross-entropy. */
#include "train/mlp.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/rng.h"

enum { SHARDS = 4, MAX_BATCH = 4096, ACCURACY_ROWS = 1000 };

/* ------------------------------------------------------------------------------------------------------- networks */

void qb_mlp_settings_default(qb_mlp_settings *settings) {
  *settings = (qb_mlp_settings){.epochs = 10, .batch = 128, .rate = 1e-3f};
}

static size_t layer_offset(const qb_mlp *mlp, int32_t layer) {
  size_t offset = 0;
  for (int32_t l = 0; l < layer; l++)
    offset += ((size_t)mlp->widths[l] + 1) * (size_t)mlp->widths[l + 1];
  return offset;
}

static size_t weight_count(const qb_mlp *mlp, int32_t layer) {
  return (size_t)mlp->widths[layer] * (size_t)mlp->widths[layer + 1];
}

float *qb_mlp_weight(const qb_mlp *mlp, int32_t layer) { return mlp->parameters + layer_offset(mlp, layer); }

float *qb_mlp_bias(const qb_mlp *mlp, int32_t layer) { return qb_mlp_weight(mlp, layer) + weight_count(mlp, layer); }

static void initialise(qb_mlp *mlp, uint64_t seed) {
  for (int32_t l = 0; l < mlp->layers; l++) {
    qb_rng rng;
    qb_rng_seed(&rng, seed, (uint64_t)l);
    double deviation = sqrt(2.0 / mlp->widths[l]);
    float *weight = qb_mlp_weight(mlp, l);
    for (size_t i = 0; i < weight_count(mlp, l); i++)
      weight[i] = (float)(deviation * qb_rng_normal(&rng));
  }
}

qb_status qb_mlp_create(qb_mlp *mlp, int32_t layers, const int32_t *widths, uint64_t seed, qb_error *error) {
  *mlp = (qb_mlp){.layers = layers};
  if (layers < 1 || layers > QB_MLP_MAX_LAYERS)
    return qb_fail(error, QB_ERROR_ARGUMENT, "a network of %d layers: choose 1 to %d", layers, QB_MLP_MAX_LAYERS);
  for (int32_t l = 0; l <= layers; l++) {
    if (widths[l] < 1 || widths[l] > QB_MLP_MAX_WIDTH)
      return qb_fail(error, QB_ERROR_ARGUMENT, "a layer of width %d: choose 1 to %d", widths[l], QB_MLP_MAX_WIDTH);
    mlp->widths[l] = widths[l];
  }
  mlp->parameter_count = layer_offset(mlp, layers);
  mlp->parameters = qb_alloc(mlp->parameter_count, sizeof *mlp->parameters);
  if (mlp->parameters == NULL)
    return qb_fail_memory(error, "network parameters", mlp->parameter_count * sizeof *mlp->parameters);
  initialise(mlp, seed);
  return QB_OK;
}

void qb_mlp_free(qb_mlp *mlp) {
  if (mlp == NULL)
    return;
  qb_free(mlp->parameters);
  *mlp = (qb_mlp){0};
}

/* --------------------------------------------------------------------------------------------------------- shards */

typedef struct shard {
  int32_t rows;                             /* rows in use */
  float *activation[QB_MLP_MAX_LAYERS + 1]; /* (rows, widths[l]): the inputs, then each layer's output */
  float *delta[QB_MLP_MAX_LAYERS + 1];      /* (rows, widths[l]): gradient by activation[l], l >= 1 */
  int32_t *labels;                          /* (rows) */
  float *gradient;                          /* (parameter_count), NULL for a shard that only runs forward */
  double loss;                              /* summed over rows */
} shard;

static void shard_free(shard *s) {
  for (int32_t l = 0; l <= QB_MLP_MAX_LAYERS; l++) {
    qb_free(s->activation[l]);
    qb_free(s->delta[l]);
  }
  qb_free(s->labels);
  qb_free(s->gradient);
  *s = (shard){0};
}

/* Buffers for `rows` rows; free with shard_free in every case. */
static qb_status shard_create(shard *s, const qb_mlp *mlp, int32_t rows, bool backward, qb_error *error) {
  *s = (shard){0};
  bool good = (s->labels = qb_alloc((size_t)rows, sizeof *s->labels)) != NULL;
  for (int32_t l = 0; good && l <= mlp->layers; l++) {
    size_t size = (size_t)rows * (size_t)mlp->widths[l];
    good = (s->activation[l] = qb_alloc(size, sizeof(float))) != NULL;
    if (good && backward && l > 0)
      good = (s->delta[l] = qb_alloc(size, sizeof(float))) != NULL;
  }
  if (good && backward)
    good = (s->gradient = qb_alloc(mlp->parameter_count, sizeof(float))) != NULL;
  return good ? QB_OK : qb_fail_memory(error, "training buffers", (size_t)rows * sizeof(float));
}

/* Copies samples order[first], .. (or first, .. when order is NULL) into the shard. */
static void shard_load(shard *s, const qb_mlp *mlp, const qb_mlp_samples *samples, const int64_t *order, int64_t first,
                       int32_t rows) {
  size_t width = (size_t)mlp->widths[0];
  s->rows = rows;
  for (int32_t i = 0; i < rows; i++) {
    int64_t sample = order != NULL ? order[first + i] : first + i;
    memcpy(s->activation[0] + (size_t)i * width, samples->inputs + (size_t)sample * width, width * sizeof(float));
    s->labels[i] = samples->labels[sample];
  }
}

static void forward(shard *s, const qb_mlp *mlp) {
  for (int32_t l = 0; l < mlp->layers; l++) {
    int32_t in = mlp->widths[l], out = mlp->widths[l + 1];
    const float *bias = qb_mlp_bias(mlp, l);
    float *z = s->activation[l + 1];
    for (int32_t i = 0; i < s->rows; i++)
      memcpy(z + (size_t)i * (size_t)out, bias, (size_t)out * sizeof *z);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, s->rows, out, in, 1, s->activation[l], in,
                qb_mlp_weight(mlp, l), in, 1, z, out);
    size_t count = (size_t)s->rows * (size_t)out;
    for (size_t i = 0; l + 1 < mlp->layers && i < count; i++)
      z[i] = z[i] < 0 ? 0 : z[i]; /* keeps NaN, so that a divergence reaches the loss */
  }
}

/* One row: scale (softmax(z) - onehot) into delta; returns the cross-entropy. */
static double softmax_row(const float *z, int32_t label, int32_t classes, float scale, float *delta) {
  float largest = z[0];
  for (int32_t c = 1; c < classes; c++)
    largest = z[c] > largest ? z[c] : largest;
  float sum = 0;
  for (int32_t c = 0; c < classes; c++)
    sum += delta[c] = expf(z[c] - largest);
  for (int32_t c = 0; c < classes; c++)
    delta[c] = scale * (delta[c] / sum - (c == label ? 1.0f : 0.0f));
  return log((double)sum) + (double)(largest - z[label]);
}

static void mask_inactive(float *delta, const float *activation, size_t count) {
  for (size_t i = 0; i < count; i++)
    delta[i] = activation[i] > 0 ? delta[i] : 0;
}

static void sum_rows(const float *delta, int32_t rows, int32_t width, float *sum) {
  memset(sum, 0, (size_t)width * sizeof *sum);
  for (int32_t i = 0; i < rows; i++)
    for (int32_t j = 0; j < width; j++)
      sum[j] += delta[(size_t)i * (size_t)width + (size_t)j];
}

/* After forward: the loss, and the gradient of the loss of this shard times `scale`. */
static void backward(shard *s, const qb_mlp *mlp, float scale) {
  int32_t classes = mlp->widths[mlp->layers];
  s->loss = 0;
  for (int32_t i = 0; i < s->rows; i++) {
    size_t row = (size_t)i * (size_t)classes;
    s->loss += softmax_row(s->activation[mlp->layers] + row, s->labels[i], classes, scale, s->delta[mlp->layers] + row);
  }
  for (int32_t l = mlp->layers - 1; l >= 0; l--) {
    int32_t in = mlp->widths[l], out = mlp->widths[l + 1];
    float *weight_gradient = s->gradient + layer_offset(mlp, l);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, in, s->rows, 1, s->delta[l + 1], out, s->activation[l],
                in, 0, weight_gradient, in);
    sum_rows(s->delta[l + 1], s->rows, out, weight_gradient + weight_count(mlp, l));
    if (l == 0)
      break;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, s->rows, in, out, 1, s->delta[l + 1], out,
                qb_mlp_weight(mlp, l), in, 0, s->delta[l], in);
    mask_inactive(s->delta[l], s->activation[l], (size_t)s->rows * (size_t)in);
  }
}

/* -------------------------------------------------------------------------------------------------------- training */

typedef struct trainer {
  qb_mlp *mlp;
  const qb_mlp_samples *samples;
  qb_mlp_settings settings;
  int32_t threads;
  shard shards[SHARDS];
  float *moment, *square; /* (parameter_count) Adam's running means of the gradient and of its square */
  int64_t *order;         /* (samples) */
  int64_t step, step_count;
} trainer;

static bool all_finite(const float *values, int32_t count) {
  bool finite = true;
  for (int32_t i = 0; i < count; i++)
    finite = finite && isfinite(values[i]);
  return finite;
}

static qb_status check_samples(const qb_mlp *mlp, const qb_mlp_samples *samples, qb_error *error) {
  if (samples->count < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "there are no samples");
  for (int64_t i = 0; i < samples->count; i++) {
    if (samples->labels[i] < 0 || samples->labels[i] >= mlp->widths[mlp->layers])
      return qb_fail(error, QB_ERROR_ARGUMENT, "sample %lld has label %d: the network has %d classes", (long long)i,
                     samples->labels[i], mlp->widths[mlp->layers]);
    if (!all_finite(samples->inputs + i * mlp->widths[0], mlp->widths[0]))
      return qb_fail(error, QB_ERROR_NUMERIC, "sample %lld holds NaN or Inf", (long long)i);
  }
  return QB_OK;
}

static qb_status check_settings(const qb_mlp_settings *settings, qb_error *error) {
  if (settings->epochs < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%d epochs: choose 1 or more", settings->epochs);
  if (settings->batch < 1 || settings->batch > MAX_BATCH)
    return qb_fail(error, QB_ERROR_ARGUMENT, "a batch of %d: choose 1 to %d", settings->batch, MAX_BATCH);
  if (!(settings->rate > 0) || !isfinite(settings->rate))
    return qb_fail(error, QB_ERROR_ARGUMENT, "a learning rate of %g: choose a positive number", (double)settings->rate);
  if (settings->threads < 0)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%d threads: choose 0 (all cores) or more", settings->threads);
  return QB_OK;
}

static void trainer_free(trainer *t) {
  for (int i = 0; i < SHARDS; i++)
    shard_free(&t->shards[i]);
  qb_free(t->moment);
  qb_free(t->square);
  qb_free(t->order);
}

static qb_status trainer_create(trainer *t, qb_error *error) {
  int32_t shard_rows = (t->settings.batch + SHARDS - 1) / SHARDS;
  for (int i = 0; i < SHARDS; i++)
    QB_TRY(shard_create(&t->shards[i], t->mlp, shard_rows, true, error));
  t->moment = qb_alloc(t->mlp->parameter_count, sizeof *t->moment);
  t->square = qb_alloc(t->mlp->parameter_count, sizeof *t->square);
  t->order = qb_alloc((size_t)t->samples->count, sizeof *t->order);
  if (t->moment == NULL || t->square == NULL || t->order == NULL)
    return qb_fail_memory(error, "training state", t->mlp->parameter_count * sizeof *t->moment);
  for (int64_t i = 0; i < t->samples->count; i++)
    t->order[i] = i;
  t->step_count = t->settings.epochs * ((t->samples->count + t->settings.batch - 1) / t->settings.batch);
  t->threads = t->settings.threads > 0 ? t->settings.threads : omp_get_max_threads();
  return QB_OK;
}

static void shuffle(int64_t *order, int64_t count, qb_rng *rng) {
  for (int64_t i = count - 1; i > 0; i--) {
    int64_t j = (int64_t)qb_rng_below(rng, (uint64_t)i + 1);
    int64_t kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
}

/* Gradients of the mean loss over samples first, .. of the order, left in the shards; returns the summed loss. */
static double batch_gradient(trainer *t, int64_t first, int32_t rows) {
#pragma omp parallel for schedule(static, 1) num_threads(t->threads)
  for (int i = 0; i < SHARDS; i++) {
    shard *s = &t->shards[i];
    int32_t begin = rows * i / SHARDS, end = rows * (i + 1) / SHARDS;
    shard_load(s, t->mlp, t->samples, t->order, first + begin, end - begin);
    s->loss = 0;
    if (s->rows == 0) { /* a last batch smaller than the number of shards */
      memset(s->gradient, 0, t->mlp->parameter_count * sizeof *s->gradient);
      continue;
    }
    forward(s, t->mlp);
    backward(s, t->mlp, 1.0f / (float)rows);
  }
  double loss = 0;
  for (int i = 0; i < SHARDS; i++)
    loss += t->shards[i].loss;
  return loss;
}

/* Kingma and Ba 2015 with the bias corrections folded into the rate. */
static void adam_step(trainer *t) {
  const float decay1 = 0.9f, decay2 = 0.999f, tiny = 1e-8f;
  double rate = (double)t->settings.rate * (1.0 - (double)t->step / (double)t->step_count);
  t->step++;
  double correction1 = 1 - pow(0.9, (double)t->step), correction2 = 1 - pow(0.999, (double)t->step);
  float scale = (float)(rate * sqrt(correction2) / correction1);
  int64_t count = (int64_t)t->mlp->parameter_count;
#pragma omp parallel for schedule(static) num_threads(t->threads)
  for (int64_t i = 0; i < count; i++) {
    float gradient = 0;
    for (int k = 0; k < SHARDS; k++)
      gradient += t->shards[k].gradient[i];
    t->moment[i] = decay1 * t->moment[i] + (1 - decay1) * gradient;
    t->square[i] = decay2 * t->square[i] + (1 - decay2) * gradient * gradient;
    t->mlp->parameters[i] -= scale * t->moment[i] / (sqrtf(t->square[i]) + tiny);
  }
}

static qb_status train_epochs(trainer *t, const qb_progress *progress, double *final_loss, qb_error *error) {
  qb_rng rng;
  qb_rng_seed(&rng, t->settings.seed, 1);
  for (int32_t epoch = 0; epoch < t->settings.epochs; epoch++) {
    shuffle(t->order, t->samples->count, &rng);
    double loss = 0;
    for (int64_t first = 0; first < t->samples->count; first += t->settings.batch) {
      int64_t left = t->samples->count - first;
      loss += batch_gradient(t, first, left < t->settings.batch ? (int32_t)left : t->settings.batch);
      if (!isfinite(loss))
        return qb_fail(error, QB_ERROR_NUMERIC, "training diverged in epoch %d: choose a smaller learning rate",
                       epoch + 1);
      adam_step(t);
      if (!qb_progress_report(progress, "training", t->step, t->step_count))
        return qb_fail(error, QB_ERROR_INTERRUPTED, "training was interrupted in epoch %d", epoch + 1);
    }
    if (final_loss != NULL)
      *final_loss = loss / (double)t->samples->count;
  }
  return QB_OK;
}

qb_status qb_mlp_train(qb_mlp *mlp, const qb_mlp_samples *samples, const qb_mlp_settings *settings,
                       const qb_progress *progress, double *final_loss, qb_error *error) {
  QB_TRY(check_settings(settings, error));
  QB_TRY(check_samples(mlp, samples, error));
  trainer t = {.mlp = mlp, .samples = samples, .settings = *settings};
  qb_status status = trainer_create(&t, error);
  int max_threads = omp_get_max_threads();
  omp_set_num_threads(
      1); /* of this thread: a product is never cut, also where a shard runs outside a parallel region */
  if (status == QB_OK)
    status = train_epochs(&t, progress, final_loss, error);
  omp_set_num_threads(max_threads);
  trainer_free(&t);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- evaluating */

static int64_t count_correct(const shard *s, int32_t classes, const float *outputs) {
  int64_t correct = 0;
  for (int32_t i = 0; i < s->rows; i++) {
    const float *row = outputs + (size_t)i * (size_t)classes;
    int32_t best = 0;
    for (int32_t c = 1; c < classes; c++)
      best = row[c] > row[best] ? c : best;
    correct += best == s->labels[i];
  }
  return correct;
}

qb_status qb_mlp_accuracy(const qb_mlp *mlp, const qb_mlp_samples *samples, double *accuracy, qb_error *error) {
  QB_TRY(check_samples(mlp, samples, error));
  shard s;
  qb_status status = shard_create(&s, mlp, ACCURACY_ROWS, false, error);
  int64_t correct = 0;
  for (int64_t first = 0; status == QB_OK && first < samples->count; first += ACCURACY_ROWS) {
    int64_t left = samples->count - first;
    shard_load(&s, mlp, samples, NULL, first, left < ACCURACY_ROWS ? (int32_t)left : ACCURACY_ROWS);
    forward(&s, mlp);
    correct += count_correct(&s, mlp->widths[mlp->layers], s.activation[mlp->layers]);
  }
  shard_free(&s);
  *accuracy = (double)correct / (double)samples->count;
  return status;
}

qb_status qb_mlp_gradient(const qb_mlp *mlp, const qb_mlp_samples *samples, float *gradient, double *loss,
                          qb_error *error) {
  QB_TRY(check_samples(mlp, samples, error));
  if (samples->count > MAX_BATCH)
    return qb_fail(error, QB_ERROR_ARGUMENT, "a gradient over %lld samples: %d at most", (long long)samples->count,
                   MAX_BATCH);
  shard s;
  qb_status status = shard_create(&s, mlp, (int32_t)samples->count, true, error);
  if (status == QB_OK) {
    shard_load(&s, mlp, samples, NULL, 0, (int32_t)samples->count);
    forward(&s, mlp);
    backward(&s, mlp, 1.0f / (float)samples->count);
    memcpy(gradient, s.gradient, mlp->parameter_count * sizeof *gradient);
    *loss = s.loss / (double)samples->count;
  }
  shard_free(&s);
  return status;
}
