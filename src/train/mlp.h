/* Training small ReLU multilayer perceptrons: enough to make the networks of depth 5 to 11 whose bounds are compared
 * with the paper's, without any other program.
 *
 * Adam on the cross-entropy of shuffled minibatches, learning rate falling linearly to zero, He initialisation. Seeded:
 * the same samples, settings and machine give the same bits for any number of threads, because a minibatch is always
 * cut into the same shards, each computed by one thread, whose gradients are added in order. */
#ifndef QB_TRAIN_MLP_H
#define QB_TRAIN_MLP_H

#include <qbound/qbound.h>

enum { QB_MLP_MAX_LAYERS = 32, QB_MLP_MAX_WIDTH = 65536 };

/* layers affine maps with ReLU between them. Parameters lie in one block: weight and bias of each layer in turn. */
typedef struct qb_mlp {
  int32_t layers;                        /* number of affine maps, 1..32 */
  int32_t widths[QB_MLP_MAX_LAYERS + 1]; /* (layers + 1): inputs, hidden widths, classes */
  size_t parameter_count;
  float *parameters; /* (parameter_count), owned */
} qb_mlp;

/* Labelled inputs; borrowed. */
typedef struct qb_mlp_samples {
  int64_t count;
  const float *inputs;   /* (count, widths[0]) */
  const int32_t *labels; /* (count), 0..classes - 1 */
} qb_mlp_samples;

typedef struct qb_mlp_settings {
  int32_t epochs;  /* passes over the samples, >= 1, default 10 */
  int32_t batch;   /* samples per step, 1..4096, default 128 */
  float rate;      /* first learning rate, > 0, default 0.001 */
  uint64_t seed;   /* of the order of samples, default 0 */
  int32_t threads; /* 0 (default): all cores */
} qb_mlp_settings;

void qb_mlp_settings_default(qb_mlp_settings *settings);

/* An untrained network: weights normal with variance 2 / inputs of the layer, biases zero. QB_ERROR_ARGUMENT for a
 * layer count or width out of range, QB_ERROR_MEMORY. Free with qb_mlp_free. */
QB_MUST_CHECK qb_status qb_mlp_create(qb_mlp *mlp, int32_t layers, const int32_t *widths, uint64_t seed,
                                      qb_error *error);

/* Releases the parameters; NULL and a cleared network are fine. */
void qb_mlp_free(qb_mlp *mlp);

/* Weight (widths[layer + 1], widths[layer]) and bias (widths[layer + 1]) of a layer. */
float *qb_mlp_weight(const qb_mlp *mlp, int32_t layer);
float *qb_mlp_bias(const qb_mlp *mlp, int32_t layer);

/* Trains in place. `progress` may be NULL; `final_loss` (may be NULL) is the mean loss of the last epoch.
 * QB_ERROR_ARGUMENT (settings, no samples, a label out of range), QB_ERROR_NUMERIC (an input or the loss is not
 * finite),
 * QB_ERROR_MEMORY, QB_ERROR_INTERRUPTED. */
QB_MUST_CHECK qb_status qb_mlp_train(qb_mlp *mlp, const qb_mlp_samples *samples, const qb_mlp_settings *settings,
                                     const qb_progress *progress, double *final_loss, qb_error *error);

/* Fraction of samples whose largest output is their label's. QB_ERROR_ARGUMENT for no samples, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_mlp_accuracy(const qb_mlp *mlp, const qb_mlp_samples *samples, double *accuracy,
                                        qb_error *error);

/* Mean loss of up to `count` samples and its gradient by every parameter, in the order of `parameters`; for tests. */
QB_MUST_CHECK qb_status qb_mlp_gradient(const qb_mlp *mlp, const qb_mlp_samples *samples, float *gradient, double *loss,
                                        qb_error *error);

#endif
