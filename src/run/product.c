/* Matrix products of the fast engine: y = W x + b for every row of the input.
 *
 * The library's products split sums in ways that depend on the batch and the threads. Here every output is the sum of
 * LANES interleaved partial sums, added in one fixed order, so its bits depend on its operands alone. The weights are
 * read once per call and row by row as ONNX stores them, which is what bounds the speed of a classifier layer. */
#include <string.h>

#include "run/plain.h"

enum { LANES = 16, TILE = 4 };

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

/* Lanes travel by address: passed by value they would tie the calling convention to the processor's vector width. */
static inline void load(lanes *v, const float *from) { memcpy(v, from, sizeof *v); }

/* ((l0 + l8) + (l4 + l12)) + .. : halves are added until one number is left. */
static inline float add_lanes(const lanes *v) {
  float part[LANES];
  memcpy(part, v, sizeof part);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++)
      part[i] += part[i + width];
  return part[0];
}

/* sums[r][o] = row r of x times row o of w, for `rows` rows of x and TILE rows of w. Inlined with constant `rows`. */
static inline __attribute__((always_inline)) void
multiply_tile(int rows, const float *const x[TILE], const float *const w[TILE], size_t length, float sums[TILE][TILE]) {
  lanes partial[TILE][TILE];
  size_t whole = length - length % LANES;
  memset(partial, 0, sizeof partial);
  for (size_t k = 0; k < whole; k += LANES)
    for (int o = 0; o < TILE; o++) {
      lanes weights, inputs;
      load(&weights, w[o] + k);
      for (int r = 0; r < rows; r++) {
        load(&inputs, x[r] + k);
        partial[r][o] += weights * inputs;
      }
    }
  for (int r = 0; r < rows; r++)
    for (int o = 0; o < TILE; o++) {
      sums[r][o] = add_lanes(&partial[r][o]);
      for (size_t k = whole; k < length; k++)
        sums[r][o] += w[o][k] * x[r][k];
    }
}

typedef struct product {
  const float *x, *w, *bias; /* (rows, length), (outputs, length), (outputs) or NULL */
  float *y;                  /* (rows, outputs) */
  size_t rows, outputs, length;
} product;

/* The last tile repeats its last row and throws the copies away. */
static void tile_rows(const float *matrix, size_t first, size_t count, size_t length, const float *rows[TILE]) {
  for (size_t i = 0; i < TILE; i++)
    rows[i] = matrix + (first + i < count ? first + i : count - 1) * length;
}

static void multiply_outputs(const product *p, size_t first_output) {
  const float *w[TILE], *x[TILE];
  float sums[TILE][TILE];
  tile_rows(p->w, first_output, p->outputs, p->length, w);
  for (size_t row = 0; row < p->rows; row += TILE) {
    size_t rows = p->rows - row < TILE ? p->rows - row : TILE;
    tile_rows(p->x, row, p->rows, p->length, x);
    if (rows == 1)
      multiply_tile(1, x, w, p->length, sums);
    else
      multiply_tile(TILE, x, w, p->length, sums);
    for (size_t r = 0; r < rows; r++)
      for (size_t o = first_output; o < p->outputs && o < first_output + TILE; o++)
        p->y[(row + r) * p->outputs + o] = sums[r][o - first_output] + (p->bias != NULL ? p->bias[o] : 0.0f);
  }
}

void qb_plain_product(const plain_call *call) {
  const qb_shape *w = &qb_run_input(call->graph, call->node, 1)->shape;
  product p = {.x = call->in[0],
               .w = call->in[1],
               .bias = call->node->input_count > 2 ? call->in[2] : NULL,
               .y = call->y,
               .outputs = (size_t)w->dims[0],
               .length = (size_t)w->dims[1]};
  p.rows = call->count / p.outputs;
#pragma omp parallel for
  for (int64_t tile = 0; tile < (int64_t)((p.outputs + TILE - 1) / TILE); tile++)
    multiply_outputs(&p, (size_t)tile * TILE);
}
