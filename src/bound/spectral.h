/* The l2 domain: spectral norms, centred at an activation, with centred gates (theory section 3.1).
 *
 * For a centre x0 (the middle of the domain) let c_v be the activation of the original network at tensor v. Then for
 * every input of the domain
 *   spread  ||x_v - c_v||_2  <= H_v:   H <- sigma(W) H                       (biases cancel)
 *   error   ||x_v - x'_v||_2 <= e_v:   e <- sigma(W') e + ||dW c + db||_2 + sigma(dW) H
 * so the bulk of the change, dW times the centre, is computed instead of bounded. Over a pair of layers or a residual
 * block the product sigma(W2) sigma(W1) gives way to the centred gate
 *   sup_G ||A + W2 G W1|| <= ||A + W2 W1 / 2|| + ||W2 T|| ||T^-1 W1|| / 2
 * with torus norms in both terms. All norms of a tensor are weighted, ||T_v^-1 .||_2 with one positive number per
 * channel, and a layer from u to v counts ||T_v^-1 W T_u||; the weights are searched so that the product of the norms
 * is small (scaling.h), and ones are tried as well. Every norm is certified (sigma.h). */
#ifndef QB_BOUND_SPECTRAL_H
#define QB_BOUND_SPECTRAL_H

#include "bound/bound.h"

typedef struct qb_spectral_settings {
  bool windows;           /* centred gates over pairs of layers and residual blocks; default true */
  int exact_channels;     /* layers with more channels get W' by ||W'|| <= ||W|| + ||dW|| where that loses little:
                           * less than half the work; default 96 */
  bool weights;           /* weighted norms between windows as well as inside them, where that makes the bound smaller;
                           * default true */
  int scaling_iterations; /* steps of the search for T, 0: balanced norms only; default 24 */
  uint64_t drawn_weights; /* tests: a seed of random weights that are used whatever they are worth; default 0: search */
} qb_spectral_settings;

/* What was proved at one tensor of the quantized graph, T its weights. */
typedef struct qb_spectral_state {
  double error;  /* ||T^-1 (x - x')||_2 */
  double spread; /* ||T^-1 (x - c)||_2 */
  double peak;   /* ||x - x'||_inf; infinity when only the l2 norm is known */
} qb_spectral_state;

/* Per-layer norms, for certificates and tables; zero for nodes that are no linear layers. */
typedef struct qb_spectral_layer {
  double sigma, sigma_quantized, sigma_difference; /* of W, W', W - W' between the weights of input and output */
  double gate, gate_quantized; /* centred-gate norm of the window that ends here (at the Add of a block), else 0 */
} qb_spectral_layer;

/* Torus norms of one gate in one network; the gate's norm is joint + inner * outer / 2. */
typedef struct qb_spectral_gate_norms {
  double joint, inner, outer; /* ||A + W2 W1 / 2||, ||T^-1 W1||, ||W2 T|| */
} qb_spectral_gate_norms;

/* What proves the norm of a centred gate to somebody who trusts nothing: everything the search for T found. */
typedef struct qb_spectral_gate {
  qb_node_id node; /* of the quantized graph: where the window ends */
  int64_t side[2]; /* of the torus */
  int64_t channels;
  const double *scaling; /* (channels), positive: T. T^-1 is its reciprocal, entry by entry, rounded to double */
  qb_spectral_gate_norms original, quantized;
  bool perturbed; /* the quantized network's norm follows from the original's and the norms of the changes; `quantized`
                   * is empty then */
} qb_spectral_gate;

typedef struct qb_spectral_result {
  qb_bound bound;            /* on the largest |output difference| */
  qb_spectral_state *states; /* by value id of the quantized graph */
  qb_spectral_layer *layers; /* by node id of the quantized graph */
  qb_spectral_gate *gates;   /* (gate_count) in topological order */
  int32_t gate_count;
  const double **weights; /* by value id: T of the tensor, one number per channel (axis 1); NULL: ones. 1/T is the
                           * reciprocal of each, rounded to double where it multiplies a kernel */
  qb_arena arena;         /* of the weights and scalings */
} qb_spectral_result;

void qb_spectral_settings_default(qb_spectral_settings *settings);

/* Bounds the pair over the domain. An operator without an l2 rule makes the bound "not applicable" with the reason;
 * that is no error. QB_ERROR_MEMORY, QB_ERROR_NUMERIC. Release with qb_spectral_result_free in every case. */
QB_MUST_CHECK qb_status qb_bound_spectral(const qb_pair *pair, const qb_domain *domain,
                                          const qb_spectral_settings *settings, qb_spectral_result *result,
                                          qb_error *error);
void qb_spectral_result_free(qb_spectral_result *result);

/* *sigma >= the l2 operator norm of one linear layer of `graph` with the weights plus - minus (minus may be NULL: plus
 * alone), float32 arrays in the weight's layout. Convolutions on a torus (theory section 3.1); ConvTranspose by Schur's
 * bound. `scratch` is rewound. QB_ERROR_MEMORY, QB_ERROR_NUMERIC. */
QB_MUST_CHECK qb_status qb_layer_sigma(const qb_graph *graph, const qb_linear *linear, const float *plus,
                                       const float *minus, qb_arena *scratch, double *sigma, qb_error *error);

#endif
