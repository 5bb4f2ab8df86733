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
  double injection; /* ||dW x + db||_2 for every x of the domain; both also of what float32 evaluation adds */
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
  qb_sigma_memory *memory;
  bool estimating;        /* norms are estimates, which prove nothing */
  const double **between; /* by value: T inside the gate over that tensor; result->weights when those are used */
  const qb_spectral_result *given; /* NULL, or a finished bound of the pair: its weights and norms are taken over */
  double *limits;                  /* NULL, or (elements of the largest value): |x - x'| at the output of `limited` */
  qb_node_id limited;              /* the last linear layer that was visited */
  qb_error *error;
} spectral;

/* W2 G W1 (+ A), nodes of the quantized graph. */
typedef struct gate_window {
  qb_linear inner, outer, skip; /* W1, W2, A */
  bool has_skip;                /* y has a branch besides W2 h */
  bool skip_is_identity;
  qb_value_id x;
} gate_window;

typedef struct window_kernels {
  qb_kernel inner, outer, skip;
} window_kernels;

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

/* Centre and state of the input, and the weights. Then one visit of every node in topological order; a refused one
 * leaves no state. */
QB_MUST_CHECK qb_status spectral_begin(spectral *s);
QB_MUST_CHECK qb_status spectral_visit(spectral *s, qb_node_id id, bool *refused);

/* l2 norm of row o of (plus - minus) T_in (plus alone when minus is NULL), rounded up; ConvTranspose: of the whole
 * matrix. */
double spectral_row_norm(const spectral_call *call, const qb_graph *graph, const qb_linear *linear, const float *plus,
                         const float *minus, int64_t o);

/* Adds what float32 evaluation of a node does to its finished state and terms, where the pair asks for it; refuses
 * where that is not known (spectral_evaluation.c). */
void spectral_evaluate(spectral_call *call);

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

/* The window that ends at `node`, and is not part of a residual block that has one of its own. */
bool spectral_window(const spectral *s, qb_node_id node, gate_window *w);

/* The kernels of a window in one of the two networks, into `arena`. */
QB_MUST_CHECK qb_status spectral_window_kernels(const spectral *s, const gate_window *w, bool original, qb_arena *arena,
                                                window_kernels *k);

/* One torus for all kernels of the window. */
void spectral_window_torus(const spectral *s, const gate_window *w, const window_kernels *k, int64_t side[2]);

/* The norm that this walk wants: certified or estimated. */
QB_MUST_CHECK qb_status spectral_norm(const spectral *s, qb_sigma_problem *problem, double *sigma);

/* The torus of one layer. */
void spectral_layer_torus(const qb_graph *graph, const qb_linear *linear, const qb_kernel *kernel, int64_t side[2]);

/* left^-1 K right; either may be NULL: ones, and K itself when both are. One group unless both are. */
QB_MUST_CHECK qb_status spectral_weigh(const spectral *s, const qb_kernel *kernel, const double *right,
                                       const double *left, qb_arena *arena, qb_kernel *weighted);

/* Fills s->between and, if wanted, result->weights (spectral_weights.c). */
QB_MUST_CHECK qb_status spectral_choose_weights(spectral *s);

/* Upper bounds of max 1/t, max t of a value's weights, and of max t_from / t_to over the channels. */
double spectral_largest_inverse(const spectral *s, qb_value_id v);
double spectral_largest_weight(const spectral *s, qb_value_id v);
double spectral_ratio(const spectral *s, qb_value_id from, qb_value_id to);

/* Tightens the state at the output of `node` by the centred gate over the window that ends there, if there is one. */
QB_MUST_CHECK qb_status spectral_gate(spectral *s, qb_node_id node);

#endif
