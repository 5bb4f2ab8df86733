/* Certified bounds on sup over the domain of ||R_theta(x) - R_theta'(x)||_inf, one file per theorem.
 *
 * This module is the trusted core: it sees graphs and tensors only, no parser, no engine, no quantizer. Every number
 * that leaves it is an upper bound in exact arithmetic of both networks; all roundings are outward (docs/bounds.md). */
#ifndef QB_BOUND_BOUND_H
#define QB_BOUND_BOUND_H

#include "bound/magnitude.h"
#include "graph/pair.h"

/* A box of inputs: lo[i] <= x[i] <= hi[i] for every element of one sample. */
typedef struct qb_domain {
  int64_t count;
  float *lo, *hi; /* (count), from qb_alloc */
} qb_domain;

/* [lo, hi] for every element of the graph's input. */
QB_MUST_CHECK qb_status qb_domain_interval(const qb_graph *graph, float lo, float hi, qb_domain *domain,
                                           qb_error *error);

/* [lo[c], hi[c]] for every element of channel c (axis 1 of the graph's input); `channels` must match. */
QB_MUST_CHECK qb_status qb_domain_channels(const qb_graph *graph, const float *lo, const float *hi, int32_t channels,
                                           qb_domain *domain, qb_error *error);
void qb_domain_free(qb_domain *domain);

/* max |x_i| over the domain: the paper's D. */
double qb_domain_radius(const qb_domain *domain);

/* The shapes of the published formulas when biases exist (theory section 2, docs/bounds.md). */
typedef enum qb_form { QB_FORM_PLAIN, QB_FORM_G1, QB_FORM_G3, QB_FORM_G4 } qb_form;

/* "plain", "G1", "G3", "G4" */
const char *qb_form_name(qb_form form);

enum { QB_BOUND_WHY = QB_BOUND_WHY_TEXT };

/* One bound: a number of any exponent, or the reason why there is none. */
typedef struct qb_bound {
  bool applies;
  qb_form form;
  qb_magnitude value;     /* meaningful when `applies` */
  char why[QB_BOUND_WHY]; /* the failed hypothesis when not, else "" */
} qb_bound;

/* Every bound the program prints, in the order in which it prints them. A graph bound is proved for the network as it
 * is; the others speak about the paper's chain of layers. */
#define QB_BOUND_METHODS(X)                  \
  X(PRIOR, "prior", false)                   \
  X(GENERAL, "general", false)               \
  X(CNN, "cnn", false)                       \
  X(CHAIN_UNSUMMED, "chain_unsummed", false) \
  X(LAYERWISE, "layerwise", true)            \
  X(ELEMENTWISE, "elementwise", true)        \
  X(TWO_STAGE, "two_stage", true)            \
  X(INTERVAL, "interval", true)              \
  X(SPECTRAL, "spectral", true)              \
  X(PRODUCT, "product", true)

typedef enum qb_bound_method {
#define X(ID, NAME, IS_GRAPH) QB_BOUND_##ID,
  QB_BOUND_METHODS(X)
#undef X
      QB_BOUND_BEST, /* the smallest graph bound that applies */
  QB_BOUND_COUNT
} qb_bound_method;

/* "prior", .., "best" */
const char *qb_bound_method_name(qb_bound_method method);
bool qb_bound_method_is_graph(qb_bound_method method);

/* All bounds of one pair. */
typedef struct qb_bounds {
  double delta;                 /* >= the largest change of a parameter over the chain; 0 when nothing changed */
  bool chain_is_network;        /* the published bounds hold for this network as well */
  char chain_why[QB_BOUND_WHY]; /* why not */
  double output_range;          /* the original's outputs move by at most this over the domain, the largest of all
                                 * elements; infinity when neither layerwise nor interval was asked for or applies */
  qb_bound bound[QB_BOUND_COUNT];
} qb_bounds;

/* What is computed once per original network and used for every bit width and scheme. */
typedef struct qb_bounder qb_bounder;

/* Borrows `original`, which must outlive the bounder unchanged, and copies the domain. QB_ERROR_NUMERIC for an unsafe
 * floating-point environment, QB_ERROR_SHAPE when the domain does not fit the input, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_bounder_create(const qb_graph *original, const qb_domain *domain,
                                          const qb_bound_conventions *conventions, qb_bounder **bounder,
                                          qb_error *error);
void qb_bounder_free(qb_bounder *bounder);

enum { QB_BOUND_CHEAP_MACS = 20000000 }; /* multiply-accumulates of one inference: milliseconds */

/* Chooses the methods of later evaluations: bit m of `methods` is qb_bound_method m. The default is the published
 * bounds, layerwise, which cost one pass over the weights, and for small networks (QB_BOUND_CHEAP_MACS) elementwise,
 * which costs about six inferences; the others do not apply then ("not asked for"). */
void qb_bounder_select(qb_bounder *bounder, uint32_t methods);

/* Number of layers of the chain (conventions applied). */
int32_t qb_bounder_layers(const qb_bounder *bounder);

/* What the conventions leave out of the chain: "2 biases, 3 shortcut layers", or "" when nothing. */
const char *qb_bounder_dropped(const qb_bounder *bounder);

/* All bounds of `pair`, whose original is the bounder's. A method that has no rule for some node does not apply and
 * says why; that is no error. QB_ERROR_ARGUMENT for a pair of another original, QB_ERROR_FORMAT, QB_ERROR_SHAPE,
 * QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_bounder_evaluate(const qb_bounder *bounder, const qb_pair *pair, qb_bounds *bounds,
                                            qb_error *error);

/* The program refuses to bound anything in an unsafe floating-point environment: QB_ERROR_NUMERIC when flush-to-zero
 * or denormals-are-zero is on or rounding is not to nearest, in this thread or an OpenMP worker. */
QB_MUST_CHECK qb_status qb_bound_check_environment(qb_error *error);

#endif
