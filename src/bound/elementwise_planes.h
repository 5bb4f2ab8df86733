/* The inputs of a convolution laid out so that every tap of the kernel reads a plain run: padded with zeros, and cut
 * into phases by the stride. Output position (y, z) reads of tap (a, b) what lies `tap offset` behind y row_length + z.
 */
#ifndef QB_BOUND_ELEMENTWISE_PLANES_H
#define QB_BOUND_ELEMENTWISE_PLANES_H

#include "bound/elementwise_layer.h"

/* Sets of inputs: e, a, a' and the larger one of a and a'. */
enum { ELEMENT_LARGER = QB_ELEMENT_COUNT, ELEMENT_SETS };

typedef struct element_planes {
  int64_t phases[2];                      /* along rows, along columns */
  int64_t rows, row_length, channel, set; /* numbers in a phase: rows, of a row; in a channel, in a set */
  bool exact;                             /* e = 0 and a = a' everywhere: a alone is laid out */
  float *data;                            /* (ELEMENT_SETS, channels, phases, phases, rows, row_length), and SLACK */
} element_planes;

/* Numbers that may be read beyond the last one. */
enum { ELEMENT_PLANES_SLACK = 16 };

/* Everything but `exact` and `data`. */
element_planes element_planes_of(const element_layer *l);

/* Floats of `data`. */
size_t element_planes_size(const element_planes *planes);

/* Writes one set of one channel, `planes->channel` numbers. */
void element_planes_fill_channel(const element_layer *l, const element_planes *planes, int set, int64_t c, float *out);

/* Fills `data`. */
void element_planes_fill(const element_layer *l, const element_planes *planes);

/* Where tap (a, b) begins in a channel. */
int64_t element_planes_tap(const element_layer *l, const element_planes *planes, int64_t a, int64_t b);

#endif
