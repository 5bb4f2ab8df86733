/* Shared by the files of the backward relaxation: what is prepared per node and the state of one walk. */
#ifndef QB_BOUND_BACKWARD_INTERNAL_H
#define QB_BOUND_BACKWARD_INTERNAL_H

#include "bound/backward.h"
#include "bound/dense.h"
#include "bound/fault.h"
#include "bound/kink.h"

enum { QB_WEIGHT_ORIGINAL, QB_WEIGHT_QUANTIZED, QB_WEIGHT_CHANGE, QB_WEIGHT_COUNT };

/* A layer's geometry as the walk uses it. */
typedef struct qb_layer_shape {
  bool is_conv, is_transposed;
  qb_window window;
  int64_t channels[2], height[2], width[2]; /* of input (0) and output (1) */
  int64_t positions;                        /* rows that a matrix layer is applied to */
  int64_t group, inputs, outputs;           /* outputs, inputs: elements of a sample */
  int64_t terms;                            /* most output elements that one input element reaches */
} qb_layer_shape;

/* A matrix layer between activations without the elements that no plane lets through: what is over them is zero. */
typedef struct qb_narrow_layer {
  bool tried, ready;
  int32_t *outs, *ins; /* (out_count), (in_count) the elements that are left */
  int32_t out_count, in_count;
  double *weight[QB_WEIGHT_COUNT]; /* (out_count, in_count) */
} qb_narrow_layer;

/* What the walk needs of one node. */
typedef struct qb_backward_node {
  bool is_linear, is_kinked; /* has prepared weights; is a piecewise linear activation */
  bool is_rectifier;         /* Relu in both networks */
  qb_linear linear;          /* of the quantized graph */
  const float *plain[2], *plain_bias[2];
  double *weight[QB_WEIGHT_COUNT], *bias[QB_WEIGHT_COUNT]; /* layout of the graph; a missing bias is zero */
  /* per box, from the arena of the box */
  bool ready;
  double *reach[QB_TRACK_COUNT];           /* linear: by output element, |W| max|x| + |b| and its likes */
  bool is_still;                           /* linear: no input element differs between the networks, but for... */
  double left_out;                         /* ... what moves no output element by more than this */
  qb_narrow_layer narrow;                  /* linear */
  qb_dense_planes relaxed[QB_TRACK_COUNT]; /* kinked: by element, above + and above -; reach is at least
                                              |a| max|x| + |d| max|x' - x| + |constant| */
  int32_t *unstable;                       /* kinked: (unstable_count) elements with a kink within the intervals */
  int32_t unstable_count;
  qb_corners *corners[2]; /* (unstable_count) for D > 0 and D < 0 */
} qb_backward_node;

/* h x + constant >= 0 holds at the inputs of the part of the box that is bounded. */
typedef struct qb_half_space {
  const double *h; /* (inputs) */
  double constant;
} qb_half_space;

struct qb_backward {
  const qb_pair *pair;
  const qb_box_result *box;
  qb_backward_node *nodes; /* (node_count) */
  bool *crosses;           /* (value_count) */
  double *row_cost;        /* (value_count) */
  int32_t *reader_count;   /* (value_count) kinked nodes that read a value, and which */
  qb_node_id **readers;
  qb_value_id *ahead;  /* (value_count) itself, or what it becomes by adding constants, which alone read it */
  bool *read_by_kinks; /* (value_count) nothing else reads what it becomes */
  double **smear;      /* (value_count) NULL or (elements, inputs), see qb_rows; from box_arena */
  int64_t missed;      /* rows that the last call did not begin in time */
  int32_t turns;       /* how often the last call turned the planes of some rows */
  qb_arena arena;      /* weights */
  qb_arena box_arena;  /* per box */
  qb_half_space halves[QB_MOST_HALVES]; /* (half_count) of the box; from box_arena */
  int32_t half_count;
};

enum { QB_WALK_SPARES = 8 };

/* Both networks at one input for each row of a block. */
typedef struct qb_walk_points {
  double **at[2]; /* by value: (rows, elements) of x of the original network and of x' - x */
  qb_arena arena, scratch;
} qb_walk_points;

/* A block of rows on its way back. coefficient[0] is over x (or x' for forms of the quantized network),
 * coefficient[1] over x' - x; (rows, elements of value), NULL while zero. */
typedef struct qb_walk {
  qb_backward *backward;
  int track;
  bool joint;
  int64_t rows;
  qb_value_id start;             /* what the forms were over */
  const int64_t *element;        /* (rows) while they are unit rows: which element, else NULL */
  const double *sign;            /* (rows) */
  qb_walk_points *points;        /* planes of undecided elements are lowest there; NULL: at the centres */
  bool renamed;                  /* the last node only gave the rows another name */
  double **coefficient[2];       /* by value */
  size_t *capacity[2];           /* by value, of the coefficients' memory in doubles */
  double *spare[QB_WALK_SPARES]; /* memory of values that were left behind */
  size_t spare_capacity[QB_WALK_SPARES];
  double *constant;  /* (rows) */
  double *lost;      /* (rows) bound on rounding so far */
  double *influence; /* (inputs) or NULL */
  double **score;    /* see qb_rows */
  qb_error *error;
} qb_walk;

/* The coefficients over `value`, zeroed when there were none. When there were some, counts the rounding of adding to
 * them with up to `terms` more terms. NULL when memory is short. */
double *qb_walk_target(qb_walk *walk, qb_value_id value, int part, int64_t terms);

/* The coefficients over y become those over x, which has as many elements and none yet; false when it has some. */
bool qb_walk_rename(qb_walk *walk, qb_value_id y, qb_value_id x, int part);

/* Row i of constants grows by `value`. */
void qb_walk_add_constant(qb_walk *walk, int64_t row, double value);

/* max |x| of a track over the box. */
double qb_walk_reach(const qb_backward *backward, qb_value_id value, int track, int64_t i);

/* Numbers of a tensor so near to each other, in either network, may be the same but for rounding: no choice is to
 * depend on which of them is larger. */
double qb_walk_near(const qb_backward *backward, qb_value_id value);

/* The track that coefficient[part] is over. */
int qb_walk_track(const qb_walk *walk, int part);

/* Carries the rows from `first` on back to the input; bounds them there; forgets them. */
qb_status qb_walk_back(qb_walk *walk, const qb_rows *rows, int64_t first);
void qb_walk_upper(const qb_walk *walk, double *upper);
void qb_walk_empty(qb_walk *walk);

/* Carries the rows back again, with planes turned to where they were largest, and takes the smaller bounds; *turns is
 * how often. walk->points is only set meanwhile. */
qb_status qb_walk_turn(qb_walk *walk, const qb_rows *rows, int64_t first, double *upper, int32_t *turns);

/* Fills walk->points with what both networks compute at `inputs` (rows, inputs) up to where the rows began. */
qb_status qb_walk_evaluate(qb_walk *walk, const double *inputs);

/* Adds to every form over the value what float32 evaluation of its node alone can move it by, where the box says so. */
void qb_walk_evaluation(qb_walk *walk, qb_value_id value);

/* Adds multiples of what is known not to be negative in the part to the forms over the input, so that they are largest
 * within it. */
QB_MUST_CHECK qb_status qb_walk_press(qb_walk *walk);

/* Substitutes the output of the node by its inputs. */
qb_status qb_walk_linear(qb_walk *walk, qb_node_id id);
qb_status qb_walk_kinked(qb_walk *walk, qb_node_id id);
qb_status qb_walk_other(qb_walk *walk, qb_node_id id);

/* One of the products that a layer's coefficients are made of: rows (rows, outputs) times the weights of a kind; NULL
 * rows: absent. */
typedef struct qb_walk_product {
  const double *rows;
  int weight;
} qb_walk_product;

/* c (rows, inputs) += the sum of both products. */
qb_status qb_walk_matrix(const qb_walk *walk, qb_node_id id, const qb_layer_shape *s, const qb_walk_product parts[2],
                         double *c);
qb_status qb_walk_conv(const qb_walk *walk, qb_node_id id, const qb_layer_shape *s, const qb_walk_product parts[2],
                       double *c);

/* Preparation of weights, once, and of magnitudes and planes, per box. */
qb_status qb_backward_load_linear(qb_backward *backward, qb_node_id id, qb_error *error);
qb_status qb_backward_prepare_linear(qb_backward *backward, qb_node_id id, qb_error *error);
qb_status qb_backward_prepare_kinked(qb_backward *backward, qb_node_id id, qb_error *error);

/* Leaves out what no plane lets through, when all activations around a matrix layer are ready and it pays. */
qb_status qb_backward_narrow(qb_backward *backward, qb_node_id id, qb_error *error);

/* The elements of a kinked node's input that some plane lets through, or, with `constants`, whose planes are not
 * altogether zero, are marked. */
void qb_backward_mark_alive(const qb_backward_node *data, int64_t n, bool constants, bool *alive);

#endif
