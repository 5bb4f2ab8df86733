/* Shared by spectral.c (the walk), spectral_linear.c, spectral_rules.c (one rule per operator family) and
 * spectral_gate.c (centred gates). */
#ifndef QB_BOUND_SPECTRAL_INTERNAL_H
#define QB_BOUND_SPECTRAL_INTERNAL_H

#include <math.h>

#include "bound/sigma.h"
#include "bound/spectral.h"

/* What a linear node adds to the two recurrences. */
typedef struct spectral_terms {
  double drift;     /* ||fl(W c + b) - (W c + b)||_2 of the stored centres */
  double injection; /* ||dW x + db||_2 for every x of the domain */
} spectral_terms;

/* One computation; arrays by value or node of the quantized graph. */
typedef struct spectral {
  const qb_pair *pair;
  const qb_domain *domain;
  const qb_spectral_settings *settings;
  qb_spectral_result *result;
  qb_arena arena;        /* centres and everything else that lives until the end */
  qb_arena scratch;      /* rewound after every node */
  double **centre;       /* c_v, (elements of v) */
  spectral_terms *terms; /* by node */
  qb_error *error;
} spectral;

static inline double round_up(double x) { return x == 0 ? 0 : nextafter(x, INFINITY); }
static inline double add_up(double a, double b) { return round_up(a + b); }
static inline double multiply_up(double a, double b) { return a == 0 || b == 0 ? 0 : round_up(a * b + 0x1p-1074); }

/* A rule fills the centre and the state of the node's output. A missing rule is a reason, not an error: it is written
 * to result->bound.why and the rule returns true in *refused. */
typedef struct spectral_call {
  spectral *s;
  qb_node_id id;
  const qb_node *node;        /* of the quantized graph */
  const qb_node *partner;     /* of the original graph */
  const qb_spectral_state *x; /* of input 0 */
  const double *c;            /* centre of input 0 */
  qb_spectral_state *y;
  double *d;               /* centre of the output, to be filled */
  int64_t inputs, outputs; /* elements of input 0 and of the output */
  bool refused;
} spectral_call;

typedef qb_status (*spectral_rule)(spectral_call *call);

/* By qb_op: one rule per family. */
extern const spectral_rule spectral_rules[QB_OP_COUNT];

/* Conv, ConvTranspose, Gemm, MatMul (spectral_linear.c). */
QB_MUST_CHECK qb_status spectral_linear(spectral_call *call);

/* Writes the reason why there is no bound and marks the call as refused. */
void spectral_refuse(spectral_call *call, const char *why);

static inline double root_up(double x) { return round_up(sqrt(x)); }

/* max |v_i|. */
static inline double largest_entry(const double *v, int64_t count) {
  double result = 0;
  for (int64_t i = 0; i < count; i++)
    result = fmax(result, fabs(v[i]));
  return result;
}

/* The float32 data of a constant, NULL for QB_NONE. */
const float *spectral_constant(const qb_graph *graph, qb_value_id id);

/* Tightens the state at the output of `node` by the centred gate over the window that ends there, if there is one. */
QB_MUST_CHECK qb_status spectral_gate(spectral *s, qb_node_id node);

#endif
