/* The published bounds of a network under every convention that the paper leaves open: BatchNorm folded or dropped,
 * shortcut convolutions in or out, the classifier in or out, width as units or channels. Biases are dropped, as the
 * theorems ask. */
#ifndef QB_REPRODUCE_CHAIN_BOUNDS_H
#define QB_REPRODUCE_CHAIN_BOUNDS_H

#include "reproduce/reproducing.h"

typedef enum qb_chain_bound {
  QB_CHAIN_PRIOR,
  QB_CHAIN_GENERAL,
  QB_CHAIN_CNN,
  QB_CHAIN_UNSUMMED,
  QB_CHAIN_BOUNDS
} qb_chain_bound;

typedef struct qb_chain_row {
  qb_bound_conventions conventions;
  int layers, bits;
  double delta;
  double log10[QB_CHAIN_BOUNDS];
} qb_chain_row;

enum { QB_CHAIN_CONVENTIONS = 16, QB_CHAIN_ROWS = QB_CHAIN_CONVENTIONS * QB_REPRODUCE_BITS };

typedef struct qb_chain_table {
  int count; /* rows, conventions slowest, widths in the order given */
  int bits_count;
  qb_chain_row rows[QB_CHAIN_ROWS];
} qb_chain_table;

/* Conventions that change nothing in this network are left out. */
QB_MUST_CHECK qb_status qb_chain_table_fill(qb_reproducing *r, qb_study_id id, const qb_model *model, const int *bits,
                                            int bits_count, qb_chain_table *table);

/* Prior over `bound` in decades, at the width nearest to 8 bits. */
double qb_chain_gap(const qb_chain_table *table, int convention, qb_chain_bound bound);

/* "BatchNorm folded, shortcuts in, classifier out, width in units" */
void qb_chain_describe(const qb_bound_conventions *conventions, char *text, size_t size);

/* One figure: networks, what the paper reports of the gap in decades (0: nothing), the bound that is compared. */
typedef struct qb_gap_study {
  qb_study_id id;
  double paper;       /* decades */
  bool convolutional; /* compare the convolutional part alone: the classifier is left out */
} qb_gap_study;

QB_MUST_CHECK qb_status qb_gap_figure(qb_reproducing *r, const qb_gap_study *studies, int count, qb_chain_bound bound,
                                      const char *bound_name, const char *title);

#endif
