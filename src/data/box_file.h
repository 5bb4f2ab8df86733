/* Boxes of network inputs from files: VNNLIB input bounds, or CSV with columns lo0.. and hi0... */
#ifndef QB_DATA_BOX_FILE_H
#define QB_DATA_BOX_FILE_H

#include <qbound/qbound.h>

typedef struct qb_input_box {
  int64_t count;
  float *lo, *hi; /* (count), from qb_alloc, rounded outwards from the decimals of the file */
} qb_input_box;

typedef struct qb_input_boxes {
  int64_t count;
  qb_input_box *boxes; /* (count), from qb_alloc: one for VNNLIB, one per data row for CSV */
} qb_input_boxes;

/* Reads a file. VNNLIB (recognised by its first character '(' or ';'): the top-level assertions
 * (assert (>= X_i number)), (assert (<= X_i number)) and the same in one (and ..); assertions about outputs Y_j are
 * left to the reader of properties. Every X_i that is declared or bounded must have both limits. CSV: a header with
 * columns lo0, hi0, lo1, .. in any order among others, no quotes. QB_ERROR_IO, QB_ERROR_FORMAT (names line and what is
 * wrong; a disjunction over inputs is refused), QB_ERROR_MEMORY. Release with qb_input_boxes_free in every case. */
QB_MUST_CHECK qb_status qb_input_boxes_read(const char *path, qb_input_boxes *boxes, qb_error *error);
void qb_input_boxes_free(qb_input_boxes *boxes);

#endif
