/* A certificate file as the checker reads it (docs/certificate.md). */
#ifndef QB_CHECK_CLAIM_H
#define QB_CHECK_CLAIM_H

#include "base/arena.h"
#include "base/hash.h"
#include "check/check_ball_claim.h"
#include "check/check_range.h"
#include "check/check_statistical.h"

enum { CLAIM_SIGMAS = 3 }; /* of W, W', W - W' */

typedef struct claim_layer {
  int64_t node;               /* of the quantized graph */
  double sigma[CLAIM_SIGMAS]; /* spectral norms, upper bounds */
} claim_layer;

/* ||A + W2 W1 / 2||, ||T^-1 W1||, ||W2 T|| on a torus */
typedef struct claim_norms {
  double joint, inner, outer;
} claim_norms;

typedef struct claim_gate {
  int64_t node, side[2], channels;
  double *scaling; /* (channels): T */
  bool has_quantized;
  claim_norms norms[2]; /* original, quantized */
} claim_gate;

/* T of a tensor: norms of the output of `node` are ||T^-1 .||_2, one positive number per channel (axis 1). */
typedef struct claim_weights {
  int64_t node, channels;
  double *weights; /* (channels) */
} claim_weights;

typedef struct claim {
  qb_arena arena; /* owns all arrays */
  char sha256[2][QB_HASH_TEXT];
  int64_t elements; /* of the domain */
  range *domain;    /* (elements) */
  char method[32];
  int64_t output; /* -1: all */
  double bound;
  int64_t output_count; /* 0: no ranges are claimed */
  range *outputs;       /* (output_count) of R' - R */
  box_claim cut_up;     /* witness of a bisection: cuts and relaxed nodes */
  found_claim found;
  bool float32; /* evaluation in float32 is claimed, too */
  bool lsb;     /* codes of activations may be off by one */
  bool has_balls;
  balls_claim balls;
  int64_t layer_count, gate_count;
  claim_layer *layers;
  claim_gate *gates;
  statistical_verdict statistical;
  int64_t weight_count; /* tensors without weights have ones */
  claim_weights *weights;
} claim;

/* Reads a certificate. QB_ERROR_IO, QB_ERROR_FORMAT (no JSON, another schema, a missing or senseless entry),
 * QB_ERROR_MEMORY. Release with claim_free in every case. */
QB_MUST_CHECK qb_status claim_read(const char *path, claim *c, qb_error *error);
void claim_free(claim *c);

#endif
