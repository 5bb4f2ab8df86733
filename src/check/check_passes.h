/* Products of a layer's weights with non-negative numbers: what the methods elementwise and two_stage are made of.
 *
 * Every output track is a sum of terms, each a non-negative coefficient of one weight pair times an input track. */
#ifndef QB_CHECK_PASSES_H
#define QB_CHECK_PASSES_H

#include "graph/graph.h"

enum { PASS_TRACKS = 4, PASS_TERMS = 5 };

typedef struct passes {
  qb_op op;
  qb_linear linear;
  qb_window window; /* convolutions */
  const qb_shape *in_shape, *out_shape;
  const float *weight, *weight_q; /* of the original and of the quantized network */
  void (*split)(double w, double w_q, double c[PASS_TERMS]);
  struct {
    int to, from;
  } terms[PASS_TERMS]; /* out[to] += c[k] in[from] */
  int tracks;
  const double *in[PASS_TRACKS]; /* (input elements) */
  double *out[PASS_TRACKS];      /* (output elements), overwritten */
} passes;

/* Sums as computed, rounded to nearest in any order: an element of a track with t terms has at most t row_length of
 * them. A coefficient of 0 takes no part, also where the number is infinite. */
void passes_apply(const passes *p);

#endif
