/* A layer as sums over pairs of positions. A convolution reads position small * stride + tap * dilation - pad of its
 * input for position `small` of its output; a transposed one writes there. Matrices have one position. It is applied to
 * `width` vectors at once, whose elements lie side by side. */
#ifndef QB_CHECK_CHECK_MAP_H
#define QB_CHECK_CHECK_MAP_H

#include "graph/graph.h"

typedef struct map {
  bool is_matrix;
  int64_t width;
  int64_t small[3], large[3]; /* channels, height, width */
  int64_t group, rows;        /* rows a matrix is applied to */
  const qb_window *window;
} map;

map map_of(const qb_graph *graph, const qb_linear *linear, int64_t width);

/* to += W from, or W^T from where that goes to the large side, with the weights (small, large of a group, kernel). */
void apply_map(const map *m, bool to_large, const double *w, const double *from, double *to);

/* The same for vectors one after the other: they are woven, and what comes out is added to `to`. `room` holds both. */
void apply_rows(const map *m, bool to_large, const double *w, const double *from, int64_t from_count, double *to,
                int64_t to_count, double *room);

/* The channel of element i of the output; `transposed`: of a transposed convolution. */
int64_t map_channel(const map *m, bool transposed, int64_t i);

#endif
