/* What a certificate holds about its balls besides what the caller sees. */
#ifndef QB_REPORT_CERTIFICATE_BALLS_H
#define QB_REPORT_CERTIFICATE_BALLS_H

#include <qbound/qbound.h>

/* Numbers: centres, or inputs that a search found, are put into the file where all of a kind have no more. */
enum { QB_STORED_INPUTS = 1 << 17 };

/* What the balls around the samples of one data set share. */
typedef struct qb_ball_frame {
  int64_t elements;
  double *step, *slack; /* (elements) one step of stored pixels in network units, from above; what the rounding of the
                           preprocessing can move a sample by */
  float *lo, *hi;       /* (elements) limits of samples of pixels, NULL when the preprocessing does not map pixels */
} qb_ball_frame;

/* The slopes of an undecided element of an activation, docs/certificate.md. */
typedef struct qb_ball_slopes {
  int32_t node;
  int64_t element;
  double slope[8];
} qb_ball_slopes;

/* A cut across element `element` of the output of a node (of the quantized graph), in one of the networks. */
typedef struct qb_ball_neuron {
  int32_t node;
  int64_t element;
  bool of_quantized;
  double at;
} qb_ball_neuron;

/* How one ball was bounded. */
typedef struct qb_ball_proof {
  const char *method; /* NULL: a node without a rule, `why` */
  char why[200];
  int64_t count;
  qb_output_range *outputs; /* (count) of quantized - original */
  bool keeps_top;
  double hidden_skipped;   /* elements of hidden layers left to intervals */
  int64_t node_count;      /* of the tree of cuts, 0 without one */
  int32_t *axis;           /* (node_count) bound/refine.h */
  qb_ball_neuron *neurons; /* those that `axis` means */
  int64_t relaxed_count;
  int32_t *relaxed; /* (relaxed_count) nodes whose undecided outputs were relaxed */
  int64_t slope_count;
  qb_ball_slopes *slopes; /* (slope_count) */
  int32_t turns;          /* how often the planes of an output were turned */
} qb_ball_proof;

/* A centre of balls. */
typedef struct qb_ball_centre {
  int64_t index;
  char sha256[QB_SHA256_TEXT];
  float *values; /* (elements); NULL where all centres together are too large to be stored */
} qb_ball_centre;

typedef struct qb_ball_details {
  qb_ball_proof proof;
  float *flip;  /* (elements) the input that refutes the decision, or NULL */
  float *found; /* (elements) the input with the largest change, or NULL */
} qb_ball_details;

typedef struct qb_ball_around {
  const char *preprocess; /* of the data, as it was given */
  qb_ball_frame frame;
  double **reach; /* (radii, elements) how far a ball of each radius extends, in network units */
  int64_t centre_count;
  qb_ball_centre *centres;  /* (centre_count) */
  qb_ball_details *details; /* a ball each, as in qb_balls_claim */
} qb_ball_around;

#endif
