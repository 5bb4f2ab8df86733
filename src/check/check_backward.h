/* Linear forms over a tensor, carried back to the network's input (docs/bounds.md, section 3e).
 *
 * A form is over x of the original network, over q of the other one, or, for the difference, sum A x + D d + k with
 * d = q - x. Going back through a node, its outputs are replaced by what bounds them from above:
 *   layers        A <- A W + D (W' - W), D <- D W', k <- k + A b + D (b' - b);
 *   activations   the lines and planes of check_plane.h;
 *   copies, sums, averages, BatchNormalization: themselves (check_links.c); everything else: ranges of its outputs.
 * Coefficients are taken as they are computed. What a form can be off by is summed in `lost` and added at the end. */
#ifndef QB_CHECK_CHECK_BACKWARD_H
#define QB_CHECK_CHECK_BACKWARD_H

#include "check/check_ball_claim.h"
#include "check/check_plane.h"

enum { FORM_X, FORM_Q, FORM_D, FORM_KINDS };

/* The weights of a layer: W, W', W' - W, in the graph's layout. */
enum { LAYER_W, LAYER_W_Q, LAYER_MOVED, LAYER_KINDS };
typedef struct back_layer {
  qb_linear linear;
  double *weight[LAYER_KINDS], *bias[LAYER_KINDS];
} back_layer;

/* Prepared once for a pair. */
typedef struct back_pair {
  const qb_pair *pair;
  back_layer *layers; /* (nodes); linear.node is -1 where the node has no weights */
  bool *bent;         /* (nodes) */
  qb_arena arena;
} back_pair;

QB_MUST_CHECK qb_status back_pair_make(const qb_pair *pair, back_pair *b, qb_error *error);
void back_pair_free(back_pair *b);

/* What a node needs in one box, filled when the first form comes by. */
typedef struct back_node {
  bool ready;
  double *reach[FORM_KINDS]; /* layers: sums of |weights| times magnitudes, and biases, for each output element */
  plane *line[2][2];         /* activations: above y, -y; y', -y' */
  plane *moved[2];           /* above y' - y, y - y' */
  int32_t *undecided;        /* index into corners, or -1 */
  corners *corners[2];       /* of (f, up) and (f, down) */
} back_node;

/* h x + constant >= 0 at every input of the part that is bounded (check_cut.c). */
typedef struct half_space {
  const double *h; /* (inputs) */
  double constant;
} half_space;

enum { MOST_HALVES = 64 };

/* One box: ranges of all tensors so far. */
typedef struct back_box {
  const back_pair *pair;
  walk *ranges;
  back_node *nodes;
  const slope_claim
      *slopes; /* (slope_count) in order of node and element; elements that are not listed follow the rule */
  int64_t slope_count;
  half_space halves[MOST_HALVES]; /* (half_count) */
  int32_t half_count;
  qb_arena arena;
} back_box;

QB_MUST_CHECK qb_status back_box_begin(const back_pair *pair, walk *ranges, const slope_claim *slopes,
                                       int64_t slope_count, back_box *box, qb_error *error);
void back_box_free(back_box *box);

typedef struct forms {
  qb_value_id value; /* of the other graph */
  int kind;          /* FORM_* */
  int64_t count;
  const int64_t *element; /* (count) each form is sign times this element */
  const int64_t *minus;   /* (count) less this one; NULL: less nothing */
  const double *sign;     /* (count) */
  bool joint;             /* planes above A y + D (y' - y) as a whole */
  double *at_input; /* (count, inputs + 1) receives the forms over the input and their constants; NULL: not asked for */
  int32_t turns;    /* so often with turned planes as well (check_turn.c); forms of kind FORM_D, joint */
} forms;

/* top[i] is at least form i on the whole box. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status forms_top(back_box *box, const forms *f, double *top, qb_error *error);

/* Elements of `value` that some activation reading it leaves undecided; returns their number. */
int64_t undecided_of(const back_box *box, qb_value_id value, int64_t *element);

/* ------------------------------------------------------------------------------------- shared with check_links.c */

/* Sums of one form at one node: constants, the sizes of all rounded terms, their number, what else was lost. */
typedef struct tally {
  double sum, size, lost;
  int64_t terms;
} tally;

/* Both networks at one input for each form: by value (rows, elements) of x and of d. */
typedef struct spots {
  double **at[2];
} spots;

/* A block of forms on its way. at[0] over x (or q), at[1] over d: (rows, elements) by value, NULL while zero. */
typedef struct carried {
  back_box *box;
  int kind;
  bool joint;
  const spots *spots; /* planes of undecided elements are lowest there; NULL: at the centres */
  int64_t rows;
  double **at[2];
  double *constant, *lost; /* (rows) */
  qb_error *error;
} carried;

/* Coefficients over `value`, zero at first, to each of which at most `terms` terms will be added. *fresh: there were
 * none, so that a single term is not rounded. NULL when memory is short. */
double *carry_to(carried *c, qb_value_id value, int part, int64_t terms, bool *fresh);

/* 2^-30 of the largest element in either network: on what lies so near to each other, or to an end of a range, nothing
 * is to depend, as it may be rounding. */
double near_of(const cells *x);

/* Largest magnitude of what coefficients of a part are over. */
double carried_reach(const carried *c, qb_value_id value, int part, int64_t i);

/* Adds what a node gave to a form. Each coefficient and the constant are sums of at most t->terms terms, each rounded
 * at most 24 times before. */
void settle(carried *c, int64_t row, const tally *t);

/* Carries the forms from `first` on back to the input; their largest values; forgets them. */
QB_MUST_CHECK qb_status carry_back(carried *c, const forms *f, int64_t first);
void carried_top(const carried *c, double *top);
void carried_empty(carried *c);

/* Does so again with turned planes and keeps the smallest tops (check_turn.c). */
QB_MUST_CHECK qb_status turn_forms(carried *c, const forms *f, int64_t first, double *top);

/* What both networks compute at `inputs` (rows, inputs) in front of `value` (check_spots.c); everything is in `arena`.
 */
QB_MUST_CHECK qb_status spots_find(const carried *c, qb_value_id value, const double *inputs, spots *s,
                                   qb_arena *arena);

/* Every node that is neither a layer nor an activation. */
QB_MUST_CHECK qb_status carry_links(carried *c, qb_node_id id);

#endif
