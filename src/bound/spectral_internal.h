/* Shared by spectral.c (propagation) and spectral_gate.c (centred gates). */
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

/* The float32 data of a constant, NULL for QB_NONE. */
const float *spectral_constant(const qb_graph *graph, qb_value_id id);

/* Tightens the state at the output of `node` by the centred gate over the window that ends there, if there is one. */
QB_MUST_CHECK qb_status spectral_gate(spectral *s, qb_node_id node);

#endif
