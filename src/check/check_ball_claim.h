/* What a certificate says about balls, and about boxes that were cut up (docs/certificate.md). */
#ifndef QB_CHECK_CHECK_BALL_CLAIM_H
#define QB_CHECK_CHECK_BALL_CLAIM_H

#include <jansson.h>
#include <stdbool.h>

#include "base/arena.h"
#include "base/hash.h"
#include "check/check.h"
#include "check/check_range.h"

/* Slopes of an undecided element: of lines above y, -y, y', -y'; of planes above y' - y and y - y', over x and d. */
typedef struct slope_claim {
  int64_t node, element;
  double slope[8];
} slope_claim;

/* A cut across an element of the output of a node, in x or q (FORM_X, FORM_Q). */
typedef struct neuron_claim {
  int64_t node, element;
  int kind;
  double at;
} neuron_claim;

/* One box of inputs: what is claimed and what it is to follow from. */
typedef struct box_claim {
  char method[32]; /* "" when nothing is claimed */
  int64_t only;    /* the output that `bound` speaks of, -1: all */
  double bound;
  int64_t output_count; /* 0: no ranges are claimed */
  range *outputs;       /* (output_count) of R' - R */
  bool keeps;           /* both networks have the same, strictly largest output everywhere */
  int64_t cut_count;    /* 0: not cut up */
  int32_t *cuts;        /* (cut_count) preorder: the input a part is cut across; -1 for a leaf; -2 - k: neurons[k] */
  int64_t neuron_count;
  neuron_claim *neurons; /* (neuron_count) */
  int64_t relaxed_count;
  int32_t *relaxed; /* (relaxed_count) nodes */
  int64_t slope_count;
  slope_claim *slopes; /* (slope_count) in order of node and element */
  int32_t turns;       /* how often the planes of outputs were turned, at most */
} box_claim;

/* An input of the box. */
typedef struct input_claim {
  char sha256[QB_HASH_TEXT]; /* "": none is claimed */
  float *values;             /* (elements), or NULL: not stored */
} input_claim;

/* What a search found in a box. */
typedef struct found_claim {
  double lower; /* 0: nothing */
  input_claim at_lower;
  bool flips; /* the largest outputs of the two networks are top and other_top */
  int64_t top, other_top;
  input_claim at_flip;
} found_claim;

typedef struct ball_claim {
  box_claim box;
  found_claim found;
  int64_t index;
  double radius;
  bool pixels, refuted; /* the unit; the decision */
  char centre[QB_HASH_TEXT];
} ball_claim;

typedef struct radius_claim {
  double radius;
  bool pixels;
  double *reach; /* (elements) */
  int64_t balls, proved, refuted, unknown;
  double median, largest, lower;
} radius_claim;

typedef struct centre_claim {
  int64_t index;
  char sha256[QB_HASH_TEXT];
  float *values; /* (elements), or NULL: not stored */
} centre_claim;

typedef struct balls_claim {
  int64_t elements;
  range *limits; /* (elements), or NULL: none */
  int64_t radius_count, centre_count, count;
  radius_claim *radii;
  centre_claim *centres;
  ball_claim *balls;
  const char *preprocess;      /* of the data, NULL: not said */
  const centre_source *source; /* of centres without values, NULL: none */
} balls_claim;

/* `around` and `balls` of a certificate; arrays live in `arena`. QB_ERROR_FORMAT, QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status balls_read(const char *path, const json_t *root, balls_claim *balls, qb_arena *arena,
                                   qb_error *error);

/* `cuts`, `relaxed` and `slopes` of an object. */
QB_MUST_CHECK qb_status box_witness_read(const char *path, const json_t *object, box_claim *box, qb_arena *arena,
                                         qb_error *error);

/* `lower`, `lower_input` and `flip` of an object, inputs of `elements` numbers. */
QB_MUST_CHECK qb_status found_read(const char *path, const json_t *object, int64_t elements, found_claim *found,
                                   qb_arena *arena, qb_error *error);

#endif
