/* Bounds of a box, refined by cutting it in two again and again, the worst part first: a box of few inputs across
 * inputs, any box across neurons (ball_cut.h).
 *
 * Unlike bisect.h, which proves one claim about one output, this bounds every output at once and asks for decisions; it
 * can be stopped at any time and keeps the tree of cuts, which proves the result together with the bounds of the
 * leaves. */
#ifndef QB_BOUND_REFINE_H
#define QB_BOUND_REFINE_H

#include "bound/ball.h"

enum { QB_REFINE_INPUTS = 10 }; /* more inputs of positive width than these are not worth cutting */

typedef struct qb_refine_settings {
  double timeout_seconds; /* stops after about so long; 0: never */
  int64_t most_parts;     /* stops after bounding so many; default 20000. The result depends on the number of threads
                           * and the machine only through the timeout */
  double enough;          /* stops when no output can differ by more, and decisions, where asked for, are proved */
  bool neurons;           /* cut across neurons instead of inputs; default false */
  int32_t threads;        /* 0: all of OpenMP's */
  const qb_progress *progress; /* shown the seconds spent of the timeout; may be NULL */
  qb_ball_settings ball;       /* `decide` also asks for decisions, `output` for one output alone */
} qb_refine_settings;

qb_refine_settings qb_refine_settings_default(void);

typedef struct qb_refinement {
  bool applies;
  char why[200];           /* the node without a rule when it does not apply */
  int64_t count;           /* elements of the first output */
  qb_interval *original;   /* (count) range of the original's outputs over the box */
  qb_interval *difference; /* (count) of quantized - original */
  bool *relaxed;           /* (nodes of the quantized graph) its undecided outputs were relaxed in some part */
  bool keeps_top;          /* proved: at every input of the box both networks have the same, unique largest output */
  double largest;          /* magnitude of any tensor's element in the original network, where finite */
  int64_t parts;           /* boxes that were bounded */
  int64_t node_count;      /* of the tree of cuts, in preorder */
  int32_t *axis;           /* (node_count) the input that a node is cut across, in the middle 0.5F * lo + 0.5F * hi in
                            * float32, the lower half first; -1 for a leaf; -2 - k: across neurons[k], the lower side
                            * first */
  int64_t neuron_count;
  qb_ball_cut *neurons;  /* (neuron_count) `above` means nothing */
  double hidden_skipped; /* of the whole box: elements of hidden layers left to intervals */
  int32_t turns;         /* how often planes were turned, at most over the parts */
  qb_arena arena;
} qb_refinement;

/* The number of inputs over which the domain has positive width. */
int64_t qb_domain_free_inputs(const qb_domain *domain);

/* QB_ERROR_SHAPE, QB_ERROR_MEMORY, QB_ERROR_NUMERIC, QB_ERROR_INTERRUPTED as for qb_bound_ball. Release with
 * qb_refinement_free in every case. */
QB_MUST_CHECK qb_status qb_bound_refined(const qb_pair *pair, const qb_domain *domain,
                                         const qb_refine_settings *settings, qb_refinement *refinement,
                                         qb_error *error);
void qb_refinement_free(qb_refinement *refinement);

#endif
